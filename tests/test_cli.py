"The command line as its users meet it: what works, and one clear line and a status for what cannot"
import json, os, shlex, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from helpers import photos, quiet, run_command
from PIL import Image
from typer.main import get_command

import resnet_course
from resnet_course import cli
from resnet_course.models import create_model
from resnet_course.saving import load_model, save_weights
from resnet_course.checkpoint import Interrupted
from resnet_course.predict import with_progress
from resnet_course.records import list_runs
from resnet_course.runs import mean_ci, train_run
from resnet_course.report import html_report

root = Path(__file__).resolve().parent.parent

def run(capfd, *args):
    "Exit status, stdout and stderr of `resnet-course ARGS`, in this process"
    code = run_command(*args)
    out = capfd.readouterr()
    return code, out.out, out.err

def run_apart(folder, *args):
    "The same in a process of its own, in `folder`"
    path = os.pathsep.join(filter(None, [str(root), os.environ.get('PYTHONPATH')]))
    p = subprocess.run([sys.executable, '-m', 'resnet_course.cli', *args], cwd=folder,
                       env={**os.environ, 'PYTHONPATH': path}, capture_output=True, text=True,
                       timeout=600)
    return p.returncode, p.stdout, p.stderr

def read_json(path): return json.loads(path.read_text(encoding='utf-8'))

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A folder, the finished run in it, and what the command printed"
    folder = tmp_path_factory.mktemp('cli')
    code, out, err = run_apart(folder, 'train', '--data', 'digits', '--epochs', '1', '--bs', '64',
                               '--n-train', '512')
    assert code == 0, err
    return folder, next((folder/'runs').iterdir()), out

@pytest.fixture
def image(tmp_path):
    "An image file whose name is not plain ASCII"
    path = tmp_path/'an image — ü.png'
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path

# Train

def test_train_prints_results_and_paths(trained):
    folder, path, out = trained
    assert 'epoch 1/1' in out and 'test accuracy' in out and '95% interval' in out
    names = {p.name for p in path.iterdir()}
    assert names >= {'run.json', 'history.csv', 'model.safetensors', 'curves.png'}
    rec = read_json(path/'run.json')
    assert rec['command'].endswith('train --data digits --epochs 1 --bs 64 --n-train 512')
    assert rec['images'] == dict(train=512, valid=180, test=180)
    assert str(path.relative_to(folder)) in out

@pytest.mark.parametrize('asked, kept', [('crop+cutout', 'crop+cutout'), ('none', False)])
def test_augment(asked, kept, capfd, tmp_path):
    code, _, err = run(capfd, 'train', '--data', 'digits', '--epochs', 1, '--n-train', 64,
                       '--augment', asked, '--out', tmp_path)
    assert code == 0, err
    assert read_json(next(tmp_path.glob('*/run.json')))['data']['augment'] == kept

def test_seeds(tmp_path, capfd):
    "Two seeds make two runs, and their mean and standard deviation"
    code, out, _ = run(capfd, 'train', '--data', 'digits', '--n-train', 64, '--bs', 32,
                       '--epochs', 1, '--seed', 5, '--seeds', 2, '--out', tmp_path)
    runs = list_runs(tmp_path)
    m = mean_ci([r['test']['top1'] for r in runs])
    assert code == 0 and [r['seed'] for r in runs] == [5, 6]
    says = f"2 seeds: test accuracy {m['mean']:.2%}, standard deviation {m['sd']:.2%}"
    assert says in out
    first = Path(runs[0]['path'])
    file = first.with_name(f'{first.name}-seeds.json')
    assert str(file) in out and read_json(file)['top1'] == m
    assert [(r['seed'], r['n']) for r in read_json(file)['seeds']] == [
        (5, runs[0]['test']['n']), (6, runs[1]['test']['n'])]
    for r in runs:
        page = html_report(r['path']).read_text()
        assert f"mean test accuracy {m['mean']:.2%}" in page and f"± {m['ci']:.2%}" in page
    file.write_text('{"seeds": [{"seed": 5}]}')
    with pytest.warns(UserWarning, match='is damaged'): page = html_report(first).read_text()
    assert 'All seeds' not in page

