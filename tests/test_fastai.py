"fastai's callbacks and methods do the same on a course learner as on a plain one, in any precision"
import importlib, importlib.util, pkgutil
from functools import partial

import fastai, numpy as np, pytest, torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback, FetchPredsCallback
from fastai.callback.data import CollectDataCallback
from fastai.callback.fp16 import MixedPrecision, ModelToHalf
from fastai.callback.hook import ActivationStats
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.preds import MCDropoutCallback
from fastai.callback.progress import CSVLogger, ShowGraphCallback
from fastai.callback.rnn import ModelResetter, rnn_cbs
from fastai.callback.schedule import ParamScheduler, SchedCos
from fastai.callback.tracker import (
    EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback, TerminateOnNaNCallback,
    TrackerCallback)
from fastai.callback.training import (
    BnFreeze, GradientAccumulation, GradientClip, ShortEpochCallback)
from fastai.learner import Learner, SkipToEpoch, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.test_utils import VerboseCallback
from fastai.torch_core import params, set_seed
from fastai.vision.augment import Resize
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import create_timm_model, create_vision_model, vision_learner
from fastai.vision.models.xresnet import xresnet18
from fastcore.basics import noop
from fastcore.foundation import L
from torch import nn
from torchvision import models as tv

from helpers import noise_loaders, photos, small_net
from resnet_course.callbacks import log_callback
from resnet_course.core import CourseError
from resnet_course.evaluate import evaluate
from resnet_course.export import export_model
from resnet_course.freeze import freeze_report, snapshot
from resnet_course.interpret import grad_cam
from resnet_course.learner import course_learner, set_seeds
from resnet_course.loaders import get_dls
from resnet_course.models import group_names, param_groups
from resnet_course.optimizers import torch_sgd
from resnet_course.recipes import fit_recipe

pytestmark = [pytest.mark.usefixtures('one_thread'), pytest.mark.filterwarnings(
    'ignore:.*(numpy.core|shadowing an attribute|torch.jit|__array__|insecure pickle)')]

# Every callback, under every precision

class Resettable(nn.Sequential):
    "Counts how often it is reset"
    n_resets = 0
    def reset(self): self.n_resets += 1

def small():
    "A network that computes in float16 on a CPU in no time, with a head as fastai makes them"
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU())
    head = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(.1), nn.Linear(128, 10))
    return Resettable(body, head)

class ThreeOutputs(Resettable):
    "Scores and two more outputs, as fastai's recurrent networks return them"
    def forward(self, x):
        scores = super().forward(x)
        return scores, scores.sigmoid(), scores.tanh()

def network_for(which):
    "The network; for `BnFreeze`, with a BatchNorm that was frozen by hand"
    net = small()
    if which == 'bn_freeze': net[0][1].requires_grad_(False)
    return ThreeOutputs(*net) if which == 'rnn' else net

@pytest.fixture(scope='module')
def dls(): return get_dls('digits', bs=32, n_train=128, seed=0, device='cpu')

def rates(learn): return learn.recorder.lrs

def statistics(learn): return learn.model[0][1].running_mean.tolist()

def csv(learn):
    rows = np.genfromtxt(learn.path/'history.csv', delimiter=',')[1:, :-1]
    assert rows.shape == (4, 4)
    return rows

def best(learn): return learn.save_model.best

def collected(learn):
    return [o.item() if o.ndim == 0 else o.float().mean().item()
            for xb, yb, pred, loss in learn.collect_data.data for o in (*xb, pred, loss)]

def hooked(learn):
    "Means of all activations, and the first layer's mean and spread by batch"
    stats = learn.activation_stats
    means = [o['mean'] for row in stats.stats for o in row if o]
    return [*means, *stats.layer_stats(0)[0], *stats.layer_stats(0)[1]]

def fetched(learn): return learn.fetch_preds.preds[0].float().mean(1).tolist()

def graph(learn): return learn.show_graph.nb_batches

def resets(learn): return learn.model.n_resets

