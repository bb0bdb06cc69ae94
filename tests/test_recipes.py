"""Each recipe's schedule, exactly

The rate and momentum of each step, and the weights, are those of plain PyTorch, or as published.
"""
import math, warnings
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace
from unittest import mock

import numpy as np, pytest, torch
from fastai.callback.core import Callback
from fastai.torch_core import params
from helpers import bits, cut, digits_learner, quiet, run_command
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import (CosineAnnealingLR, LambdaLR, LinearLR, MultiStepLR,
                                      OneCycleLR, ReduceLROnPlateau, SequentialLR)
from torch.utils.data import DataLoader, TensorDataset

from resnet_course.core import CourseError
from resnet_course.images import plain_tensor
from resnet_course.fastresnet import FastResNet
from resnet_course.callbacks import EMA, GradientAccumulation
from resnet_course.optimizers import Muon
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe, list_recipes, recipes
from resnet_course.runs import learner_from_checkpoint

BS = 10

class Watch(Callback):
    "Record each step's rate and momentum in PyTorch's optimizer; replace losses by a script"
    order = 51   # after the Recorder, before callbacks that look at the losses
    def __init__(self, **script): self.script, self.lrs, self.moms = script, [], []
    def before_step(self):
        pairs = {(g['lr'], momentum(g)) for g in self.opt.opt.param_groups}
        (lr, mom), = pairs   # the same for all groups
        self.lrs.append(lr)
        self.moms.append(mom)
    def after_epoch(self):
        names = self.recorder.metric_names[1:]
        for name, values in self.script.items():
            self.learn.final_record[names.index(name)] = values[self.epoch]

def momentum(group): return group['betas'][0] if 'betas' in group else group.get('momentum', 0)

def data(steps, bs=BS):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(steps*bs, 1, 3, 3, generator=g)
    return x, torch.randint(3, (steps*bs,), generator=g)

def loaders(train, valid, bs=BS):
    dls = [DataLoader(TensorDataset(*xy), bs) for xy in (train, valid)]
    dls[0].dataset.classes = list('abc')
    return dls

def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(),
                         nn.Linear(8, 3))

def fit(recipe, epochs, steps=5, lr=None, bs=BS, **script):
    "Train by `recipe`, `steps` batches per epoch in a fixed order; a `Watch` and the learner"
    dls = loaders(data(steps, bs), data(2, bs), bs)
    learn = quiet(course_learner(dls, net(), precision='fp32', splitter=params))
    watch = Watch(**script)
    fit_recipe(learn, recipe, epochs, lr, cbs=watch)
    return watch, learn

def falling(n): return [10. - i for i in range(n)]

def same_weights(model, other, **tols):
    a, b = model.state_dict(), other.state_dict()
    assert len(a) == len(b)
    for (name, x), y in zip(a.items(), b.values()):
        torch.testing.assert_close(x, y, **tols, msg=lambda s: f'{name}: {s}')

# Plain PyTorch

def optimizer(r, params, lr):
    "PyTorch's optimizer for a recipe, written out by hand"
    if r.name in ('keras_resnet18', 'alexnet_adam'): return torch.optim.Adam(params, lr)
    if r.name == 'one_cycle': return torch.optim.AdamW(params, lr, weight_decay=0.01)
    if r.name == 'pytorch_resnet50': return torch.optim.SGD(params, lr, 0.5, weight_decay=1e-3)
    is_light = r.name in ('step', 'plateau') or 'he2015' in r.name
    return torch.optim.SGD(params, lr, momentum=0.9, weight_decay=1e-4 if is_light else 5e-4)

def one_cycle(opt, n, lr):
    """PyTorch's cycle with the rates of fastai's

    fastai's is at fraction t/n at step t; PyTorch's ends its phases one step earlier. So this is
    a cycle of n+1 steps that turns at n/4.
    """
    return OneCycleLR(opt, lr, total_steps=n + 1, pct_start=(n/4 + 1)/(n + 1), div_factor=25,
                      final_div_factor=1e5/25, base_momentum=0.85, max_momentum=0.95)

def constant(opt, factor=1.): return LambdaLR(opt, lambda i: factor)

def warm_cosine(opt, n):
    warm = n//20
    parts = [LinearLR(opt, 0.01, 1., warm), CosineAnnealingLR(opt, n - warm)]
    return SequentialLR(opt, parts, [warm])

