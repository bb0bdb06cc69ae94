"Training on several processes, started for real (gloo, on the CPU): the same result as on one, every image counted once, one process that writes; and several seeds"
import json, os, signal, socket, subprocess, sys, time, traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fastai.callback.core import Callback
from fastai.metrics import F1Score, accuracy
from fastai.torch_core import rank_distrib
from resnet_course.checkpoint import Interrupted, read_checkpoint
from resnet_course.core import CourseError
from resnet_course.loaders import get_dls
from resnet_course.evaluate import evaluate
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe, get_recipe
from resnet_course import cli
from resnet_course.runs import list_runs, mean_ci, train_run

forks = pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork: fresh interpreters would take minutes')

def start(n, f, *args):
    "Fork `n` processes that find each other, and run `f(rank, *args)` in each; returns their ids"
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    pids = []
    for rank in range(n):
        if pid := os.fork(): pids.append(pid); continue
        status = 1
        try:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n), MASTER_ADDR='127.0.0.1',
                              MASTER_PORT=str(port), ACCELERATE_USE_CPU='true', GLOO_SOCKET_IFNAME='lo')
            torch.set_num_threads(1)
            f(rank, *args)
            status = 0
        except Interrupted: status = 130
        except BaseException: traceback.print_exc()
        finally: os._exit(status)
    return pids

def wait(pids, seconds=120):
    "Their exit statuses; all are killed if they take too long"
    end, res = time.monotonic() + seconds, {}
    while len(res) < len(pids):
        for pid in set(pids) - set(res):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done: res[pid] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > end: kill(set(pids) - set(res)); pytest.fail(f'still running after {seconds} s')
        time.sleep(0.005)
    return [res[pid] for pid in pids]

def kill(pids):
    for pid in pids: os.kill(pid, signal.SIGKILL)
    for pid in pids: os.waitpid(pid, 0)

def net(*norm, drop=0.):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, stride=4), *norm, torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Dropout(drop), torch.nn.Linear(256, 10))

def one_group(m): return [list(m.parameters())]

def learner(*norm, bs=16, augment=False, drop=0., metrics=accuracy, n_train=67):
    dls = get_dls('digits', bs=bs, n_train=n_train, valid_pct=0.0295, augment=augment)  # 53 to validate and to test: odd
    return course_learner(dls, net(*norm, drop=drop), seed=1, precision='fp32', splitter=one_group, metrics=metrics)

def fit(rank, out, kw):
    "Train; every process leaves its weights and history in `out`"
    learn = learner(**kw)
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, 'step', epochs=3, lr=0.05)
    rows = [{k: v for k, v in r.items() if 'seconds' not in k} for r in learn.history.rows]
    torch.save(dict(model=learn.model.state_dict(), rows=rows), out/f'{rank}.pt')

def results(out, n): return [torch.load(out/f'{r}.pt', weights_only=True) for r in range(n)]

def same(a, b, tol=0.): return all((v.double() - b[k].double()).abs().max() <= tol for k, v in a.items())

@forks
@pytest.mark.parametrize('n,kw', [(2, {}), (3, {}), (2, dict(metrics=[accuracy, F1Score(average='macro')]))], ids=['two', 'unequal shares', 'F1'])
def test_same_as_one_process(tmp_path, n, kw):
    "A net without BatchNorm: weights and history of one process with the same batches; every validation image counted once"
    fit('alone', tmp_path, kw)
    assert wait(start(n, fit, tmp_path, kw)) == [0]*n
    alone = torch.load(tmp_path/'alone.pt', weights_only=True)
    assert not same(alone['model'], net().state_dict(), 1e-2)  # it did train
    for res in results(tmp_path, n):
        assert same(res['model'], alone['model'], 1e-6)
        for a, b in zip(res['rows'], alone['rows'], strict=True): assert a == pytest.approx(b, abs=2e-6)
        right = [r['accuracy']*53 for r in res['rows']]  # a whole number of 53 images
        assert right == pytest.approx([round(x) for x in right], abs=1e-4)