def uncertain(learn):
    "Two predictions with dropout"
    preds = []
    for _ in range(2):
        set_seed(3)
        preds.append(learn.get_preds(cbs=MCDropoutCallback())[0])
    torch.testing.assert_close(*preds)
    assert not torch.equal(preds[0], learn.get_preds()[0])
    return preds[0].float().max(1).values.tolist()

never = dict(min_delta=10.)   # no epoch is better
# callback → (how to make it, what it did, as numbers)
CALLBACKS = dict(
    none=(lambda: None, rates), clip=(lambda: GradientClip(.05), rates),
    accumulate=(lambda: GradientAccumulation(64), rates),
    short_epoch=(lambda: ShortEpochCallback(.5), rates), bn_freeze=(BnFreeze, statistics),
    mixup=(lambda: MixUp(.4), rates), cutmix=(lambda: CutMix(1.), rates),
    nan=(TerminateOnNaNCallback, rates), tracker=(TrackerCallback, lambda o: o.tracker.best),
    early_stop=(lambda: EarlyStoppingCallback(patience=1, **never), rates),
    plateau=(lambda: ReduceLROnPlateau(patience=1, **never), rates),
    save=(SaveModelCallback, best), save_opt=(lambda: SaveModelCallback(with_opt=True), best),
    save_each=(lambda: SaveModelCallback(every_epoch=True),
               lambda o: [(o.path/f'models/model_{i}.pth').exists() for i in range(4)]),
    csv=(CSVLogger, csv), graph=(ShowGraphCallback, graph),
    schedule=(lambda: ParamScheduler(dict(lr=SchedCos(.1, 0.))), rates),
    collect=(CollectDataCallback, collected),
    hooks=(lambda: ActivationStats(with_hist=True), hooked),
    fetch=(FetchPredsCallback, fetched), channels_last=(ChannelsLast, rates),
    reset=(ModelResetter, resets), dropout=(MCDropoutCallback, uncertain),
    rnn=(lambda: rnn_cbs(alpha=2., beta=1.), resets), verbose=(VerboseCallback, rates),
    skip=(lambda: SkipToEpoch(2), lambda o: o.recorder.iters))

def weights(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

def train(learn, dls):
    "Four epochs of four batches; the change of the weights"
    before = weights(learn)
    set_seeds(1, dls)
    learn.logger = noop
    learn.fit(4, .05)
    return weights(learn) - before

def files(folder):
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob('*') if f.is_file())

def run(make_learner, which, dls, path):
    "Train with a callback: change of the weights, its effect, numbers of steps, rates, files"
    make, effect = CALLBACKS[which]
    path.mkdir()
    learn = make_learner(dls, network_for(which), loss_func=CrossEntropyLossFlat(),
                         opt_func=torch_sgd, cbs=L(make()), metrics=accuracy, path=path,
                         splitter=params)
    change = train(learn, dls)
    rec = learn.recorder
    return change, effect(learn), (len(rec.losses), len(rec.values)), rec.lrs, files(path)

_plain = {}   # callback → what it did on fastai's own learner

@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
@pytest.mark.parametrize('which', CALLBACKS)
def test_callback(which, precision, dls, tmp_path, monkeypatch):
    "The same steps, rates and files, the same weights up to the precision, the same effect"
    monkeypatch.chdir(tmp_path)
    if which not in _plain: _plain[which] = run(Learner, which, dls, tmp_path/'plain')
    change, did, steps, lrs, written = _plain[which]
    ours = partial(course_learner, precision=precision)
    got, done, our_steps, our_lrs, our_files = run(ours, which, dls, tmp_path/'course')
    assert (our_steps, our_files) == (steps, written) and change.norm() > 0
    np.testing.assert_allclose(our_lrs, lrs, rtol=1e-6)
    exact = precision == 'fp32'
    assert torch.cosine_similarity(got, change, 0) > (.99999 if exact else .995)
    assert abs(got.norm()/change.norm() - 1) < (1e-4 if exact else .02)
    np.testing.assert_allclose(np.ravel(done), np.ravel(did), rtol=1e-3 if exact else .06,
                               atol=1e-4 if exact else .02)

