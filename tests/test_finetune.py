"Plans: files that people write, folders that are resumed, and what is refused before training"
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest, torch
from fastai.callback.core import Callback
from helpers import digits_learner, photo_learner, quiet, run_command

from resnet_course.core import CourseError
from resnet_course.finetune import Stage, finetune_learner, get_plan, load_plan, run_stages
from resnet_course.models import create_model
from resnet_course.report import html_report
from resnet_course.runs import finetune_run
from resnet_course.reuse import evaluate_run
from resnet_course.saving import save_weights

root = Path(__file__).resolve().parent.parent

def fashion_learner():
    "A quiet learner for digits with the body of a network for Fashion-MNIST"
    return quiet(finetune_learner('digits', 'resnet20-fashion_mnist', n_train=128))

# Files

def test_rates_as_people_write_them(tmp_path):
    "YAML reads 1e-3 as a string"
    path = tmp_path/'p.yaml'
    path.write_text('- {name: 1, freeze_to: -1, epochs: 1, lr: 1e-3}\n'
                    '- {name: two, freeze_to: 0, epochs: 1, lr: {low: 1e-5, high: 1e-3}}\n')
    one, two = load_plan(path)
    assert (one.name, one.lr, two.lr) == ('1', 1e-3, slice(1e-5, 1e-3))
    path.write_bytes('- {name: Köpfe}'.encode('latin-1'))
    with pytest.raises(CourseError, match='not YAML'): load_plan(path)

# Resuming

def test_stages_of_an_earlier_process_are_in_the_history(tmp_path):
    plan = get_plan('chain', fashion_learner(), 1, 0.002)
    run_stages(fashion_learner(), plan[:1], tmp_path/'a')
    learn = fashion_learner()
    run_stages(learn, plan, tmp_path/'b')
    whole = learn.history.rows
    class Die(Callback):
        def before_fit(self):
            if len(self.learn.history.rows) == 1: raise KeyboardInterrupt
    learn = fashion_learner()
    learn.add_cb(Die())
    with pytest.raises(KeyboardInterrupt): run_stages(learn, plan, tmp_path/'c')
    learn = fashion_learner()
    run_stages(learn, plan, tmp_path/'c')
    losses = [[(r['epoch'], r['train_loss']) for r in rows] for rows in (learn.history.rows, whole)]
    assert losses[0] == losses[1]

def test_stages_of_other_weights_are_refused(tmp_path):
    learn = fashion_learner()
    plan = get_plan('head', learn, 1, 0.002)
    run_stages(learn, plan, tmp_path)
    learn.weights_report.source = 'other.safetensors'
    with pytest.raises(CourseError, match='for a different starting point'):
        run_stages(learn, plan, tmp_path)
    (tmp_path/'stages.json').write_text('[]')
    with pytest.raises(CourseError, match='is damaged'): run_stages(learn, plan, tmp_path)

def test_stages_on_other_files_are_refused(tmp_path, photo_folder):
    plan = [Stage('head', -1, 1, 0.1)]
    run_stages(photo_learner(photo_folder), plan, tmp_path/'run')
    f = tmp_path/'run'/'stages.json'
    old = json.loads(f.read_text(encoding='utf-8'))
    (photo_folder/'a'/'3.png').rename(photo_folder/'a'/'99.png')
    with pytest.raises(CourseError, match='different .*split of the images'):
        run_stages(photo_learner(photo_folder), plan, tmp_path/'run')
    del old['plan']['split_id']   # as an older version wrote it
    f.write_text(json.dumps(old), encoding='utf-8')
    run_stages(photo_learner(photo_folder), plan, tmp_path/'run')

killed = '''
import sys
from resnet_course.loaders import get_dls
from resnet_course.finetune import Stage, run_stages
from resnet_course.freeze import snapshot
from resnet_course.learner import course_learner
import torch
dls = get_dls('digits', bs=32, n_train=64)
learn = course_learner(dls, 'resnet8', seed=3, precision='fp32')
plan = [Stage('head', -1, 2, 0.1), Stage('more', -2, 2, 0.01, start_from='head'),
        Stage('most', -3, 2, 0.01, start_from='head')]
with learn.no_bar(), learn.no_logging(): run_stages(learn, plan, sys.argv[1], keep='last')
torch.save(snapshot(learn), sys.argv[2])
'''

