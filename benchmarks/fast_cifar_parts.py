"""The value of each part of `fast_resnet` and `fast_cifar`: one is changed at a time.

    python benchmarks/fast_cifar_parts.py [--epochs 4] [--seeds 0 1]

Trains on CIFAR-10 for a few epochs and reports validation accuracy. A tenth of the training
images is held out for validation, another tenth for each seed. The recipe was chosen on such
images too, and the test set is not used. With twice 5,000 images, differences below 0.85 points
(two standard errors near 90 %) mean nothing.
"""
import argparse, json
from dataclasses import replace
from itertools import product
from pathlib import Path

from torch import nn

from resnet_course.core import write_json
from resnet_course.augment import AlternatingFlip, PadCrop
from resnet_course.loaders import get_dls
from resnet_course.optimizers import torch_sgd
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe, get_recipe, triangle
from resnet_course.evaluate import evaluate, tta
from resnet_course.records import machine, versions

fast = get_recipe('fast_cifar')
plain_rate = replace(fast, hypers=dict(shift_lr_mult=1.), shape=triangle())
zero_padded = [PadCrop(2), AlternatingFlip()]
parts = {
    'all of it': {},
    'SGD instead of Muon':
        dict(recipe=replace(fast, opt_func=torch_sgd, hypers=dict(nesterov=True))),
    'shifts at the rate of the rest': dict(recipe=replace(fast, hypers=dict(shift_lr_mult=1.))),
    'a rate that rises for a fifth of the time': dict(recipe=replace(fast, shape=triangle())),
    'ReLU instead of GELU': dict(model_kwargs=dict(act='relu')),
    'BatchNorm with gains': dict(gains=True),
    'images that grow from three quarters of their side': dict(recipe=replace(fast, grow=0.75)),
    'convolutions that begin at random': dict(random=True),
    'random first filters instead of whitening ones': dict(recipe=replace(fast, whiten=0)),
    'random instead of alternating flips': dict(augment='shift+mirror'),
    'padded by 4 instead of 2': dict(augment=[PadCrop(4, 'reflect'), AlternatingFlip()]),
    'padded with zeros': dict(augment=zero_padded),
    'shifts, rising rate, random start and zeros together':
        dict(recipe=plain_rate, random=True, augment=zero_padded),
    'a small square hidden in each image': dict(augment='fast_cutout'),
    'no flips and no shifts': dict(augment=False),
    'an average of the weights (EMA 0.99)': dict(recipe=replace(fast, ema=0.99)),
    'batches of 256': dict(bs=256),
    'no label smoothing': dict(recipe=replace(fast, label_smoothing=0.)),
    'resnet20 instead of fast_resnet': dict(arch='resnet20'),
    'one_cycle instead of fast_cifar': dict(recipe='one_cycle')}

def add_gains(net):
    "Make BatchNorm's gains trainable parameters again"
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            gain = m.weight
            del m.weight
            m.weight = nn.Parameter(gain)

def reset_convs(net):
    "Give every convolution PyTorch's random initial weights"
    for m in net.modules():
        if type(m) is nn.Conv2d: m.reset_parameters()

def run(epochs, seed, bs=512, arch='fast_resnet', recipe=fast, augment='fast', gains=False,
        random=False, model_kwargs=None):
    "Train, and return the validation accuracy, the number of validation images, and the seconds"
    dls = get_dls('cifar10', bs=bs, augment=augment, seed=seed)
    learn = course_learner(dls, arch, seed=seed, model_kwargs=model_kwargs)
    if gains: add_gains(learn.model)
    if random: reset_convs(learn.model)
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, recipe, epochs)
    once, both = evaluate(learn, 'valid'), tta(learn, 'valid')
    return dict(valid_flips=both.top1, valid=once.top1, n_valid=once.n,
                train_seconds=sum(r['train_seconds'] for r in learn.history.rows))

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--epochs', type=int, default=4)
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    p.add_argument('--changes', nargs='+', default=list(parts), choices=list(parts),
                   help='run only these; the record keeps its other rows')
    p.add_argument('--out', type=Path,
                   default=Path(__file__).resolve().parent.parent/'results/fast_cifar_parts.json')
    a = p.parse_args()
    head = dict(what='validation accuracy of CIFAR-10 with one part changed', epochs=a.epochs,
                machine=machine(), versions=versions())
    old = json.loads(a.out.read_text(encoding='utf-8')) if a.out.is_file() else {}
    comparable = all(old.get(k) == v for k, v in head.items())
    def again(r): return r['change'] in a.changes and r['seed'] in a.seeds
    rows = [r for r in old['rows'] if not again(r)] if comparable else []
    for seed, name in product(a.seeds, a.changes):
        row = dict(change=name, seed=seed, **run(a.epochs, seed, **parts[name]))
        print('{change}, seed {seed}: {valid_flips:.2%} with flips, {valid:.2%} without, '
              '{train_seconds:.0f} s'.format(**row), flush=True)
        rows = sorted([*rows, row], key=lambda r: (r['seed'], list(parts).index(r['change'])))
        write_json(dict(head, rows=rows), a.out)

if __name__ == '__main__': main()