@pytest.mark.skipif(os.name == 'nt', reason='signals are POSIX')
def test_interrupt(tmp_path):
    # a shell's background jobs ignore SIGINT, and their children inherit that
    def listen(): signal.signal(signal.SIGINT, signal.SIG_DFL)
    p = subprocess.Popen([sys.executable, '-u', '-m', 'resnet_course.cli', 'train',
                          '--data', 'fashion_mnist_mini', '--epochs', '50'],
                         cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         preexec_fn=listen)
    assert 'training' in p.stdout.readline()
    time.sleep(3)
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=120)
    assert p.returncode == 130 and 'Traceback' not in err, err

def test_ctrl_c_without_a_checkpoint(tmp_path, capfd, monkeypatch):
    def stop(seed, **kwargs): raise Interrupted('stopped; there is no checkpoint to resume')
    monkeypatch.setattr('resnet_course.runs.train_run', stop)
    code, _, err = run(capfd, 'train', '--out', tmp_path)
    assert code == 130 and 'no checkpoint to resume' in err and '--resume' not in err

# Fine-tune

def test_finished_finetuning_keeps_its_record(tmp_path, capfd):
    code, _, _ = run(capfd, 'finetune', '--weights', 'resnet20-fashion_mnist', '--data', 'digits',
                     '--plan', 'head', '--epochs', 1, '--n-train', 128, '--out', tmp_path)
    assert code == 0
    folder, = tmp_path.iterdir()
    old = (folder/'run.json').read_bytes()
    code, _, err = run(capfd, 'finetune', '--resume', folder)
    assert code == 1 and 'is finished' in err and (folder/'run.json').read_bytes() == old
    stage = folder/'stages'/'head.safetensors'
    assert run(capfd, 'predict', 'nothing.png', '--model', stage)[0] == 1

@pytest.mark.slow
def test_finetune(tmp_path):
    "From a weights file to a tested model; a mistyped plan is one line"
    net = create_model('resnet8', n_in=1, n_out=7)
    save_weights(net, tmp_path/'w.safetensors', stats=([.3], [.3]))
    def finetune(*args):
        return run_apart(tmp_path, 'finetune', '--data', 'digits', '--n-train', '64',
                         '--weights', 'w.safetensors', *args)
    code, _, err = finetune('--epochs', '1', '--bs', '32', '--precision', 'fp32')
    assert code == 0, err
    folder = tmp_path/'runs/digits-resnet8-finetune-001'
    stages = read_json(folder/'run.json')['finetune']['stages']
    assert [s['start_from'] for s in stages] == ['initial', 'head', 'head']
    assert load_model(folder/'model.safetensors').meta['vocab'] == list('0123456789')
    code, _, err = finetune('--plan', 'stagd')
    assert code == 1 and "did you mean 'staged'" in err and len(err.strip().splitlines()) == 1

# Draw

def test_draw(tmp_path, capfd, monkeypatch):
    "A name, or a file of weights; the drawing is an SVG file"
    monkeypatch.chdir(tmp_path)
    assert run(capfd, 'draw', 'resnet8', '--size', 32, '--n-in', 1)[1].endswith('resnet8.svg\n')
    assert '1×32×32' in Path('resnet8.svg').read_text(encoding='utf-8')
    save_weights(create_model('resnet8', n_in=1, n_out=7), 'w.safetensors')
    code, out, _ = run(capfd, 'draw', 'w.safetensors', '--out', 'x.svg')
    assert code == 0 and 'fc 7' in out and Path('x.svg').is_file()
    for args, says in (('resnet9', 'did you mean'), ('resnet8 --out x.png', 'an .svg file'),
                       ('nothing/', 'unknown model')):
        code, _, err = run(capfd, 'draw', *args.split())
        assert code == 1 and says in err and err.count('\n') == 1, err