# callbacks that are not in `CALLBACKS`, and why
ELSEWHERE = {
    'in every learner': ['TrainEvalCallback', 'Recorder', 'CastToTensor', 'ProgressCallback'],
    'in a test below': [
        'GatherPredsCallback', 'LRFinder', 'MixedPrecision', 'ModelToHalf', 'TensorBoardCallback',
        'WandbCallback'],
    'in test_distributed': ['DistributedTrainer'],
    'base classes of others': ['MixHandler', 'HookCallback', 'TensorBoardBaseCallback'],
    'needs CUDA': ['NonNativeMixedPrecision', 'ParallelTrainer'],
    'needs a learner of its own, GANLearner': [
        'AdaptiveGANSwitcher', 'FixedGANSwitcher', 'GANDiscriminativeLR', 'GANTrainer'],
    "fails on fastai's own learner": ['TensorBoardProjectorCallback']}
# modules whose callbacks need a package and an account, or that have none
OPTIONAL = ['azureml', 'captum', 'comet', 'imaging', 'neptune', 'tensorboard', 'wandb']

def subclasses(cls):
    "All classes derived from `cls`"
    found = set(cls.__subclasses__())
    return found.union(*map(subclasses, found))

def test_every_callback_of_fastai_is_tested():
    "Every callback in any module of fastai"
    for m in pkgutil.walk_packages(fastai.__path__, 'fastai.'):
        try: importlib.import_module(m.name)
        except ImportError: assert m.name.split('.')[-1] in OPTIONAL, m.name
    found = {o.__name__ for o in subclasses(Callback) if o.__module__.startswith('fastai.')}
    tested = {type(cb).__name__ for make, _ in CALLBACKS.values() for cb in L(make())}
    elsewhere = {name for names in ELSEWHERE.values() for name in names}
    assert found - tested - elsewhere == set()
    # `RNNCallback` and others are in lists, and a list must not hide that one is missing
    assert {'RNNCallback', 'RNNRegularizer', 'SkipToEpoch', 'GradientClip'} <= tested
    assert not tested & elsewhere

def range_test(learn):
    "Losses of fastai's own range test, and whether it restored the weights"
    before = weights(learn)
    set_seeds(1, learn.dls)
    with learn.no_bar(): learn.lr_find(1e-4, 1., num_it=12, show_plot=False)
    assert torch.equal(weights(learn), before)
    return [o.item() for o in learn.recorder.losses]

def gathered(learn):
    "Inputs, predictions, targets and losses of `get_preds`, as the mean of each"
    with learn.no_bar(): found = learn.get_preds(with_input=True, with_loss=True)
    return [o.float().mean().item() for o in found]

@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
@pytest.mark.parametrize('method', [range_test, gathered])
def test_method(method, precision, dls, tmp_path):
    "`LRFinder` and `GatherPredsCallback`, by the methods that use them"
    kwargs = dict(splitter=params, path=tmp_path)
    plain = Learner(dls, small(), CrossEntropyLossFlat(), torch_sgd, **kwargs)
    learn = course_learner(dls, small(), precision=precision, **kwargs)
    exact = precision == 'fp32'
    np.testing.assert_allclose(method(learn), method(plain), rtol=1e-3 if exact else .06,
                               atol=1e-4 if exact else .02)

@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
def test_tensorboard(precision, tmp_path):
    "The same curves. Not the projector: fastai 2.8's fails on its own learner, too"
    pytest.importorskip('tensorboard', reason='tensorboard is not installed')
    from fastai.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    dls = ImageDataLoaders.from_folder(photos(tmp_path/'photos', 20, mode='L'), valid_pct=.25, bs=8,
                                       num_workers=0, item_tfms=Resize(32), seed=0, device='cpu')
    logged = []
    for make in (Learner, partial(course_learner, precision=precision)):
        net, log = small(), tmp_path/f'log{len(logged)}'
        net[0][0] = nn.Conv2d(3, 8, 4, stride=4)
        learn = make(dls, net, loss_func=CrossEntropyLossFlat(), opt_func=torch_sgd,
                     splitter=params, metrics=accuracy, cbs=TensorBoardCallback(log), path=tmp_path)
        train(learn, dls)
        events = EventAccumulator(str(log)).Reload()
        logged.append([o.value for o in events.Scalars('train_loss')])
    np.testing.assert_allclose(*logged, rtol=1e-4 if precision == 'fp32' else .02)

