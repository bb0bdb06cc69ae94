"Every recipe's exact schedule: the rate and momentum of each step are PyTorch's own, or what the source says; and so are the weights"
import math

import numpy as np, pytest, torch
from fastai.callback.core import Callback
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, MultiStepLR, OneCycleLR, ReduceLROnPlateau, SequentialLR
from torch.utils.data import DataLoader, TensorDataset

from resnet_course.fastresnet import FastResNet
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe, list_recipes, recipes
from resnet_course.optimizers import Muon

BS = 10

class Watch(Callback):
    "The rate and momentum that PyTorch's optimizer has at each step, and the losses that `script` puts in place of the real ones"
    order = 51   # after the Recorder, before what looks at the losses
    def __init__(self, **script): self.script, self.lrs, self.moms = script, [], []
    def before_step(self):
        g, = {(g['lr'], g.get('momentum', g.get('betas', [0])[0])) for g in self.opt.opt.param_groups}   # one rate for all groups
        self.lrs.append(g[0]); self.moms.append(g[1])
    def after_epoch(self):
        for k, v in self.script.items():
            self.learn.final_record[self.recorder.metric_names[1:].index(k)] = v[self.epoch]

def data(steps, bs=BS):
    g = torch.Generator().manual_seed(0)
    return torch.randn(steps*bs, 1, 3, 3, generator=g), torch.randint(3, (steps*bs,), generator=g)

def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

def fit(recipe, epochs, steps=5, lr=None, bs=BS, **script):
    "Train by `recipe`, `steps` batches an epoch in a fixed order; returns what was seen and the network"
    train, valid = (DataLoader(ds, bs) for ds in (TensorDataset(*data(steps, bs)), TensorDataset(*data(2, bs))))
    train.dataset.classes = list('abc')
    learn = course_learner([train, valid], net(), precision='fp32', splitter=lambda m: [list(m.parameters())])
    watch = Watch(**script)
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, recipe, epochs, lr, cbs=watch)
    return watch, learn

def optimizer(r, params, lr):
    "PyTorch's optimizer for a recipe, written out by hand"
    if r.name in ('keras_resnet18', 'alexnet_adam'): return torch.optim.Adam(params, lr)
    if r.name == 'one_cycle': return torch.optim.AdamW(params, lr, weight_decay=0.01)
    return torch.optim.SGD(params, lr, momentum=0.9, weight_decay={'step': 1e-4, 'plateau': 1e-4}.get(r.name, 1e-4 if 'he2015' in r.name else 5e-4))

