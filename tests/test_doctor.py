"`resnet-course doctor` on machines with a problem: it names the problem and says what to do"
import os, platform, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import pytest, yaml

import resnet_course
from resnet_course import doctor as module

root = Path(__file__).resolve().parent.parent

def doctor(cwd, first=None, **env):
    "Run the command in its own process; modules in the folder `first` hide the installed ones"
    path = os.pathsep.join(map(str, filter(None, [first, root, os.environ.get('PYTHONPATH')])))
    res = subprocess.run([sys.executable, '-m', 'resnet_course.cli', 'doctor'], cwd=cwd,
                         env={**os.environ, 'PYTHONPATH': path, **env},
                         capture_output=True, text=True, encoding='utf-8', timeout=300)
    assert 'Traceback' not in res.stderr, res.stderr[-2000:]
    return res.returncode, res.stdout

def write_package(folder, name, code):
    (folder/name).mkdir(parents=True)
    (folder/name/'__init__.py').write_text(code)

def test_torchvision_that_does_not_fit_torch(tmp_path):
    error = "raise RuntimeError('operator torchvision::nms does not exist')\n"
    write_package(tmp_path/'first', 'torchvision', error)
    code, out = doctor(tmp_path, tmp_path/'first')
    assert code == 1
    assert 'torchvision::nms' in out and '--force-reinstall torch torchvision' in out
    assert 'proxy' in out   # the checks that don't need torch ran

def test_unwritable_cache_and_bad_proxy(tmp_path):
    (tmp_path/'file').write_text('not a folder')
    code, out = doctor(tmp_path, FASTAI_HOME=str(tmp_path/'file/fastai'),
                       https_proxy='u:secret@proxy:3128')
    assert code == 1
    assert 'FAIL cache' in out and 'set FASTAI_HOME' in out
    assert 'FAIL proxy' in out and 'secret' not in out

@pytest.mark.skipif(os.name == 'nt', reason='a shell script stands for nvidia-smi')
def test_driver_that_torch_cannot_use(tmp_path):
    smi = tmp_path/'nvidia-smi'
    smi.write_text('#!/bin/sh\n')
    smi.chmod(0o755)
    import torch
    if torch.cuda.is_available() or torch.backends.mps.is_available(): pytest.skip('found a GPU')
    code, out = doctor(tmp_path, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
                       RESNET_COURSE_DEVICE='')
    assert code == 1
    assert 'there is an NVIDIA driver' in out and ('older CUDA' in out or 'without CUDA' in out)

def test_what_the_bug_form_asks_for(tmp_path):
    "The first lines name the version, Python and the system; the device says what will train"
    code, out = doctor(tmp_path, RESNET_COURSE_DEVICE='cpu')
    lines = out.splitlines()
    assert lines[0].split() == ['ok', 'package', 'resnet-course', resnet_course.__version__]
    assert platform.python_version() in lines[1] and platform.system() in lines[1]
    device, = [line for line in lines if line[5:].startswith('device')]
    assert device.startswith('note') and 'trains on the CPU' in device

def test_the_bug_form_shows_its_lines():
    "The form's example and the output begin with the same checks"
    form = yaml.safe_load((root/'.github/ISSUE_TEMPLATE/bug.yml').read_text(encoding='utf-8'))
    about = form['body'][-1]['attributes']
    assert '`resnet-course doctor`' in about['label']
    shown = [line.split()[1] for line in about['placeholder'].splitlines()]
    assert shown == [c.name for c in module.diagnose()][:len(shown)]

def test_drive_that_does_not_exist(monkeypatch):
    "A missing drive on Windows is its own parent, which must not be an endless loop"
    class Drive:
        def exists(self): return False
        @property
        def parent(self): return self
    monkeypatch.setattr(module, 'Path', lambda o: Drive())
    assert isinstance(module._existing('Z:/photos'), Drive)

def test_the_fuller_disk_decides(monkeypatch):
    free = iter([1e9, 9e9])
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda path: SimpleNamespace(free=next(free)))
    check = module._check_disk()
    assert check.ok is False and '1.0 GB free here, 9.0 GB free' in check.found

def test_broken_torch_is_reported_once(monkeypatch):
    "What needs torch is not checked, since it would fail, too"
    broken = module.Check('torch', False, 'broken')
    monkeypatch.setattr(module, '_check_torch', lambda: broken)
    assert not {'fastai', 'device', 'data'} & {c.name for c in module.diagnose()}

def test_proxy_with_https_is_valid(monkeypatch):
    monkeypatch.setattr(module, 'getproxies', lambda: {'https': 'https://proxy:3128'})
    assert module._check_proxy().ok is None