@forks
def test_batchnorm_ends_the_same_everywhere(tmp_path):
    "Each process normalizes with its share's statistics, so the result is near one process's, not equal; but all processes agree"
    def bn(rank, out): fit(rank, out, {})
    global net
    plain, net = net, lambda *norm, drop=0.: plain(torch.nn.BatchNorm2d(4), drop=drop)
    try:
        fit('alone', tmp_path, {})
        assert wait(start(2, bn, tmp_path)) == [0, 0]
    finally: net = plain
    alone, (a, b) = torch.load(tmp_path/'alone.pt', weights_only=True), results(tmp_path, 2)
    assert same(a['model'], b['model']) and a['rows'] == b['rows']
    assert not same(a['model'], alone['model'], 1e-6) and abs(a['rows'][-1]['train_loss'] - alone['rows'][-1]['train_loss']) < 0.2

def survive(rank, folder):
    "Train with dropout and augmentation, going on from `folder` where there is a checkpoint"
    learn = learner(bs=8, augment=True, drop=0.5)
    resume = (folder/'checkpoint.pt').exists()
    with learn.no_bar(), learn.no_logging():
        fit_recipe(learn, 'one_cycle', epochs=6, checkpoint=folder, resume=resume, minutes=0)
    torch.save(learn.model.state_dict(), folder/f'final{rank}.pt')

@forks
def test_killed_and_taken_up_again(tmp_path):
    for d in ('whole', 'cut'): (tmp_path/d).mkdir()
    begin = time.monotonic()
    assert wait(start(2, survive, tmp_path/'whole')) == [0, 0]
    took, kills = time.monotonic() - begin, 0
    for share in (0.4, 0.55, 0.7):
        pids = start(2, survive, tmp_path/'cut')
        time.sleep(share*took)
        if os.waitpid(pids[0], os.WNOHANG)[0]: kill(pids[1:]); continue
        kill(pids)
        kills += 1
    assert wait(start(2, survive, tmp_path/'cut')) == [0, 0] and kills
    whole, cut = ([torch.load(tmp_path/d/f'final{r}.pt', weights_only=True) for r in range(2)] for d in ('whole', 'cut'))
    assert same(whole[0], whole[1]) and same(cut[0], whole[0]) and same(cut[1], whole[0])

@forks
def test_ctrl_c_in_one_process_stops_all(tmp_path):
    (tmp_path/'cut').mkdir()
    pids = start(2, survive, tmp_path/'cut')
    while not (tmp_path/'cut'/'checkpoint.pt').exists(): time.sleep(0.005)
    os.kill(pids[1], signal.SIGINT)
    assert wait(pids) == [130, 130]
    assert [p.name for p in (tmp_path/'cut').iterdir()] == ['checkpoint.pt']

class CtrlC(Callback):
    "Ctrl-C in process 1, in the fourth batch"
    order = 200
    def after_batch(self):
        if self.training and self.iter == 3 and rank_distrib(): signal.raise_signal(signal.SIGINT)

def accumulates(rank, folder):
    learn = learner(bs=8, n_train=160)
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, replace(get_recipe('step'), accumulate=2), epochs=1, checkpoint=folder, cbs=CtrlC())

@forks
def test_ctrl_c_between_two_steps_of_several_batches(tmp_path):
    "Processes ask each other between steps only, and every tenth batch need not be the last of a step"
    assert wait(start(2, accumulates, tmp_path)) == [130, 130]
    assert read_checkpoint(tmp_path)['pos']['iter'] == 12

class Poison(Callback):
    "The loss of the second batch is NaN in some processes"
    order = -100
    def __init__(self, who): self.who = who
    def after_loss(self):
        if self.training and self.iter == 1 and rank_distrib() in self.who:
            self.learn.loss_grad = self.learn.loss_grad*float('nan')
            self.learn.loss = self.learn.loss_grad.clone()

def poisoned(rank, who):
    learn = learner()
    says = 'the loss is nan in epoch 0, batch 1: lower' if rank in who else 'the loss is not finite in another process in epoch 0, batch 1'
    with learn.no_bar(), learn.no_logging(), pytest.raises(CourseError, match=says): fit_recipe(learn, 'step', epochs=2, lr=0.05, cbs=Poison(who))

