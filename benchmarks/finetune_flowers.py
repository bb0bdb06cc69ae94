"""Staged fine-tuning of He et al.'s ResNet-50 (v1) on photos of flowers, and four baselines.

    python benchmarks/finetune_flowers.py --seeds 0 1 2

One fixed stratified split into training, validation and test images; the seed changes the new
head, the order and the augmentation. Each arm is a plan for `run_stages`; an interrupted run
continues where it stopped. Writes results/finetune_flowers.json, which holds every arm of every
seed, and means over seeds once there are three. Needs `flowers` and
`weights/resnet50-imagenet-v1.pth` in fastai's data folder.
"""
import argparse, json, time
from dataclasses import replace
from pathlib import Path

import torch
from torchvision.models import ResNet50_Weights

from resnet_course.core import write_json
from resnet_course.images import plain_tensor
from resnet_course.datasets import data_home
from resnet_course.loaders import get_dls
from resnet_course.models import create_model
from resnet_course.weights import load_weights
from resnet_course.learner import course_learner
from resnet_course.finetune import Stage, get_plan, run_stages
from resnet_course.records import machine, versions
from resnet_course.runs import stage_means

root = Path(__file__).resolve().parent.parent
p = argparse.ArgumentParser(description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
p.add_argument('--size', type=int, default=128, help='side of the images (px)')
p.add_argument('--bs', type=int, default=32)
p.add_argument('--n-train', type=int, default=600, help='training images')
p.add_argument('--epochs', type=int, default=3,
               help='epochs of each stage that trains more than the head')
p.add_argument('--head-epochs', type=int, default=8,
               help='epochs of the head, on cached features')
p.add_argument('--lr', type=float, default=0.002,
               help='learning rate of the head; the later stages use a tenth of it')
p.add_argument('--precision', default='auto')
p.add_argument('--work', type=Path, default=root/'runs/finetune_flowers', help='checkpoints')
p.add_argument('--results', type=Path, default=root/'results/finetune_flowers.json')
a = p.parse_args()

weights = data_home()/'weights/resnet50-imagenet-v1.pth'
dls = get_dls(data_home()/'flowers', bs=a.bs, size=a.size, valid_pct=0.15, seed=42,
              n_train=a.n_train, stats='imagenet')

def learner(seed, pretrained=True):
    "A ResNet-50 v1 with a new head"
    learn = course_learner(dls, 'resnet50', seed=seed, precision=a.precision, stem='imagenet',
                           model_kwargs=dict(variant='v1'))
    if pretrained: load_weights(learn.model, weights, variant='v1')
    return learn

@torch.no_grad()
def share_called_daisy():
    """Share of each class's test images that the pretrained network labels as daisy

    Daisy is the only one of the five flowers that is also an ImageNet class."""
    net = create_model('resnet50', 1000, variant='v1').eval()
    load_weights(net, weights, variant='v1')
    daisy = ResNet50_Weights.IMAGENET1K_V1.meta['categories'].index('daisy')
    is_daisy, ys = [], []
    for xb, yb in dls.test:
        is_daisy.append(net(plain_tensor(xb)).argmax(1) == daisy)
        ys.append(plain_tensor(yb))
    is_daisy, ys = torch.cat(is_daisy), torch.cat(ys)
    return {str(c): is_daisy[ys == i].float().mean().item() for i, c in enumerate(dls.vocab)}

called_daisy = share_called_daisy()
views, e, lr = 4, a.epochs, a.lr
arms = {
    'staged': [Stage('head', -1, a.head_epochs, lr, cache=views),
               Stage('layer4 + head', 'layer4', e, lr/10, start_from='head'),
               Stage('layer3 + layer4 + head', 'layer3', e, lr/10, start_from='head')],
    # without the cache: about as long as the staged plan, with new crops in each epoch
    'head only, as long': [Stage('head', -1, a.head_epochs + 2*e, lr)],
    'all at once, at the head\'s rate': [Stage('all', 0, e, lr)],
    # order and rates of `fine_tune`; like the other arms it ends with the best epoch on validation
    'fine_tune': [replace(s, restore_best=True) for s in get_plan('fine_tune', epochs=e, lr=lr)],
    'from scratch': [Stage('all', 0, 2*e, 0.05)],
}

def folder_name(arm): return ''.join(c if c.isalnum() else '_' for c in arm)

def run(arm, stages, seed):
    "The result of one plan with one seed"
    start = time.perf_counter()
    learn = learner(seed, pretrained=arm != 'from scratch')
    with learn.no_bar(): res = run_stages(learn, stages, a.work/f'{folder_name(arm)}-{seed}')
    print(f'\nseed {seed}, {arm}\n{res}', flush=True)
    row = dict(arm=arm, seed=seed, wall_seconds=time.perf_counter() - start, **res.to_dict())
    return row, learn.precision.resolved

config = {k: v for k, v in vars(a).items() if k not in ('seeds', 'work', 'results')}
done = []
if a.results.exists():
    old = json.loads(a.results.read_text(encoding='utf-8'))
    if old['config'] != config:
        raise SystemExit(f'{a.results} holds other settings: choose another --results')
    done = old['runs']

head = dict(config=config,
            images=dict(train=len(dls.train.dataset), valid=len(dls.valid.dataset),
                        test=len(dls.test.dataset)),
            data=dls.cfg | dict(name_or_path='flowers'), classes=list(map(str, dls.vocab)),
            weights=weights.name, called_daisy=called_daisy)
seeds = ' '.join(map(str, a.seeds))
for seed in a.seeds:
    for arm, stages in arms.items():
        if any(r['arm'] == arm and r['seed'] == seed for r in done): continue
        row, precision = run(arm, stages, seed)
        done.append(row)
        write_json(dict(head, precision=precision, runs=done, summary=stage_means(done),
                        machine=machine(dls.device), versions=versions(),
                        command=f'python benchmarks/finetune_flowers.py --seeds {seeds}'),
                   a.results)
