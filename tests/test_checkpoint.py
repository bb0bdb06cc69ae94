"Interrupted training resumes to the bits of a run that was left alone, and only where it should"
import os, random, signal, sys, time
from contextlib import redirect_stdout
from dataclasses import replace

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.torch_core import params
from helpers import (
    CtrlC, bits, cut, digits_learner, exit_status, file_size_limit, fork, kill, needs_fork,
    noise_learner, photo_learner, photos, quiet, wait_for)
from torch import nn

from resnet_course.core import CourseError, atomic_write, write_json
from resnet_course.listing import is_hidden
from resnet_course.loaders import get_dls
from resnet_course.callbacks import EMA
from resnet_course.checkpoint import Interrupted, read_checkpoint, resumable
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe, get_recipe
from resnet_course.evaluate import evaluate
from resnet_course.runs import learner_from_checkpoint

# Processes that are killed

N_KILLS = 32

def train(folder):
    "Train a tiny network, resuming if there is a checkpoint in `folder`; write its weights there"
    torch.set_num_threads(1)
    dls = get_dls('digits', bs=16, n_train=64, valid_pct=0.05)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.BatchNorm2d(4), nn.Flatten(),
                        nn.Dropout(0.5), nn.Linear(256, 10))
    learn = quiet(course_learner(dls, net, seed=1, precision='fp32', splitter=params))
    resume = (folder/'checkpoint.pt').exists()
    with resumable(learn, folder, resume, minutes=0): learn.fit_one_cycle(3, 0.1)
    losses = [r['train_loss'] for r in learn.history.rows]
    final = dict(net.state_dict(), losses=torch.tensor(losses, dtype=torch.float64))
    torch.save(final, folder/'final.tmp')
    os.replace(folder/'final.tmp', folder/'final.pt')

def train_silently(folder):
    with open(os.devnull, 'w') as f, redirect_stdout(f): train(folder)

def train_with_kills(folder, rng, seconds, n=6):
    "Train, killed up to `n` times at random moments, then left alone; how often it was killed"
    for i in range(n):
        pid = fork(train_silently, folder)
        if exit_status(pid, rng.uniform(0, seconds)) is not None: return i
        kill([pid])
    assert exit_status(fork(train_silently, folder), 120) == 0
    return n

@needs_fork
def test_killed_at_random_points(tmp_path):
    get_dls('digits', n_train=64)  # read once, here; the children inherit it
    rng, start = random.Random(20151210), time.monotonic()
    assert exit_status(fork(train_silently, tmp_path/'whole'), 120) == 0
    took = time.monotonic() - start
    whole = torch.load(tmp_path/'whole'/'final.pt', weights_only=True)
    n_kills = n_runs = 0
    while n_kills < N_KILLS:
        folder = tmp_path/f'run{n_runs}'
        n_kills += train_with_kills(folder, rng, 0.6*took)
        n_runs += 1
        got = torch.load(folder/'final.pt', weights_only=True)
        assert all(torch.equal(got[k], v) for k, v in whole.items())
        assert sorted(p.name for p in folder.iterdir()) == ['checkpoint.pt', 'final.pt']
    print(f'{n_kills} kills in {n_runs} runs')

@needs_fork
def test_ctrl_c_in_another_process(tmp_path):
    pid = fork(train_silently, tmp_path/'run')
    wait_for(tmp_path/'run'/'checkpoint.pt')
    os.kill(pid, signal.SIGINT)
    assert exit_status(pid, 60) is not None
    assert (tmp_path/'run'/'checkpoint.pt').exists()
    assert not list((tmp_path/'run').glob('.*'))

@needs_fork
def test_what_a_killed_process_leaves_behind(tmp_path):
    "It is hidden, and removed by the next write of the same file, which says so"
    def write_and_die():
        with atomic_write(tmp_path/'x.json') as tmp:
            tmp.write_text('half')
            os.kill(os.getpid(), signal.SIGKILL)
    pid = fork(write_and_die)
    assert exit_status(pid, 60) == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    assert is_hidden(left.name)
    os.utime(left, (0, 0))
    with pytest.warns(UserWarning, match=f'removed {left.name}, left behind'):
        write_json(1, tmp_path/'x.json')
    assert [p.name for p in tmp_path.iterdir()] == ['x.json']


@needs_fork
def test_two_runs_in_one_folder(tmp_path):
    pid = fork(train_silently, tmp_path/'run')
    wait_for(tmp_path/'run'/'checkpoint.pt')
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(CourseError, match=f'in use by process {pid}'): train(tmp_path/'run')
    kill([pid])
    train(tmp_path/'run')  # the lock ended with its owner

# The same bits

