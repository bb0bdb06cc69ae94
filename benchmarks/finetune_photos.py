"""Staged fine-tuning of He et al.'s ResNet-50 (v1) at 224 px: what does unfreezing buy?

    python benchmarks/finetune_photos.py [--sets flowers cifar10 fashion_mnist] [--seeds 0 1 2 3 4]

Three sets, from near to far: photos of flowers (128 px), CIFAR-10 (photos of 32 px), Fashion-MNIST
(gray product photos of 28 px), all enlarged to the 224 px that the network was trained on. These
are the sets of real photos that are at hand without a network; none has the detail of a camera.
Of each, a fixed sample of images is drawn once: a pool for training, and test images. The seed
chooses the training and validation images from the pool, the new head, order and augmentation.
The head trains on cached features of four views per image. Three stages and four baselines take
about fifteen minutes per set and seed on two idle cores; an interrupted study continues where it
stopped. Validation chooses each stage's epoch; the test images are evaluated after every stage,
and choose nothing. Writes results/finetune_photos.json: every stage of every seed with the proof
of what was frozen, means over seeds with t-intervals, and a figure beside it. `--quick` uses a few
images of 64 px and one epoch, to see that everything works, and writes finetune_photos_quick.json.
Needs the sets and `weights/resnet50-imagenet-v1.pth` in fastai's data folder.
"""
import argparse, json, shutil, time
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from resnet_course.core import write_json
from resnet_course.datasets import data_home, open_image_set
from resnet_course.loaders import get_dls
from resnet_course.weights import load_weights
from resnet_course.learner import course_learner
from resnet_course.finetune import Stage, get_plan, run_stages
from resnet_course.records import machine, versions
from resnet_course.runs import stage_means

root = Path(__file__).resolve().parent.parent
sets = ['flowers', 'cifar10', 'fashion_mnist']

# The samples

