"Records, weights and names from other people: nothing in them runs, and each fault gets one line"
import inspect, json, os, shutil, socket, subprocess
from types import SimpleNamespace

import pytest
from browser import open_browser, watched
from helpers import photos, quiet, run_command

from resnet_course import records, report
from resnet_course.checkpoint import read_checkpoint
from resnet_course.core import CourseError
from resnet_course.finetune import load_plan
from resnet_course.loaders import get_dls
from resnet_course.report import html_report
from resnet_course.records import list_runs, load_run, newest_model, runs_table
from resnet_course.runs import train_run
from resnet_course.reuse import run_learner
from resnet_course.saving import load_model
from resnet_course.weight_files import read_weights

script = '<script>document.title = "owned"</script><img src=x onerror="document.title = 1">'
clear_screen = '\x1b[2J\x1b]0;owned\x07'

@pytest.fixture(scope='module')
def good(tmp_path_factory):
    "A finished run"
    out = tmp_path_factory.mktemp('records')
    rec, _ = train_run('digits', 'resnet8', epochs=1, n_train=64, bs=32, out=out, setup=quiet)
    return rec

@pytest.fixture
def change(good, tmp_path):
    "A function that writes a changed copy of the record into a folder of its own"
    def write(text=None, **changes):
        rec = {k: v for k, v in {**good, **changes}.items() if v is not ...}
        folder = tmp_path/'runs'/'changed'
        folder.mkdir(parents=True, exist_ok=True)
        (folder/'run.json').write_text(json.dumps(rec) if text is None else text)
        return folder
    return write

def one_line(call, says=''):
    "The message of a `CourseError` of one line"
    with pytest.raises(CourseError) as e: call()
    text = str(e.value)
    assert says in text and '\n' not in text and '\x1b' not in text, text
    return text

nested = []
for _ in range(900): nested = [nested]

@pytest.mark.parametrize('entries', [
    dict(schema=99), dict(schema=None), dict(schema='1'), dict(schema=True), dict(schema=...),
    dict(history=...), dict(history=None), dict(history=[1]), dict(history=[{}]),
    dict(history=[dict(epoch='0', train_loss=1.)]), dict(history=[dict(epoch=0, train_loss=None)]),
    dict(model=...), dict(model=[]), dict(model=dict(name=3)), dict(data='digits'),
    dict(data=dict(name_or_path=[])), dict(recipe='one_cycle'), dict(recipe=dict(name=[])),
    dict(seed='x'), dict(seed=1.5), dict(seed=10**400), dict(precision=None), dict(n_params='9'),
    dict(train_seconds=...), dict(train_seconds='1'), dict(train_seconds=10**400),
    dict(train_seconds=float('nan')), dict(train_seconds=1e308), dict(train_seconds=-1),
    dict(n_params=-1), dict(history=[dict(epoch=-1, train_loss=1.)]),
    dict(test=[]), dict(test=dict(top1=.5)), dict(versions=[]), dict(machine=3), dict(images=[]),
    dict(finished=3), dict(command=['x']), dict(split_id=3), dict(nested=nested)], ids=str)
def test_wrong_entry(change, entries):
    one_line(lambda: load_run(change(**entries)), 'run.json')

@pytest.mark.parametrize('text', ['', '{', 'null', '[]', '3', '"x"', '['*5000, '[' + '9'*5000,
                                  '{"a":'*5000 + '1' + '}'*5000], ids=lambda t: t[:8])
def test_no_record(change, text):
    one_line(lambda: load_run(change(text)), 'not a run record')

def test_wrong_test_result(good, change):
    nan, inf = float('nan'), float('inf')
    for key, values in dict(top1=['x', nan, inf, 1e308, -5, 1.1], top5=[nan, 2], n=[2.5, 0, -1],
                            top1_ci=[[1], [nan, nan], [0, 2], ['0', '1']],
                            loss=[None, nan, inf]).items():
        for value in values:
            one_line(lambda: load_run(change(test={**good['test'], key: value})), 'test.')

