"""What goes wrong while training, and going on afterwards: a full disk, another recipe, frozen layers, one's own loaders, callbacks that undo one another"""
import signal, sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.tracker import EarlyStoppingCallback
from torch.utils.data import DataLoader, TensorDataset
from resnet_course import cli
from resnet_course.checkpoint import Interrupted, read_checkpoint, resumable
from resnet_course.core import CourseError
from resnet_course.loaders import get_dls
from resnet_course.distributed import _sync_norms
from resnet_course.evaluate import evaluate
from resnet_course.callbacks import TerminateOnNaN
from resnet_course.learner import course_learner
from resnet_course.lr_find import find_lr
from resnet_course.precision import AutoPrecision
from resnet_course.models import create_model
from resnet_course.recipes import fit_recipe, get_recipe
from resnet_course.runs import learner_from_checkpoint
from resnet_course.runs import run_learner
from resnet_course.runs import list_runs, runs_table, save_run
from resnet_course.callbacks import EMA, SWA, RestoreBest

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, stride=4), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16, 10))

def learner(arch='resnet8', **kw):
    dls = get_dls('digits', bs=16, n_train=96, device='cpu')
    return quiet(course_learner(dls, arch, **{**dict(seed=1, precision='fp32'), **kw}))

def quiet(learn):
    learn.remove_cb(learn.progress)
    learn.logger = lambda o: None
    return learn

def bits(learn): return torch.cat([t.double().flatten() for t in learn.model.state_dict().values()])

class CtrlC(Callback):
    "Ctrl-C in one batch of one epoch"
    order = 200
    def __init__(self, epoch, it): self.at = epoch, it
    def after_batch(self):
        if self.training and (self.epoch, self.iter) == self.at: signal.raise_signal(signal.SIGINT)

def cut(learn, path, *args, at=(1, 2), **kw):
    "Train, and be interrupted"
    with pytest.raises(Interrupted): fit_recipe(learn, *args, cbs=CtrlC(*at), checkpoint=path, **kw)

def test_a_disk_that_is_really_full(tmp_path, capsys):
    resource = pytest.importorskip('resource', reason='needs a system that can limit the size of files')
    fit_recipe(learner(), epochs=1, checkpoint=tmp_path)
    old, limits = (tmp_path/'checkpoint.pt').read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try: fit_recipe(learner(), epochs=2, checkpoint=tmp_path)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capsys.readouterr().out.count('cannot write a checkpoint') == 1
    assert (tmp_path/'checkpoint.pt').read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ['checkpoint.pt']

@pytest.mark.parametrize('bn', ['eval', 'stats'])
def test_what_was_frozen_stays_frozen(tmp_path, bn):
    whole = learner(); whole.freeze_to(-1, bn=bn); fit_recipe(whole, epochs=3)
    first = learner(); first.freeze_to(-1, bn=bn); cut(first, tmp_path, epochs=3, minutes=0)
    with pytest.warns(UserWarning, match='CtrlC'): second, how = learner_from_checkpoint(tmp_path)
    fit_recipe(quiet(second), **how)
    assert torch.equal(bits(second), bits(whole)) and second.frozen.bn == bn

def test_another_recipe_does_not_go_on(tmp_path):
    cut(learner(), tmp_path, 'cosine', epochs=3)
    for args, kw, says in ((('one_cycle', 3), {}, "name='one_cycle' .was 'cosine'."), (('cosine', 3), dict(lr=0.5), 'lr=0.5'), (('cosine', 4), {}, '3 epochs, not 4'),
                           ((replace(get_recipe('cosine'), mixup=0.2), 3), {}, "changed={'mixup': 0.2}")):
        with pytest.raises(CourseError, match=says): fit_recipe(learner(), *args, checkpoint=tmp_path, resume=True, **kw)
    fit_recipe(learner(), 'cosine', 3, checkpoint=tmp_path, resume=True)

