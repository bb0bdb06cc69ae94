"A course learner is a drop-in fastai learner: fastai's callbacks have the same effect on both"
import random, shutil
from pathlib import Path

import pytest
import torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import FetchPredsCallback, GatherPredsCallback
from fastai.callback.data import CollectDataCallback
from fastai.callback.hook import ActivationStats
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.preds import MCDropoutCallback
from fastai.callback.progress import CSVLogger, ProgressCallback
from fastai.callback.schedule import ParamScheduler, SchedCos
from fastai.callback.tracker import (EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback,
                                     TerminateOnNaNCallback)
from fastai.callback.training import (BnFreeze, GradientAccumulation, GradientClip,
                                      ShortEpochCallback)
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from fastai.torch_core import params, set_seed
from torch import nn

from resnet_course.core import CourseError
from resnet_course.loaders import get_dls
from resnet_course.checkpoint import read_checkpoint
from resnet_course.learner import CourseLearner, course_learner
from resnet_course.recipes import fit_recipe
from resnet_course.evaluate import evaluate
from resnet_course.records import load_run
from resnet_course.runs import learner_from_checkpoint
from resnet_course.reuse import run_learner

pytestmark = pytest.mark.usefixtures('one_thread')
precisions = ['fp32', 'bf16', 'fp16']

class Plateau(ReduceLROnPlateau):
    "fastai's, where no epoch is an improvement"
    def __init__(self): super().__init__(min_delta=10, patience=1)

# name → the callbacks of one training run
callbacks = {
    'none': lambda: [],
    'ActivationStats': lambda: [ActivationStats(modules=None)],
    'BnFreeze': lambda: [BnFreeze()],
    'CSVLogger': lambda: [CSVLogger()],
    'ChannelsLast': lambda: [ChannelsLast()],
    'CollectDataCallback': lambda: [CollectDataCallback()],
    'CutMix': lambda: [CutMix(1.)],
    'EarlyStoppingCallback': lambda: [EarlyStoppingCallback(min_delta=10, patience=1)],
    'FetchPredsCallback': lambda: [FetchPredsCallback()],
    'GradientAccumulation': lambda: [GradientAccumulation(64)],
    'GradientClip': lambda: [GradientClip(0.05)],
    'MixUp': lambda: [MixUp(0.4)],
    'ParamScheduler': lambda: [ParamScheduler(dict(lr=SchedCos(0.1, 0.)))],
    'ReduceLROnPlateau': lambda: [Plateau()],
    'SaveModelCallback': lambda: [SaveModelCallback()],
    'ShortEpochCallback': lambda: [ShortEpochCallback(0.5)],
    'TerminateOnNaNCallback': lambda: [TerminateOnNaNCallback()]}

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                         nn.Dropout(0.1), nn.Linear(8*8*8, 10))

def loaders(): return get_dls('digits', bs=16, n_train=96, augment=False, seed=0, device='cpu')

def plain(path, cbs, **kwargs):
    return Learner(loaders(), net(), loss_func=CrossEntropyLossFlat(), opt_func=SGD,
                   splitter=params, metrics=accuracy, cbs=cbs, path=path, **kwargs)

def course(path, cbs, precision='fp32', **kwargs):
    return course_learner(loaders(), net(), precision=precision, opt_func=SGD, splitter=params,
                          cbs=cbs, path=path, **kwargs)

def fit(learn, n=3):
    "Train from the same random state; the learner, and how far each weight moved"
    before = torch.cat([p.detach().flatten().clone() for p in learn.model.parameters()])
    set_seed(0)
    with learn.no_bar(), learn.no_logging(): learn.fit(n, 0.05)
    after = torch.cat([p.detach().float().flatten() for p in learn.model.parameters()])
    return learn, after - before

def files(folder):
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob('*') if f.is_file())

@pytest.fixture(scope='module')
def plain_run(tmp_path_factory):
    "Train fastai's learner with the callbacks of a name, once; as `fit`, and the files written"
    runs = {}
    def run(name):
        if name not in runs:
            path = tmp_path_factory.mktemp('plain')
            runs[name] = (*fit(plain(path, callbacks[name]())), files(path))
        return runs[name]
    return run

