"Rare classes count as much as common ones: in the loss or by the sampler, recorded and resumable"
import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.transforms import get_image_files, parent_label
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.augment import Resize
from fastai.vision.data import ImageDataLoaders
from helpers import bits, cut, photos, quiet, run_command
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from resnet_course.core import CourseError
from resnet_course.images import plain_tensor
from resnet_course.loaders import class_counts, get_dls, split_dl, train_classes
from resnet_course.learner import class_weights, course_learner
from resnet_course.recipes import fit_recipe, get_recipe, list_recipes
from resnet_course.evaluate import evaluate
from resnet_course.finetune import Stage, finetune_learner, run_stages
from resnet_course.runs import finetune_run, learner_from_checkpoint, train_run

pytestmark = pytest.mark.usefixtures('one_thread')

@pytest.fixture
def uneven(tmp_path):
    "Sixty images of a common class, twelve of a rare one"
    photos(tmp_path/'uneven', n=60, classes='a')
    return photos(tmp_path/'uneven', n=12, classes='b')

def learner(folder, by=None, bs=8, **kwargs):
    kind = dict(balance=by) if by == 'loss' else {}
    dls = get_dls(folder, size=32, bs=bs, device='cpu', balance=by if by == 'sample' else None)
    return quiet(course_learner(dls, 'resnet8', seed=1, precision='fp32', **kind, **kwargs))

class See(Callback):
    "Keep the labels that were trained on, and the weights of the loss"
    def __init__(self): self.labels, self.weights = [], []
    def after_loss(self):
        if not self.training: return
        self.labels += self.yb[0].tolist()
        loss = self.learn.loss_func
        if not hasattr(loss, 'reduction'): loss = self.mix_up.old_lf   # MixUp took its place
        self.weights.append(getattr(loss, 'func', loss).weight)

def test_the_sampler_draws_classes_equally_often(uneven):
    dls = get_dls(uneven, size=32, bs=8, device='cpu', balance='sample')
    n_a, n_b = class_counts(dls)
    assert n_a > 4*n_b
    seen = torch.cat([yb for _ in range(20) for _, yb in dls.train])
    assert len(seen) == 20*len(dls.train)*8
    # four standard deviations
    assert abs(seen.float().mean() - 0.5) < 4*0.5/len(seen)**0.5
    for split in ('train', 'valid', 'test'):
        dl = split_dl(dls, split)
        assert sum(len(yb) for _, yb in dl) == len(dl.dataset)

def test_the_same_seed_draws_the_same_images(uneven):
    def draw(seed):
        dls = get_dls(uneven, size=32, bs=8, device='cpu', balance='sample', seed=seed)
        return [torch.cat([xb.flatten() for xb, _ in dls.train]) for _ in range(2)]
    (a, a2), (b, b2), (c, _) = draw(1), draw(1), draw(2)
    assert torch.equal(a, b) and torch.equal(a2, b2)
    assert not torch.equal(a, a2) and not torch.equal(a, c)

@pytest.mark.parametrize('by', ['loss', 'sample'])
def test_resumes_to_the_bit(by, uneven, tmp_path):
    whole = learner(uneven, by)
    fit_recipe(whole, 'step', 3)
    cut(learner(uneven, by), tmp_path/'run', 'step', 3)
    again, how = learner_from_checkpoint(tmp_path/'run')
    assert again.balance == by
    fit_recipe(quiet(again), **how)
    assert torch.equal(bits(again), bits(whole))

def test_another_balance_is_another_run(uneven, tmp_path):
    cut(learner(uneven, 'loss'), tmp_path/'run', 'step', 3)
    for by in (None, 'sample'):
        with pytest.raises(CourseError, match='balance'):
            fit_recipe(learner(uneven, by), 'step', 3, checkpoint=tmp_path/'run', resume=True)

@pytest.mark.parametrize('name', [name for name, _ in list_recipes()])
def test_weights_survive_every_recipe(name, uneven):
    learn, see = learner(uneven, 'loss'), See()
    want = class_weights(learn.dls)
    recipe = get_recipe(name)
    if recipe.bce: pytest.importorskip('timm')
    smooth = 0. if recipe.bce else 0.1
    for mixup in (0., 0.2):
        changed = dict(mixup=mixup, cutmix=0., label_smoothing=smooth)
        with pytest.warns(match='fast_cifar') if name == 'fast_cifar' else nullcontext():
            fit_recipe(learn, replace(recipe, **changed), 1, lr=1e-4, cbs=see)
    assert len(see.weights) == 2*len(learn.dls.train)
    assert all(torch.equal(w, want) for w in see.weights)
    assert torch.equal(learn.loss_func.func.weight, want)

def test_the_loss_is_that_of_pytorch(uneven):
    learn = learner(uneven, 'loss')
    n = class_counts(learn.dls)
    xb, yb = learn.dls.one_batch()
    logits = learn.model.eval()(xb)
    weights = torch.tensor(n.sum()/(2*n), dtype=torch.float32)
    want = nn.functional.cross_entropy(plain_tensor(logits), plain_tensor(yb), weights)
    torch.testing.assert_close(plain_tensor(learn.loss_func(logits, yb)), want)

