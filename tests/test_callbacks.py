"Callbacks where they meet each other, exceptions and frozen layers"
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import Recorder
from helpers import digits_learner
from torch import nn

from resnet_course.core import CourseError
from resnet_course.callbacks import (
    EMA, SWA, CourseCutMix, CourseMixUp, MixUpOrCutMix, RestoreBest, TerminateOnNaN)
from resnet_course.recipes import change_recipe, fit_recipe, get_recipe

class StopInValidation(Callback):
    def after_pred(self):
        if not self.training: raise KeyboardInterrupt

class Diverge(Callback):
    "A last epoch that ruins everything"
    def before_epoch(self):
        if self.epoch == 3: self.opt.set_hyper('lr', 50.)

def norms(learn): return [m for m in learn.model.modules() if isinstance(m, nn.BatchNorm2d)]

def test_interrupted_while_validating_an_average():
    learn, r = digits_learner(), replace(get_recipe('cosine'), ema=0.9)
    model = learn.model
    with pytest.raises(KeyboardInterrupt): fit_recipe(learn, r, 1, cbs=StopInValidation())
    assert learn.model is model

def test_best_epoch_of_an_average():
    learn, best = digits_learner(), RestoreBest()
    learn.fit(4, 0.05, cbs=[EMA(0.5), best, Diverge()])
    losses = [r['valid_loss'] for r in learn.history.rows]
    assert best.best_epoch < 3
    assert learn.validate()[0] == pytest.approx(min(losses), abs=1e-5)

class KeepMeans(Callback):
    "BatchNorm's running means after each training batch"
    def before_fit(self): self.means = []
    def after_batch(self):
        if self.training: self.means.append(norms(self)[0].running_mean.clone())

def test_ema_averages_the_statistics_too():
    "BatchNorm's statistics belong to weights: those of the last step do not fit their average"
    learn, keep = digits_learner(n_train=64), KeepMeans()
    learn.fit(2, 0.05, cbs=[EMA(0.5), keep])
    avg = keep.means[0]
    for mean in keep.means[1:]: avg = (avg + mean)/2
    torch.testing.assert_close(norms(learn)[0].running_mean, avg)
    assert not torch.allclose(avg, keep.means[-1], rtol=1e-3)

def test_swa_of_a_partly_frozen_network():
    "Frozen statistics stay; the others are those of the frozen layers' outputs"
    learn = digits_learner()
    learn.freeze_to(-2)
    before, seen = [m.running_mean.clone() for m in norms(learn)], []
    learn.fit(2, 0.1, cbs=SWA(0.))
    same = [torch.equal(a, m.running_mean) for a, m in zip(before, norms(learn), strict=True)]
    k = same.index(False)
    assert k > 2 and all(same[:k]) and not any(same[k:])
    def keep_mean(m, x): seen.append(x[0].mean((0, 2, 3)))
    norms(learn)[k].register_forward_pre_hook(keep_mean)
    learn.model.eval()
    with torch.no_grad():
        for xb, _ in learn.dls.train.new(augment=None, shuffle=False): learn.model(xb)
    assert torch.stack(seen).mean(0) == pytest.approx(norms(learn)[k].running_mean, abs=0.05)

def test_only_one_callback_sets_the_final_weights():
    for cb in (EMA(), RestoreBest()):
        with pytest.raises(CourseError, match='choose one of them'):
            digits_learner().fit(1, 0.1, cbs=[SWA(), cb])

def test_nan_between_two_looks():
    "On a GPU one loss in fifty is checked, and the running mean at the end of the epoch"
    stop = TerminateOnNaN()
    rec = Recorder()
    rec.losses, rec.smooth_loss.val = [], torch.tensor(float('nan'))
    stop.learn = SimpleNamespace(cbs=[rec], training=True, epoch=0, iter=7)
    with pytest.raises(CourseError, match='the loss is nan in epoch 0'): stop.after_train()

def test_whole_numbers_for_mixup_and_cutmix():
    "fastai fails for them in the first batch"
    for cb in (CourseMixUp(1), CourseCutMix(2), MixUpOrCutMix(1, 1)):
        digits_learner(n_train=32).fit(1, .01, cbs=cb)
    fit_recipe(digits_learner(n_train=32), change_recipe('one_cycle', mixup=1, cutmix=1), 1)
    for kind in (CourseMixUp, CourseCutMix):
        with pytest.raises(CourseError, match='alpha='): kind('x')
