"""Training throughput in images per second: this course and the alternatives on one machine.

    python benchmarks/throughput.py [--nets resnet20 ...] [--seconds 4] [--rounds 3]

Every network trains on the same batches of 128 images of 32×32 in five ways, each time in a
fresh process:

- `plain`   float32, a PyTorch loop with torchvision's transforms, image by image, two workers
- `fastai`  fastai's Learner and data block on the same images, float32, flips of batches,
            two workers
- `hand`    a hand-written loop: images in memory, bfloat16 autocast, channels-last,
            crops and flips of whole batches
- `ours`    `get_dls`, `course_learner(precision='auto')`, `fit`
- `frees`   like `ours`, but without `RetainHeap`

The networks are the same functions with the same weights. `plain` and `fastai` use PyTorch's
response normalization for AlexNet, the others `layers.LRN`; `alexnet_no_lrn` has none, as in
many tutorials. The ways take turns in every round, so that a slow minute of the machine affects
all of them. The median of the rounds counts; the record has all of them, and for each comparison
the ratio of the medians with the lowest and highest ratio within a round. With `--nets`, the
record keeps the rows of the other networks if they were measured on this machine with these
versions.
"""
import argparse, json, time, warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from operator import getitem
from pathlib import Path
from statistics import median

import torch, torch.nn.functional as F
from torch import nn

warnings.filterwarnings('ignore')
from fastai.callback.core import Callback, CancelFitException
from fastai.data.all import CategoryBlock, DataBlock, Normalize, RandomSplitter
from fastai.learner import Learner
from fastai.vision.augment import Flip
from fastai.vision.data import ImageBlock
from torchvision import transforms as T

from resnet_course.core import write_json
from resnet_course.datasets import open_image_set
from resnet_course.loaders import get_dls
from resnet_course.layers import LRN
from resnet_course.models import create_model
from resnet_course.callbacks import RetainHeap
from resnet_course.optimizers import torch_sgd
from resnet_course.learner import course_learner
from resnet_course.records import machine, versions

nets = dict(resnet20=('resnet20', {}), resnet18=('resnet18', dict(stem='cifar')),
            alexnet=('alexnet_small', {}), alexnet_no_lrn=('alexnet_small', dict(norm=False)))
bs, warm_up = 128, 4
mean, std = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]

def torch_norm(m):
    "Replace `LRN` in `m` by PyTorch's layer"
    for name, child in m.named_children():
        if isinstance(child, LRN):
            setattr(m, name, nn.LocalResponseNorm(child.size, child.alpha, child.beta, child.k))

def make(net, theirs=False):
    "The network; with `theirs`, response normalization is PyTorch's layer"
    torch.manual_seed(0)
    name, kwargs = nets[net]
    model = create_model(name, n_out=10, n_in=3, **kwargs)
    if theirs: model.apply(torch_norm)
    return model

class Clock:
    "Counts batches from the end of the warm-up until `seconds` have passed"
    def __init__(self, seconds): self.seconds, self.n, self.start = seconds, -warm_up, None
    def tick(self):
        "Call after every batch; true when the time is over"
        self.n += 1
        if self.n <= 0:
            self.start = time.perf_counter()
            return False
        self.took = time.perf_counter() - self.start
        return self.took >= self.seconds and self.n >= 3
    @property
    def rate(self): return self.n*bs/self.took

class Photos(torch.utils.data.Dataset):
    "The first `n` images, decoded and transformed one by one"
    def __init__(self, images, n, tfm):
        self.x, self.y = images.x.permute(0, 2, 3, 1).numpy(), images.y
        self.n, self.tfm = n, tfm
    def __len__(self): return self.n
    def __getitem__(self, i): return self.tfm(self.x[i]), int(self.y[i])

def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

def plain(net, images, clock):
    tfm = T.Compose([T.ToPILImage(), T.RandomCrop(32, 4), T.RandomHorizontalFlip(), T.ToTensor(),
                     T.Normalize(mean, std)])
    dl = torch.utils.data.DataLoader(Photos(images, 45_000, tfm), batch_size=bs, shuffle=True,
                                     num_workers=2, drop_last=True)
    model = make(net, theirs=True).train()
    opt = sgd(model)
    for xb, yb in dl:
        opt.zero_grad()
        loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        opt.step()
        loss.item()  # as in tutorials, which print a running loss
        if clock.tick(): break