# What PyTorch has for a recipe that trains for `n` steps
SCHEDULES = dict(
    one_cycle=lambda opt, n: one_cycle(opt, n, 5e-3),
    one_cycle_sgd=lambda opt, n: one_cycle(opt, n, 0.4),
    cosine=lambda opt, n: SequentialLR(opt, [LinearLR(opt, 0.01, 1., n//20), CosineAnnealingLR(opt, n - n//20)], [n//20]),
    step=lambda opt, n: MultiStepLR(opt, [n//2, 3*n//4]),
    he2015_cifar=lambda opt, n: MultiStepLR(opt, [n//2, 3*n//4]),
    he2015_cifar_110=lambda opt, n: SequentialLR(opt, [LambdaLR(opt, lambda i: 0.1), MultiStepLR(opt, [n//2 - n//160, 3*n//4 - n//160])], [n//160]),
    kuangliu=lambda opt, n: CosineAnnealingLR(opt, n),
    alexnet_adam=lambda opt, n: LambdaLR(opt, lambda i: 1.),
    keras_resnet18=lambda opt, n: LambdaLR(opt, lambda i: 1.))

def one_cycle(opt, n, lr):
    "fastai's cycle is at share t/n at step t; PyTorch's ends its phases one step earlier: so a cycle of n+1 steps that turns at n/4"
    return OneCycleLR(opt, lr, total_steps=n + 1, pct_start=(n/4 + 1)/(n + 1), div_factor=25, final_div_factor=1e5/25, base_momentum=0.85, max_momentum=0.95)

PLATEAUS = dict(plateau=3, alexnet2012=3, he2015_imagenet=5)   # epochs without improvement

def torch_loop(r, epochs, steps, lr):
    "Plain PyTorch: rates, momenta and the network"
    m, xy = net(), data(steps)
    opt = optimizer(r, m.parameters(), lr)
    sched, lrs, moms = SCHEDULES[r.name](opt, epochs*steps), [], []
    for _ in range(epochs):
        for x, y in zip(*(t.split(BS) for t in xy)):
            g = opt.param_groups[0]
            lrs.append(g['lr']); moms.append(g['betas'][0] if 'betas' in g else g['momentum'])
            opt.zero_grad(); nn.functional.cross_entropy(m(x), y).backward(); opt.step(); sched.step()
    return lrs, moms, m

def test_none_is_forgotten():
    assert {n for n, _ in list_recipes()} == {*SCHEDULES, *PLATEAUS, 'pytorch_resnet34', 'fast_cifar'}

@pytest.mark.parametrize('name', SCHEDULES)
def test_rates_momenta_and_weights(name, epochs=5, steps=32):
    "160 steps, with milestones within epochs: the same rate and momentum at every step, and the same weights at the end"
    r = recipes[name]
    losses = {'train_loss': [10. - i for i in range(epochs)], 'valid_loss': [10. - i for i in range(epochs)]}   # nothing ends early, the last is best
    watch, learn = fit(name, epochs, steps, lr=r.lr, **losses)
    lrs, moms, m = torch_loop(r, epochs, steps, r.lr)
    assert watch.lrs == pytest.approx(lrs, rel=1e-6, abs=1e-6*r.lr) and watch.moms == pytest.approx(moms, rel=1e-6)
    for a, b in zip(learn.model.state_dict().values(), m.state_dict().values()): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('name', SCHEDULES)
def test_what_was_published(name):
    "The constants and the lengths of the sources"
    lr, bs, epochs = dict(one_cycle=(5e-3, 128, 5), one_cycle_sgd=(.4, 128, 30), cosine=(.1, 128, 30), step=(.1, 128, 30), he2015_cifar=(.1, 128, 182),
                          he2015_cifar_110=(.1, 128, 182), kuangliu=(.1, 128, 200), alexnet_adam=(1e-3, 32, 10), keras_resnet18=(1e-3, 8, 50))[name]
    r = recipes[name]
    assert (r.lr, r.bs, r.epochs) == (lr, bs, epochs)

def rates(name, n): return [recipes[name].lr*recipes[name].shape(i/n) for i in range(n)]

def test_he_et_al_on_cifar():
    "64,000 iterations: 0.1, from 32,000 on 0.01, from 48,000 on 0.001; with 110 layers the first 400 at 0.01"
    want = np.repeat([0.1, 0.01, 0.001], [32_000, 16_000, 16_000])
    np.testing.assert_allclose(rates('he2015_cifar', 64_000), want, rtol=1e-12)
    want[:400] = 0.01
    np.testing.assert_allclose(rates('he2015_cifar_110', 64_000), want, rtol=1e-12)

def test_kuangliu_moves_once_an_epoch_ours_with_every_step():
    "At the first step of each of the 200 epochs, the rate is that of the source"
    opt = torch.optim.SGD(net().parameters(), 0.1)
    sched = CosineAnnealingLR(opt, T_max=200)
    for epoch in range(200):
        assert 0.1*recipes['kuangliu'].shape(epoch/200) == pytest.approx(opt.param_groups[0]['lr'], abs=1e-7)
        opt.step(); sched.step()

def test_milestones_at_any_length():
    "The rate falls at the first step at or after a half, and three quarters, of training: wherever that is in an epoch"
    for epochs, steps in ((3, 7), (7, 3), (5, 5), (6, 10)):
        n = epochs*steps
        want = [0.1*0.1**((2*t >= n) + (4*t >= 3*n)) for t in range(n)]
        assert fit('step', epochs, steps, lr=0.1)[0].lrs == pytest.approx(want, rel=1e-6), (epochs, steps)

# Validation losses that get better, stall, get better a little, stall for long, and get better again
LOSSES = [1., .8, .8, .9, .8, .7999, .9, .9, .7, .71, .72, .73, .74, .75, .76, .77, .78, .6, .6, .6, .6, .6, .6, .6, .6, .6, .6]

def by_hand(losses, lr, patience):
    "Divided by ten once `patience` epochs have passed without a loss below the best"
    best, waited, out = math.inf, 0, []
    for loss in losses:
        out.append(lr)
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == patience: lr, waited = lr/10, 0
    return out

@pytest.mark.parametrize('name', PLATEAUS)
def test_plateaus_on_validation(name):
    r, n = recipes[name], PLATEAUS[name]
    opt = torch.optim.SGD(net().parameters(), r.lr)
    sched, want = ReduceLROnPlateau(opt, factor=0.1, patience=n - 1, threshold=0., eps=0.), []
    for loss in LOSSES: want.append(opt.param_groups[0]['lr']); sched.step(loss)
    assert want == pytest.approx(by_hand(LOSSES, r.lr, n), rel=1e-9) and len(set(want)) > 2
    watch, _ = fit(name, len(LOSSES), 2, lr=r.lr, valid_loss=LOSSES, train_loss=[9. - i for i in range(len(LOSSES))])
    assert watch.lrs[::2] == pytest.approx(want, rel=1e-6) and watch.lrs[1::2] == watch.lrs[::2] and set(watch.moms) == {0.9}
    assert (r.lr, r.bs, r.wd, r.epochs) == dict(plateau=(.1, 128, 1e-4, 30), alexnet2012=(.01, 128, 5e-4, 90), he2015_imagenet=(.1, 256, 1e-4, 120))[name]

def test_plateau_on_training_with_pytorchs_threshold():
    "A loss that is not a tenth better than the best is none; the fourth such in a row divides the rate"
    losses = [1., .95, .91, .85, .5, .46, .449, .3, .29, .28, .275, .271, .271, .27, .26, .25]
    r = recipes['pytorch_resnet34']
    opt = torch.optim.SGD(net().parameters(), r.lr, momentum=.9, weight_decay=5e-4)
    sched, want = ReduceLROnPlateau(opt, mode='min', threshold=0.1, patience=3), []
    for loss in losses: want.append(opt.param_groups[0]['lr']); sched.step(loss)
    watch, _ = fit('pytorch_resnet34', len(losses), 2, lr=r.lr, train_loss=losses, valid_loss=[9. - i for i in range(len(losses))])
    assert watch.lrs[::2] == pytest.approx(want, rel=1e-6) and len(set(want)) == 2
    assert (r.lr, r.bs, r.wd, r.epochs) == (.1, 128, 5e-4, 50)

def test_keras_stops_by_its_training_loss():
    "Keras: an epoch counts as better if its loss is more than 0.001 below the best; the third in a row that is not ends training"
    losses = [1., .9, .8995, .8991, .85, .8495, .8492, .8491, .5, .4]
    best, waited, want = math.inf, 0, 0
    for want, loss in enumerate(losses, 1):
        best, waited = (loss, 0) if loss < best - 1e-3 else (best, waited + 1)
        if waited == 3: break
    assert want == 8
    watch, _ = fit('keras_resnet18', len(losses), 3, lr=1e-3, train_loss=losses, valid_loss=[1. + i for i in range(len(losses))])
    assert len(watch.lrs) == 3*want and set(watch.lrs) == {1e-3}

def test_alexnet_adam_ends_with_the_best_epoch():
    valid = [1., .5, .7, .6, .9]
    _, learn = fit('alexnet_adam', 5, 4, lr=1e-3, valid_loss=valid)
    _, _, best = torch_loop(recipes['alexnet_adam'], 2, 4, 1e-3)   # a constant rate: two epochs are the first two of five
    for a, b in zip(learn.model.state_dict().values(), best.state_dict().values()): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)

@pytest.mark.parametrize('name,power', [('cosine', 1), ('one_cycle', .5), ('keras_resnet18', 0), ('alexnet_adam', 0)])
def test_rate_follows_the_batch(name, power):
    "SGD's in proportion to the batch, AdamW's with its root, the sources' Adam not at all"
    r = recipes[name]
    watch, learn = fit(name, 1, 20, bs=4)
    assert learn.recipe['lr'] == pytest.approx(r.lr*(4/r.bs)**power) and max(watch.lrs) <= learn.recipe['lr']*(1 + 1e-9)

class Double(Callback):
    "fastai's loaders make float32 of everything"
    order = 49   # before images shrink
    def before_batch(self): self.learn.xb = tuple(x.double() for x in self.xb)

def test_fast_cifar(epochs=5, steps=8, lr=0.2):
    "A straight line to zero, whitening filters that stay, smoothed labels and Muon: against the same in plain PyTorch"
    g = torch.Generator().manual_seed(0)
    x, y, n = torch.randn(steps*BS, 1, 24, 24, generator=g), torch.randint(3, (steps*BS,), generator=g), epochs*steps
    def make():
        torch.manual_seed(1)
        return FastResNet(nf=4, n_in=1, n_out=3).double()   # Muon makes large what rounding made small
    dls = [DataLoader(TensorDataset(x, y), BS) for _ in range(2)]
    dls[0].dataset.classes = list('abc')
    learn, watch = course_learner(dls, make(), precision='fp32'), Watch()
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, 'fast_cifar', epochs, lr, cbs=[watch, Double()])
    want = lr*(1 - np.arange(n)/n)
    assert watch.lrs == pytest.approx(want, rel=1e-6, abs=1e-9)
    m = make()
    m.conv1.fit(x)
    x = x.double()
    first, opt = m.conv1.weight.clone(), Muon(m.parameters(), weight_decay=2.5e-3)
    for i, rate in enumerate(want):
        b = slice(i%steps*BS, i%steps*BS + BS)
        opt.param_groups[0]['lr'] = rate
        opt.zero_grad(); nn.functional.cross_entropy(m(x[b]), y[b], label_smoothing=0.2).backward(); opt.step()
    torch.testing.assert_close(m.conv1.weight, first, rtol=0, atol=0)
    for (k, a), b in zip(learn.model.state_dict().items(), m.state_dict().values()): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=lambda s: f'{k}: {s}')
    r = recipes['fast_cifar']
    assert (r.lr, r.bs, r.wd, r.epochs) == (.4, 512, 2.5e-3, 8)