def test_bad_record_is_skipped_and_named(good, change):
    "It does not get in the way of the others"
    folder = change(schema=99)
    other = folder.parent/'good-001'
    shutil.copytree(good['path'], other)
    with pytest.warns(UserWarning, match='skipped a run: .*changed.*schema is 99'):
        assert [r['run'] for r in runs_table(list_runs(folder.parent))] == ['good-001']
    with pytest.warns(UserWarning, match='skipped'):
        assert newest_model(folder.parent) == other/'model.safetensors'

def test_command_names_the_bad_record(good, change, capfd):
    folder = change('{')
    assert run_command('runs', '--out', folder.parent) == 0
    err = capfd.readouterr().err
    assert err.startswith('warning: skipped a run: ') and 'changed' in err and err.count('\n') == 1

def test_unknown_settings_of_the_data(good, change):
    folder = change(data=dict(name_or_path='digits', evil=1))
    shutil.copy(good['path'] + '/model.safetensors', folder)
    one_line(lambda: run_learner(folder), 'evil')

# The report

hostile = dict(seed=0, precision=script, recipe=dict(name=script, source=script),
               command=script, versions={script: script}, machine={script: script},
               finished=script, data=dict(name_or_path=script), model=dict(name=script, x=script))

@pytest.mark.browser
def test_hostile_report_runs_no_script(change):
    page_file = html_report(change(**hostile))
    assert '<script' not in page_file.read_text() and '&lt;script' in page_file.read_text()
    with open_browser() as browser:
        page, wrong = watched(browser.new_context())
        page.goto(page_file.as_uri())
        assert page.title() == 'changed'
        assert page.locator('script').count() == 0 and page.locator('img[src=x]').count() == 0
        assert not wrong

def test_report_has_no_way_around_the_escapes():
    "Nothing is marked as safe HTML"
    source = inspect.getsource(report)
    assert 'autoescape=True' in source
    assert not any(word in source for word in ('Markup', '|safe', '| safe', 'autoescape false'))

# The terminal

def test_escapes_do_not_reach_the_terminal(change, capfd, tmp_path):
    folder = change(precision=clear_screen, recipe=dict(name=clear_screen))
    assert run_command('runs', '--out', folder.parent) == 0
    assert run_command('predict', tmp_path/f'{clear_screen}.png') == 1
    assert run_command('evaluate', tmp_path/clear_screen) == 1
    assert run_command('train', '--data', clear_screen) == 1
    both = capfd.readouterr()
    assert r'\x1b[2J' in both.out and r'\x1b[2J' in both.err
    assert not any(c in both.out + both.err for c in '\x1b\x07')

# Empty arguments

@pytest.mark.parametrize('args', [
    ['train', '--data', ''], ['train', '--data='], ['train', '--out', ''], ['train', '--out='],
    ['train', '--resume', ''], ['finetune', '--weights', ''], ['finetune', '--plan', ''],
    ['evaluate', ''], ['evaluate', 'x', '--data', ''], ['report', 'x', '--out', ''],
    ['predict', ''], ['predict', 'x', '--model', ''], ['export', ''], ['export', '-o', ''],
    ['data', 'check', ''], ['data', '--root', ''], ['lr-find', '--plot', ''], ['runs', '--out', ''],
    ['lessons', '']], ids=' '.join)