def test_wandb(tmp_path):
    "One sentence where it is not installed, or a run without a network"
    if importlib.util.find_spec('wandb') is None:
        with pytest.raises(CourseError, match='pip install wandb'): log_callback('wandb', tmp_path)
        return
    with pytest.MonkeyPatch.context() as m:
        m.setenv('WANDB_MODE', 'offline')
        dls = get_dls('digits', bs=32, n_train=64, seed=0)
        learn = course_learner(dls, small(), cbs=log_callback('wandb', tmp_path), splitter=params)
        train(learn, dls)
        import wandb
        wandb.finish()
    assert list(tmp_path.rglob('*.wandb'))

def test_wandb_callback_of_fastai(tmp_path, monkeypatch):
    "fastai's own callback, with its predictions, offline"
    wandb = pytest.importorskip('wandb', reason='wandb is not installed')
    from fastai.callback.wandb import WandbCallback
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.chdir(tmp_path)
    dls = get_dls('digits', bs=32, n_train=64, seed=0)
    wandb.init(project='test', dir=str(tmp_path))
    try:
        cb = WandbCallback(log_preds=True, log_model=True, n_preds=4)
        learn = course_learner(dls, small(), cbs=[cb, SaveModelCallback()], splitter=params,
                               path=tmp_path, metrics=accuracy)
        train(learn, dls)
        assert wandb.run.summary['accuracy'] == learn.recorder.values[-1][-1]
    finally: wandb.finish()
    assert list(tmp_path.rglob('*.wandb'))

# Precision by fastai's names

@pytest.mark.parametrize('to,asked', [
    (lambda o: o.to_fp16(), 'fp16'), (lambda o: o.to_bf16(), 'bf16'),
    (lambda o: o.to_fp32(), 'fp32'),
    (lambda o: o.to_channelslast(amp_mode='bf16'), 'bf16'),
    (lambda o: o.to_contiguous(to_fp32=True), 'fp32')])
@pytest.mark.filterwarnings('ignore:a CPU computes in float16')
def test_precision_by_fastais_names(to, asked, dls):
    "They choose what the network computes in, also without CUDA"
    learn, seen = to(course_learner(dls, small(), splitter=params)), set()
    learn.model[0][0].register_forward_hook(lambda m, x, y: seen.add(y.dtype))
    train(learn, dls)
    want = dict(fp16=torch.float16, bf16=torch.bfloat16, fp32=torch.float32)[asked]
    assert seen == {want} and not hasattr(learn, 'mixed_precision')

@pytest.mark.parametrize('cb', [MixedPrecision, ModelToHalf])
def test_two_precisions(cb, dls):
    learn = course_learner(dls, small(), precision='bf16', cbs=cb(), splitter=params)
    with pytest.raises(CourseError, match='remove the callback'): train(learn, dls)

# Files

def kinds_of_loaders(tmp_path):
    d = photos(tmp_path/'photos', 12)
    return dict(
        memory=(lambda: get_dls('digits', bs=32, n_train=64, seed=0), 'resnet8'),
        photos=(lambda: get_dls(d, bs=8, size=32), 'resnet8'),
        on_the_fly=(lambda: get_dls(d, bs=8, size=32, in_memory=False), 'resnet8'),
        torch=(noise_loaders, small_net()),
        fastai=(lambda: ImageDataLoaders.from_folder(d, valid_pct=.25, bs=8, num_workers=0, seed=0,
                                                     item_tfms=Resize(32)), 'resnet8'))

