"Several seeds, and folds: interrupted or killed, they go on with what is missing, to the same bits"
import json, os, shutil, signal

import pytest
from fastai.callback.core import Callback
from helpers import CtrlC, digits_learner, needs_fork, quiet, run_command
from safetensors.torch import load_file

from resnet_course.core import CourseError, read_json, write_json
from resnet_course.checkpoint import Interrupted
from resnet_course.records import list_runs
from resnet_course.runs import kfold_run, seeds_of, seeds_run, unfinished_seeds

pytestmark = pytest.mark.usefixtures('one_thread')
TRAIN = dict(data='digits', arch='resnet8', n_train=64, bs=16, epochs=2, precision='fp32')
TUNE = dict(data='digits', weights='resnet20-fashion_mnist', plan='staged', n_train=48, bs=16,
            epochs=1, precision='fp32', finetune=True)
STOP = 5   # batches: in the second epoch of `TRAIN`, and in the second stage of `TUNE`

class Kill(Callback):
    "End the process without warning, as a power failure does, after `n` batches"
    order = 200
    def __init__(self, n): self.n = n
    def after_batch(self):
        if not self.training: return
        self.n -= 1
        if not self.n: os.kill(os.getpid(), signal.SIGKILL)

def killed(run):
    "Call `run` in another process, with a setup that kills it in its second training run"
    pid = os.fork()
    if pid: return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    begun = []
    def setup(learn):
        begun.append(quiet(learn))
        if len(begun) == 2: learn.add_cb(Kill(STOP))
    try: run(setup=setup)
    finally: os._exit(1)

def seeds(**how): return seeds_run([1, 2, 3], **how)
def folds(**how): return kfold_run(3, seed=1, **how)

def weights(folder):
    "The bytes of all networks, in the order of their runs"
    files = sorted(folder.rglob('model.safetensors'))
    return [{k: v.numpy().tobytes() for k, v in load_file(f).items()} for f in files]

def rows(res):
    "What does not depend on the folder"
    found = res.get('folds') or res['seeds']
    return [{k: v for k, v in row.items() if k != 'run'} for row in found]

@needs_fork
@pytest.mark.parametrize('series, how', [(seeds, TRAIN), (seeds, TUNE), (folds, TRAIN)])
def test_killed(series, how, tmp_path):
    whole = series(out=tmp_path/'whole', setup=quiet, **how)
    assert killed(lambda **kw: series(out=tmp_path/'cut', **how, **kw)) == -signal.SIGKILL
    [noted] = tmp_path.glob('cut/*seeds.json') if series is seeds else tmp_path.glob('cut/*folds-*')
    trained, told = [], []
    def setup(learn): trained.append(quiet(learn).dls.cfg['fold'] or learn.seed)
    again = series(resume=noted, setup=setup, tell=told.append, finetune=how.get('finetune', False))
    names = [1, 2, 3]
    assert trained == ([[2, 3], [3, 3]] if series is folds else names[1:])
    assert told == [f'resuming 3 {series.__name__}: 1 finished; 2 from its checkpoint; '
                    '3 from the start']
    assert rows(again) == rows(whole) and again['top1'] == whole['top1']
    assert weights(tmp_path/'cut') == weights(tmp_path/'whole')

def cut(tmp_path, at=2, **how):
    "Seeds that are interrupted while the run number `at` trains; their file"
    begun = []
    def setup(learn):
        begun.append(quiet(learn))
        if len(begun) == at: learn.add_cb(CtrlC(1, 1))
    with pytest.raises(Interrupted, match=f'{at - 1} of 3 seeds are finished') as e:
        seeds(out=tmp_path, setup=setup, **dict(TRAIN, **how))
    return e.value.path

@pytest.mark.filterwarnings('ignore:.*was also trained with')
@pytest.mark.parametrize('name', ['digits-resnet8-001-seeds.json', 'digits-resnet8-002'])
def test_on_the_command_line(name, tmp_path, capfd):
    "From the file, or from the run that was interrupted"
    file = cut(tmp_path/'cut', recipe='step')
    args = ['--data', 'digits', '--arch', 'resnet8', '--n-train', 64, '--bs', 16, '--epochs', 2,
            '--precision', 'fp32', '--recipe', 'step', '--seed', 1, '--seeds', 3]
    assert run_command('train', *args, '--out', tmp_path/'whole') == 0
    capfd.readouterr()
    assert file == tmp_path/'cut/digits-resnet8-001-seeds.json'
    assert run_command('finetune', '--resume', file.with_name(name)) == 1
    assert 'belong to `train`' in capfd.readouterr().err
    assert run_command('train', '--resume', file.with_name(name)) == 0
    out = capfd.readouterr().out
    assert out.startswith('resuming 3 seeds: 1 finished; 2 from its checkpoint; 3 from the start\n')
    res, whole = read_json(file), read_json(tmp_path/'whole/digits-resnet8-001-seeds.json')
    assert f"3 seeds: test accuracy {res['top1']['mean']:.2%}" in out and str(file) in out
    assert rows(res) == rows(whole) and res['top1'] == whole['top1'] and 'unfinished' not in res
    assert weights(tmp_path/'cut') == weights(tmp_path/'whole')
    assert [r['recipe']['name'] for r in list_runs(tmp_path/'cut')] == ['step']*3
    # nothing is left to do
    assert run_command('train', '--resume', file) == 1
    assert 'all seeds are finished' in capfd.readouterr().err

