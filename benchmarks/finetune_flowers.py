"""Staged fine-tuning of He et al.'s ResNet-50 (v1) on photos of flowers, beside four baselines.

    python benchmarks/finetune_flowers.py --seeds 0 1 2

One fixed stratified split into training, validation and test images; the seed changes the new head, the order and the
augmentation. Each arm is a plan of `run_stages`; a run that was killed goes on where it was. Writes
results/finetune_flowers.json, which holds every arm of every seed, and means over seeds once there are three.
Needs `flowers` and `weights/resnet50-imagenet-v1.pth` in fastai's data folder.
"""
import argparse, json, time
from dataclasses import replace
from pathlib import Path

import torch
from torchvision.models import ResNet50_Weights

from resnet_course.datasets import data_home
from resnet_course.loaders import get_dls
from resnet_course.finetune import Stage, get_plan, run_stages
from resnet_course.learner import course_learner
from resnet_course.models import create_model
from resnet_course.runs import machine, stage_means, versions
from resnet_course.core import write_json
from resnet_course.weights import load_weights

root = Path(__file__).resolve().parent.parent
p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
p.add_argument('--size', type=int, default=128, help='side of the images (px)')
p.add_argument('--bs', type=int, default=32)
p.add_argument('--n-train', type=int, default=600, help='training images')
p.add_argument('--epochs', type=int, default=3, help='of each stage that trains more than the head')
p.add_argument('--head-epochs', type=int, default=8, help='of the head, on cached features')
p.add_argument('--lr', type=float, default=0.002, help='of the head; the later stages take a tenth')
p.add_argument('--precision', default='auto')
p.add_argument('--work', type=Path, default=root/'runs/finetune_flowers', help='checkpoints')
p.add_argument('--results', type=Path, default=root/'results/finetune_flowers.json')
a = p.parse_args()

weights = data_home()/'weights/resnet50-imagenet-v1.pth'
dls = get_dls(data_home()/'flowers', bs=a.bs, size=a.size, valid_pct=0.15, seed=42, n_train=a.n_train, stats='imagenet')

def learner(seed, pretrained=True):
    "A ResNet-50 v1, with a new head"
    learn = course_learner(dls, 'resnet50', seed=seed, precision=a.precision, stem='imagenet', model_kwargs=dict(variant='v1'))
    if pretrained: load_weights(learn.model, weights, variant='v1')
    return learn

def known():
    "Share of each flower's test images that the network, as it comes, calls a daisy: one of the five is an ImageNet class"
    net = create_model('resnet50', 1000, variant='v1').eval()
    load_weights(net, weights, variant='v1')
    daisy = ResNet50_Weights.IMAGENET1K_V1.meta['categories'].index('daisy')
    with torch.no_grad(): yes = [(net(xb.as_subclass(torch.Tensor)).argmax(1) == daisy, yb.as_subclass(torch.Tensor)) for xb, yb in dls.test]
    yes, ys = map(torch.cat, zip(*yes))
    return {str(c): yes[ys == i].float().mean().item() for i, c in enumerate(dls.vocab)}

called_daisy = known()
views, e, lr = 4, a.epochs, a.lr
head = Stage('head', -1, a.head_epochs, lr, cache=views)
arms = {
    'staged': [head, Stage('layer4 + head', 'layer4', e, lr/10, start_from='head'),
               Stage('layer3 + layer4 + head', 'layer3', e, lr/10, start_from='head')],
    # without the cache, so that it takes about as long as the staged plan, and sees new crops in every epoch
    'head only, as long': [Stage('head', -1, a.head_epochs + 2*e, lr)],
    'all at once, at the head\'s rate': [Stage('all', 0, e, lr)],
    # `fine_tune`'s order and rates, and as everywhere else the best epoch on validation
    'fine_tune': [replace(s, restore_best=True) for s in get_plan('fine_tune', epochs=e, lr=lr)],
    'from scratch': [Stage('all', 0, 2*e, 0.05)],
}

def key(name): return ''.join(c if c.isalnum() else '_' for c in name)

done = json.loads(a.results.read_text())['runs'] if a.results.exists() else []
config = {k: v for k, v in vars(a).items() if k not in ('seeds', 'work', 'results')}
if done and json.loads(a.results.read_text())['config'] != config: raise SystemExit(f'{a.results} holds other settings: choose another --results')

for seed in a.seeds:
    for arm, stages in arms.items():
        if any(r['arm'] == arm and r['seed'] == seed for r in done): continue
        began = time.perf_counter()
        learn = learner(seed, pretrained=arm != 'from scratch')
        with learn.no_bar(): res = run_stages(learn, stages, a.work/f'{key(arm)}-{seed}')
        done.append(dict(arm=arm, seed=seed, wall_seconds=time.perf_counter() - began, **res.to_dict()))
        images = {s: len(dl.dataset) for s, dl in zip(('train', 'valid', 'test'), (dls.train, dls.valid, dls.test))}
        write_json(dict(config=config, images=images, data=dls.cfg | dict(name_or_path='flowers'), classes=list(map(str, dls.vocab)),
                        weights=weights.name, called_daisy=called_daisy, precision=learn.precision.resolved, runs=done, summary=stage_means(done),
                        machine=machine(dls.device), versions=versions(), command='python benchmarks/finetune_flowers.py --seeds ' + ' '.join(map(str, a.seeds))), a.results)
        print(f'\nseed {seed}, {arm}\n{res}', flush=True)