@pytest.mark.slow
def test_killed_plan_is_resumed(tmp_path):
    "kill -9 in the second stage: the first is not repeated, and the result has the same bits"
    (tmp_path/'plan.py').write_text(killed)
    def start(name):
        args = [sys.executable, tmp_path/'plan.py', tmp_path/name, tmp_path/f'{name}.pt']
        return subprocess.Popen(list(map(str, args)), env=dict(os.environ, PYTHONPATH=str(root)))
    state = tmp_path/'cut/stages.json'
    def read_done(): return json.loads(state.read_text())['done'] if state.exists() else {}
    assert start('whole').wait(300) == 0
    p = start('cut')
    until = time.time() + 300
    while time.time() < until and not read_done(): time.sleep(0.01)
    p.send_signal(signal.SIGKILL)
    p.wait()
    done = read_done()
    assert start('cut').wait(300) == 0
    again = read_done()
    assert all(again[k] == done[k] for k in done) and len(again) == 3
    a, b = (torch.load(tmp_path/f'{name}.pt', weights_only=True) for name in ('whole', 'cut'))
    assert all(torch.equal(a[k], b[k]) for k in a)

def test_resumed_from_another_folder(tmp_path, photo_folder, monkeypatch):
    "Images, weights and plan that were given by relative paths"
    def stop(learn): raise KeyboardInterrupt
    (tmp_path/'here').mkdir()
    photo_folder.rename(tmp_path/'here'/'photos')
    (tmp_path/'here'/'plan.yaml').write_text('- {name: one, freeze_to: -1, epochs: 1, lr: .1}')
    save_weights(create_model('resnet8'), tmp_path/'here'/'w.safetensors')
    monkeypatch.chdir(tmp_path/'here')
    with pytest.raises(KeyboardInterrupt):
        finetune_run('photos', 'w.safetensors', 'plan.yaml', bs=8, size=32, setup=stop)
    (tmp_path/'there').mkdir()
    monkeypatch.chdir(tmp_path/'there')
    [run] = (tmp_path/'here'/'runs').iterdir()
    rec, _, report = finetune_run(resume=run, setup=quiet)
    monkeypatch.chdir(tmp_path)
    assert evaluate_run(rec['path'])[0].top1 == report.top1
    # names stay names, also where a file or folder is called like that
    for name in ('digits', 'head'): Path(name).mkdir()
    with pytest.raises(CourseError, match='a folder digits here'):
        finetune_run('digits', 'resnet20-fashion_mnist', 'head')

# What is refused, and what is not

def test_plan_without_validation_images():
    with pytest.raises(CourseError, match='needs validation images'):
        run_stages(digits_learner(n_train=64, valid_pct=0, seed=None), 'head')

def test_alexnet_has_no_stem(monkeypatch):
    "`finetune --arch alexnet_tv --weights torchvision` was refused for an option that nobody gave"
    monkeypatch.setattr('resnet_course.finetune.load_weights', lambda *args, **kwargs: None)
    learn = finetune_learner('digits', 'torchvision', 'alexnet_tv', n_train=64, size=64)
    assert learn.model.cfg['name'] == 'alexnet_tv'

@pytest.mark.parametrize('as_file', [False, True])
def test_network_of_the_preferred_set(as_file, tmp_path):
    "The network is that of the set that `load_weights` takes, from a dict as from a file"
    student, teacher = create_model('resnet8', n_in=1), create_model('resnet20', n_in=1)
    sets = dict(student=student.state_dict(), teacher=teacher.state_dict())
    torch.save(sets, tmp_path/'w.pth')
    learn = finetune_learner('digits', tmp_path/'w.pth' if as_file else sets, n_train=64)
    assert learn.model.cfg['name'] == 'resnet20'
    assert torch.equal(learn.model.layer1[0].conv1.weight, teacher.layer1[0].conv1.weight)

# What is said about it

def test_command_and_report_show_stages_and_proof(tmp_path, capfd):
    assert run_command('finetune', '--weights', 'resnet20-fashion_mnist', '--epochs', 1,
                       '--n-train', 64, '--bs', 32, '--precision', 'fp32', '--out', tmp_path) == 0
    said, err = capfd.readouterr()
    assert 'digits: 64 training, 180 validation, 180 test images' in said
    assert 'head: 2 of 2 trainable tensors changed; 0 of 57 frozen tensors changed' in said
    assert len(set(err.splitlines())) == len(err.splitlines()), err   # no warning twice
    run, = tmp_path.iterdir()
    page = html_report(run).read_text(encoding='utf-8')
    assert 'evaluated 4 times: after each of the 3 stages, and once more' in page
    for text in ('<td>0.002</td>', '<td>0.0002</td>', '0 of 57 frozen', 'evaluated again'):
        assert text in page, text
    assert 'evaluated once' not in page and 'one for each stage' in page

def test_report_of_damaged_stages(tmp_path):
    rec, _, _ = finetune_run(weights='resnet20-fashion_mnist', plan='head', epochs=1, n_train=64,
                             bs=32, out=tmp_path, setup=quiet)
    f = Path(rec['path'])/'run.json'
    for stages in (3, [], [3], [dict(name='x')], [dict(rec['finetune']['stages'][0], lr=[])]):
        f.write_text(json.dumps(dict(rec, finetune=dict(rec['finetune'], stages=stages))))
        with pytest.raises(CourseError, match='stages in its record are damaged'):
            html_report(f.parent)