def sample(name, n_pool, n_test):
    "The set's images, and the indices of the pool and of the test images, equally many per class"
    images = open_image_set(data_home()/name if name == 'flowers' else name)
    rng, pool, test = np.random.default_rng(0), [], []
    y, k = images.y.numpy(), len(images.vocab)
    for c in range(k):
        if images.splits:   # test images are those of the publisher
            train, official = (np.asarray(images.splits[s]) for s in ('train', 'test'))
            a, b = (rng.permutation(i[y[i] == c]) for i in (train, official))
        else:
            both = rng.permutation(np.flatnonzero(y == c))
            a, b = both[n_test//k:], both
        pool += [int(i) for i in a[:n_pool//k]]
        test += [int(i) for i in b[:n_test//k]]
    return images, dict(train=pool, test=test)

def write_sample(name, folder, n_pool, n_test):
    "Write the sample as folders of class folders, unless it is there"
    if (folder/'test').is_dir(): return
    images, chosen = sample(name, n_pool, n_test)
    part = folder.with_name(folder.name + '.part')
    shutil.rmtree(part, ignore_errors=True)
    for split, idxs in chosen.items():
        for i in idxs:
            file = part/split/images.labels[images.y[i]].replace('/', '_')/f'{i:06d}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            if images.x is None: Image.open(images.files[i]).convert('RGB').save(file)
            else: Image.fromarray(images.x[i].permute(1, 2, 0).squeeze(-1).numpy()).save(file)
    part.rename(folder)

# The arms

def plans(a):
    "Arm → stages"
    e, h, lr, views = a.epochs, a.head_epochs, a.lr, a.views
    fine_tune = [replace(s, restore_best=True) for s in get_plan('fine_tune', epochs=e, lr=lr)]
    return {
        'staged': [Stage('head', -1, h, lr, cache=views),
                   Stage('layer4 + head', 'layer4', e, lr/10, start_from='head'),
                   Stage('layer3 + layer4 + head', 'layer3', e, lr/10, start_from='head')],
        'head only, as long': [Stage('head', -1, h + 2*e, lr, cache=views)],
        "all at once, at the head's rate": [Stage('all', 0, e, lr)],
        'fine_tune': fine_tune,
        'from scratch': [Stage('all', 0, e + 1, 0.05)]}

def run(name, arm, stages, seed, a):
    "The result of one arm on one set with one seed"
    start = time.perf_counter()
    dls = get_dls(a.work/name, bs=a.bs, size=a.size, seed=seed, n_train=a.n_train, n_in=3,
                  n_valid=a.n_valid, valid_pct=0.4, stats='imagenet')
    learn = course_learner(dls, 'resnet50', seed=seed, stem='imagenet',
                           model_kwargs=dict(variant='v1'))
    if arm != 'from scratch':
        load_weights(learn.model, data_home()/'weights/resnet50-imagenet-v1.pth', variant='v1')
    with learn.no_bar(), learn.no_logging(): res = run_stages(learn, stages)
    print(f'\n{name}, seed {seed}, {arm}\n{res}', *res.proof(), sep='\n', flush=True)
    return dict(set=name, arm=arm, seed=seed, precision=learn.precision.resolved,
                images=[len(dl.dataset) for dl in dls.loaders],
                wall_seconds=time.perf_counter() - start, **res.to_dict())

def plot(summary, file):
    "One panel per set: the test accuracy of every stage with its 95% interval over seeds"
    fig, axs = plt.subplots(1, len(summary), figsize=(3.2*len(summary), 3.6), squeeze=False,
                            sharey=True, layout='constrained')
    for ax, (name, rows) in zip(axs.flat, summary.items()):
        rows = rows[::-1]
        for i, r in enumerate(rows):
            m, ci = 100*r['test']['mean'], 100*(r['test']['ci'] or 0)
            color = '#0072b2' if r['arm'] == 'staged' else '#d55e00'
            ax.errorbar(m, i, xerr=ci, fmt='o', color=color, capsize=3)
        labels = [r['stage'] if r['arm'] == 'staged' else f"{r['arm']}: {r['stage']}" for r in rows]
        ax.set_yticks(range(len(rows)), labels, fontsize=8)
        ax.set(title=name, xlabel='test accuracy (%)')
        ax.grid(axis='x', alpha=.3)
    fig.savefig(file, dpi=110)
    plt.close(fig)

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sets', nargs='+', default=sets, choices=sets)
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    p.add_argument('--size', type=int, default=224, help='side of the images (px)')
    p.add_argument('--bs', type=int, default=32)
    p.add_argument('--n-train', type=int, default=240)
    p.add_argument('--n-valid', type=int, default=200)
    p.add_argument('--n-test', type=int, default=400)
    p.add_argument('--epochs', type=int, default=3,
                   help='epochs of each stage that trains more than the head')
    p.add_argument('--head-epochs', type=int, default=8)
    p.add_argument('--views', type=int, default=4, help='cached views of each training image')
    p.add_argument('--lr', type=float, default=0.002,
                   help='learning rate of the head; the later stages use a tenth of it')
    p.add_argument('--quick', action='store_true')
    p.add_argument('--work', type=Path, default=root/'runs/finetune_photos', help='the samples')
    p.add_argument('--out', type=Path)
    a = p.parse_args()
    if a.quick:
        a.size, a.bs, a.n_train, a.n_valid, a.n_test = 64, 8, 20, 20, 20
        a.epochs, a.head_epochs, a.views, a.work = 1, 1, 1, a.work.with_name('photos_quick')
    out = a.out or (Path('finetune_photos_quick.json') if a.quick
                    else root/'results/finetune_photos.json')
    free = 'sets', 'seeds', 'work', 'out', 'quick'
    config = {k: v for k, v in vars(a).items() if k not in free}
    old = json.loads(out.read_text(encoding='utf-8')) if out.is_file() else {}
    if old and old['config'] != config:
        raise SystemExit(f'{out} holds other settings: choose another --out')
    runs = old.get('runs', [])
    for name in a.sets:
        write_sample(name, a.work/name, 2*(a.n_train + a.n_valid), a.n_test)
    for seed in a.seeds:
        for name in a.sets:
            for arm, stages in plans(a).items():
                if any((r['set'], r['arm'], r['seed']) == (name, arm, seed) for r in runs): continue
                runs.append(run(name, arm, stages, seed, a))
                done = [s for s in sets if any(r['set'] == s for r in runs)]
                summary = {s: stage_means([r for r in runs if r['set'] == s]) for s in done}
                seeds = ' '.join(map(str, sorted({r['seed'] for r in runs})))
                write_json(dict(schema=1, kind='finetune_photos', config=config, runs=runs,
                                summary=summary, machine=machine(), versions=versions(),
                                command='python benchmarks/finetune_photos.py --seeds ' + seeds),
                           out)
                plot(summary, out.with_suffix('.png'))
    print(f'{out}: {len(runs)} runs')

if __name__ == '__main__': main()