@pytest.mark.parametrize('kind', ['memory', 'photos', 'on_the_fly', 'torch', 'fastai'])
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_export_and_load_learner(kind, precision, tmp_path):
    "What `export` writes loads in fastai, and predicts the same"
    make, arch = kinds_of_loaders(tmp_path)[kind]
    kwargs = dict(splitter=params) if kind == 'torch' else {}
    learn = course_learner(make(), arch, precision=precision, path=tmp_path, seed=0, **kwargs)
    learn.logger = noop
    with learn.no_bar():
        fit_recipe(learn, epochs=1)
        learn.export('learner.pkl')
        back = load_learner(tmp_path/'learner.pkl')
        assert type(back) is type(learn) and back.precision.asked == precision
        want = learn.get_preds()[0]
        with back.no_bar():
            assert torch.equal(back.get_preds(dl=learn.dls.valid)[0], want)
            if kind in ('photos', 'on_the_fly', 'fastai'):
                file = next((tmp_path/'photos').rglob('*.png'))
                assert back.predict(file)[0] == learn.predict(file)[0]
                assert torch.equal(back.predict(file)[2], learn.predict(file)[2])
        before = snapshot(learn)
        learn.fit(1)     # exporting leaves the learner as it was
    assert any(not torch.equal(v, snapshot(learn)[k]) for k, v in before.items())

@pytest.mark.parametrize('with_opt', [True, False])
def test_save_and_load(with_opt, dls, tmp_path):
    "Training goes on from a saved learner as it would have without saving"
    ends = []
    for again in (False, True):
        learn = course_learner(dls, small(), precision='fp32', splitter=params, path=tmp_path)
        train(learn, dls)
        if again:
            learn.save('w', with_opt=with_opt)
            learn = course_learner(dls, small(), precision='fp32', splitter=params, path=tmp_path)
            learn.load('w', with_opt=with_opt)
        elif not with_opt: learn.create_opt()
        train(learn, dls)
        ends.append(weights(learn))
    assert torch.equal(*ends)

# Networks of `vision_learner`

VISION = dict(resnet18=tv.resnet18, xresnet18=xresnet18, squeezenet=tv.squeezenet1_1,
              alexnet=tv.alexnet, timm='resnet10t', timm_convnext='convnext_atto')

@pytest.fixture(scope='module')
def photo_dls(tmp_path_factory):
    return get_dls(photos(tmp_path_factory.mktemp('vision')/'photos', 12), bs=8, size=64)

@pytest.mark.parametrize('which', VISION)
def test_networks_of_vision_learner(which, photo_dls, tmp_path):
    "Body and head, made by fastai: it has stages and a head, trains, freezes and is looked into"
    arch = VISION[which]
    if isinstance(arch, str): net, _ = create_timm_model(arch, 2, pretrained=False)
    else: net = create_vision_model(arch, 2, pretrained=False)
    assert group_names(net)[0] == 'stem' and group_names(net)[-1] == 'head'
    assert [id(p) for p in param_groups(net)[-1]] == [id(p) for p in net[1].parameters()]
    learn = course_learner(photo_dls, net, precision='fp32')
    learn.logger = noop
    learn.freeze()
    before = snapshot(learn)
    with learn.no_bar(): learn.fit(1, .01)
    report = freeze_report(learn, before)
    assert report.ok, str(report)
    assert {r['name'] for r in report.rows if r['changed']} == {'head'}
    assert evaluate(learn).n > 0
    assert grad_cam(learn, photo_dls.one_batch()[0][:2]).shape == (2, 64, 64)
    assert export_model(net, tmp_path/'w.onnx', 64).difference < 1e-4

def test_our_functions_on_a_vision_learner(photo_dls):
    "Recipes, freezing and evaluation work on fastai's own learner"
    learn = vision_learner(photo_dls, tv.resnet18, pretrained=False, metrics=accuracy)
    learn.logger = noop
    with learn.no_bar():
        fit_recipe(learn, epochs=1)
        assert evaluate(learn).n > 0
        learn.freeze()
        before = snapshot(learn)
        fit_recipe(learn, epochs=1, freeze_to=-1)
    assert freeze_report(learn, before).ok