@forks
@pytest.mark.parametrize('who', [(0, 1), (0,), (1,)], ids=['both', 'first', 'second'])
def test_nan_in_one_process_stops_both_with_a_sentence(who): assert wait(start(2, poisoned, who)) == [0, 0]

def whole_run(rank, out):
    rec, report = train_run('digits', 'resnet20', epochs=1, bs=16, n_train=32, out=out/'runs')
    (out/f'{rank}.json').write_text(json.dumps(dict(path=rec['path'], top1=report.top1, n=report.n)))

@forks
def test_only_the_first_process_writes(tmp_path):
    assert wait(start(2, whole_run, tmp_path)) == [0, 0]
    a, b = (json.loads((tmp_path/f'{r}.json').read_text()) for r in range(2))
    rec, = list_runs(tmp_path/'runs')
    assert a == b and a['n'] == rec['test']['n'] == rec['images']['test'] == 180 and rec['processes'] == 2
    assert sorted(p.name for p in Path(a['path']).iterdir()) == ['curves.png', 'curves.svg', 'history.csv', 'model.safetensors', 'run.json']
    dls = get_dls('digits', n_train=32)
    assert evaluate(Path(a['path'])/'model.safetensors', dls=dls).top1 == a['top1']

def too_many(rank, out):
    with pytest.raises(CourseError, match='3 processes cannot share a batch of 2 images: start at most 2'):
        fit(rank, out, dict(bs=2))

@forks
def test_more_processes_than_images_in_a_batch(tmp_path): assert wait(start(3, too_many, tmp_path)) == [0]*3

def no_seed(rank, out):
    learn = course_learner(get_dls('digits', bs=16, n_train=64, seed=None), net(), seed=1, precision='fp32', splitter=one_group)
    with pytest.raises(CourseError, match='have split the images differently'), learn.no_bar(): fit_recipe(learn, 'step', epochs=1, lr=0.05)

@forks
def test_processes_that_each_draw_a_split_of_their_own(tmp_path): assert wait(start(2, no_seed, tmp_path)) == [0, 0]

def torchrun(tmp_path, *args):
    "What two processes print"
    cmd = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', *args]
    env = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[1]), 'OMP_NUM_THREADS': '1'}
    p = subprocess.run(cmd, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-3000:]
    return p.stdout

def test_torchrun(tmp_path):
    "As a user does it: one line an epoch, one record"
    out = torchrun(tmp_path, '-m', 'resnet_course.cli', 'train', '--data', 'digits', '--n-train', '32', '--bs', '16', '--epochs', '1')
    assert out.count('epoch 1/1') == out.count('test accuracy') == 1
    assert [r['processes'] for r in list_runs(tmp_path/'runs')] == [2]

def test_processes_part_while_python_runs(tmp_path):
    "A thread of gloo's that holds a message when Python shuts down aborts a process whose work is done"
    (tmp_path/'program.py').write_text('import atexit, os, torch.distributed as dist\n'
        'from pathlib import Path\n'
        'note = []\n'
        'atexit.register(lambda: Path(os.environ["RANK"]).write_text(f"{note} joined {dist.is_initialized()}"))\n'  # runs last
        'from resnet_course.distributed import connect\n'
        'note.append(connect())\n')
    torchrun(tmp_path, 'program.py')
    assert [(tmp_path/str(r)).read_text() for r in range(2)] == ['[2] joined False']*2  # files: two that print mix their words

def test_seeds_give_mean_and_spread(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', f'resnet-course train --data digits --n-train 64 --bs 32 --epochs 1 --seed 5 --seeds 2 --out {tmp_path}'.split())
    with pytest.raises(SystemExit) as e: cli.main()
    m, out = mean_ci([r['test']['top1'] for r in list_runs(tmp_path)]), capsys.readouterr().out
    assert not e.value.code and [r['seed'] for r in list_runs(tmp_path)] == [5, 6]
    assert f"2 seeds: test accuracy {m['mean']:.2%}, standard deviation {m['sd']:.2%}" in out