# Evaluate, compare, report

def test_evaluate_repeats_the_number(trained, capfd):
    _, path, _ = trained
    code, out, _ = run(capfd, 'evaluate', path, '--json')
    test = read_json(path/'run.json')['test']
    assert code == 0 and json.loads(out)['top1'] == pytest.approx(test['top1'], abs=1e-9)

def test_evaluate_refuses_other_classes(trained, capfd):
    code, out, err = run(capfd, 'evaluate', trained[1], '--data', 'fashion_mnist_mini')
    assert (code, out) == (1, '') and 'T-shirt' in err and err.count('\n') == 1

@pytest.mark.filterwarnings('always')   # whatever -W says
def test_evaluate_in_another_precision(trained, capfd):
    "Much the same result, which says how it was computed; float32 is what was recorded"
    _, out, err = run(capfd, 'evaluate', trained[1], '--json')
    exact = json.loads(out)
    assert 'precision' not in err
    for more in ([], ['--tta']):
        code, out, err = run(capfd, 'evaluate', trained[1], '--json', '--precision', 'bf16', *more)
        assert code == 0 and 'computed with precision bf16' in err
        other = json.loads(out)
        assert other['n'] == exact['n'] and 0 < abs(other['loss'] - exact['loss']) < .05
    code, _, err = run(capfd, 'evaluate', trained[1], '--precision', 'bf15')
    assert code == 1 and "unknown precision 'bf15'" in err

def test_flipping_digits_warns(trained, capfd):
    "A mirrored digit is another digit, or none"
    code, out, err = run(capfd, 'evaluate', trained[1], '--tta')
    assert code == 0 and 'warning: digits: a mirrored image' in err and 'flip' in out
    code, out, _ = run(capfd, 'evaluate', trained[1], '--ten-crop', '--json')
    assert code == 0 and json.loads(out)['tta']['split'] == 'test, ten_crop'
    assert 'warning' not in run(capfd, 'evaluate', trained[1])[2]

def test_evaluate_draws_into_a_new_folder(trained, capfd, tmp_path):
    path = tmp_path/'plots'/'c.png'
    assert run(capfd, 'evaluate', trained[1], '--out', path)[0] == 0
    assert path.stat().st_size
    code, _, err = run(capfd, 'evaluate', trained[1], '--out', tmp_path/'c.txt')
    assert code == 1 and "kind of figure '.txt'" in err

def test_compare_and_report(trained, capfd, tmp_path):
    code, out, _ = run(capfd, 'compare', trained[1], trained[1], '--json')
    res = json.loads(out)
    assert (code, res['diff'], res['agreement'], res['p']) == (0, 0, 1, 1)
    code, out, _ = run(capfd, 'report', trained[1], '--out', tmp_path/'page.html')
    page = (tmp_path/'page.html').read_text(encoding='utf-8')
    assert code == 0 and page.count('<img') >= 4
    assert 'src="http' not in page and 'href="http' not in page

def test_runs_with_other_validation_images_are_not_compared(photo_folder, tmp_path, capfd):
    runs = []
    for seed in (0, 1):
        rec, _ = train_run(photo_folder, 'resnet8', epochs=1, bs=8, size=32, seed=seed,
                           out=tmp_path/'runs', setup=quiet)
        runs.append(rec['path'])
    code, _, err = run(capfd, 'compare', *runs, '--data', photo_folder, '--split', 'valid')
    assert code == 1 and 'hold out different images for valid' in err
    # the test images are the same
    assert run(capfd, 'compare', *runs, '--data', photo_folder)[0] == 0

def test_runs_and_data(trained, capfd):
    assert trained[1].name in run(capfd, 'runs', '--out', trained[0]/'runs')[1]
    assert 'fashion_mnist_mini' in run(capfd, 'data')[1]

# Predict

