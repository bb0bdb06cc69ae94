"`resnet-course doctor` on machines where something is wrong: it comes through, names it, and says what to do"
import os, subprocess, sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent

def doctor(cwd, first=None, **env):
    "Exit status and report, in a process of its own; modules in the folder `first` come before the installed ones"
    path = os.pathsep.join(map(str, filter(None, [first, root, os.environ.get('PYTHONPATH')])))
    res = subprocess.run([sys.executable, '-m', 'resnet_course.cli', 'doctor'], cwd=cwd, env={**os.environ, 'PYTHONPATH': path, **env},
                         capture_output=True, text=True, encoding='utf-8', timeout=300)
    assert 'Traceback' not in res.stderr, res.stderr[-2000:]
    return res.returncode, res.stdout

def package(folder, name, code):
    (folder/name).mkdir(parents=True)
    (folder/name/'__init__.py').write_text(code)

def test_torch_and_torchvision_that_do_not_fit(tmp_path):
    package(tmp_path/'first', 'torchvision', "raise RuntimeError('operator torchvision::nms does not exist')\n")
    code, out = doctor(tmp_path, tmp_path/'first')
    assert code == 1 and 'torchvision::nms' in out and '--force-reinstall torch torchvision' in out
    assert 'proxy' in out   # and the checks that need no torch were made

def test_an_unwritable_cache_and_a_bad_proxy(tmp_path):
    (tmp_path/'file').write_text('not a folder')
    code, out = doctor(tmp_path, FASTAI_HOME=str(tmp_path/'file/fastai'), https_proxy='u:secret@proxy:3128')
    assert code == 1 and 'FAIL cache' in out and 'set FASTAI_HOME' in out and 'FAIL proxy' in out and 'secret' not in out

@pytest.mark.skipif(os.name == 'nt', reason='a shell script stands for nvidia-smi')
def test_a_driver_that_torch_cannot_use(tmp_path):
    smi = tmp_path/'nvidia-smi'
    smi.write_text('#!/bin/sh\n')
    smi.chmod(0o755)
    import torch
    if torch.cuda.is_available() or torch.backends.mps.is_available(): pytest.skip('there is a GPU here')
    code, out = doctor(tmp_path, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert code == 1 and 'there is an NVIDIA driver' in out and ('older CUDA' in out or 'without CUDA' in out)
