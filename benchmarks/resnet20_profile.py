"""Where a training step of ResNet-20 spends its time on a CPU, and attempts to make it faster.

    python benchmarks/resnet20_profile.py [--rounds 8] [--steps 12]

The step alone, for batches of 128 random images of 32×32 in bfloat16 and channels-last, without
the loader and the callbacks. The variants take turns in one process; the median round of each
counts. `float32` is the plain step, for comparison. Writing in place (as torchvision does for
ReLU) saves memory traffic, but overwrites the BatchNorm output that a forward hook keeps.
"""
import argparse, statistics, time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch, torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from resnet_course.core import write_json
from resnet_course.layers import ResBlock
from resnet_course.models import create_model
from resnet_course.callbacks import RetainHeap
from resnet_course.learner import why_not_compile
from resnet_course.records import machine, versions

bs = 128
kinds = {
    'aten::mkldnn_convolution': 'convolutions, forward',
    'aten::convolution_backward': 'convolutions, backward',
    'aten::native_batch_norm': 'BatchNorm', 'aten::native_batch_norm_backward': 'BatchNorm',
    'aten::clamp_min': 'ReLU', 'aten::threshold_backward': 'ReLU',
    'aten::add': 'sums', 'aten::add_': 'sums'}

def add_in_place(block, y, x): return y.add_(x if block.downsample is None else block.downsample(x))

def make_step(dtype=torch.bfloat16, in_place=False, sums=False, compiled=False):
    "A function that trains on one batch"
    torch.manual_seed(0)
    layout = torch.contiguous_format if dtype == torch.float32 else torch.channels_last
    net = create_model('resnet20').train().to(memory_format=layout)
    for m in net.modules():
        if in_place and isinstance(m, nn.ReLU): m.inplace = True
        if sums and isinstance(m, ResBlock): m.add = partial(add_in_place, m)
    if compiled: net.compile()
    opt = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    xb = torch.randn(bs, 3, 32, 32).to(memory_format=layout)
    yb = torch.randint(10, (bs,))
    def step():
        with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16): pred = net(xb)
        F.cross_entropy(pred.float(), yb).backward()
        opt.step()
        opt.zero_grad()
    return step

def milliseconds(step, n=5):
    "Milliseconds per batch for each kind of operation"
    for _ in range(2): step()
    with profile(activities=[ProfilerActivity.CPU]) as p:
        for _ in range(n): step()
    res = dict.fromkeys([*kinds.values(), 'the rest'], 0.)
    for e in p.key_averages(): res[kinds.get(e.key, 'the rest')] += e.self_cpu_time_total/n/1000
    return {k: round(v, 2) for k, v in res.items()}

def quietest(step):
    "`milliseconds` of the fastest of six trials"
    trials = [milliseconds(step) for _ in range(6)]
    return min(trials, key=lambda o: sum(o.values()))

def rate(step, n):
    "Images per second over `n` steps"
    start = time.perf_counter()
    for _ in range(n): step()
    return round(n*bs/(time.perf_counter() - start), 1)

def retain_heap():
    "Set the allocator as a fit does"
    cb = RetainHeap()
    cb.learn = SimpleNamespace(dls=SimpleNamespace(device='cpu'))
    cb.before_fit()

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=8)
    p.add_argument('--steps', type=int, default=12)
    p.add_argument('--out', type=Path,
                   default=Path(__file__).resolve().parent.parent/'results/resnet20_profile.json')
    a = p.parse_args()
    retain_heap()
    ways = {'as it is': make_step(), 'float32': make_step(torch.float32),
            'ReLU in place': make_step(in_place=True),
            'ReLU and sums in place': make_step(in_place=True, sums=True)}
    if not why_not_compile(): ways['compiled by inductor'] = make_step(compiled=True)
    for step in ways.values():
        for _ in range(4): step()
    rates = {k: [] for k in ways}
    for _ in range(a.rounds):
        for k, step in ways.items(): rates[k].append(rate(step, a.steps))
    medians = {k: statistics.median(v) for k, v in rates.items()}
    rows = [dict(way=k, images_per_second=medians[k], rounds=rates[k],
                 over_as_it_is=round(medians[k]/medians['as it is'], 3)) for k in ways]
    for r in rows:
        print('{way:24} {images_per_second:,.0f} images/s, {over_as_it_is:.2f} of as it is'
              .format(**r))
    ms = {k: quietest(ways[k]) for k in ('as it is', 'float32')}
    for k, v in ms.items(): print(k, v)
    write_json(dict(what='a training step of resnet20 on a CPU, batches of 128 of 3×32×32',
                    rows=rows, milliseconds_a_batch=ms, machine=machine(), versions=versions()),
               a.out)

if __name__ == '__main__': main()