def hand(net, images, clock):
    x, y = images.x[:45_000], images.y[:45_000]
    mu, sd = (torch.tensor(o)[:, None, None]*255 for o in (mean, std))
    model = make(net).train().to(memory_format=torch.channels_last)
    opt = sgd(model)
    for idx in torch.randperm(len(x)).split(bs):
        top, left = torch.randint(9, (2, bs))
        crops = F.pad(x[idx], [4]*4).unfold(2, 32, 1).unfold(3, 32, 1)
        xb = crops[torch.arange(bs), :, top, left]
        xb = torch.where(torch.rand(bs, 1, 1, 1) < 0.5, xb.flip(-1), xb)
        xb = ((xb.float() - mu)/sd).contiguous(memory_format=torch.channels_last)
        with torch.autocast('cpu', torch.bfloat16): pred = model(xb)
        loss = F.cross_entropy(pred.float(), y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
        if clock.tick(): break

class Timed(Callback):
    "Ends training when the clock says so"
    order = 200
    def __init__(self, clock): self.clock = clock
    def after_batch(self):
        if self.training and self.clock.tick(): raise CancelFitException

def fit(learn, clock):
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 0.01, cbs=Timed(clock))

def fastai(net, images, clock):
    x, y = images.x.permute(0, 2, 3, 1).numpy(), images.y.tolist()
    block = DataBlock((ImageBlock, CategoryBlock), get_x=partial(getitem, x),
                      get_y=partial(getitem, y), splitter=RandomSplitter(0.1, seed=42),
                      batch_tfms=[Flip(p=0.5), Normalize.from_stats(mean, std)])
    dls = block.dataloaders(range(20_000), bs=bs, num_workers=2)
    learn = Learner(dls, make(net, theirs=True), loss_func=nn.CrossEntropyLoss(),
                    opt_func=torch_sgd)
    fit(learn, clock)

def ours(net, images, clock):
    fit(course_learner(get_dls('cifar10', bs=bs), make(net)), clock)

def frees(net, images, clock):
    learn = course_learner(get_dls('cifar10', bs=bs), make(net))
    fit(learn.remove_cb(RetainHeap), clock)

ways = dict(plain=plain, fastai=fastai, hand=hand, ours=ours, frees=frees)

def measure(way, net, seconds):
    "Images per second"
    clock = Clock(seconds)
    ways[way](net, open_image_set('cifar10'), clock)
    return round(clock.rate, 1)

def measure_all(net, seconds, n_rounds):
    "The row of `net`: the rates of all ways in turns, each in a fresh process"
    rates = {way: [] for way in ways}
    for _ in range(n_rounds):
        for way in ways:
            with ProcessPoolExecutor(1) as fresh:
                rates[way].append(fresh.submit(measure, way, net, seconds).result())
    usual = {k: round(median(v), 1) for k, v in rates.items()}
    over = {f'ours_over_{k}': compare(rates['ours'], v) for k, v in rates.items() if k != 'ours'}
    shown = usual | {k: v['median'] for k, v in over.items()}
    print(f'{net:14}', *(f'{k} {v}' for k, v in shown.items()), sep='  ', flush=True)
    return dict(net=net, seconds_each=seconds, images_per_second=usual, rounds=rates, **over)

def compare(ours, theirs):
    "Ratio of the medians; lowest and highest ratio within a round"
    each = [a/b for a, b in zip(ours, theirs)]
    return dict(median=round(median(ours)/median(theirs), 3), low=round(min(each), 3),
                high=round(max(each), 3))

def without_commit(d):
    "An entry of the record that tells whether two measurements are comparable"
    return {k: v for k, v in d.items() if k != 'commit'} if isinstance(d, dict) else d

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seconds', type=float, default=4, help='at least, for each measurement')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--nets', nargs='+', default=list(nets), choices=list(nets))
    p.add_argument('--out', type=Path,
                   default=Path(__file__).resolve().parent.parent/'results/throughput.json')
    a = p.parse_args()
    head = dict(what='training throughput, images a second, batches of 128 of 3×32×32',
                machine=machine(), versions=versions())
    old = json.loads(a.out.read_text(encoding='utf-8')) if a.out.is_file() else {}
    # rows of different commits may stand side by side: each row has its own
    comparable = all(without_commit(old.get(k)) == without_commit(v) for k, v in head.items())
    rows = [r for r in old['rows'] if r['net'] not in a.nets] if comparable else []
    commit = versions().get('commit')
    rows += [dict(measure_all(net, a.seconds, a.rounds), commit=commit) for net in a.nets]
    write_json(dict(head, rows=sorted(rows, key=lambda r: list(nets).index(r['net']))), a.out)

if __name__ == '__main__': main()
