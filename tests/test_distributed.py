"""Training on several processes, started for real (gloo, on the CPU)

The result is that of one process, every image counts once, and one process writes.
"""
import json, os, signal, socket, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from fastai.callback.core import Callback
from fastai.metrics import F1Score, accuracy
from fastai.torch_core import params, rank_distrib
from fastcore.basics import noop
from helpers import exit_status, fork, kill, needs_fork, quiet, wait_for
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from resnet_course.core import CourseError, default_device
from resnet_course.augment import BatchAugment
from resnet_course.loaders import get_dls
from resnet_course.models import create_model
from resnet_course.weight_files import read_weights
from resnet_course.distributed import (
    DDPCallback, _ShardedDL, _destroy_group, _norms_of, _sync_norms, _undo_sync, connect)
from resnet_course.checkpoint import read_checkpoint
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe, get_recipe
from resnet_course.evaluate import evaluate
from resnet_course.finetune import Stage, _FeatureDL, _head_inputs, run_stages
from resnet_course.records import list_runs
from resnet_course.runs import finetune_run, train_run

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def start(n, f, *args):
    "Fork `n` processes that find each other, and run `f(rank, *args)` in each; their ids"
    port = free_port()
    def run(rank):
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n),
            MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), ACCELERATE_USE_CPU='true',
            GLOO_SOCKET_IFNAME='lo')
        torch.set_num_threads(1)
        f(rank, *args)
    return [fork(run, rank) for rank in range(n)]

def wait(pids, seconds=120):
    "Their exit statuses; all are killed if they take too long"
    end, statuses = time.monotonic() + seconds, {}
    while len(statuses) < len(pids):
        for pid in set(pids) - set(statuses):
            status = exit_status(pid)
            if status is not None: statuses[pid] = status
        if time.monotonic() > end:
            kill(set(pids) - set(statuses))
            pytest.fail(f'still running after {seconds} s')
        time.sleep(0.005)
    return [statuses[pid] for pid in pids]

def net(*norm, drop=0.):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), *norm, nn.ReLU(), nn.Flatten(),
                         nn.Dropout(drop), nn.Linear(256, 10))

def learner(bs=16, augment=False, drop=0., metrics=accuracy, n_train=67, norm=False, seed=42):
    "A learner with 53 images to validate and to test, an odd number"
    dls = get_dls('digits', bs=bs, n_train=n_train, valid_pct=0.0295, augment=augment, seed=seed)
    layers = [nn.BatchNorm2d(4)] if norm else []
    return quiet(course_learner(dls, net(*layers, drop=drop), seed=1, precision='fp32',
                                splitter=params, metrics=metrics))

def fit(rank, out, kwargs):
    "Train; every process writes its weights and history to `out`"
    learn = learner(**kwargs)
    fit_recipe(learn, 'step', epochs=3, lr=0.05)
    rows = [{k: v for k, v in r.items() if 'seconds' not in k} for r in learn.history.rows]
    torch.save(dict(model=learn.model.state_dict(), rows=rows), out/f'{rank}.pt')

def load(path): return torch.load(path, weights_only=True)
def results(out, n): return [load(out/f'{rank}.pt') for rank in range(n)]

def same(a, b, tol=0.):
    return all((v.double() - b[k].double()).abs().max() <= tol for k, v in a.items())

# The result

@needs_fork
@pytest.mark.parametrize('n,kwargs', [
    (2, {}), (3, {}), (2, dict(metrics=[accuracy, F1Score(average='macro')]))],
    ids=['two', 'unequal shards', 'F1'])
def test_same_as_one_process(tmp_path, n, kwargs):
    "Without BatchNorm: the same weights and history, and every validation image counted once"
    fit('alone', tmp_path, kwargs)
    assert wait(start(n, fit, tmp_path, kwargs)) == [0]*n
    alone = load(tmp_path/'alone.pt')
    assert not same(alone['model'], net().state_dict(), 1e-2)  # it did train
    for res in results(tmp_path, n):
        assert same(res['model'], alone['model'], 1e-6)
        for a, b in zip(res['rows'], alone['rows'], strict=True):
            assert a == pytest.approx(b, abs=2e-6)
        right = [r['accuracy']*53 for r in res['rows']]  # a whole number of 53 images
        assert right == pytest.approx([round(x) for x in right], abs=1e-4)

