"torch.compile: a real compiled run where there is a compiler, a sentence where there is none; and what importing the package costs"
import os, subprocess, sys
from pathlib import Path

import pytest, torch
from torch import nn

from resnet_course.loaders import get_dls
from resnet_course.learner import course_learner, why_not_compile

def train(compile):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    dls = get_dls('digits', bs=32, n_train=64, valid_pct=0.02, device='cpu')
    learn = course_learner(dls, net, precision='fp32', splitter=lambda m: [list(m.parameters())], compile=compile)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 0.01)
    return learn

@pytest.mark.skipif(bool(why_not_compile()), reason='no C++ compiler')
def test_compiled_network_trains_to_the_same_weights():
    a, b = train(False), train(True)
    assert (a.compiled, b.compiled) == (False, True) and b.model._compiled_call_impl is not None
    for (k, v), (k2, v2) in zip(a.model.state_dict().items(), b.model.state_dict().items(), strict=True):
        assert k == k2
        torch.testing.assert_close(v, v2, rtol=1e-2, atol=2e-3)

def test_without_a_compiler_it_says_so_and_trains(monkeypatch, tmp_path):
    "As on a machine without g++: nothing that PATH or CXX name is a compiler"
    from torch._inductor import config, cpp_builder
    monkeypatch.setenv('PATH', str(tmp_path)); monkeypatch.setenv('CXX', 'no-such-compiler'); monkeypatch.setattr(config.cpp, 'cxx', ('no-such-compiler',))
    for f in ('get_cpp_compiler', 'cpp_compiler_search'):
        if hasattr(getattr(cpp_builder, f, None), 'cache_clear'): getattr(cpp_builder, f).cache_clear()
    assert why_not_compile('cpu') == 'there is no C++ compiler'
    with pytest.warns(UserWarning, match='training without torch.compile: there is no C\\+\\+ compiler'): learn = train(True)
    assert learn.compiled is False and len(learn.history.rows) == 1
    for f in ('get_cpp_compiler', 'cpp_compiler_search'):
        if hasattr(getattr(cpp_builder, f, None), 'cache_clear'): getattr(cpp_builder, f).cache_clear()

def loaded(code):
    "The modules outside the standard library that `code` imports"
    code = f"import sys; {code}; print(*sorted({{m.partition('.')[0] for m in sys.modules}} - sys.stdlib_module_names))"
    env = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[1]), 'PYTHONWARNINGS': 'ignore'}
    return set(subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True).stdout.split())

def test_importing_adds_little_to_fastais_imports():
    fastais = loaded('import fastai.vision.all, fastai.distributed')
    ours = loaded('import resnet_course.recipes, resnet_course.evaluate, resnet_course.finetune')
    assert {m for m in ours - fastais if not m.startswith('_')} <= {'resnet_course', 'filelock', 'safetensors'}