def test_a_recipe_of_ones_own(tmp_path):
    r = replace(get_recipe('cosine'), ema=0.9)
    whole = learner(); fit_recipe(whole, r, 3)
    first = learner(); cut(first, tmp_path, r, 3)
    assert first.recipe['changed'] == dict(ema=0.9)
    with pytest.raises(CourseError, match='another ema'): learner_from_checkpoint(tmp_path)
    third = learner()
    with pytest.raises(CourseError, match='training run with EMA'), resumable(third, tmp_path, True): third.fit(3, 0.1)
    second = learner(); fit_recipe(second, r, 3, checkpoint=tmp_path, resume=True)
    assert torch.equal(bits(second), bits(whole))

@pytest.mark.parametrize('kw', [dict(mixup=0.2), dict(ema=0.9), dict(label_smoothing=0.2)])
def test_an_interrupted_learner_is_as_it_was(tmp_path, kw):
    learn, r = learner(), replace(get_recipe('cosine'), **kw)
    loss_func, model = learn.loss_func, learn.model
    cut(learn, tmp_path, r, 3)
    assert learn.loss_func is loss_func and learn.model is model
    evaluate(learn, 'valid')
    fit_recipe(learn, r, 3, checkpoint=tmp_path, resume=True)
    assert learn.loss_func is loss_func

def test_an_interrupted_fit_of_fastais(tmp_path):
    learn = learner()
    loss_func = learn.loss_func
    with pytest.raises(Interrupted), resumable(learn, tmp_path): learn.fit_one_cycle(3, 0.1, cbs=[MixUp(0.2), CtrlC(1, 2)])
    assert learn.loss_func is loss_func
    with resumable(learn, tmp_path, True): learn.fit_one_cycle(3, 0.1, cbs=MixUp(0.2))

def test_more_callbacks_than_before_begin_anew(tmp_path):
    cut(learner(), tmp_path, 'cosine', epochs=3)
    with pytest.warns(UserWarning, match='no state for EMA'): fit_recipe(learner(), 'cosine', 3, cbs=EMA(0.9), checkpoint=tmp_path, resume=True)

def test_callbacks_of_the_learner_are_remembered(tmp_path):
    cut(learner(cbs=MixUp()), tmp_path, epochs=3)
    with pytest.warns(UserWarning, match='MixUp, CtrlC'): learner_from_checkpoint(tmp_path)

def test_a_folder_that_was_moved(tmp_path):
    for split in ('train', 'test'):
        for c in 'ab':
            (tmp_path/'photos'/split/c).mkdir(parents=True)
            for i in range(12): Image.new('RGB', (32, 32), (i*20, 90*(c == 'a'), 7*i)).save(tmp_path/'photos'/split/c/f'{i}.png')
    def make(folder): return quiet(course_learner(get_dls(folder, bs=8, size=32, device='cpu', num_workers=0), 'resnet8', seed=1, precision='fp32'))
    cut(make(tmp_path/'photos'), tmp_path/'run', epochs=3, at=(1, 0))
    (tmp_path/'photos').rename(tmp_path/'pictures')
    fit_recipe(make(tmp_path/'pictures'), epochs=3, checkpoint=tmp_path/'run', resume=True)

class StopInValidation(Callback):
    def after_pred(self):
        if not self.training: raise KeyboardInterrupt

def test_interrupted_while_the_average_is_validated():
    learn = learner()
    model = learn.model
    with pytest.raises(KeyboardInterrupt): fit_recipe(learn, replace(get_recipe('cosine'), ema=0.9), 1, cbs=StopInValidation())
    assert learn.model is model

class Spoil(Callback):
    "A last epoch that ruins everything"
    def before_epoch(self):
        if self.epoch == 3: self.opt.set_hyper('lr', 50.)

def test_the_best_epoch_of_an_average():
    learn, best = learner(), RestoreBest()
    learn.fit(4, 0.05, cbs=[EMA(0.5), best, Spoil()])
    seen = [r['valid_loss'] for r in learn.history.rows]
    assert best.best_epoch < 3 and learn.validate()[0] == pytest.approx(min(seen), abs=1e-5)

def norms(learn): return [m for m in learn.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]