def test_evaluation_is_not_weighted(uneven):
    learn = learner(uneven, 'loss')
    plain = course_learner(learn.dls, learn.model, precision='fp32')
    assert evaluate(learn).loss == pytest.approx(evaluate(plain).loss)

def test_a_loss_of_ones_own_is_not_replaced(uneven):
    def own(pred, target): return nn.functional.multi_margin_loss(pred, target)
    learn = learner(uneven, loss_func=own)
    with pytest.raises(CourseError, match='own loss, own:'):
        fit_recipe(learn, replace(get_recipe('step'), label_smoothing=0.1), 1)

def test_other_peoples_loaders(uneven):
    "fastai's and PyTorch's tell their classes, too"
    dls = ImageDataLoaders.from_path_func(uneven, get_image_files(uneven), parent_label, bs=8,
                                          item_tfms=Resize(32), num_workers=0, device='cpu')
    y = train_classes(dls)
    assert sorted(class_counts(dls)) == sorted(np.bincount(y)) and len(y) == len(dls.train_ds)
    x, y = torch.randn(40, 3, 32, 32), torch.arange(40)%4//3
    ds = Subset(TensorDataset(x, y), range(4, 40))
    ds.classes = ['a', 'b']
    loaders = [DataLoader(ds, 8, shuffle=True), DataLoader(ds, 8)]
    learn = quiet(course_learner(loaders, 'resnet8', balance='loss', precision='fp32'))
    assert class_counts(learn.dls).tolist() == [27, 9]
    fit_recipe(learn, 'step', 1)

def test_loaders_without_classes():
    class Silent(torch.utils.data.Dataset):
        classes = ['a', 'b']
        def __len__(self): return 16
        def __getitem__(self, i): return torch.zeros(3, 32, 32), i%2
    loaders = [DataLoader(Silent(), 8), DataLoader(Silent(), 8)]
    with pytest.raises(CourseError, match='`targets`'):
        course_learner(loaders, 'resnet8', balance='loss')

def test_a_class_without_training_images():
    ds = TensorDataset(torch.randn(8, 3, 32, 32), torch.zeros(8, dtype=torch.long))
    ds.classes = ['a', 'empty']
    with pytest.raises(CourseError, match="no training images of 'empty'"):
        course_learner([DataLoader(ds, 4), DataLoader(ds, 4)], 'resnet8', balance='loss')

@pytest.mark.parametrize('by', ['loss', 'sample'])
def test_the_command(by, uneven, tmp_path):
    args = ['--data', uneven, '--size', 32, '--bs', 8, '--epochs', 1, '--balance', by]
    assert run_command('train', *args, '--arch', 'resnet8', '--out', tmp_path/'runs') == 0
    rec = json.loads(next((tmp_path/'runs').glob('*/run.json')).read_text())
    assert rec['balance'] == by
    assert rec['data']['balance'] == ('sample' if by == 'sample' else None)

def test_train_run_balances(uneven, tmp_path):
    see = See()
    kwargs = dict(arch='resnet8', epochs=1, size=32, bs=8, out=tmp_path, balance='sample')
    train_run(uneven, setup=lambda learn: quiet(learn).add_cb(see), **kwargs)
    assert 0.3 < np.mean(see.labels) < 0.7
    with pytest.raises(CourseError, match='balance'): train_run(uneven, balance='weights')

@pytest.mark.parametrize('by', ['loss', 'sample'])
def test_fine_tuning(by, uneven, tmp_path):
    see = See()
    def setup(learn): quiet(learn).add_cb(see)
    rec, _, _ = finetune_run(uneven, 'resnet20-fashion_mnist', 'head', epochs=1, size=32, bs=8,
                             out=tmp_path, balance=by, setup=setup)
    asked = json.loads(next(tmp_path.glob('*/finetune.json')).read_text())
    assert rec['balance'] == asked[3]['balance'] == by
    if by == 'sample': assert 0.3 < np.mean(see.labels) < 0.7
    else: assert see.weights[0][0] < 1 < see.weights[0][1]

def test_cached_features_are_drawn_alike(uneven):
    "A stage on cached features sees the images that it would have seen without them"
    def train(cache):
        learn = quiet(finetune_learner(uneven, 'resnet20-fashion_mnist', precision='fp32', size=32,
                                       bs=8, balance='sample'))
        learn.dls = get_dls(**dict(learn.dls.cfg, augment=False))
        run_stages(learn, [Stage('head', -1, 2, 0.01, cache=cache)], test=False)
        return bits(learn)
    torch.testing.assert_close(train(0), train(1), rtol=1e-4, atol=1e-5)

def test_smoothing_keeps_a_weighted_loss(uneven):
    learn = learner(uneven, loss_func=CrossEntropyLossFlat(weight=torch.tensor([1., 100.])))
    see = See()
    fit_recipe(learn, replace(get_recipe('one_cycle'), label_smoothing=0.1), 1, cbs=see)
    assert see.weights[0].tolist() == [1., 100.]