def test_predict(trained, image, capfd):
    code, out, _ = run(capfd, 'predict', image, '--model', trained[1], '--top', '2')
    assert code == 0 and out.startswith(str(image)) and out.count('%') == 2

def test_predict_continues_after_a_bad_file(trained, image, capfd):
    (image.parent/'broken.png').write_bytes(b'\x89PNG')
    code, out, err = run(capfd, 'predict', image.parent, '--model', trained[1], '--json')
    rows = {Path(r['file']).name: r for r in map(json.loads, out.splitlines())}
    assert code == 1 and rows['broken.png']['error'] and rows[image.name]['classes']
    assert '1 of 2 files could not be read' in err

def test_predict_a_folder(trained, image, capfd, monkeypatch):
    "More images than a batch: each is answered, bad ones are listed, and stderr shows progress"
    monkeypatch.setattr(with_progress, '__defaults__', (0., 0.))
    for i in range(70): (image.parent/f'{i}.png').write_bytes(image.read_bytes())
    bad = ['bad.png', 'worse.jpg']
    for name in bad: (image.parent/name).write_bytes(b'no image')
    code, out, err = run(capfd, 'predict', image.parent, '--model', trained[1])
    assert (code, out.count('.png: ')) == (1, 71)
    assert '2 of 73 files could not be read' in err and '70 of 73 files\n' in err
    assert all(f'{name}: cannot be read' in err for name in bad)

# Bad input

BAD = [
    ('train --data fashion_mnst', "did you mean 'fashion_mnist'"),
    ('train --data nowhere/at/all', 'nowhere/at/all'),
    ('train --data digits --arch resnte20', "did you mean 'resnet20'"),
    ('train --data digits --epochs 0', 'at least one'),
    ('train --data digits --bs 0', 'bs'),
    ('train --data digits --n-train -3', 'n_train'),
    ('train --data digits --recipe one-cycle', "did you mean 'one_cycle'"),
    ('train --data digits --precision bf61', "did you mean 'bf16'"),
    ('train --data digits --size 0', 'size'),
    ('train --data digits --weights no.safetensors', 'no.safetensors'),
    ('train --seed -1', 'seed=-1'),
    ('train --lr 0', 'lr=0.0'),
    ('train --lr nan', 'lr=nan'),
    ('train --epochs 0', 'epochs=0'),
    ('train --recipe onecycle', 'one_cycle'),
    ('finetune --weights resnet20-fashion_mnist --lr 0', 'lr=0.0'),
    ('evaluate no-such-run', 'no such run'),
    ('predict no-such.jpg', 'no-such.jpg')]

@pytest.mark.parametrize('command,says', BAD, ids=[command for command, _ in BAD])
def test_bad_input(command, says, capfd, tmp_path, monkeypatch):
    "One line, a status, and nothing left behind"
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capfd, *command.split())
    assert code == 1 and err.startswith('error: ') and says in err, err
    assert 'Traceback' not in err and len(err.strip().splitlines()) == 1, err
    assert not list(tmp_path.iterdir()), 'something was left behind'

def test_file_in_place_of_the_folder_of_runs(capfd, tmp_path):
    (tmp_path/'runs').write_text('')
    code, _, err = run(capfd, 'train', '--data', 'digits', '--n-train', '64', '--bs', '32',
                       '--epochs', '1', '--out', tmp_path/'runs')
    assert code == 1 and err.startswith('error: ') and 'runs' in err

def test_broken_record(capfd, tmp_path):
    (tmp_path/'run.json').write_text('{"schema": 1, ')
    code, _, err = run(capfd, 'evaluate', tmp_path)
    assert code == 1 and 'not a run record' in err

# Help

names = [c.name or c.callback.__name__ for c in cli.app.registered_commands]

@pytest.mark.parametrize('command', names)
def test_help_has_examples(command, capfd):
    code, out, _ = run(capfd, command, '--help')
    assert code == 0 and 'Examples' in out and f'resnet-course {command}' in out

