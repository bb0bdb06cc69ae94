"Atomic writes to a wrong path, names that no file can have, and the device that is asked for"
import os, subprocess, sys, time
from pathlib import Path

import pytest

from resnet_course.checkpoint import read_checkpoint
from resnet_course.core import (
    CourseError, atomic_write, check_file, in_threads, printable, read_json, write_json)
from resnet_course.download import unpack
from resnet_course.export import OnnxModel
from resnet_course.finetune import load_plan
from resnet_course.folders import check_folder, export_set, make_subset
from resnet_course.images import open_image
from resnet_course.lessons import copy_lessons
from resnet_course.listing import list_folder
from resnet_course.loaders import get_dls
from resnet_course.predict import find_images
from resnet_course.records import list_runs, load_run, new_run_dir
from resnet_course.saving import load_model
from resnet_course.tables import list_csv

root = Path(__file__).resolve().parent.parent

def test_folder_is_not_a_file(tmp_path):
    with pytest.raises(CourseError, match='a directory; name a file in it'):
        with atomic_write(tmp_path): pass
    assert not list(tmp_path.iterdir())

ask_twice = '''
import fastai.torch_core, torch
fastai.torch_core._has_mps = lambda: True   # as on GitHub's macOS runners
torch.cuda.is_available = lambda: False
from resnet_course.core import default_device
print(default_device(), fastai.torch_core.default_device())
'''

@pytest.mark.parametrize('asked, device', [('cpu', 'cpu'), ('', 'mps')])
def test_device_by_environment(asked, device):
    "RESNET_COURSE_DEVICE=cpu keeps training off a GPU, and fastai's own loaders too"
    env = {**os.environ, 'PYTHONPATH': str(root), 'RESNET_COURSE_DEVICE': asked}
    res = subprocess.run([sys.executable, '-c', ask_twice], env=env, capture_output=True, text=True)
    assert res.stdout.split() == [device, device], res.stderr

# Names that no file can have

no_names = {'too long': 'x'*300, 'long, in a folder that is missing': 'no/such/' + 'x'*300,
            'a long path': 'a/'*3000, 'a surrogate': 'a\ud800b', 'a null byte': 'a\0b'}

@pytest.mark.parametrize('name', no_names.values(), ids=no_names)
def test_names_that_no_file_can_have(name, tmp_path, monkeypatch):
    "One short sentence from every function that takes a path"
    monkeypatch.chdir(tmp_path)
    read = [check_file, read_json, list_folder, list_csv, check_folder, open_image, load_model,
            read_checkpoint, load_run, list_runs, load_plan, OnnxModel, get_dls,
            lambda p: get_dls(f'{p}.csv'), lambda p: get_dls(Path(p)), lambda p: find_images([p]),
            lambda p: load_plan(f'{p}.yaml')]
    write = [lambda p: write_json({}, p), lambda p: new_run_dir('x', p), copy_lessons,
             lambda p: export_set('digits', p), lambda p: unpack(__file__, p),
             lambda p: make_subset('.', p, 2)]
    for f in read + write:
        with pytest.raises(CourseError) as e: f(name)
        text = str(e.value)
        assert len(text) < 300 and '\n' not in text and printable(text) == text
    assert not list(tmp_path.iterdir())

def test_an_error_is_short():
    "Whatever was given, the beginning and the end of the sentence are there"
    text = str(CourseError('x: ' + 'y\x1b'*10_000 + ': give less'))
    assert len(text) < 1000 and text.startswith('x: y') and text.endswith(': give less')

def test_the_longest_names_are_taken(tmp_path):
    "Names of 255 bytes are written and read, also with a long ending"
    for name in ('x'*255, 'x.' + 'y'*253, 'é'*127):
        write_json(dict(a=1), tmp_path/name)
        assert read_json(tmp_path/name) == dict(a=1)
    assert len(list(tmp_path.iterdir())) == 3

def test_threads_do_not_run_far_ahead():
    "Of a million files, only a few wait; an error, or no further interest, stops the others"
    done = []
    results = in_threads(done.append, range(100_000))
    next(results)
    time.sleep(.3)
    assert 0 < len(done) < 5000
    results.close()
    n = len(done)
    time.sleep(.1)
    assert len(done) == n