@needs_fork
def test_batchnorm_ends_the_same_everywhere(tmp_path):
    "Each process normalizes with its shard's statistics: close to one process's result, not equal"
    fit('alone', tmp_path, dict(norm=True))
    assert wait(start(2, fit, tmp_path, dict(norm=True))) == [0, 0]
    alone, (a, b) = load(tmp_path/'alone.pt'), results(tmp_path, 2)
    assert same(a['model'], b['model']) and a['rows'] == b['rows']
    assert not same(a['model'], alone['model'], 1e-6)
    losses = [res['rows'][-1]['train_loss'] for res in (a, alone)]
    assert abs(losses[0] - losses[1]) < 0.2

def test_fixed_gains_stay_buffers():
    "PyTorch's conversion to SyncBatchNorm takes a gain for a parameter"
    model = create_model('fast_resnet', n_out=10)
    names, n = list(model.state_dict()), sum(p.numel() for p in model.parameters())
    model = _sync_norms(model)
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert norms and all('weight' in m._buffers for m in norms)
    assert sorted(model.state_dict()) == sorted(names)
    assert sum(p.numel() for p in model.parameters()) == n

def test_batchnorm_is_itself_again_after_training():
    "The layers that training began with, with what was trained"
    model = create_model('fast_resnet', n_out=10)
    layers, norms = dict(model.named_modules()), _norms_of(model)
    names = list(model.state_dict())
    synced = _sync_norms(model)
    for m in synced.modules():
        if isinstance(m, nn.SyncBatchNorm): m.running_mean += 1
    synced.eval()
    _undo_sync(synced, norms)
    assert dict(synced.named_modules()) == layers and list(synced.state_dict()) == names
    assert all(type(m) is nn.BatchNorm2d and not m.training for m in norms.values())
    assert all('weight' in m._buffers and (m.running_mean == 1).all() for m in norms.values())

class Exchanges(Callback):
    "Takes note of the batches after which processes exchange gradients"
    order = 1000
    def before_fit(self): self.seen = []
    def after_pred(self):
        if self.training and self.learn.model is not None and hasattr(self.learn, 'ddp'):
            if self.ddp.wrapped.require_backward_grad_sync: self.seen.append(self.iter)

def fit_in_parts(rank, out):
    "Steps of three batches, the last of an epoch shorter; every process writes its weights"
    learn, cb = learner(bs=8, n_train=160), Exchanges()
    fit_recipe(learn, 'step', epochs=2, lr=0.05, accumulate=3, cbs=cb)
    torch.save(dict(model=learn.model.state_dict(), seen=cb.seen), out/f'{rank}.pt')

@needs_fork
def test_accumulated_gradients_are_exchanged_once(tmp_path):
    fit_in_parts('alone', tmp_path)
    assert wait(start(2, fit_in_parts, tmp_path)) == [0, 0]
    alone, n = load(tmp_path/'alone.pt'), len(get_dls('digits', bs=8, n_train=160).train)
    ends = [i for i in range(n) if i%3 == 2 or i == n - 1]
    for res in results(tmp_path, 2):
        assert same(res['model'], alone['model'], 1e-6)
        assert res['seen'] == 2*ends

def test_photo_processes_are_kept():
    "A shard that is made anew in each epoch would start its processes anew"
    cb, dls = DDPCallback(), get_dls('digits', bs=8, n_train=32)
    cb.shards = {}
    assert cb.shard(dls.train, 0, 2) is cb.shard(dls.train, 0, 2)
    assert cb.shard(dls.train, 0, 2) is not cb.shard(dls.train, 0, 1)

# Fine-tuning in stages

def two_groups(m): return [params(m[0]), params(m[-1])]

def stage_learner(augment=False):
    "A learner with a head, and without BatchNorm"
    dls = get_dls('digits', bs=16, n_train=67, valid_pct=0.0295, augment=augment, seed=42)
    return quiet(course_learner(dls, net(), seed=1, precision='fp32', splitter=two_groups))

plan = [Stage('head', -1, 3, 0.05, cache=2), Stage('all', 0, 3, 0.02),
        Stage('all at once', 0, 2, 0.02, start_from='initial', monitor='accuracy', patience=1)]

def fit_stages(rank, out, path=None):
    "Fine-tune; every process writes its weights and results to `out`"
    learn = stage_learner()
    res = run_stages(learn, plan, path)
    rows = [{k: v for k, v in r.items() if k != 'seconds'} for r in res.rows]
    torch.save(dict(model=learn.model.state_dict(), rows=rows,
                    seconds=[r['seconds'] for r in res.rows], ok=res.reports), out/f'{rank}.pt')