def test_empty_argument(args, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(*args) == 1
    err = capfd.readouterr().err
    assert err.startswith('error: ') and 'is empty' in err and err.count('\n') == 1
    assert not list(tmp_path.iterdir())

# Names that no file can have

@pytest.mark.parametrize('name', ['x'*300, 'no/such/' + 'x'*300, 'a\ud800b'], ids=ascii)
def test_impossible_names(name, good, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = good['path']
    for args in (['train', '--data', name], ['train', '--weights', f'{name}.pth'],
                 ['finetune', '--weights', f'{name}.pth'], ['finetune', '--data', f'{name}.csv'],
                 ['evaluate', run, '--data', name], ['compare', run, run, '--data', name],
                 ['report', run, '--data', name], ['predict', run, name, '--model', run],
                 ['data', 'export', f'{name}.csv', 'new'], ['lr-find', '--data', f'{name}.csv']):
        assert run_command(*args) in (1, 2)
        err = capfd.readouterr().err
        assert 'Traceback' not in err and len(err) < 1100, err
    assert not list(tmp_path.iterdir())

def test_a_record_with_an_impossible_name(good, change, tmp_path):
    "What a foreign record says about its images can be anything"
    photos(tmp_path/'photos', 2, classes='0123456789')
    for name in ('x'*300, 'a\0b', 'a\ud800b'):
        folder = change(data=dict(name_or_path=name))
        shutil.copy(good['path'] + '/model.safetensors', folder)
        one_line(lambda: run_learner(folder), 'not the name of a file')
        learn, _ = run_learner(folder, tmp_path/'photos')
        assert len(learn.dls.loaders[2].dataset) == 20

def test_parts_with_impossible_names(tmp_path):
    for name in ('x'*300, 'a\0b', 'a\ud800b'):
        index = tmp_path/'model.safetensors.index.json'
        index.write_text(json.dumps(dict(weight_map={'fc.weight': name})))
        one_line(lambda: read_weights(index), 'not the name of a file')

# Files that are none

@pytest.fixture(params=['pipe', 'socket', 'device', 'loop'])
def no_file(request, tmp_path):
    "Something that must not be opened, or cannot be"
    if request.param == 'pipe': os.mkfifo(tmp_path/'x')
    elif request.param == 'device': return '/dev/zero'
    elif request.param == 'loop': (tmp_path/'x').symlink_to(tmp_path/'x')
    else:
        s = socket.socket(socket.AF_UNIX)
        s.bind(str(tmp_path/'x'))
        s.close()
    return tmp_path/'x'

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='there are no named pipes here')
def test_pipes_and_devices_are_not_opened(no_file, good, change, tmp_path, capfd):
    for f in (load_run, load_model, read_checkpoint, load_plan): one_line(lambda: f(no_file))
    csv = tmp_path/'x.csv'
    if no_file != '/dev/zero':
        os.rename(no_file, csv)
        if not csv.is_symlink(): one_line(lambda: get_dls(csv))
        os.rename(csv, no_file)
    assert run_command('predict', no_file, '--model', good['path']) == 1
    err = capfd.readouterr().err
    assert str(no_file) in err and err.count('could not be read') + err.count('no such file') == 1

@pytest.fixture
def checkout(tmp_path, monkeypatch):
    "A git repository with a package in it, from which this package seems to be imported"
    if not shutil.which('git'): pytest.skip('git is not installed')
    package = tmp_path/'resnet_course'
    package.mkdir()
    (package/'__init__.py').write_text('')
    (tmp_path/'settings.ini').write_text('')
    for args in (['init', '-q'], ['add', '-A'], ['commit', '-qm', 'Start']): git(tmp_path, *args)
    spec = SimpleNamespace(origin=str(package/'__init__.py'))
    monkeypatch.setattr(records, 'find_spec', lambda name: spec)
    return tmp_path

def git(folder, *args):
    names = ['-c', 'user.name=a', '-c', 'user.email=a@example.org']
    res = subprocess.run(['git', '-C', str(folder), *names, *args], capture_output=True, text=True,
                         check=True)
    return res.stdout.strip()

def test_commit_of_the_source(checkout):
    "With a note if the package has changed since"
    commit = git(checkout, 'rev-parse', 'HEAD')
    assert records.source_commit() == commit
    (checkout/'resnet_course/__init__.py').write_text('x = 1')
    assert records.source_commit() == f'{commit} with changes'

def test_commit_of_another_project(checkout):
    "A package that is installed within the checkout of another project"
    (checkout/'settings.ini').unlink()
    assert records.source_commit() is None
