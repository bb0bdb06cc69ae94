"Progress never fills a log: no bars, and a bounded number of lines, where nobody watches"
import io, subprocess, sys, threading
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

import pytest
from helpers import digits_learner, photos, run_command

from resnet_course import core, predict
from resnet_course.core import progress
from resnet_course.download import fetch
from resnet_course.evaluate import evaluate, tta
from resnet_course.finetune import Stage, run_stages
from resnet_course.images import decode_all
from resnet_course.learner import course_learner
from resnet_course.lr_find import find_lr
from resnet_course.predict import with_progress
from resnet_course.recipes import fit_recipe
from resnet_course.runs import train_run

def log_of(f, *args, **kwargs):
    "What a call writes where there is no terminal: lines without bars"
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out): f(*args, **kwargs)
    text = out.getvalue()
    assert not {'\r', '\x1b', '█', '\b'} & set(text), ascii(text)
    return text.splitlines()

def log_of_command(*args, code=0):
    "What a command writes where there is no terminal"
    codes = []
    lines = log_of(lambda: codes.append(run_command(*args)))
    assert codes == [code], lines
    return lines

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "120 photos in two classes, and so dozens of batches in every epoch"
    return photos(tmp_path_factory.mktemp('many')/'photos', 60, (24, 20))

@pytest.fixture(scope='module')
def run(folder, tmp_path_factory):
    "A finished run on them, and what `train` wrote"
    out = tmp_path_factory.mktemp('runs')
    lines = log_of_command('train', '--data', folder, '--arch', 'resnet8', '--size', 32, '--bs', 4,
                           '--epochs', 2, '--out', out)
    [path] = out.iterdir()
    return path, lines

def test_train(run):
    "A line for each epoch, whatever the number of batches"
    lines = run[1]
    assert sum(line.startswith('epoch ') for line in lines) == 2 and len(lines) < 25

def test_finetune(folder, tmp_path):
    lines = log_of_command('finetune', '--data', folder, '--weights', 'resnet20-fashion_mnist',
                           '--size', 32, '--bs', 4, '--epochs', 2, '--plan', 'head',
                           '--out', tmp_path)
    assert sum(line.startswith('epoch ') for line in lines) == 2 and len(lines) < 35

def test_evaluate(run):
    assert len(log_of_command('evaluate', run[0], '--bs', 1, '--split', 'train', '--tta')) < 40

def test_predict(run, folder, tmp_path):
    "A line for each image, or two lines in all if they go to a file; and one in ten seconds"
    def lines(*more):
        said = log_of_command('predict', folder, '--model', run[0], '--bs', 1, *more)
        return [line for line in said if not line.endswith('of 120 files')]
    assert len(lines()) == 121
    assert len(lines('--csv', tmp_path/'x.csv')) == 2

def test_data_check(folder): assert len(log_of_command('data', 'check', folder)) < 25

def test_data_export(tmp_path):
    assert len(log_of_command('data', 'export', 'digits', tmp_path/'digits')) == 1

def test_report_export_and_lr_find(run):
    assert len(log_of_command('report', run[0])) == 1
    assert len(log_of_command('export', run[0])) <= 3
    assert len(log_of_command('lr-find', '--data', 'digits', '--arch', 'resnet8', '-n', 20)) < 12

def test_decoding(folder):
    files = sorted(folder.rglob('*.png'))
    assert log_of(decode_all, files, 16, show=True) == []

def test_python(tmp_path):
    "Also in a script, which has fastai's table instead of one line for each epoch"
    learn = digits_learner(n_train=64)
    learn = course_learner(learn.dls, 'resnet8', seed=0)
    assert len(log_of(learn.fit, 3, .01)) == 4
    assert len(log_of(fit_recipe, learn, epochs=2)) == 3
    for f in (evaluate, tta, find_lr, lambda o: o.validate(), lambda o: o.get_preds()):
        assert log_of(f, learn) == []
    assert len(log_of(run_stages, learn, [Stage('head', -1, 2, .01)])) < 8
    assert len(log_of(train_run, 'digits', 'resnet8', epochs=2, n_train=64, out=tmp_path)) == 3

def test_terminals_and_notebooks_have_bars():
    "The test above would notice them"
    learn = course_learner(digits_learner(n_train=64).dls, 'resnet8', seed=0)
    with mock.patch('resnet_course.callbacks.can_show_bar', lambda: True):
        out = io.StringIO()
        with redirect_stdout(out): learn.fit(1, .01)
    assert '\r' in out.getvalue()

class Clock:
    "A clock that goes on by `step` seconds whenever it is read"
    def __init__(self, step): self.now, self.step = 0., step
    def monotonic(self):
        self.now += self.step
        return self.now

@pytest.mark.parametrize('n, step', [(9469, .01), (9469, 1.), (10, 1000.)])
def test_lines_come_now_and_then(n, step, monkeypatch):
    "However many items there are: one line a minute, or in `predict` one in ten seconds"
    for module, f, every in ((core, lambda: list(progress(range(n), n, 'decoding')), 60),
                             (predict, lambda: list(with_progress(range(n), n)), 10)):
        monkeypatch.setattr(module, 'time', Clock(step))
        assert len(log_of(f)) <= min(n, n*step/every + 1)

class Silent(SimpleHTTPRequestHandler):
    "A server that logs nothing"
    def log_message(self, *_): pass

def test_download(tmp_path):
    "One line that says what is downloaded"
    (tmp_path/'file').write_bytes(bytes(10**6))
    handler = partial(Silent, directory=tmp_path)
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}/file'
        assert log_of(fetch, url, tmp_path/'copy') == [f'downloading {url}']
        server.shutdown()

def test_a_process_of_its_own(tmp_path):
    "Both streams go to a file, as with nohup"
    with open(tmp_path/'log', 'w') as log:
        subprocess.run([sys.executable, '-m', 'resnet_course', 'train', '--data', 'digits',
                        '--arch', 'resnet8', '--epochs', '2', '--n-train', '96', '--bs', '4',
                        '--out', tmp_path/'runs'], stdout=log, stderr=log, check=True)
    text = (tmp_path/'log').read_bytes()
    assert b'\r' not in text and b'\x1b' not in text and text.count(b'\n') < 30