def warm_steps(opt, n):
    warm = n//160
    parts = [constant(opt, 0.1), MultiStepLR(opt, [n//2 - warm, 3*n//4 - warm])]
    return SequentialLR(opt, parts, [warm])

# PyTorch's schedule for a recipe that trains for `n` steps
SCHEDULES = dict(
    one_cycle=lambda opt, n: one_cycle(opt, n, 5e-3),
    one_cycle_sgd=lambda opt, n: one_cycle(opt, n, 0.4),
    cosine=warm_cosine,
    step=lambda opt, n: MultiStepLR(opt, [n//2, 3*n//4]),
    he2015_cifar=lambda opt, n: MultiStepLR(opt, [n//2, 3*n//4]),
    he2015_cifar_110=warm_steps,
    kuangliu=lambda opt, n: CosineAnnealingLR(opt, n),
    alexnet_adam=lambda opt, n: constant(opt),
    pytorch_resnet50=lambda opt, n: constant(opt),
    keras_resnet18=lambda opt, n: constant(opt))

PLATEAUS = dict(plateau=3, alexnet2012=3, he2015_imagenet=5)   # epochs without improvement

def torch_loop(r, epochs, steps, lr):
    "Train in plain PyTorch; rates, momenta and the network"
    m, (xs, ys) = net(), data(steps)
    opt = optimizer(r, m.parameters(), lr)
    sched, lrs, moms = SCHEDULES[r.name](opt, epochs*steps), [], []
    for _ in range(epochs):
        for x, y in zip(xs.split(BS), ys.split(BS)):
            lrs.append(opt.param_groups[0]['lr'])
            moms.append(momentum(opt.param_groups[0]))
            opt.zero_grad()
            cross_entropy(m(x), y).backward()
            opt.step()
            sched.step()
    return lrs, moms, m

def test_no_recipe_is_forgotten():
    names = {name for name, _ in list_recipes()}
    tested = {*SCHEDULES, *PLATEAUS, 'pytorch_resnet34', 'fast_cifar', *TODAYS}
    assert names == tested, 'a new recipe needs an entry in SCHEDULES or PLATEAUS'
    assert set(PUBLISHED) == set(SCHEDULES), 'a schedule needs its published (lr, bs, epochs)'

@pytest.mark.parametrize('name', SCHEDULES)
def test_rates_momenta_and_weights(name, epochs=5, steps=32):
    "160 steps, with milestones within epochs"
    r = recipes[name]
    # nothing ends early, and the last epoch is the best
    script = dict(train_loss=falling(epochs), valid_loss=falling(epochs))
    watch, learn = fit(name, epochs, steps, lr=r.lr, **script)
    lrs, moms, m = torch_loop(r, epochs, steps, r.lr)
    assert watch.lrs == pytest.approx(lrs, rel=1e-6, abs=1e-6*r.lr)
    assert watch.moms == pytest.approx(moms, rel=1e-6)
    same_weights(learn.model, m, rtol=1e-4, atol=1e-5)

# As published

# name: (lr, bs, epochs)
PUBLISHED = dict(one_cycle=(5e-3, 128, 5), one_cycle_sgd=(.4, 128, 30), cosine=(.1, 128, 30),
                 step=(.1, 128, 30), he2015_cifar=(.1, 128, 182), he2015_cifar_110=(.1, 128, 182),
                 kuangliu=(.1, 128, 200), alexnet_adam=(1e-3, 32, 10), keras_resnet18=(1e-3, 8, 50),
                 pytorch_resnet50=(1e-3, 160, 200))

@pytest.mark.parametrize('name', SCHEDULES)
def test_published_constants(name):
    r = recipes[name]
    assert (r.lr, r.bs, r.epochs) == PUBLISHED[name]

def rates(name, n): return [recipes[name].lr*recipes[name].shape(i/n) for i in range(n)]

def test_he_et_al_on_cifar():
    "64,000 iterations: 0.1, 0.01 from 32,000 on, 0.001 from 48,000; 110 layers: first 400 at 0.01"
    want = np.repeat([0.1, 0.01, 0.001], [32_000, 16_000, 16_000])
    np.testing.assert_allclose(rates('he2015_cifar', 64_000), want, rtol=1e-12)
    want[:400] = 0.01
    np.testing.assert_allclose(rates('he2015_cifar_110', 64_000), want, rtol=1e-12)

def test_kuangliu_at_the_start_of_epochs():
    "The source changes the rate once per epoch, and ours changes with every step"
    opt = torch.optim.SGD(net().parameters(), 0.1)
    sched = CosineAnnealingLR(opt, T_max=200)
    for epoch in range(200):
        rate = 0.1*recipes['kuangliu'].shape(epoch/200)
        assert rate == pytest.approx(opt.param_groups[0]['lr'], abs=1e-7)
        opt.step()
        sched.step()

def test_milestones_at_any_length():
    "The rate falls at the first step at or after 1/2 and 3/4 of training, within an epoch or not"
    for epochs, steps in ((3, 7), (7, 3), (5, 5), (6, 10)):
        n = epochs*steps
        want = [0.1*0.1**((2*t >= n) + (4*t >= 3*n)) for t in range(n)]
        watch, _ = fit('step', epochs, steps, lr=0.1)
        assert watch.lrs == pytest.approx(want, rel=1e-6), (epochs, steps)

# What depends on the losses

# They improve, stall, improve a little, stall for long, and improve again
LOSSES = [1., .8, .8, .9, .8, .7999, .9, .9, .7, .71, .72, .73, .74, .75, .76, .77, .78] + [.6]*10

def by_hand(losses, lr, patience):
    "Divide by ten after `patience` epochs without a loss below the best"
    best, waited, lrs = math.inf, 0, []
    for loss in losses:
        lrs.append(lr)
        if loss < best: best, waited = loss, 0
        else: waited += 1
        if waited == patience: lr, waited = lr/10, 0
    return lrs

def torch_plateau(losses, lr, **kwargs):
    "The rate of each epoch by PyTorch's `ReduceLROnPlateau`"
    opt = torch.optim.SGD(net().parameters(), lr)
    sched, lrs = ReduceLROnPlateau(opt, **kwargs), []
    for loss in losses:
        lrs.append(opt.param_groups[0]['lr'])
        sched.step(loss)
    return lrs

@pytest.mark.parametrize('name', PLATEAUS)
def test_plateaus_on_validation(name):
    r, n = recipes[name], PLATEAUS[name]
    want = torch_plateau(LOSSES, r.lr, factor=0.1, patience=n - 1, threshold=0., eps=0.)
    assert want == pytest.approx(by_hand(LOSSES, r.lr, n), rel=1e-9) and len(set(want)) > 2
    script = dict(valid_loss=LOSSES, train_loss=falling(len(LOSSES)))
    watch, _ = fit(name, len(LOSSES), 2, lr=r.lr, **script)
    assert watch.lrs[::2] == pytest.approx(want, rel=1e-6)
    assert watch.lrs[1::2] == watch.lrs[::2] and set(watch.moms) == {0.9}
    published = dict(plateau=(.1, 128, 1e-4, 30), alexnet2012=(.01, 128, 5e-4, 90),
                     he2015_imagenet=(.1, 256, 1e-4, 120))
    assert (r.lr, r.bs, r.wd, r.epochs) == published[name]

def test_plateau_on_training():
    "Only a loss a tenth below the best counts; the fourth other one in a row divides the rate"
    losses = [1., .95, .91, .85, .5, .46, .449, .3, .29, .28, .275, .271, .271, .27, .26, .25]
    r = recipes['pytorch_resnet34']
    want = torch_plateau(losses, r.lr, mode='min', threshold=0.1, patience=3)
    script = dict(train_loss=losses, valid_loss=falling(len(losses)))
    watch, _ = fit('pytorch_resnet34', len(losses), 2, lr=r.lr, **script)
    assert watch.lrs[::2] == pytest.approx(want, rel=1e-6) and len(set(want)) == 2
    assert (r.lr, r.bs, r.wd, r.epochs) == (.1, 128, 5e-4, 50)

def test_keras_stops_by_its_training_loss():
    "An epoch is better if its loss is more than 0.001 below the best; three others in a row end it"
    losses = [1., .9, .8995, .8991, .85, .8495, .8492, .8491, .5, .4]
    best, waited, want = math.inf, 0, 0
    for want, loss in enumerate(losses, 1):
        if loss < best - 1e-3: best, waited = loss, 0
        else: waited += 1
        if waited == 3: break
    assert want == 8
    script = dict(train_loss=losses, valid_loss=[1. + i for i in range(len(losses))])
    watch, _ = fit('keras_resnet18', len(losses), 3, lr=1e-3, **script)
    assert len(watch.lrs) == 3*want and set(watch.lrs) == {1e-3}

def test_alexnet_adam_ends_with_the_best_epoch():
    _, learn = fit('alexnet_adam', 5, 4, lr=1e-3, valid_loss=[1., .5, .7, .6, .9])
    # the rate is constant, so two epochs are the first two of five
    _, _, best = torch_loop(recipes['alexnet_adam'], 2, 4, 1e-3)
    same_weights(learn.model, best, rtol=1e-5, atol=1e-6)

def test_recipes_that_watch_validation_need_validation_images():
    for name in ('plateau', 'alexnet_adam'):
        with pytest.raises(CourseError, match='needs validation images'):
            fit_recipe(digits_learner(valid_pct=0), name, 1)

# The rate, and errors

@pytest.mark.parametrize('name,power', [
    ('cosine', 1), ('one_cycle', .5), ('keras_resnet18', 0), ('alexnet_adam', 0)])
def test_rate_scales_with_the_batch_size(name, power):
    "SGD's in proportion, AdamW's with the square root, the sources' Adam not at all"
    r = recipes[name]
    watch, learn = fit(name, 1, 20, bs=4)
    assert learn.recipe['lr'] == pytest.approx(r.lr*(4/r.bs)**power)
    assert max(watch.lrs) <= learn.recipe['lr']*(1 + 1e-9)

def test_error_is_one_sentence():
    "fastai puts the names of callback and event before an exception raised in a callback"
    with pytest.raises(CourseError) as e: fit_recipe(digits_learner(), epochs=2, lr=1e30)
    assert str(e.value).startswith(('the loss is', 'weights')) and '\n' not in str(e.value)

# fast_cifar

@pytest.mark.parametrize('arch,warns', [('resnet8', True), ('fast_resnet', False)])
def test_fast_cifar_warns_about_other_networks(arch, warns):
    learn = digits_learner(arch, n_train=64, seed=0, precision='auto')
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        fit_recipe(learn, 'fast_cifar', 1)
    assert any('tuned for networks' in str(w.message) for w in seen) == warns

class Double(Callback):
    "Compute in float64, though fastai's loaders make everything float32"
    order = 49   # before images are resized
    def before_batch(self): self.learn.xb = tuple(x.double() for x in self.xb)

def fast_net():
    torch.manual_seed(1)
    return FastResNet(nf=4, n_in=1, n_out=3).double()   # Muon amplifies rounding errors

def test_fast_cifar(epochs=5, steps=8, lr=0.2):
    "A line to zero, fixed whitening filters, smoothed labels and Muon, as in plain PyTorch"
    g, n = torch.Generator().manual_seed(0), epochs*steps
    x = torch.randn(steps*BS, 1, 24, 24, generator=g)
    y = torch.randint(3, (steps*BS,), generator=g)
    learn = quiet(course_learner(loaders((x, y), (x, y)), fast_net(), precision='fp32'))
    watch = Watch()
    fit_recipe(learn, 'fast_cifar', epochs, lr, cbs=[watch, Double()])
    want = lr*(1 - np.arange(n)/n)
    assert watch.lrs == pytest.approx(want, rel=1e-6, abs=1e-9)
    m = fast_net()
    m.conv1.fit(x)
    x = x.double()
    first, opt = m.conv1.weight.clone(), Muon(m.parameters(), weight_decay=2.5e-3)
    for i, rate in enumerate(want):
        b = slice(i%steps*BS, i%steps*BS + BS)
        opt.param_groups[0]['lr'] = rate
        opt.zero_grad()
        cross_entropy(m(x[b]), y[b], label_smoothing=0.2).backward()
        opt.step()
    torch.testing.assert_close(m.conv1.weight, first, rtol=0, atol=0)
    same_weights(learn.model, m, rtol=1e-4, atol=1e-6)
    r = recipes['fast_cifar']
    assert (r.lr, r.bs, r.wd, r.epochs) == (.4, 512, 2.5e-3, 8)

# Today's recipes

TODAYS = dict(rsb_a3=(8e-3, 2048, 100, 0.02), torchvision2021=(0.5, 1024, 600, 2e-5))
needs_timm = pytest.mark.skipif(not find_spec('timm'), reason='needs timm')

def plain(name, **kwargs):
    "The recipe without what is drawn at random"
    return replace(recipes[name], mixup=0., cutmix=0., ema=0., **kwargs)

@pytest.mark.parametrize('name', TODAYS)
def test_published_constants_of_today(name):
    r = recipes[name]
    assert (r.lr, r.bs, r.epochs, r.wd) == TODAYS[name]
    ours = r.label_smoothing, r.mixup, r.cutmix, r.bce
    assert ours == ((0., 0.1, 1., True) if name == 'rsb_a3' else (0.1, 0.2, 1., False))

def per_epoch(sched, opt, epochs, steps):
    "The rate of each step, if the schedule moves once per epoch"
    res = []
    for epoch in range(epochs):
        res += [opt.param_groups[0]['lr']]*steps
        opt.step()
        sched(epoch + 1)
    return res

def test_torchvision2021_schedule():
    "Five epochs of linear warm-up from 1% and a cosine, moved once per epoch, as torchvision's"
    opt = torch.optim.SGD(net().parameters(), 0.5)
    parts = [LinearLR(opt, start_factor=0.01, total_iters=5), CosineAnnealingLR(opt, T_max=595)]
    sched = SequentialLR(opt, parts, [5])
    want = per_epoch(lambda epoch: sched.step(), opt, 600, 3)
    np.testing.assert_allclose(rates('torchvision2021', 1800), want, rtol=1e-6, atol=1e-9)

@needs_timm
def test_rsb_a3_schedule():
    "timm's cosine, under a warm-up of five epochs from 1e-4, down to 1e-6"
    from timm.scheduler import CosineLRScheduler
    opt = torch.optim.SGD(net().parameters(), 8e-3)
    sched = CosineLRScheduler(opt, t_initial=100, lr_min=1e-6, warmup_t=5, warmup_lr_init=1e-4)
    want = per_epoch(sched.step, opt, 100, 7)
    np.testing.assert_allclose(rates('rsb_a3', 700), want, rtol=1e-9)

def two_groups(m):
    "The parameters that decay, and those that do not"
    linears, vectors = [m[1].weight, m[4].weight], [*m[2].parameters()]
    return linears, vectors, m[4].bias

@pytest.mark.parametrize('name', [pytest.param('rsb_a3', marks=needs_timm), 'torchvision2021'])
def test_todays_weights(name, epochs=3, steps=4, lr=0.01):
    "Optimizer, loss and decay are those of timm and of plain PyTorch"
    watch, learn = fit(plain(name), epochs, steps, lr=lr)
    m, (xs, ys) = net(), data(steps)
    linears, vectors, bias = two_groups(m)
    if name == 'rsb_a3':
        from timm.loss import BinaryCrossEntropy
        from timm.optim import Lamb
        loss = BinaryCrossEntropy(smoothing=0., target_threshold=0.2)
        opt = Lamb([dict(params=linears, weight_decay=0.02),
                    dict(params=[*vectors, bias], weight_decay=0.)], lr=lr)
    else:
        def loss(x, y): return cross_entropy(x, y, label_smoothing=0.1)
        opt = torch.optim.SGD([dict(params=[*linears, bias], weight_decay=2e-5),
                               dict(params=vectors, weight_decay=0.)], lr=lr, momentum=0.9)
    for i, rate in enumerate(watch.lrs):
        b = slice(i%steps*BS, i%steps*BS + BS)
        for g in opt.param_groups: g['lr'] = rate
        opt.zero_grad()
        loss(m(xs[b]), ys[b]).backward()
        opt.step()
    assert len(watch.lrs) == epochs*steps
    same_weights(learn.model, m, rtol=1e-5, atol=1e-6)

@needs_timm
def test_a_mixed_image_has_both_classes():
    "As with timm's threshold; validation has one class per image"
    class See(Callback):
        order, rows = 60, ()
        def after_loss(self):
            kind = 'train' if self.training else 'valid'
            row = kind, self.yb[0].clone(), self.loss.item(), self.pred.detach()
            self.rows += (row,)
    see = See()
    learn = quiet(course_learner(loaders(data(8), data(2)), net(), precision='fp32',
                                 splitter=params))
    fit_recipe(learn, replace(recipes['rsb_a3'], mixup=5., cutmix=0.), 2, 1e-3, cbs=see)
    from timm.loss import BinaryCrossEntropy
    theirs, n_both = BinaryCrossEntropy(smoothing=0., target_threshold=0.2), 0
    for kind, y, loss, pred in see.rows:
        want = theirs(plain_tensor(pred), plain_tensor(y))
        assert loss == pytest.approx(want.item(), rel=1e-5)
        assert y.ndim == (2 if kind == 'train' else 1)
        if kind == 'train': n_both += int(((y > 0.2).sum(1) == 2).sum())
    assert n_both > 20

def test_average_of_torchvision():
    "At the published length, decay and steps are torchvision's; a short run forgets as much"
    r = recipes['torchvision2021']
    alpha = (1 - 0.99998)*1024*32/600   # references/classification/train.py
    assert r.ema == pytest.approx(1 - alpha) and r.ema_every == 32
    assert r.ema_steps == 600*1252
    def scaled(n_epoch, batches, cbs=()):
        ema = EMA(r.ema, r.ema_every, r.ema_steps)
        dls = SimpleNamespace(train=range(batches))
        ema.learn = SimpleNamespace(n_epoch=n_epoch, dls=dls, cbs=cbs)
        return ema.scaled()
    assert scaled(600, 1252) == (pytest.approx(r.ema), 32)
    decay, every = scaled(60, 1252)
    updates = 60*1252/every
    assert every == 3 and updates*(1 - decay) == pytest.approx(600*1252/32*alpha)
    assert scaled(2, 3) == (0., 1)
    # four batches a step; the last step may have fewer
    assert scaled(60, 4*1252 - 1, [GradientAccumulation(4)]) == (decay, every)

def test_average_every_few_steps():
    class See(Callback):
        order, kept = 200, ()
        def after_step(self): self.kept += (bits(self.learn),)
    see, learn = See(), digits_learner()
    fit_recipe(learn, replace(recipes['step'], ema=0.5, ema_every=3), 2, cbs=see)
    avg = see.kept[0]
    for w in see.kept[3::3]: avg = avg.lerp(w, 0.5)
    floats = [t.is_floating_point() for t in learn.model.state_dict().values() for _ in t.flatten()]
    keep = torch.tensor(floats)
    torch.testing.assert_close(bits(learn)[keep], avg[keep], rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('name', [pytest.param('rsb_a3', marks=needs_timm), 'torchvision2021'])
def test_todays_recipes_resume_to_the_bit(name, tmp_path):
    def learner(): return digits_learner(n_train=96)
    whole = learner()
    fit_recipe(whole, name, 3)
    cut(learner(), tmp_path, name, 3)
    with pytest.warns(match='CtrlC'): again, how = learner_from_checkpoint(tmp_path)
    fit_recipe(quiet(again), **how)
    assert torch.equal(bits(again), bits(whole))

@pytest.mark.parametrize('name', [pytest.param('rsb_a3', marks=needs_timm), 'torchvision2021'])
def test_todays_recipes_learn_freeze_and_export(name, tmp_path):
    learn = digits_learner(n_train=600, bs=32, path=tmp_path)
    fit_recipe(learn, name, 6)
    losses = [row['train_loss'] for row in learn.history.rows]
    assert losses[-1] < losses[0] and learn.loss_func.y_int
    learn.export(tmp_path/'learner.pkl')
    frozen = learn.model.conv1.weight.clone()
    fit_recipe(learn, name, 1, freeze_to=-1)
    assert torch.equal(learn.model.conv1.weight, frozen)

@needs_timm
def test_binary_loss_with_class_weights():
    learn = digits_learner(balance='loss')
    class See(Callback):
        def after_loss(self): self.weight = self.learn.loss_func.weight
    see = See()
    fit_recipe(learn, 'rsb_a3', 1, cbs=see)
    assert torch.equal(see.weight, learn.loss_func.func.weight)

def test_a_missing_timm_is_one_sentence(tmp_path, capfd):
    with mock.patch('resnet_course.optimizers.find_spec', lambda name: None):
        with pytest.raises(CourseError, match='pip install timm'):
            fit_recipe(digits_learner(), 'rsb_a3', 1)
        assert run_command('train', '--recipe', 'rsb_a3', '--out', tmp_path/'runs') == 1
    assert 'pip install timm' in capfd.readouterr().err and not (tmp_path/'runs').exists()

@needs_timm
def test_nothing_to_smooth():
    with pytest.raises(CourseError, match='nothing to smooth'):
        fit_recipe(digits_learner(), replace(recipes['rsb_a3'], label_smoothing=0.1), 1)
    with pytest.raises(CourseError, match='bce=False'):
        fit_recipe(digits_learner(loss_func=nn.MultiMarginLoss()), 'rsb_a3', 1)