def test_fast_cifar_resumes_to_the_same_bits(tmp_path):
    "A checkpoint includes whitened filters, Muon's momentum and the turn of alternating flips"
    def learner():
        dls = get_dls(bs=32, n_train=128, augment='fast', seed=3)
        return quiet(course_learner(dls, 'fast_resnet', seed=3, precision='fp32'))
    whole = learner()
    fit_recipe(whole, 'fast_cifar', 3, checkpoint=tmp_path/'whole')
    cut(learner(), tmp_path/'cut', 'fast_cifar', 3, at=(1, 1), minutes=0)
    with pytest.warns(UserWarning, match='CtrlC'):
        second, how = learner_from_checkpoint(tmp_path/'cut')
    fit_recipe(quiet(second), **how)
    got = second.model.state_dict()
    for name, want in whole.model.state_dict().items(): assert torch.equal(got[name], want), name
    assert len(got) == len(whole.model.state_dict())

@pytest.mark.parametrize('bn', ['eval', 'stats'])
def test_frozen_groups_stay_frozen(tmp_path, bn):
    whole = digits_learner()
    whole.freeze_to(-1, bn=bn)
    fit_recipe(whole, epochs=3)
    first = digits_learner()
    first.freeze_to(-1, bn=bn)
    cut(first, tmp_path, epochs=3, minutes=0)
    with pytest.warns(UserWarning, match='CtrlC'): second, how = learner_from_checkpoint(tmp_path)
    fit_recipe(quiet(second), **how)
    assert torch.equal(bits(second), bits(whole)) and second.frozen.bn == bn
    assert second.opt.frozen_idx == whole.opt.frozen_idx > 0   # for the next fit

_reads = None   # a list while `test_a_checkpoint_is_read_once` counts; a hook cannot be removed

def note_reads(event, args):
    "Note each time that a checkpoint is opened to read it"
    if event != 'open' or _reads is None or not str(args[0]).endswith('checkpoint.pt'): return
    if not set(args[1] or '') & set('wax+'): _reads.append(args[0])

@pytest.mark.filterwarnings('ignore:.*also trained with')
def test_a_checkpoint_is_read_once(tmp_path, monkeypatch):
    "From its folder to the end of the resumed run"
    cut(digits_learner(), tmp_path, epochs=3, minutes=0)
    sys.addaudithook(note_reads)
    monkeypatch.setattr(sys.modules[__name__], '_reads', [])
    learn, how = learner_from_checkpoint(tmp_path)
    fit_recipe(quiet(learn), **how)
    assert len(_reads) == 1, _reads

def test_swa_is_finished_after_the_last_epoch(tmp_path):
    class Die(Callback):
        order = 120    # after the checkpoint of the last epoch
        def after_epoch(self):
            if self.epoch == 2: raise KeyboardInterrupt
    r = replace(get_recipe('step'), swa=0.4)
    whole = digits_learner()
    fit_recipe(whole, r, 3)
    with pytest.raises(KeyboardInterrupt):
        fit_recipe(digits_learner(), r, 3, cbs=Die(), checkpoint=tmp_path)
    second = digits_learner()
    fit_recipe(second, r, 3, checkpoint=tmp_path, resume=True)
    assert torch.equal(bits(second), bits(whole))

def test_pytorch_loaders_with_their_own_generator(tmp_path):
    whole = noise_learner()
    fit_recipe(whole, epochs=3)
    cut(noise_learner(), tmp_path, epochs=3, minutes=0)
    second = noise_learner()
    fit_recipe(second, epochs=3, checkpoint=tmp_path, resume=True)
    assert torch.equal(bits(second), bits(whole))

# Recipes and callbacks

def test_another_recipe_is_refused(tmp_path):
    cut(digits_learner(), tmp_path, 'cosine', epochs=3)
    mixup = replace(get_recipe('cosine'), mixup=0.2)
    for recipe, epochs, lr, says in (
            ('one_cycle', 3, None, "name='one_cycle' .was 'cosine'."),
            ('cosine', 3, 0.5, 'lr=0.5'),
            ('cosine', 4, None, '3 epochs, not 4'),
            (mixup, 3, None, "changed={'mixup': 0.2}")):
        with pytest.raises(CourseError, match=says):
            fit_recipe(digits_learner(), recipe, epochs, lr, checkpoint=tmp_path, resume=True)
    fit_recipe(digits_learner(), 'cosine', 3, checkpoint=tmp_path, resume=True)