@needs_fork
@pytest.mark.parametrize('n', [2, 3])
def test_stages_are_those_of_one_process(tmp_path, n):
    "The head on shared features, and two stages after it"
    fit_stages('alone', tmp_path)
    assert wait(start(n, fit_stages, tmp_path)) == [0]*n
    alone, each = load(tmp_path/'alone.pt'), results(tmp_path, n)
    assert not same(alone['model'], net().state_dict(), 1e-2)  # it did train
    for res in each:
        assert same(res['model'], alone['model'], 1e-6) and res['rows'] == alone['rows']
        assert res['seconds'] == each[0]['seconds'] and res['ok'] == each[0]['ok']

def with_norms(m): return [params(m[:-1]), params(m[-1])]

def sync_here(model): return DistributedDataParallel(_sync_norms(model))

def fit_head_as_on_gpus(rank, out):
    "Train a head while BatchNorm is frozen, and is SyncBatchNorm while it trains"
    dls = get_dls('digits', bs=16, n_train=67, valid_pct=0.0295, augment=False, seed=42)
    learn = quiet(course_learner(dls, net(nn.BatchNorm2d(4)), seed=1, precision='fp32',
                                 splitter=with_norms))
    # DDP refuses it on a CPU, where it cannot train; but here it does not
    alone = mock.patch.object(DistributedDataParallel, '_passing_sync_batchnorm_handle', noop)
    with alone, mock.patch('resnet_course.distributed._wrap_model', sync_here):
        run_stages(learn, [Stage('head', -1, 3, 0.05)])
    assert type(learn.model[1]) is nn.BatchNorm2d
    torch.save(dict(model=learn.model.state_dict()), out/f'{rank}.pt')

@needs_fork
def test_frozen_batchnorm_as_on_gpus(tmp_path):
    "In evaluation mode SyncBatchNorm runs on a CPU, too: the weights are those of one process"
    fit_head_as_on_gpus('alone', tmp_path)
    assert wait(start(2, fit_head_as_on_gpus, tmp_path)) == [0, 0]
    alone = load(tmp_path/'alone.pt')
    for res in results(tmp_path, 2): assert same(res['model'], alone['model'], 1e-6)

def cache_features(rank, out):
    "Every process writes the features of all images, and how many it computed"
    connect()
    learn, n_seen = stage_learner(), []
    learn.create_opt()
    learn.model[0].register_forward_pre_hook(lambda m, inp: n_seen.append(len(inp[0])))
    x, y = _head_inputs(learn, learn.dls.train.new(shuffle=False, drop_last=False))
    torch.save(dict(x=x, y=y, n=sum(n_seen)), out/f'{rank}.pt')

@needs_fork
@pytest.mark.parametrize('n', [2, 3])
def test_features_are_shared_out(tmp_path, n):
    "Each process computes its part, and gets the rest"
    cache_features('alone', tmp_path)
    assert wait(start(n, cache_features, tmp_path)) == [0]*n
    alone, each = load(tmp_path/'alone.pt'), results(tmp_path, n)
    assert sum(res['n'] for res in each) == alone['n'] == 67
    assert max(res['n'] for res in each) - min(res['n'] for res in each) <= len(range(0, 67, 16))
    for res in each:
        assert (res['x'] - alone['x']).abs().max() < 1e-6 and torch.equal(res['y'], alone['y'])

def test_shards_of_features_take_turns():
    "Every epoch has the next view, also if each makes a new shard"
    dl = _FeatureDL([torch.zeros(8, 1), torch.ones(8, 1)], torch.arange(8), 4, True, 'cpu')
    seen = []
    for _ in range(3):
        shard = _ShardedDL(dl, 0, 2)
        with mock.patch('resnet_course.distributed.broadcast_object', lambda o: o):
            seen.append({float(v) for x, _ in shard for v in x})
    assert seen == [{0.}, {1.}, {0.}]

def stop_after_head(rank, out):
    "Every process ends when the second stage begins"
    class Stop(Callback):
        def before_fit(self):
            if self.n_epoch == 3 and not self.learn.opt.frozen_idx: raise KeyboardInterrupt
    learn = stage_learner()
    learn.add_cb(Stop())
    with pytest.raises(KeyboardInterrupt): run_stages(learn, plan, out/'stages')
    fit_stages(rank, out, out/'stages')

