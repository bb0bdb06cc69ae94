"Freezing and staged fine-tuning: any plan on any small net leaves every frozen bit alone, also in several processes and when killed"
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest, torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD, Adam
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import nn

from resnet_course.core import CourseError
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
        kids.append(nn.Sequential(nn.Conv2d(ni, nf, 3, padding=1), nn.BatchNorm2d(nf, affine=affine), nn.LeakyReLU()))
        ni = nf
    return nn.Sequential(*kids, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ni, 3)))

def groups(m): return [list(c.parameters()) for c in m.children()]

def learner(model, opt_func=torch_sgd, **kwargs):
    return Learner(data(), model, loss_func=CrossEntropyLossFlat(), opt_func=opt_func, splitter=groups, cbs=Frozen(), **kwargs)

def fit(learn, lr=0.05, wd=0.1):
    with learn.no_bar(), learn.no_logging(): learn.fit(1, lr, wd=wd)

plans = st.lists(st.tuples(st.integers(-5, 4), st.sampled_from(['eval', 'stats', 'train']), st.sampled_from(['reset', 'keep']), st.booleans()),
                 min_size=1, max_size=3)

@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(widths=st.lists(st.integers(1, 5), min_size=1, max_size=4), affine=st.booleans(), plan=plans,
       opt_func=st.sampled_from([torch_sgd, SGD, Adam]), train_bn=st.booleans())
def test_random_plans(widths, affine, plan, opt_func, train_bn):
    "Whatever is frozen and unfrozen in whatever order: frozen tensors are bit-identical, all others moved"
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
        # by a second route: the model's own names, without the report's bookkeeping
        for name, t in learn.model.state_dict().items():
            same, child = torch.equal(before[name], t), int(name.split('.')[0])
            norm, stat = name.split('.')[1] == '1', 'running' in name or 'tracked' in name
            may = child >= n % k or (stat and bn != 'eval') or (norm and not stat and bn == 'train')
            assert same or may, name
            if child >= n % k and stat: assert not same, name
        # a bias before BatchNorm has no gradient but rounding; weight decay moves it all the same
        assert not [o for o in report.idle if not o.endswith('bias')], report

@pytest.mark.parametrize('how', ['weight', 'norm', 'stat', 'gradient'])
def test_report_notices(how):
    "The report sees each kind of tensor that changes by the smallest amount there is"
    learn = learner(net([3, 3]))
    freeze_to(learn, -1)
    before = snapshot(learn)
    fit(learn)
    assert freeze_report(learn, before).ok
    conv, bn = learn.model[0][0], learn.model[0][1]
    t = dict(weight=conv.weight, norm=bn.weight, stat=bn.running_var, gradient=conv.weight)[how]
    with torch.no_grad():
        if how == 'gradient': t.grad = torch.zeros_like(t)
        else: t.view(-1)[0] = torch.nextafter(t.view(-1)[0], torch.tensor(9.))
    report = freeze_report(learn, before)
    assert not report.ok
    with pytest.raises(CourseError): report.check()

def test_every_group_of_every_network():
    "freeze_to means the same on every network of the package"
    from resnet_course.models import create_model, list_models
    from resnet_course.models import group_names, param_groups
    for name in list_models():
        with torch.device('meta'): model = create_model(name)
        learn = Learner(data(), model, loss_func=CrossEntropyLossFlat(), opt_func=torch_sgd, splitter=param_groups, cbs=Frozen())
        names = group_names(model)
        for n in range(-len(names), len(names)):
            learn.freeze_to(n)
            on = [p.requires_grad for g in learn.opt.param_lists for p in g]
            want = [i >= n % len(names) for i, g in enumerate(learn.opt.param_lists) for _ in g]
            assert on == want, (name, n)
        with pytest.raises(CourseError): learn.freeze_to(len(names))

two = '''
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_finetune import *
from fastai.distributed import *
if __name__ == '__main__':
    torch.manual_seed(0)
    learn = learner(net([3, 4]))
    freeze_to(learn, -1)
    before = snapshot(learn)
    with learn.distrib_ctx(sync_bn=False, cpu=True), learn.no_bar(), learn.no_logging(): learn.fit(1, 0.05, wd=0.1)
    report = freeze_report(learn, before)
    print(report, flush=True)
    assert not report.broken and report.rows[-1]['changed'] == 2
'''