def test_swa_of_a_network_that_is_partly_frozen():
    "Frozen statistics stay; the others are those of what the frozen layers give"
    learn = learner(); learn.freeze_to(-2)
    before, seen = [m.running_mean.clone() for m in norms(learn)], []
    learn.fit(2, 0.1, cbs=SWA(0.))
    same = [torch.equal(a, m.running_mean) for a, m in zip(before, norms(learn), strict=True)]
    k = same.index(False)
    assert k > 2 and all(same[:k]) and not any(same[k:])
    norms(learn)[k].register_forward_pre_hook(lambda m, x: seen.append(x[0].mean((0, 2, 3))))
    learn.model.eval()
    with torch.no_grad(): [learn.model(xb) for xb, _ in learn.dls.train.new(augment=None, shuffle=False)]
    assert torch.stack(seen).mean(0) == pytest.approx(norms(learn)[k].running_mean, abs=0.05)

def test_two_that_both_say_how_training_ends():
    for cb in (EMA(), RestoreBest()):
        with pytest.raises(CourseError, match='choose one of them'): learner().fit(1, 0.1, cbs=[SWA(), cb])

def test_swa_goes_on_after_the_last_epoch(tmp_path):
    r = replace(get_recipe('step'), swa=0.4)
    whole = learner(); fit_recipe(whole, r, 3)
    class Die(Callback):
        order = 120    # after the checkpoint of the last epoch
        def after_epoch(self):
            if self.epoch == 2: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): fit_recipe(learner(), r, 3, cbs=Die(), checkpoint=tmp_path)
    second = learner(); fit_recipe(second, r, 3, checkpoint=tmp_path, resume=True)
    assert torch.equal(bits(second), bits(whole))

def test_spoilt_statistics_do_not_replace_a_good_checkpoint(tmp_path):
    class Spoilt(Callback):
        def after_train(self):
            if self.epoch == 1: next(m for m in self.model.modules() if isinstance(m, torch.nn.BatchNorm2d)).running_var[0] = float('inf')
    with pytest.raises(CourseError, match='BatchNorm statistics are no longer finite'): fit_recipe(learner(), epochs=3, cbs=Spoilt(), checkpoint=tmp_path)
    assert read_checkpoint(tmp_path)['pos']['epoch'] == 1

def test_a_loss_between_two_looks():
    "On a GPU every fiftieth batch is looked at; what was not finite is found at the end of the epoch"
    stop = TerminateOnNaN()
    stop.learn = SimpleNamespace(training=True, epoch=0, iter=7, recorder=SimpleNamespace(smooth_loss=SimpleNamespace(val=torch.tensor(float('nan')))))
    with pytest.raises(CourseError, match='the loss is nan in epoch 0'): stop.after_train()

def test_a_scale_that_only_falls():
    class Overflows(Callback):
        order = AutoPrecision.order - 1
        def before_step(self): next(p for p in self.model.parameters() if p.grad is not None).grad.fill_(float('inf'))
    learn = learner(precision='fp16')
    with pytest.raises(CourseError, match='^40 steps in a row overflowed'): learn.fit(20, 0.01, cbs=Overflows())

def test_an_error_is_one_sentence():
    "fastai puts the callback and the event before what is raised in one"
    with pytest.raises(CourseError) as e: fit_recipe(learner(), epochs=2, lr=1e30)
    assert str(e.value).startswith(('the loss is', 'weights')) and '\n' not in str(e.value)

def loaders(seed=0):
    torch.manual_seed(0)
    x, y = torch.randn(96, 1, 8, 8), torch.arange(96)%10
    ds, g = TensorDataset(x, y), torch.Generator().manual_seed(seed)
    ds.classes = [str(i) for i in range(10)]
    return DataLoader(ds, 16, shuffle=True, generator=g), DataLoader(ds, 32)