@needs_fork
def test_stages_are_resumed_by_several_processes(tmp_path):
    for name in ('whole', 'cut'): (tmp_path/name).mkdir()
    assert wait(start(2, fit_stages, tmp_path/'whole')) == [0, 0]
    assert wait(start(2, stop_after_head, tmp_path/'cut')) == [0, 0]
    (a, _), cut = results(tmp_path/'whole', 2), results(tmp_path/'cut', 2)
    for res in cut: assert same(res['model'], a['model']) and res['rows'] == a['rows']
    assert sorted(f.name for f in (tmp_path/'cut'/'stages').iterdir()) == [
        'all at once.safetensors', 'all.safetensors', 'head.safetensors', 'initial.safetensors',
        'stages.json']

def finetune_head(rank, out):
    "A whole run, with BatchNorm as it was in training; images are not augmented"
    def setup(learn):
        quiet(learn)
        fs = learn.dls.train.after_batch.fs
        fs[:] = [tfm for tfm in fs if not isinstance(tfm, BatchAugment)]
    how = dict(plan='head', epochs=2, bs=16, n_train=64, precision='fp32', out=out/f'runs{rank}')
    if rank != 'alone': how['out'] = out/'runs'
    rec, stages, report = finetune_run('digits', 'resnet20-fashion_mnist', setup=setup, **how)
    res = dict(path=rec['path'], rows=stages.rows, top1=report.top1)
    (out/f'{rank}.json').write_text(json.dumps(res))

@needs_fork
def test_fine_tuning_writes_one_record(tmp_path):
    "The record and the weights are those of one process"
    finetune_head('alone', tmp_path)
    assert wait(start(2, finetune_head, tmp_path)) == [0, 0]
    alone, a, b = (json.loads((tmp_path/f'{o}.json').read_text()) for o in ('alone', 0, 1))
    rec, = list_runs(tmp_path/'runs')
    assert a == b and a['path'] == rec['path'] and rec['processes'] == 2
    assert sorted(f.name for f in Path(a['path']).iterdir()) == sorted(
        f.name for f in Path(alone['path']).iterdir())
    assert a['top1'] == alone['top1'] == rec['test']['top1']
    for key in ('train', 'valid', 'test', 'n_train', 'best_epoch'):
        assert a['rows'][0][key] == alone['rows'][0][key]
    weights = [read_weights(Path(o['path'])/'model.safetensors')[0] for o in (a, alone)]
    assert same(*weights, 1e-6)

# Interruptions

def fit_or_resume(rank, folder):
    "Train with dropout and augmentation, resuming if there is a checkpoint in `folder`"
    learn = learner(bs=8, augment=True, drop=0.5)
    resume = (folder/'checkpoint.pt').exists()
    fit_recipe(learn, 'one_cycle', epochs=6, checkpoint=folder, resume=resume, minutes=0)
    torch.save(learn.model.state_dict(), folder/f'final{rank}.pt')

@needs_fork
def test_killed_and_resumed(tmp_path):
    whole, cut = tmp_path/'whole', tmp_path/'cut'
    for folder in (whole, cut): folder.mkdir()
    began = time.monotonic()
    assert wait(start(2, fit_or_resume, whole)) == [0, 0]
    took, n_kills = time.monotonic() - began, 0
    for fraction in (0.4, 0.55, 0.7):
        pids = start(2, fit_or_resume, cut)
        time.sleep(fraction*took)
        if exit_status(pids[0]) is not None:
            kill(pids[1:])
            continue
        kill(pids)
        n_kills += 1
    assert wait(start(2, fit_or_resume, cut)) == [0, 0] and n_kills
    want = load(whole/'final0.pt')
    for f in (whole/'final1.pt', cut/'final0.pt', cut/'final1.pt'): assert same(load(f), want), f

@needs_fork
def test_ctrl_c_in_one_process_stops_all(tmp_path):
    pids = start(2, fit_or_resume, tmp_path)
    wait_for(tmp_path/'checkpoint.pt')
    os.kill(pids[1], signal.SIGINT)
    assert wait(pids) == [130, 130]
    assert [p.name for p in tmp_path.iterdir()] == ['checkpoint.pt']

class CtrlCInRank1(Callback):
    "Press Ctrl-C in process 1, after the fourth batch"
    order = 200
    def after_batch(self):
        if self.training and self.iter == 3 and rank_distrib(): signal.raise_signal(signal.SIGINT)

def fit_accumulating(rank, folder):
    r = replace(get_recipe('step'), accumulate=2)
    fit_recipe(learner(bs=8, n_train=160), r, epochs=1, checkpoint=folder, cbs=CtrlCInRank1())