@pytest.mark.slow
def test_two_processes(tmp_path):
    "Frozen is frozen under DistributedDataParallel"
    (tmp_path/'two.py').write_text(two)
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(root), CUDA_VISIBLE_DEVICES='')
    res = subprocess.run([sys.executable, '-m', 'accelerate.commands.launch', '--cpu', '--num_processes', '2', '--num_machines', '1',
                          '--mixed_precision', 'no', '--dynamo_backend', 'no', '--main_process_port', '29517', str(tmp_path/'two.py'), str(root/'tests')],
                         env=env, capture_output=True, text=True, timeout=300)
    assert res.returncode == 0, res.stdout[-3000:] + res.stderr[-3000:]

killed = '''
import sys
from resnet_course.loaders import get_dls
from resnet_course.finetune import Stage, run_stages
from resnet_course.freeze import snapshot
from resnet_course.learner import course_learner
import torch
learn = course_learner(get_dls('digits', bs=32, n_train=64), 'resnet8', seed=3, precision='fp32')
plan = [Stage('head', -1, 2, 0.1), Stage('more', -2, 2, 0.01, start_from='head'), Stage('most', -3, 2, 0.01, start_from='head')]
with learn.no_bar(), learn.no_logging(): res = run_stages(learn, plan, sys.argv[1], keep='last')
torch.save(snapshot(learn), sys.argv[2])
'''

@pytest.mark.slow
def test_killed_plan_goes_on(tmp_path):
    "kill -9 in the second stage; the next run does not repeat the first, and ends as one that was never killed"
    (tmp_path/'plan.py').write_text(killed)
    def start(name): return subprocess.Popen([sys.executable, str(tmp_path/'plan.py'), str(tmp_path/name), str(tmp_path/f'{name}.pt')],
                                             env=dict(os.environ, PYTHONPATH=str(root)))
    assert start('whole').wait(300) == 0
    p, state = start('cut'), tmp_path/'cut/stages.json'
    until = time.time() + 300
    while time.time() < until and not (state.exists() and json.loads(state.read_text())['done']): time.sleep(0.01)
    p.send_signal(signal.SIGKILL); p.wait()
    done = json.loads(state.read_text())['done']
    assert start('cut').wait(300) == 0
    again = json.loads(state.read_text())['done']
    assert all(again[k] == done[k] for k in done) and len(again) == 3
    a, b = (torch.load(tmp_path/f'{n}.pt', weights_only=True) for n in ('whole', 'cut'))
    assert all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.slow
def test_command(tmp_path):
    "`resnet-course finetune` goes from a weights file to a tested model; a mistyped plan is one line"
    from resnet_course.models import create_model
    from resnet_course.weights import load_model, save_weights
    save_weights(create_model('resnet8', n_in=1, n_out=7), tmp_path/'w.safetensors', stats=([.3], [.3]))
    def cli(*args): return subprocess.run([sys.executable, '-m', 'resnet_course.cli', 'finetune', '--data', 'digits', '--n-train', '64', *args], cwd=tmp_path,
                                          env=dict(os.environ, PYTHONPATH=str(root)), capture_output=True, text=True, timeout=300)
    res = cli('--weights', 'w.safetensors', '--epochs', '1', '--bs', '32', '--precision', 'fp32')
    assert res.returncode == 0, res.stderr
    run = tmp_path/'runs/digits-resnet8-finetune-001'
    rec = json.loads((run/'run.json').read_text())
    assert [s['start_from'] for s in rec['finetune']['stages']] == ['initial', 'head', 'head']
    assert load_model(run/'model.safetensors').meta['vocab'] == list('0123456789')
    bad = cli('--weights', 'w.safetensors', '--plan', 'stagd')
    assert bad.returncode == 1 and "did you mean 'staged'" in bad.stderr and len(bad.stderr.strip().splitlines()) == 1