def test_the_advice_works(tmp_path, capfd, monkeypatch):
    "Ctrl-C prints the command that resumes all seeds"
    def announce(learn): quiet(learn).add_cb(CtrlC(1, 1))
    monkeypatch.setattr('resnet_course.cli._announce', announce)
    assert run_command('train', '--data', 'digits', '--arch', 'resnet8', '--n-train', 64, '--bs',
                       16, '--epochs', 2, '--seeds', 2, '--out', tmp_path) == 130
    err = capfd.readouterr().err
    file = tmp_path/'digits-resnet8-001-seeds.json'
    assert '0 of 2 seeds are finished' in err and f'train --resume {file}\n' in err

@pytest.mark.filterwarnings('ignore:.*was also trained with')
def test_what_is_left_of_interrupted_seeds(tmp_path):
    "A finished run that was not noted is not repeated; one that is gone is"
    file = cut(tmp_path, at=3)
    state = read_json(file)
    assert len(state['seeds']) == 2 and seeds_of(tmp_path/'digits-resnet8-001')['top1']['n'] == 2
    assert unfinished_seeds(tmp_path/'digits-resnet8-002') == file
    write_json(dict(state, seeds=[]), file)
    assert seeds_of(tmp_path/'digits-resnet8-001') is None
    shutil.rmtree(tmp_path/'digits-resnet8-002')
    trained, told = [], []
    def setup(learn): trained.append(quiet(learn).seed)
    res = seeds_run(resume=tmp_path/'digits-resnet8-001', setup=setup, tell=told.append)
    assert trained == [2, 3] and '2 from the start' in told[0] and len(res['seeds']) == 3

def test_what_cannot_be_recorded_is_given_again(tmp_path):
    def stop(learn): quiet(learn).add_cb(CtrlC(0, 1))
    teacher = digits_learner(n_train=64).model   # a network has no form in JSON
    with pytest.raises(Interrupted) as e:
        seeds_run([1, 2], setup=stop, out=tmp_path, teacher=teacher, **TRAIN)
    with pytest.raises(CourseError, match='could not record teacher'):
        seeds_run(resume=e.value.path, setup=quiet)

@pytest.mark.parametrize('change', [
    dict(seeds=None), dict(unfinished=[]), dict(unfinished={}), dict(schema='1'),
    dict(wanted=[1]), dict(wanted=['1', '2']), dict(begun={'1': 5}), dict(begun={'1': '../x'}),
    dict(asked=[]), dict(asked=dict(out='/tmp')), dict(asked=dict(seed=1)), dict(finetune='no'),
    dict(asked=dict(recipe={})), dict(not_recorded=[1])], ids=str)
def test_damaged(change, tmp_path):
    todo = dict(finetune=False, asked=dict(data='digits'), not_recorded=[], wanted=[1, 2], begun={})
    state = dict(schema=1, seeds=[], unfinished=todo)
    file = tmp_path/'x-seeds.json'
    for k, v in change.items(): (state if k in state else todo)[k] = v
    file.write_text(json.dumps(state))
    with pytest.raises(CourseError, match='is damaged'): seeds_run(resume=file, setup=quiet)

@pytest.mark.parametrize('how, says', [
    (dict(seeds=[1]), 'at least two'), (dict(seeds=[1, 1]), 'different'),
    (dict(seeds='12'), 'at least two'), (dict(seeds=[1, 2], fold=(1, 2)), 'leave it out'),
    (dict(seeds=[1, 2], seed=1), 'leave it out'), (dict(seeds=[1, 2], epochs=0), 'at least one')])
def test_impossible(how, says, tmp_path):
    with pytest.raises(CourseError, match=says): seeds_run(out=tmp_path/'runs', **how)
    assert not list(tmp_path.glob('runs/*'))

def test_no_seeds_are_here(tmp_path):
    with pytest.raises(CourseError, match='no interrupted seeds'): seeds_run(resume=tmp_path)
