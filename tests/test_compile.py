"torch.compile with and without a compiler, and what importing the package loads"
import os, subprocess, sys
from pathlib import Path

import pytest, torch
from torch import nn

from resnet_course.loaders import get_dls
from resnet_course.learner import course_learner, why_not_compile

def train(compile):
    "A tiny network, trained for one epoch"
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    dls = get_dls('digits', bs=32, n_train=64, valid_pct=0.02, device='cpu')
    def splitter(m): return [list(m.parameters())]
    learn = course_learner(dls, net, precision='fp32', splitter=splitter, compile=compile)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 0.01)
    return learn

@pytest.mark.skipif(bool(why_not_compile()), reason='no C++ compiler')
def test_compiled_network_trains_to_the_same_weights():
    a, b = train(False), train(True)
    assert (a.compiled, b.compiled) == (False, True) and b.model._compiled_call_impl is not None
    a, b = a.model.state_dict(), b.model.state_dict()
    assert list(a) == list(b)
    for k in a: torch.testing.assert_close(a[k], b[k], rtol=1e-2, atol=2e-3)

def forget_compilers(cpp_builder):
    "Clear what torch has cached about the compilers it found"
    for name in ('get_cpp_compiler', 'cpp_compiler_search'):
        f = getattr(cpp_builder, name, None)
        if hasattr(f, 'cache_clear'): f.cache_clear()

def test_without_a_compiler_it_says_so_and_trains(monkeypatch, tmp_path):
    "As on a machine without g++: neither PATH nor CXX names a compiler"
    from torch._inductor import config, cpp_builder
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setenv('CXX', 'no-such-compiler')
    monkeypatch.setattr(config.cpp, 'cxx', ('no-such-compiler',))
    forget_compilers(cpp_builder)
    assert why_not_compile('cpu') == 'there is no C++ compiler'
    says = 'training without torch.compile: there is no C\\+\\+ compiler'
    with pytest.warns(UserWarning, match=says): learn = train(True)
    assert learn.compiled is False and len(learn.history.rows) == 1
    forget_compilers(cpp_builder)

def loaded(code):
    "The packages outside the standard library that `code` imports"
    show = "print(*{m.partition('.')[0] for m in sys.modules} - sys.stdlib_module_names)"
    env = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[1]), 'PYTHONWARNINGS': 'ignore'}
    res = subprocess.run([sys.executable, '-c', f'import sys; {code}; {show}'], env=env,
                         capture_output=True, text=True, check=True)
    return set(res.stdout.split())

def test_importing_adds_little_to_fastais_imports():
    fastais = loaded('import fastai.vision.all, fastai.distributed')
    ours = loaded('import resnet_course.recipes, resnet_course.evaluate, resnet_course.finetune')
    new = {m for m in ours - fastais if not m.startswith('_')}
    assert new <= {'resnet_course', 'filelock', 'safetensors', 'simplejpeg'}