def test_help_needs_no_torch():
    code = "import sys; from resnet_course import cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

# The first minute

def test_version(capfd):
    assert run(capfd, '--version') == (0, f'resnet-course {resnet_course.__version__}\n', '')

@pytest.mark.parametrize('module', ['resnet_course', 'resnet_course.cli'])
@pytest.mark.parametrize('args', [['--version'], ['--help']])
def test_starts_without_torch(module, args):
    "The command answers at once, because nothing that takes seconds is imported"
    p = subprocess.run([sys.executable, '-X', 'importtime', '-m', module, *args], cwd=root,
                       capture_output=True, text=True, encoding='utf-8', timeout=60)
    imported = {line.rsplit('|', 1)[1].strip() for line in p.stderr.splitlines() if '|' in line}
    assert p.returncode == 0 and 'resnet' in p.stdout.lower()
    assert 'typer' in imported and not imported & {'torch', 'fastai', 'numpy', 'matplotlib'}

def test_evaluate_shows_the_metrics_of_each_class(trained, capfd):
    folder, path, _ = trained
    code, out, err = run(capfd, 'evaluate', path)
    assert code == 0, err
    for word in ('sensitivity', 'specificity', 'F1', 'ROC AUC', 'mean of classes', 'DeLong'):
        assert word in out
    code, out, _ = run(capfd, 'evaluate', path, '--json')
    found = json.loads(out)
    assert {'balanced_accuracy', 'f1_ci', 'roc_auc', 'specificity_ci'} <= set(found['macro'])
    assert {'sensitivity', 'sensitivity_ci', 'roc_auc_ci', 'recall'} <= set(found['per_class'][0])
    assert read_json(path/'run.json')['test']['macro'] == found['macro']

# photos

def test_photos_from_the_command_line(tmp_path, monkeypatch, capsys):
    "The shape is recorded, and evaluation and prediction use it"
    monkeypatch.chdir(tmp_path)
    photos(tmp_path/'my photos (1)', 12, (40, 30))
    options = dict(data='my photos (1)', size='24x32', resize='squish', epochs=1, workers=0, bs=4,
                   arch='resnet8')
    flags = [o for k, v in options.items() for o in (f'--{k}', v)]
    assert run_command('train', *flags) == 0
    run = next(tmp_path.glob('runs/*'))
    # the command can be copied
    command = shlex.split(read_json(run/'run.json')['command'])
    assert command == ['resnet-course', 'train', *map(str, flags)]
    meta = load_model(run/'model.safetensors').meta
    assert (meta['size'], meta['resize']) == ([24, 32], 'squish')
    assert run_command('evaluate', run) == 0
    assert 'images correct' in capsys.readouterr().out
    args = ['my photos (1)', '--csv', 'answers.csv', '--precision', 'fp32']
    assert run_command('predict', *args) == 0
    head, *rows = (tmp_path/'answers.csv').read_text().splitlines()
    assert head == 'file,class,probability,error,a,b' and len(rows) == 24

@pytest.mark.parametrize('size', ['big', '32x', '32x32x3'])
def test_sizes_that_are_none(size, capsys):
    assert run_command('train', '--size', size) == 2
    assert '160x224' in capsys.readouterr().err

# Wrong values

def options_of_commands():
    "Each command and each of its options that takes a value"
    def walk(command, names):
        for name, sub in getattr(command, 'commands', {}).items():
            yield from walk(sub, [*names, name])
        for p in command.params:
            if p.param_type_name == 'option' and not p.is_flag: yield [*names, p.opts[0]]
    yield from walk(get_command(cli.app), [])

@pytest.mark.parametrize('value', ['a\0b', 'a\udcffb', 'a\ud800b', '\x1b[2J', '\u202e', 'x'*5000],
                         ids=ascii)