@pytest.mark.parametrize('precision', precisions)
@pytest.mark.parametrize('name', callbacks)
def test_callbacks_of_fastai(tmp_path, plain_run, name, precision):
    "The same epochs, rates and steps; in float32 the same weights, in half precision nearly"
    a, moved, written = plain_run(name)
    b, moved_too = fit(course(tmp_path, callbacks[name](), precision))
    assert len(b.recorder.values) == len(a.recorder.values)
    assert b.recorder.lrs == pytest.approx(a.recorder.lrs)
    assert len(b.recorder.losses) == len(a.recorder.losses)
    assert moved.norm() > 0
    if precision == 'fp32': assert moved_too == pytest.approx(moved, abs=2e-5)
    else:
        assert nn.functional.cosine_similarity(moved, moved_too, 0) > 0.98
        assert moved_too.norm().item() == pytest.approx(moved.norm().item(), rel=0.05)
    assert files(tmp_path) == written

@pytest.mark.parametrize('precision', precisions)
def test_statistics_of_activations(tmp_path, precision):
    a, _ = fit(plain(tmp_path, [ActivationStats(with_hist=True)]))
    b, _ = fit(course(tmp_path, [ActivationStats(with_hist=True)], precision))
    assert len(b.activation_stats.stats) == len(a.activation_stats.stats)
    first, first_too = (o.activation_stats.layer_stats(0)[1] for o in (a, b))
    assert first_too[0] == pytest.approx(first[0], rel=0.1)

@pytest.mark.parametrize('precision', precisions)
def test_predictions(tmp_path, precision):
    "`get_preds` with fastai's callbacks, one of which leaves dropout on"
    a, b = plain(tmp_path, []), course(tmp_path, [], precision)
    for cbs in ([], [MCDropoutCallback()], [GatherPredsCallback()]):
        set_seed(0)
        with a.no_bar(): want = a.get_preds(cbs=cbs)
        set_seed(0)
        with b.no_bar(): got = b.get_preds(cbs=cbs)
        assert got[1].tolist() == want[1].tolist()
        assert got[0] == pytest.approx(want[0], abs=1e-5 if precision == 'fp32' else 0.02)

@pytest.mark.parametrize('precision', precisions)
def test_fastai_lr_find(tmp_path, precision):
    for learn in (plain(tmp_path, []), course(tmp_path, [], precision)):
        set_seed(0)
        with learn.no_bar(): assert 1e-6 < learn.lr_find(num_it=30, show_plot=False).valley < 10

def test_no_bar_restores_our_own_bar(tmp_path):
    learn = course(tmp_path, [])
    kind = type(learn.progress)
    with learn.no_bar(): assert not hasattr(learn, 'progress')
    assert type(learn.progress) is kind and kind is not ProgressCallback
    learn.remove_cb(ProgressCallback)
    with learn.no_bar(): pass
    assert not hasattr(learn, 'progress')

def test_it_is_a_fastai_learner(tmp_path):
    "Its `freeze`, `unfreeze` and `freeze_to` include BatchNorm"
    learn = course_learner(loaders(), 'resnet8', seed=0, path=tmp_path)
    assert isinstance(learn, Learner) and type(learn) is CourseLearner
    learn.freeze()
    assert learn.frozen.n_frozen == 4
    learn.unfreeze()
    assert learn.frozen.n_frozen == 0 and all(p.requires_grad for p in learn.model.parameters())
    with pytest.raises(CourseError, match='5 parameter groups'): learn.freeze_to(-9)

def test_seed_of_the_learner_sets_the_order():
    "It replaces the loaders' own seed"
    def order(seed): return course_learner(loaders(), 'resnet8', seed=seed).dls.train.get_idxs()
    assert order(1) == order(1) != order(2)
    dls = loaders()
    dls.train.rng = random.Random(1)
    assert order(1) == dls.train.get_idxs()

def test_old_files_still_load(tmp_path):
    "A run of version 0.1.0: its weights, its record and its checkpoint"
    old = Path(__file__).parent/'fixtures/v0_1_0'
    rec = load_run(old/'run')
    learn, _ = run_learner(old/'run')
    assert evaluate(learn).top1 == rec['test']['top1']
    shutil.copytree(old/'ckpt', tmp_path/'ckpt')
    assert 'RestoreBest' not in read_checkpoint(tmp_path/'ckpt')['cbs']
    with pytest.warns(UserWarning): learn, how = learner_from_checkpoint(tmp_path/'ckpt')
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, **how)
    want = torch.load(old/'want.pt', weights_only=True)
    torch.testing.assert_close(dict(learn.model.state_dict()), want, atol=1e-3, rtol=0)