@needs_fork
def test_ctrl_c_with_gradient_accumulation(tmp_path):
    "Processes ask each other between steps only, and every tenth batch may not end a step"
    assert wait(start(2, fit_accumulating, tmp_path)) == [130, 130]
    assert read_checkpoint(tmp_path)['pos']['iter'] == 12

class Poison(Callback):
    "The loss of the second batch is NaN in the processes `ranks`"
    order = -100
    def __init__(self, ranks): self.ranks = ranks
    def after_loss(self):
        if self.training and self.iter == 1 and rank_distrib() in self.ranks:
            self.learn.loss_grad = self.learn.loss_grad*float('nan')
            self.learn.loss = self.learn.loss_grad.clone()

def fit_poisoned(rank, ranks):
    what = 'nan' if rank in ranks else 'not finite in another process'
    with pytest.raises(CourseError, match=f'the loss is {what} in epoch 0, batch 1: lower'):
        fit_recipe(learner(), 'step', epochs=2, lr=0.05, cbs=Poison(ranks))

@needs_fork
@pytest.mark.parametrize('ranks', [(0, 1), (0,), (1,)], ids=['both', 'first', 'second'])
def test_nan_in_one_process_stops_both(ranks):
    assert wait(start(2, fit_poisoned, ranks)) == [0, 0]

# Devices that are not here

@pytest.fixture
def second_of_two(monkeypatch):
    "This is process 1 of 2 on a machine with GPUs; what it does is noted"
    for name, value in dict(WORLD_SIZE=2, LOCAL_WORLD_SIZE=2, RANK=1, LOCAL_RANK=1).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv('RESNET_COURSE_DEVICE', '')
    calls = mock.Mock()
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('torch.cuda.set_device', calls.set_device)
    monkeypatch.setattr('torch.distributed.init_process_group', calls.join)
    monkeypatch.setattr('torch.distributed.get_world_size', lambda: 2)
    monkeypatch.setattr('accelerate.PartialState', calls.by_accelerate)
    monkeypatch.setattr('atexit.register', calls.at_exit)
    return calls

def test_processes_that_share_a_gpu(second_of_two, monkeypatch):
    "Two on one card talk through gloo, because NCCL wants a card for each"
    monkeypatch.setattr('torch.cuda.device_count', lambda: 1)
    assert connect() == 2
    assert second_of_two.mock_calls == [
        mock.call.set_device(0), mock.call.join('gloo'), mock.call.at_exit(_destroy_group)]