def test_values_that_make_no_sense(value, capsys, tmp_path, monkeypatch):
    "One sentence for every option of every command, without a box, and nothing is written"
    monkeypatch.chdir(tmp_path)
    needs = dict(evaluate=['no'], compare=['no', 'no'], report=['no'], predict=['no'],
                 export=['no', 'no'], get=['no'], subset=['no', 'no'], check=['no'])
    # before there is a command that begins to train
    first = {o: ['--data', '/no/such'] for o in ('train', 'finetune', 'lr-find')}
    tried = 0
    for *names, option in options_of_commands():
        if not names: continue
        args = [*names, *first.get(names[0], []), option, value, *needs.get(names[-1], [])]
        code, said = run_command(*args), capsys.readouterr()
        assert code in (0, 1, 2) and '╭' not in said.out + said.err, args
        assert not set(said.out + said.err) & set('\0\x1b\u202e\udcff\ud800'), args
        if code: assert said.err.startswith('error: ') and said.err.count('\n') == 1, said.err
        assert len(said.err) < 1100
        tried += 1
    assert tried > 80 and not list(tmp_path.iterdir())

@pytest.mark.parametrize('args', [['train', '--no-such-option'], ['no-such-command'], ['predict'],
                                  ['train', '--epochs'], ['train', '--epochs', 'many'],
                                  ['train', '--workers', '-1'], ['data', 'export', 'digits']],
                         ids=' '.join)
def test_wrong_command_lines(args, capsys):
    assert run_command(*args) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1 and '--help' in err

def test_no_arguments_show_the_help(capsys):
    run_command()
    said = capsys.readouterr()
    assert 'finetune' in said.out + said.err

# The device

@pytest.mark.parametrize('command', [
    ['train', '--data', 'digits'], ['finetune'], ['evaluate', 'run'], ['compare', 'a', 'b'],
    ['report', 'run'], ['predict', 'x.png'], ['lr-find'], ['doctor']], ids=lambda o: o[0])
@pytest.mark.parametrize('device, why', [
    ('cuda:99', 'cuda:99'), ('gpu', "give a torch.device, or a name: 'cpu', 'cuda', 'cuda:1' or")])
def test_a_device_that_is_not_there(command, device, why, capsys, monkeypatch):
    "One line, before anything is read or written, and the variable is not changed"
    monkeypatch.delenv('RESNET_COURSE_DEVICE', raising=False)
    assert run_command(*command, '--device', device) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: device=') and why in err and err.count('\n') == 1
    assert 'RESNET_COURSE_DEVICE' not in os.environ

def test_commands_that_compute_take_a_device():
    "Of the others, `export` and `draw` compute a batch on the CPU, and the rest have no network"
    commands = typer.main.get_command(cli.app).commands
    def has_device(c): return any('--device' in p.opts for p in c.params)
    without = {name for name, c in commands.items() if not has_device(c)}
    assert without == {'export', 'draw', 'data', 'runs', 'lessons'}, (
        'a new command takes device:Device=None if it computes, and is listed here if not')
    assert not any(map(has_device, commands['data'].commands.values()))

def test_train_on_a_device_and_deterministically(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('RESNET_COURSE_DEVICE', '')   # put back after the test
    args = ['train', '--data', 'digits', '--arch', 'resnet8', '--n-train', '64', '--epochs', '1']
    args += ['--device', 'cpu', '--deterministic', '--precision', 'fp32', '--out', tmp_path]
    assert run_command(*args) == 0
    rec, = list_runs(tmp_path)
    assert rec['deterministic'] is True and 'checkpoint_seconds' in rec
    assert 'threads' in rec['machine']['device']
    assert not torch.are_deterministic_algorithms_enabled()

@pytest.mark.parametrize('classes', ['²', '9'*5000, '-1', '1.5', ',', 'a,,b', '0', '99'])
def test_classes_of_a_subset(classes, photo_folder, tmp_path, capfd):
    "Digits that are no number, and numbers that are no number of classes"
    assert run_command('data', 'subset', photo_folder, tmp_path/'new', '--classes', classes) == 1
    err = capfd.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1 and not (tmp_path/'new').exists()