def test_custom_recipe(tmp_path):
    "What a flag can change is in the checkpoint; anything else must be passed again"
    r = replace(get_recipe('cosine'), ema=0.9, wd=0.01)
    whole, first = digits_learner(), digits_learner()
    fit_recipe(whole, r, 3)
    cut(first, tmp_path, r, 3)
    assert first.recipe['changed'] == dict(ema=0.9, wd=0.01)
    with pytest.raises(CourseError, match='a changed wd:'): learner_from_checkpoint(tmp_path)
    third = digits_learner()
    with pytest.raises(CourseError, match='training run with EMA'):
        with resumable(third, tmp_path, True): third.fit(3, 0.1)
    second = digits_learner()
    fit_recipe(second, r, 3, checkpoint=tmp_path, resume=True)
    assert torch.equal(bits(second), bits(whole))

@pytest.mark.parametrize('kw', [dict(mixup=0.2), dict(ema=0.9), dict(label_smoothing=0.2)])
def test_interrupted_learner_is_restored(tmp_path, kw):
    learn, r = digits_learner(), replace(get_recipe('cosine'), **kw)
    loss_func, model = learn.loss_func, learn.model
    cut(learn, tmp_path, r, 3)
    assert learn.loss_func is loss_func and learn.model is model
    evaluate(learn, 'valid')
    fit_recipe(learn, r, 3, checkpoint=tmp_path, resume=True)
    assert learn.loss_func is loss_func

def test_interrupted_fit_of_fastai(tmp_path):
    learn = digits_learner()
    loss_func = learn.loss_func
    with pytest.raises(Interrupted), resumable(learn, tmp_path):
        learn.fit_one_cycle(3, 0.1, cbs=[MixUp(0.2), CtrlC(1, 2)])
    assert learn.loss_func is loss_func
    with resumable(learn, tmp_path, True): learn.fit_one_cycle(3, 0.1, cbs=MixUp(0.2))

def test_more_callbacks_than_before_start_over(tmp_path):
    cut(digits_learner(), tmp_path, 'cosine', epochs=3)
    with pytest.warns(UserWarning, match='has no state for EMA'):
        fit_recipe(digits_learner(), 'cosine', 3, cbs=EMA(0.9), checkpoint=tmp_path, resume=True)

def test_callbacks_of_the_learner_are_remembered(tmp_path):
    cut(digits_learner(cbs=MixUp()), tmp_path, epochs=3)
    with pytest.warns(UserWarning, match='MixUp, CtrlC'): learner_from_checkpoint(tmp_path)

# Images

def test_folder_that_was_moved(tmp_path):
    for split in ('train', 'test'): photos(tmp_path/'photos'/split)
    def learner(folder): return photo_learner(folder, seed=1, precision='fp32', num_workers=0)
    cut(learner(tmp_path/'photos'), tmp_path/'run', epochs=3, at=(1, 0))
    (tmp_path/'photos').rename(tmp_path/'images')
    fit_recipe(learner(tmp_path/'images'), epochs=3, checkpoint=tmp_path/'run', resume=True)

def test_other_files_are_refused(tmp_path, photo_folder):
    fit_recipe(photo_learner(photo_folder), 'one_cycle', 1, checkpoint=tmp_path/'run')
    (photo_folder/'a'/'3.png').rename(photo_folder/'a'/'99.png')
    with pytest.raises(CourseError, match='split_id='):
        fit_recipe(photo_learner(photo_folder), 'one_cycle', 1, checkpoint=tmp_path/'run',
                   resume=True)

def test_run_without_a_recorded_seed(tmp_path):
    "Version 0.1.0 recorded neither the seed of the split nor its `split_id`"
    old = digits_learner(n_train=64, seed=0, precision='auto')
    old.dls.cfg['seed'] = old.dls.split_id = None
    fit_recipe(old, 'one_cycle', 1, checkpoint=tmp_path)
    new = digits_learner(n_train=64, seed=0, precision='auto')
    fit_recipe(new, 'one_cycle', 1, checkpoint=tmp_path, resume=True)

# What is written

def test_full_disk(tmp_path, capsys):
    fit_recipe(digits_learner(), epochs=1, checkpoint=tmp_path)
    old = (tmp_path/'checkpoint.pt').read_bytes()
    with file_size_limit(): fit_recipe(digits_learner(), epochs=2, checkpoint=tmp_path)
    assert capsys.readouterr().out.count('cannot write a checkpoint') == 1
    assert (tmp_path/'checkpoint.pt').read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ['checkpoint.pt']

def test_infinite_statistics_do_not_replace_a_good_checkpoint(tmp_path):
    class Spoil(Callback):
        def after_train(self):
            if self.epoch != 1: return
            norms = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
            norms[0].running_var[0] = float('inf')
    with pytest.raises(CourseError, match='BatchNorm statistics are no longer finite'):
        fit_recipe(digits_learner(), epochs=3, cbs=Spoil(), checkpoint=tmp_path)
    assert read_checkpoint(tmp_path)['pos']['epoch'] == 1
