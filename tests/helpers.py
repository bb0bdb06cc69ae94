"What several test files use: small networks and data, interruptions, other processes, the command"
import os, signal, sys, time, traceback
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.torch_core import params
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resnet_course import cli
from resnet_course.checkpoint import Interrupted
from resnet_course.learner import course_learner
from resnet_course.loaders import get_dls
from resnet_course.recipes import fit_recipe

needs_fork = pytest.mark.skipif(not hasattr(os, 'fork'),
                                reason='needs fork: fresh interpreters would take minutes')

# Learners

def quiet(learn):
    "Train `learn` without a progress bar and without a table"
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn

def digits_learner(arch='resnet8', bs=16, n_train=96, valid_pct=0.1, seed=1, precision='fp32',
                   **kwargs):
    "A quiet learner on some of the digits"
    dls = get_dls('digits', bs=bs, n_train=n_train, valid_pct=valid_pct, device='cpu')
    return quiet(course_learner(dls, arch, seed=seed, precision=precision, **kwargs))

def photo_learner(folder, seed=0, precision='auto', **kwargs):
    "A quiet learner on a folder of small photos"
    dls = get_dls(folder, bs=8, size=32, device='cpu', **kwargs)
    return quiet(course_learner(dls, 'resnet8', seed=seed, precision=precision))

def fastai_learner(dls, path, **kwargs):
    "A quiet learner of fastai's own on any loaders"
    net = nn.Sequential(nn.Conv2d(dls.n_in, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, dls.c))
    return quiet(Learner(dls, net, metrics=accuracy, path=path, **kwargs))

def small_net():
    "A network for digits that trains in no time"
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                         nn.Linear(16, 10))

def noise_loaders(seed=0):
    "PyTorch's loaders for training and validation; the first has a generator of its own"
    torch.manual_seed(0)
    ds = TensorDataset(torch.randn(96, 1, 8, 8), torch.arange(96)%10)
    ds.classes = [str(i) for i in range(10)]
    rng = torch.Generator().manual_seed(seed)
    return DataLoader(ds, 16, shuffle=True, generator=rng), DataLoader(ds, 32)

def noise_learner():
    "A quiet learner for PyTorch's loaders and a network that is not one of ours"
    learn = course_learner(noise_loaders(), small_net(), seed=1, precision='fp32', splitter=params)
    return quiet(learn)

def bits(learn):
    "All parameters and buffers of the network in one tensor"
    return torch.cat([t.double().flatten() for t in learn.model.state_dict().values()])

def noise(size=(32, 32), rng=None, mode='RGB'):
    "A random image of `size`, which is its width and height"
    rng = rng or np.random.RandomState(0)
    w, h = size
    pixels = rng.randint(256, size=(h, w, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)

def photos(folder, n=12, size=(32, 32), classes='ab', start=0, mode='RGB', ext='png'):
    "Write class folders with `n` random images each, numbered from `start`"
    rng = np.random.RandomState(start)
    for c in classes:
        (folder/c).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + n): noise(size, rng, mode).save(folder/c/f'{i}.{ext}')
    return folder

# Interruptions

class CtrlC(Callback):
    "Press Ctrl-C after one batch of one epoch"
    order = 200
    def __init__(self, epoch, it): self.at = epoch, it
    def after_batch(self):
        if self.training and (self.epoch, self.iter) == self.at: signal.raise_signal(signal.SIGINT)

def cut(learn, path, *args, at=(1, 2), **kwargs):
    "Train with checkpoints in `path`, and be interrupted"
    with pytest.raises(Interrupted):
        fit_recipe(learn, *args, cbs=CtrlC(*at), checkpoint=path, **kwargs)

@contextmanager
def file_size_limit(n=1000):
    "Let no file grow beyond `n` bytes, as on a full disk"
    resource = pytest.importorskip('resource', reason='this system cannot limit the size of files')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, limits[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)

# Other processes

# PyTorch starts threads for gradients at the first `backward`, one for each kind of device that it
# knows; after something was traced with imitated tensors, that is more than the CPU, and a forked
# process could compute no gradients. So the first `backward` comes before all tests.
torch.ones(1, requires_grad=True).sum().backward()

def fork(f, *args):
    "Run `f(*args)` in a forked process; its id. It exits with 0, 130 if interrupted, or 1"
    pid = os.fork()
    if pid: return pid
    status = 1
    try:
        f(*args)
        status = 0
    except Interrupted: status = 130
    except BaseException: traceback.print_exc()
    finally: os._exit(status)

def exit_status(pid, seconds=0):
    "The exit status of a child, or None if it is still running after `seconds`"
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end: return None
        time.sleep(0.005)

def kill(pids):
    "Kill children, and wait for their end"
    for pid in pids: os.kill(pid, signal.SIGKILL)
    for pid in pids: os.waitpid(pid, 0)

def wait_for(path, seconds=120):
    "Wait until `path` exists"
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f'there is no {path} after {seconds} s'
        time.sleep(0.005)

# The command

@contextmanager
def time_limit(seconds):
    "Raise TimeoutError after so many seconds: something hangs"
    def stop(*_): raise TimeoutError(f'still running after {seconds} s')
    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)

def run_command(*args):
    "Run `resnet-course ARGS` in this process; its exit status"
    with mock.patch.object(sys, 'argv', ['resnet-course', *map(str, args)]):
        try: cli.main()
        except SystemExit as e: return e.code or 0
    return 0
