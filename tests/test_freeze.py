"Whatever a plan freezes on any small network keeps every bit, also in several processes"
import os, subprocess, sys
from pathlib import Path

import pytest, torch
from fastai.callback.progress import ProgressCallback  # noqa: F401  gives Learner `no_bar`
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD, Adam
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import nn

from resnet_course.core import CourseError
from resnet_course.models import create_model, group_names, list_models, param_groups
from resnet_course.freeze import Frozen, freeze_report, freeze_to, snapshot
from resnet_course.optimizers import torch_sgd

root = Path(__file__).resolve().parent.parent

def data(n=24, bs=8):
    g = torch.Generator().manual_seed(0)
    items = [(torch.randn(2, 6, 6, generator=g), torch.tensor(i % 3)) for i in range(n)]
    return DataLoaders(DataLoader(items, bs=bs, shuffle=True), DataLoader(items, bs=bs))

def net(widths, affine=True):
    "A convolution and BatchNorm for each width, each a group; then a head"
    kids, ni = [], 2
    for nf in widths:
        conv, norm = nn.Conv2d(ni, nf, 3, padding=1), nn.BatchNorm2d(nf, affine=affine)
        kids.append(nn.Sequential(conv, norm, nn.LeakyReLU()))
        ni = nf
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ni, 3))
    return nn.Sequential(*kids, head)

def groups(m): return [list(c.parameters()) for c in m.children()]

def learner(model, opt_func=torch_sgd, splitter=groups, **kwargs):
    return Learner(data(), model, loss_func=CrossEntropyLossFlat(), opt_func=opt_func,
                   splitter=splitter, cbs=Frozen(), **kwargs)

def fit(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 0.05, wd=0.1)

# (first group that trains, BatchNorm, momentum, create a new optimizer?)
stages = st.tuples(st.integers(-5, 4), st.sampled_from(['eval', 'stats', 'train']),
                   st.sampled_from(['reset', 'keep']), st.booleans())

def may_change(name, n, bn):
    "May the tensor `name` change when the groups from `n` on train?"
    group, layer, *_ = name.split('.')
    if int(group) >= n: return True
    if is_statistic(name): return bn != 'eval'
    return layer == '1' and bn == 'train'

def is_statistic(name): return 'running' in name or 'tracked' in name

def check_bits(model, before, n, bn):
    "By the model's own names, without the report's bookkeeping"
    for name, t in model.state_dict().items():
        same = torch.equal(before[name], t)
        assert same or may_change(name, n, bn), name
        if int(name.split('.')[0]) >= n and is_statistic(name): assert not same, name

@settings(max_examples=25, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.too_slow])
@given(widths=st.lists(st.integers(1, 5), min_size=1, max_size=4), affine=st.booleans(),
       plan=st.lists(stages, min_size=1, max_size=3),
       opt_func=st.sampled_from([torch_sgd, SGD, Adam]), train_bn=st.booleans())
def test_random_plans(widths, affine, plan, opt_func, train_bn):
    "Freezing and unfreezing in any order: frozen tensors are bit-identical, all others moved"
    torch.manual_seed(len(widths))
    learn, k = learner(net(widths, affine), opt_func, train_bn=train_bn), len(widths) + 1
    for n, bn, momentum, fresh in plan:
        if not -k <= n < k:
            with pytest.raises(CourseError): freeze_to(learn, n)
            continue
        if fresh: learn.create_opt()
        freeze_to(learn, n, bn, momentum)
        before = snapshot(learn)
        fit(learn)
        report = freeze_report(learn, before)
        assert not report.broken and not report.notes, report
        check_bits(learn.model, before, n % k, bn)
        # a bias before BatchNorm has only rounding errors for a gradient; weight decay moves it
        assert not [o for o in report.idle if not o.endswith('bias')], report

@pytest.mark.parametrize('how', ['weight', 'norm', 'stat', 'gradient'])
def test_report_notices(how):
    "The report detects the smallest possible change of each kind of tensor"
    learn = learner(net([3, 3]))
    freeze_to(learn, -1)
    before = snapshot(learn)
    fit(learn)
    assert freeze_report(learn, before).ok
    conv, bn, _ = learn.model[0]
    tensors = dict(weight=conv.weight, norm=bn.weight, stat=bn.running_var, gradient=conv.weight)
    t = tensors[how]
    with torch.no_grad():
        if how == 'gradient': t.grad = torch.zeros_like(t)
        else: t.view(-1)[0] = torch.nextafter(t.view(-1)[0], torch.tensor(9.))
    report = freeze_report(learn, before)
    assert not report.ok
    with pytest.raises(CourseError): report.check()

class Tied(nn.Module):
    "Two layers with the same weight"
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight, self.head = self.a.weight, nn.Linear(4, 3)
    def forward(self, x): return self.head(self.b(self.a(self.stem(x)).relu()))

def tied_learner(frozen):
    "A learner for it, with a module frozen by hand"
    x, y = torch.randn(32, 4), torch.arange(32) % 3
    dl = DataLoader(list(zip(x, y)), bs=16)
    learn = Learner(DataLoaders(dl, dl), Tied(), CrossEntropyLossFlat(), splitter=param_groups,
                    cbs=Frozen())
    getattr(learn.model, frozen).requires_grad_(False)
    return learn

def test_shared_weight_frozen_by_hand():
    "A weight with two names is not called idle under the second one"
    learn = tied_learner('a')
    before = snapshot(learn)
    fit(learn)
    report = freeze_report(learn, before)
    assert not report.idle and not report.broken, report
    assert report.by_hand == ['a.weight', 'a.bias']

def test_nothing_trains():
    "The head was frozen by hand, and the rest by `freeze_to`: one sentence, no error of autograd"
    learn = tied_learner('head')
    freeze_to(learn, -1)
    with pytest.raises(CourseError, match='no parameter trains'): fit(learn)
    freeze_to(learn, 0)
    fit(learn)

@pytest.mark.parametrize('name', list_models())
def test_every_group(name):
    "`freeze_to` means the same on every network of the package"
    with torch.device('meta'): model = create_model(name)
    learn, n_groups = learner(model, splitter=param_groups), len(group_names(model))
    for n in range(-n_groups, n_groups):
        freeze_to(learn, n)
        for i, group in enumerate(learn.opt.param_lists):
            assert {p.requires_grad for p in group} == {i >= n % n_groups}, (n, i)
    with pytest.raises(CourseError): freeze_to(learn, n_groups)

two = '''
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_freeze import *
from fastai.distributed import *
if __name__ == '__main__':
    torch.manual_seed(0)
    learn = learner(net([3, 4]))
    freeze_to(learn, -1)
    before = snapshot(learn)
    with learn.distrib_ctx(sync_bn=False, cpu=True): fit(learn)
    report = freeze_report(learn, before)
    print(report, flush=True)
    assert not report.broken and report.rows[-1]['changed'] == 2
'''

@pytest.mark.slow
def test_two_processes(tmp_path):
    "Frozen layers stay frozen under `DistributedDataParallel`"
    (tmp_path/'two.py').write_text(two)
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(root), CUDA_VISIBLE_DEVICES='')
    args = ['--cpu', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no',
            '--dynamo_backend', 'no', '--main_process_port', '29517']
    res = subprocess.run([sys.executable, '-m', 'accelerate.commands.launch', *args,
                          str(tmp_path/'two.py'), str(root/'tests')],
                         env=env, capture_output=True, text=True, timeout=300)
    assert res.returncode == 0, res.stdout[-3000:] + res.stderr[-3000:]
