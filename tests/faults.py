"""Faults: input that may be bad, and what it gets, an error of one line or the right result

    python tests/faults.py     writes those of all modules to results/data_faults.json

The test file of each module has its own; the notebook of `loaders` shows all of them in a table.
"""
import importlib, json, re, tempfile, warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np, pytest, torch
from helpers import photos

from resnet_course.core import CourseError
from resnet_course.loaders import get_dls

modules = ['images', 'datasets', 'loaders', 'torch_loaders', 'folders', 'download']

# Outcomes: each calls the function with a folder, checks what happens, and returns it in words

def is_error(says):
    "A `CourseError` of one line, and `says` is part of it"
    def outcome(call, folder):
        with pytest.raises(CourseError) as e: call(folder)
        text = str(e.value)
        assert says in text and '\n' not in text, text
        return 'error: ' + re.sub(r'[^\s\'"]*' + re.escape(str(folder)), '…', text)
    return outcome

def is_loaders(n):
    "Loaders of small color images, `n` in all"
    def outcome(call, folder):
        dls = call(folder)
        x = dls.train.one_batch()[0]
        assert x.shape[1:] == (3, 16, 16) and torch.isfinite(x).all()
        assert sum(len(dl.dataset) for dl in dls.loaders) == n
        return f'works: {n} images'
    return outcome

def is_value(value, words):
    "This value, or an array of it; `words` say what it means"
    def outcome(call, folder):
        assert np.array_equal(call(folder), value)
        return words
    return outcome

@dataclass
class Fault:
    "Some input: a function that gets an empty folder, and the outcome of calling it"
    title:str
    call:Callable
    outcome:Callable

    def check(self, folder):
        "Check the outcome; returns it in words"
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return self.outcome(self.call, folder)

class Faults(list):
    "The faults of one module; the methods are decorators that add a function as one"
    def add(self, title, outcome):
        def decorate(f):
            self.append(Fault(title, f, outcome))
            return f
        return decorate

    def error(self, title, says): return self.add(title, is_error(says))
    def works(self, title, n): return self.add(title, is_loaders(n))
    def gives(self, title, value, words): return self.add(title, is_value(value, words))

# What the functions use

def pictures(folder, n=8, **kwargs):
    "Class folders with few small pictures"
    return photos(folder, n, **{'size': (40, 30), **kwargs})

def load(source, **kwargs):
    "Loaders of tiny images in tiny batches"
    return get_dls(source, device='cpu', **{'size': 16, 'bs': 4, **kwargs})

def write(path, content):
    "Write text or bytes to a new file, in a new folder if necessary"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path

# The table

def rows(module):
    "What each fault of a module gets"
    for fault in importlib.import_module(f'test_{module}').faults:
        with tempfile.TemporaryDirectory() as tmp:
            folder = Path(tmp)/'photos'
            folder.mkdir()
            yield dict(input=fault.title, gets=fault.check(folder))

if __name__ == '__main__':
    table = [row for module in modules for row in rows(module)]
    out = Path(__file__).parents[1]/'results/data_faults.json'
    text = json.dumps(table, indent=1, ensure_ascii=False)
    out.write_text(text + '\n', encoding='utf-8')
    print(f'{len(table)} rows in {out}')