def test_loaders_of_pytorch_with_their_own_generator(tmp_path):
    def make(): return quiet(course_learner(loaders(), net(), seed=1, precision='fp32', splitter=lambda m: [list(m.parameters())]))
    whole = make(); fit_recipe(whole, epochs=3)
    cut(make(), tmp_path, epochs=3, minutes=0)
    second = make(); fit_recipe(second, epochs=3, checkpoint=tmp_path, resume=True)
    assert torch.equal(bits(second), bits(whole))
    third = make()
    order = third.dls.train.sampler.generator.get_state()
    find_lr(third, num_it=8)
    assert torch.equal(third.dls.train.sampler.generator.get_state(), order)

def test_two_loaders_and_ones_own_network_can_be_recorded(tmp_path, capsys, monkeypatch):
    learn = quiet(course_learner(loaders(), net(), seed=1, splitter=lambda m: [list(m.parameters())]))
    fit_recipe(learn, epochs=1)
    with pytest.raises(CourseError, match='no test set'): evaluate(learn)
    (tmp_path/'own-001').mkdir()
    save_run(learn, tmp_path/'own-001', [evaluate(learn, 'valid')])
    assert runs_table(list_runs(tmp_path))[0]['arch'] is None
    monkeypatch.setattr(sys, 'argv', ['resnet-course', 'runs', '--out', str(tmp_path)])
    with pytest.raises(SystemExit) as e: cli.main()
    assert not e.value.code and 'own-001' in capsys.readouterr().out
    with pytest.raises(CourseError, match='does not say which images'): run_learner(tmp_path/'own-001')

def test_find_lr_with_early_stopping_on_a_small_set():
    learn = learner(cbs=EarlyStoppingCallback(patience=1))
    before = bits(learn)
    assert len(find_lr(learn, num_it=20).lrs) == 20 and torch.equal(bits(learn), before)

def test_recipes_that_watch_validation_need_some():
    dls = get_dls('digits', bs=16, n_train=96, valid_pct=0, device='cpu')
    for name in ('plateau', 'alexnet_adam'):
        with pytest.raises(CourseError, match='watches validation images'): fit_recipe(quiet(course_learner(dls, 'resnet8', seed=1)), name, 1)

def test_gains_that_are_buffers_stay_buffers():
    "PyTorch's conversion to BatchNorm over several GPUs takes a gain for a parameter"
    model = create_model('fast_resnet', n_out=10)
    names, n = list(model.state_dict()), sum(p.numel() for p in model.parameters())
    model = _sync_norms(model)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    assert norms and all('weight' in m._buffers for m in norms) and sorted(model.state_dict()) == sorted(names)
    assert sum(p.numel() for p in model.parameters()) == n

@pytest.mark.parametrize('args,says', [(['train', '--seed', '-1'], 'seed=-1'), (['train', '--lr', '0'], 'lr=0.0'), (['train', '--lr', 'nan'], 'lr=nan'),
                                       (['train', '--epochs', '0'], 'epochs=0'), (['train', '--recipe', 'onecycle'], 'one_cycle'),
                                       (['finetune', '--weights', 'resnet20-fashion_mnist', '--lr', '0'], 'lr=0.0')])
def test_a_wrong_argument_is_one_line_and_leaves_nothing(tmp_path, capsys, monkeypatch, args, says):
    monkeypatch.setattr(sys, 'argv', ['resnet-course', *args, '--out', str(tmp_path/'runs')])
    with pytest.raises(SystemExit) as e: cli.main()
    err = capsys.readouterr().err.strip()
    assert e.value.code == 1 and says in err and len(err.splitlines()) == 1 and not (tmp_path/'runs').exists()

def test_ctrl_c_where_no_checkpoint_could_be_written(tmp_path, capsys, monkeypatch):
    def nothing(seed, **kw): raise Interrupted('stopped; there is no checkpoint to go on from')
    monkeypatch.setattr('resnet_course.runs.train_run', nothing)
    monkeypatch.setattr(sys, 'argv', ['resnet-course', 'train', '--out', str(tmp_path)])
    with pytest.raises(SystemExit) as e: cli.main()
    assert e.value.code == 130 and 'no checkpoint to go on from' in capsys.readouterr().err
