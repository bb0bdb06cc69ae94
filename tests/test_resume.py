"""Training that is killed without warning, again and again, ends with the bits of a run that was left alone"""
import os, random, signal, sys, time, traceback

import pytest
import torch
from fastai.callback.core import Callback
from resnet_course.checkpoint import Interrupted, resumable
from resnet_course.core import CourseError
from resnet_course.loaders import get_dls
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe
from resnet_course.runs import learner_from_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork: a fresh interpreter for each kill would take minutes')
KILLS = 32

def train(folder):
    "Train a tiny network, going on from `folder` where there is a checkpoint; leave the weights in final.pt"
    torch.set_num_threads(1)
    dls = get_dls('digits', bs=16, n_train=64, valid_pct=0.05)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, stride=4), torch.nn.BatchNorm2d(4), torch.nn.Flatten(),
                              torch.nn.Dropout(0.5), torch.nn.Linear(256, 10))
    learn = course_learner(dls, net, seed=1, precision='fp32', splitter=lambda m: [list(m.parameters())])
    resume = (folder/'checkpoint.pt').exists()
    with learn.no_bar(), learn.no_logging(), resumable(learn, folder, resume, minutes=0): learn.fit_one_cycle(3, 0.1)
    final = {k: v for k, v in net.state_dict().items()}
    final['losses'] = torch.tensor([r['train_loss'] for r in learn.history.rows], dtype=torch.float64)
    torch.save(final, folder/'final.tmp')
    os.replace(folder/'final.tmp', folder/'final.pt')

def in_child(folder):
    "Run `train` in a forked process; returns its id"
    pid = os.fork()
    if pid: return pid
    status = 1
    try:
        with open(os.devnull, 'w') as sys.stdout: train(folder)
        status = 0
    except BaseException: traceback.print_exc()
    finally: os._exit(status)

def wait(pid, seconds):
    "The exit status, or None if `pid` is still running after `seconds`"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)

def test_killed_at_random_points(tmp_path):
    get_dls('digits', n_train=64)  # read once, here; the children inherit it
    rng, start = random.Random(20151210), time.monotonic()
    assert wait(in_child(tmp_path/'whole'), 120) == 0
    whole, took = torch.load(tmp_path/'whole'/'final.pt', weights_only=True), time.monotonic() - start
    kills = runs = 0
    while kills < KILLS:
        folder, runs = tmp_path/f'run{runs}', runs + 1
        for _ in range(6):  # up to six kills, then in peace to the end
            pid = in_child(folder)
            if wait(pid, rng.uniform(0, 0.6*took)) is not None: break
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
        else: assert wait(in_child(folder), 120) == 0
        got = torch.load(folder/'final.pt', weights_only=True)
        assert all(torch.equal(got[k], v) for k, v in whole.items())
        assert sorted(p.name for p in folder.iterdir()) == ['checkpoint.pt', 'final.pt']
    print(f'{kills} kills in {runs} runs')

def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    "A second process, as a user has it"
    pid = in_child(tmp_path/'run')
    while not (tmp_path/'run'/'checkpoint.pt').exists(): time.sleep(0.01)
    os.kill(pid, signal.SIGINT)
    assert wait(pid, 60) is not None
    assert (tmp_path/'run'/'checkpoint.pt').exists() and not list((tmp_path/'run').glob('.*'))

def test_two_runs_in_one_folder(tmp_path):
    pid = in_child(tmp_path/'run')
    while not (tmp_path/'run'/'checkpoint.pt').exists(): time.sleep(0.01)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(CourseError, match=f'in use by process {pid}'): train(tmp_path/'run')
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    train(tmp_path/'run')  # the lock went with its owner

class Stop(Callback):
    "Ctrl-C in the middle of the second epoch"
    order = 200
    def after_batch(self):
        if self.training and (self.epoch, self.iter) == (1, 1): signal.raise_signal(signal.SIGINT)

def test_the_fastest_recipe_goes_on_to_the_same_bits(tmp_path):
    "Whitened filters, Muon's momentum and alternating flips are part of what a checkpoint holds"
    def learner(): return course_learner(get_dls(bs=32, n_train=128, augment='fast', seed=3), 'fast_resnet', seed=3, precision='fp32')
    whole = learner()
    with whole.no_bar(), whole.no_logging(): fit_recipe(whole, 'fast_cifar', 3, checkpoint=tmp_path/'whole')
    first = learner()
    with first.no_bar(), first.no_logging(), pytest.raises(Interrupted): fit_recipe(first, 'fast_cifar', 3, cbs=Stop(), checkpoint=tmp_path/'cut', minutes=0)
    second, how = learner_from_checkpoint(tmp_path/'cut')
    with second.no_bar(), second.no_logging(): fit_recipe(second, **how)
    for (n, a), b in zip(whole.model.state_dict().items(), second.model.state_dict().values(), strict=True): assert torch.equal(a, b), n