def test_processes_with_a_gpu_each(second_of_two, monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    assert connect() == 2
    assert second_of_two.mock_calls == [
        mock.call.by_accelerate(cpu=False), mock.call.at_exit(_destroy_group)]

def test_processes_on_a_mac_use_the_cpu(second_of_two, monkeypatch):
    "gloo cannot exchange what is on an Apple GPU, which fastai would choose"
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr('torch.backends.mps.is_available', lambda: True)
    monkeypatch.setattr('torch.set_num_threads', noop)
    monkeypatch.setattr('fastai.torch_core.defaults.use_cuda', None, raising=False)
    assert default_device().type == 'mps'
    assert connect() == 2 and default_device().type == 'cpu'
    assert second_of_two.mock_calls == [
        mock.call.by_accelerate(cpu=True), mock.call.at_exit(_destroy_group)]

@pytest.mark.parametrize('device', ['cuda:1', 'mps'])
def test_one_device_for_all_processes_is_refused(second_of_two, monkeypatch, device):
    monkeypatch.setenv('RESNET_COURSE_DEVICE', device)
    message = f'device={device}: each of 2 processes.*CUDA_VISIBLE_DEVICES'
    with pytest.raises(CourseError, match=message):
        connect()
    assert not second_of_two.mock_calls

# The end

@pytest.mark.parametrize('backend,failed,destroyed', [
    ('nccl', False, True), ('nccl', True, False), ('gloo', False, True), ('gloo', True, True)])
def test_shutdown(backend, failed, destroyed, monkeypatch):
    "Destroying NCCL's group waits for all processes: not after an error, which they do not share"
    monkeypatch.setattr('torch.distributed.is_initialized', lambda: True)
    monkeypatch.setattr('torch.distributed.get_backend', lambda: backend)
    done = mock.Mock()
    monkeypatch.setattr('torch.distributed.destroy_process_group', done)
    monkeypatch.setattr(sys, 'last_value', ValueError() if failed else None, raising=False)
    _destroy_group()
    assert done.called == destroyed

# What is written, and by whom

def whole_run(rank, out):
    rec, report = train_run('digits', 'resnet20', epochs=1, bs=16, n_train=32, out=out/'runs')
    res = dict(path=rec['path'], top1=report.top1, n=report.n)
    (out/f'{rank}.json').write_text(json.dumps(res))

@needs_fork
def test_only_the_first_process_writes(tmp_path):
    assert wait(start(2, whole_run, tmp_path)) == [0, 0]
    a, b = (json.loads((tmp_path/f'{rank}.json').read_text()) for rank in range(2))
    rec, = list_runs(tmp_path/'runs')
    assert a == b and a['n'] == rec['test']['n'] == rec['images']['test'] == 180
    assert rec['processes'] == 2
    run = Path(a['path'])
    assert sorted(p.name for p in run.iterdir()) == [
        'curves.png', 'curves.svg', 'history.csv', 'model.safetensors', 'run.json']
    dls = get_dls('digits', n_train=32)
    assert evaluate(run/'model.safetensors', dls=dls).top1 == a['top1']

# What is refused

def fit_two_images(rank, out):
    says = '3 processes cannot share a batch of 2 images: start at most 2'
    with pytest.raises(CourseError, match=says): fit(rank, out, dict(bs=2))

@needs_fork
def test_more_processes_than_images_in_a_batch(tmp_path):
    assert wait(start(3, fit_two_images, tmp_path)) == [0]*3

def fit_without_seed(rank):
    with pytest.raises(CourseError, match='the processes have split the images differently'):
        fit_recipe(learner(n_train=64, seed=None), 'step', epochs=1, lr=0.05)

@needs_fork
def test_processes_that_split_the_images_differently():
    assert wait(start(2, fit_without_seed)) == [0, 0]

# From the command line

launchers = dict(
    torchrun=['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2'],
    # that it is told of GPUs that are not there does no harm
    accelerate=['-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2'])

def launch(launcher, folder, *args):
    "What two processes print"
    env = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[1]), 'OMP_NUM_THREADS': '1'}
    if launcher == 'accelerate': args = (f'--main_process_port={free_port()}', *args)
    p = subprocess.run([sys.executable, *launchers[launcher], *args], cwd=folder, env=env,
                       capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-3000:]
    return p.stdout

def torchrun(folder, *args): return launch('torchrun', folder, *args)

@pytest.mark.parametrize('launcher', launchers)
def test_fine_tuning_from_the_command_line(tmp_path, launcher):
    "One line per epoch (of images, not of features), one table of stages, one record"
    (tmp_path/'plan.yaml').write_text(
        '- {name: head, freeze_to: -1, epochs: 1, lr: .02, cache: 1}\n'
        '- {name: more, freeze_to: -2, epochs: 1, lr: .002}\n')
    out = launch(launcher, tmp_path, '-m', 'resnet_course', 'finetune', '--data', 'digits',
                 '--weights', 'resnet20-fashion_mnist', '--plan', 'plan.yaml', '--n-train', '64',
                 '--bs', '16')
    assert out.count('epoch 1/1') == out.count('best stage on validation') == 1
    rec, = list_runs(tmp_path/'runs')
    assert rec['processes'] == 2 and [s['name'] for s in rec['finetune']['stages']] == [
        'head', 'more']

def test_torchrun(tmp_path):
    "One line per epoch, one record"
    out = torchrun(tmp_path, '-m', 'resnet_course.cli', 'train', '--data', 'digits',
                   '--n-train', '32', '--bs', '16', '--epochs', '1')
    assert out.count('epoch 1/1') == out.count('test accuracy') == 1
    assert [r['processes'] for r in list_runs(tmp_path/'runs')] == [2]

# Exit handlers run in reverse order: the one registered first sees the end
connecting = '''
import atexit, os, torch.distributed as dist
from pathlib import Path
note = []
def end(): Path(os.environ['RANK']).write_text(f'{note} joined {dist.is_initialized()}')
atexit.register(end)
from resnet_course.distributed import connect
note.append(connect())
'''

def test_process_group_is_destroyed_before_shutdown(tmp_path):
    "A gloo thread that holds a message at shutdown would abort a process whose work is done"
    (tmp_path/'program.py').write_text(connecting)
    torchrun(tmp_path, 'program.py')
    # in files: what two processes print is mixed
    assert [(tmp_path/str(rank)).read_text() for rank in range(2)] == ['[2] joined False']*2
