#!/usr/bin/env python3
"""Images per second that reach the network: the course's loaders beside what a user would run instead.

    python benchmarks/data_loading.py [--device cpu] [--threads 2] [--out results/data_loading.json]

CIFAR-10, batches of 128, every pipeline decodes, pads and crops, mirrors, batches and normalizes. The course's
loader and torchvision's start from arrays in memory, fastai's `from_folder` from PNG files, as each is used. Then
`resnet20` trains at the precision that this machine prefers: what share of an epoch waits for data? The pipelines run
in turns, several rounds of them, and each has its median: a machine's speed wanders while it is measured.
"""
import argparse, json, os, platform, sys, tempfile, time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('--device', default='cpu')
p.add_argument('--threads', type=int, default=2)
p.add_argument('--seconds', type=float, default=2, help='of measurement for each pipeline in each round')
p.add_argument('--rounds', type=int, default=5)
p.add_argument('--steps', type=int, default=60, help='training steps')
p.add_argument('--out', type=Path, default=Path(__file__).resolve().parents[1]/'results/data_loading.json')
a = p.parse_args()

import fastai, torch, torchvision
from fastai.vision.all import Flip, ImageDataLoaders, Normalize, RandTransform
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from torchvision.transforms import v2

from resnet_course.core import atomic_write
from resnet_course.loaders import ImageSetDL, get_dls
from resnet_course.datasets import open_image_set
from resnet_course.learner import course_learner

torch.set_num_threads(a.threads)
BS, pool = 128, open_image_set('cifar10')
mean, std = pool.stats

class Images(Dataset):
    "What torchvision's `CIFAR10` does: a Pillow image from an array, then the transform; or a tensor, for v2"
    def __init__(self, tfm, pil):
        self.tfm, self.pil, self.y = tfm, pil, pool.y[:50_000].tolist()
        self.x = pool.x[:50_000].permute(0, 2, 3, 1).contiguous().numpy() if pil else pool.x[:50_000]
    def __len__(self): return len(self.y)
    def __getitem__(self, i): return self.tfm(Image.fromarray(self.x[i]) if self.pil else self.x[i]), self.y[i]

pil = T.Compose([T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(mean, std)])
vary = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]   # on bytes, which is faster than on floats
end = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
tensor, pil2 = v2.Compose(vary + end), v2.Compose([*vary, v2.PILToTensor(), *end])

def torch_dl(tfm, pil, workers):
    return DataLoader(Images(tfm, pil), BS, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)

class CropPad4(RandTransform):
    "fastai has no pad-and-crop of the paper's kind: torchvision's, on the Pillow image"
    order, crop = 1, T.RandomCrop(32, padding=4)
    def encodes(self, x: Image.Image): return type(x)(self.crop(x))

def png_folder(d, n):
    "The first `n` images as class folders, in the form that `from_folder` reads"
    for i in range(n):
        f = d/('valid' if i < BS else 'train')/pool.vocab[pool.y[i]]/f'{i}.png'
        f.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pool.x[i].permute(1, 2, 0).numpy()).save(f)
    return d

def fastai_dl(d, workers):
    return ImageDataLoaders.from_folder(d, valid='valid', bs=BS, num_workers=workers, device=a.device, item_tfms=CropPad4(),
                                        batch_tfms=[Flip(), Normalize.from_stats(mean, std)]).train

def rate(dl):
    "Images per second over passes and parts of them, after three batches"
    n = start = 0
    while True:
        for k, (xb, yb) in enumerate(dl):
            xb, yb = xb.to(a.device, non_blocking=True), yb.to(a.device, non_blocking=True)
            if start: n += len(xb)
            elif k == 3: start = time.perf_counter()
            if start and time.perf_counter() - start > a.seconds:
                if a.device != 'cpu': torch.cuda.synchronize()
                return n/(time.perf_counter() - start)

def train_rate():
    "`resnet20`: images per second in training, and the share of the time that went into waiting for a batch"
    waits = []
    class Timed(ImageSetDL):
        def __iter__(self):
            it = super().__iter__()
            while True:
                t = time.perf_counter()
                try: b = next(it)
                except StopIteration: return
                finally: waits.append(time.perf_counter() - t)
                yield b
    dls = get_dls('cifar10', bs=BS, n_train=BS*a.steps, valid_pct=0, device=a.device)
    learn = course_learner(dls, 'resnet20', seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 0.01)                    # warm up
        dls.train.__class__ = Timed
        t = time.perf_counter()
        learn.fit(1, 0.01)
        if a.device != 'cpu': torch.cuda.synchronize()
        took = time.perf_counter() - t
    return BS*a.steps/took, sum(waits)/took, learn.precision.resolved

with tempfile.TemporaryDirectory() as d:
    d = png_folder(Path(d), 6000)
    pipelines = {
        'ours': lambda: get_dls('cifar10', bs=BS, device=a.device).train,
        'fastai ImageDataLoaders.from_folder (PNG), 0 workers': lambda: fastai_dl(d, 0),
        'fastai ImageDataLoaders.from_folder (PNG), 2 workers': lambda: fastai_dl(d, 2),
        'torchvision dataset + transforms, 0 workers': lambda: torch_dl(pil, True, 0),
        'torchvision dataset + transforms, 2 workers': lambda: torch_dl(pil, True, 2),
        'torchvision v2 on Pillow images, 0 workers': lambda: torch_dl(pil2, True, 0),
        'torchvision v2 on Pillow images, 2 workers': lambda: torch_dl(pil2, True, 2),
        'torchvision v2 on tensors, 0 workers': lambda: torch_dl(tensor, False, 0),
        'torchvision v2 on tensors, 2 workers': lambda: torch_dl(tensor, False, 2)}
    loaders, rounds = {name: make() for name, make in pipelines.items()}, {name: [] for name in pipelines}
    for i in range(a.rounds):
        for name, dl in loaders.items(): rounds[name].append(rate(dl))
        print(f'round {i + 1} of {a.rounds}: ours {rounds["ours"][-1]:,.0f} images/s', flush=True)
    rates = {name: median(o) for name, o in rounds.items()}
    for name, r in rates.items(): print(f'{r:>10,.0f} images/s  {name}')

train, wait, precision = train_rate()
ours, best = rates['ours'], max((k for k in rates if k != 'ours'), key=rates.get)
print(f'{train:>10,.0f} images/s  a resnet20 training step ({precision}) takes; {wait:.1%} of the epoch waits for data')
print(f'ours: {ours/rates[best]:.1f} times the best per-item pipeline ({best}), {ours/train:.0f} times what training takes')
gpu = torch.cuda.get_device_name() if a.device.startswith('cuda') else None
res = dict(set='cifar10', bs=BS, device=a.device, gpu=gpu, machine=platform.machine(), threads=a.threads, cores=os.cpu_count(),
           versions=dict(torch=torch.__version__, torchvision=torchvision.__version__, fastai=fastai.__version__, python=platform.python_version()),
           images_per_second={k: round(v) for k, v in rates.items()}, rounds={k: [round(v) for v in o] for k, o in rounds.items()},
           training_images_per_second=round(train), training_precision=precision,
           share_waiting=round(wait, 4), times_best_per_item=round(ours/rates[best], 1), times_training=round(ours/train, 1))
with atomic_write(a.out) as f: f.write_text(json.dumps(res, indent=1) + '\n')
