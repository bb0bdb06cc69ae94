#!/usr/bin/env python3
"""Images per second that reach the network: this course's loaders and the alternatives.

    python benchmarks/data_loading.py [--device cpu] [--threads 2] [--out results/data_loading.json]

CIFAR-10 in batches of 128. Every pipeline decodes, pads and crops, flips, batches and
normalizes. The course's loader and torchvision's start from arrays in memory, fastai's
`from_folder` from PNG files, as each is typically used. Then `resnet20` trains with the
precision that suits this machine: how much of an epoch does it wait for data? The pipelines
take turns for several rounds, and the median of each counts, because the speed of a machine
varies during the measurement.
"""
import argparse, json, os, platform, sys, tempfile, time
from pathlib import Path
from statistics import median

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root))
p = argparse.ArgumentParser(description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('--device', default='cpu')
p.add_argument('--threads', type=int, default=2)
p.add_argument('--seconds', type=float, default=2,
               help='measured for each pipeline in each round')
p.add_argument('--rounds', type=int, default=5)
p.add_argument('--steps', type=int, default=60, help='training steps')
p.add_argument('--out', type=Path, default=root/'results/data_loading.json')
a = p.parse_args()

import fastai, torch, torchvision
from fastai.vision.all import Flip, ImageDataLoaders, Normalize, RandTransform
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from torchvision.transforms import v2

from resnet_course.core import atomic_write
from resnet_course.datasets import open_image_set
from resnet_course.loaders import ImageSetDL, get_dls
from resnet_course.learner import course_learner

torch.set_num_threads(a.threads)
bs, images = 128, open_image_set('cifar10')
mean, std = images.stats

class Images(Dataset):
    "Like torchvision's `CIFAR10`: transforms a Pillow image made from an array, or a tensor"
    def __init__(self, tfm, pil):
        self.tfm, self.pil, self.y = tfm, pil, images.y[:50_000].tolist()
        self.x = images.x[:50_000]
        if pil: self.x = self.x.permute(0, 2, 3, 1).contiguous().numpy()

    def __len__(self): return len(self.y)
    def __getitem__(self, i):
        x = Image.fromarray(self.x[i]) if self.pil else self.x[i]
        return self.tfm(x), self.y[i]

pil = T.Compose([T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), T.ToTensor(),
                 T.Normalize(mean, std)])
augment = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]  # uint8: faster than float
to_float = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
v2_tensor = v2.Compose(augment + to_float)
v2_pil = v2.Compose([*augment, v2.PILToTensor(), *to_float])

def torch_dl(tfm, pil, workers):
    return DataLoader(Images(tfm, pil), bs, shuffle=True, drop_last=True, num_workers=workers,
                      persistent_workers=workers > 0)

class CropPad4(RandTransform):
    "torchvision's pad-and-crop on the Pillow image; fastai has none like the paper's"
    order, crop = 1, T.RandomCrop(32, padding=4)
    def encodes(self, x: Image.Image): return type(x)(self.crop(x))

def png_folder(d, n):
    "Write the first `n` images into class folders for `from_folder`"
    for i in range(n):
        f = d/('valid' if i < bs else 'train')/images.vocab[images.y[i]]/f'{i}.png'
        f.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.x[i].permute(1, 2, 0).numpy()).save(f)
    return d

def fastai_dl(d, workers):
    batch_tfms = [Flip(), Normalize.from_stats(mean, std)]
    return ImageDataLoaders.from_folder(d, valid='valid', bs=bs, num_workers=workers,
                                        device=a.device, item_tfms=CropPad4(),
                                        batch_tfms=batch_tfms).train

def rate(dl):
    "Images per second over as many passes as fit, after three batches of warm-up"
    n = start = 0
    while True:
        for k, (xb, yb) in enumerate(dl):
            xb, yb = xb.to(a.device, non_blocking=True), yb.to(a.device, non_blocking=True)
            if start: n += len(xb)
            elif k == 3: start = time.perf_counter()
            if start and time.perf_counter() - start > a.seconds:
                if a.device != 'cpu': torch.cuda.synchronize()
                return n/(time.perf_counter() - start)

waits = []

class TimedDL(ImageSetDL):
    "Keeps the time each batch takes in `waits`"
    def __iter__(self):
        it = super().__iter__()
        while True:
            start = time.perf_counter()
            try: b = next(it)
            except StopIteration: return
            finally: waits.append(time.perf_counter() - start)
            yield b

def train_rate():
    "`resnet20`: images per second in training, the share of time spent waiting for data, precision"
    dls = get_dls('cifar10', bs=bs, n_train=bs*a.steps, valid_pct=0, device=a.device)
    learn = course_learner(dls, 'resnet20', seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 0.01)                    # warm up
        dls.train.__class__ = TimedDL
        start = time.perf_counter()
        learn.fit(1, 0.01)
        if a.device != 'cpu': torch.cuda.synchronize()
        took = time.perf_counter() - start
    return bs*a.steps/took, sum(waits)/took, learn.precision.resolved

def measure(d):
    "The rates of every pipeline in all rounds"
    pipelines = {
        'fastai ImageDataLoaders.from_folder (PNG)': lambda n: fastai_dl(d, n),
        'torchvision dataset + transforms': lambda n: torch_dl(pil, True, n),
        'torchvision v2 on Pillow images': lambda n: torch_dl(v2_pil, True, n),
        'torchvision v2 on tensors': lambda n: torch_dl(v2_tensor, False, n)}
    loaders = {'ours': get_dls('cifar10', bs=bs, device=a.device).train}
    for name, make in pipelines.items():
        for n in 0, 2: loaders[f'{name}, {n} workers'] = make(n)
    rounds = {name: [] for name in loaders}
    for i in range(a.rounds):
        for name, dl in loaders.items(): rounds[name].append(rate(dl))
        ours = rounds['ours'][-1]
        print(f'round {i + 1} of {a.rounds}: ours {ours:,.0f} images/s', flush=True)
    return rounds

with tempfile.TemporaryDirectory() as d: rounds = measure(png_folder(Path(d), 6000))
rates = {name: median(o) for name, o in rounds.items()}
for name, r in rates.items(): print(f'{r:>10,.0f} images/s  {name}')

train, wait, precision = train_rate()
ours = rates['ours']
best = max((k for k in rates if k != 'ours'), key=rates.get)
print(f'{train:>10,.0f} images/s  training of resnet20 ({precision}); '
      f'it waits for data {wait:.1%} of the time')
print(f'ours: {ours/rates[best]:.1f} times the best per-item pipeline ({best}), '
      f'{ours/train:.0f} times what training needs')
versions = dict(torch=torch.__version__, torchvision=torchvision.__version__,
                fastai=fastai.__version__, python=platform.python_version())
res = dict(set='cifar10', bs=bs, device=a.device,
           gpu=torch.cuda.get_device_name() if a.device.startswith('cuda') else None,
           machine=platform.machine(), threads=a.threads, cores=os.cpu_count(), versions=versions,
           images_per_second={k: round(v) for k, v in rates.items()},
           rounds={k: [round(v) for v in o] for k, o in rounds.items()},
           training_images_per_second=round(train), training_precision=precision,
           share_waiting=round(wait, 4), times_best_per_item=round(ours/rates[best], 1),
           times_training=round(ours/train, 1))
with atomic_write(a.out) as f: f.write_text(json.dumps(res, indent=1) + '\n')
