"The command line as its users meet it: what works, and one clear line and a status for what cannot"
import json, os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_course import cli

def run(capfd, *args):
    "Exit status, stdout and stderr of `resnet-course ARGS`, in this process"
    old, sys.argv = sys.argv, ['resnet-course', *map(str, args)]
    try: cli.main(); code = 0
    except SystemExit as e: code = e.code or 0
    finally: sys.argv = old
    out = capfd.readouterr()
    return code, out.out, out.err

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A finished run, in a folder of its own"
    d = tmp_path_factory.mktemp('cli')
    cmd = [sys.executable, '-m', 'resnet_course.cli', 'train', '--data', 'digits', '--epochs', '1', '--bs', '64', '--n-train', '512']
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(Path(cli.__file__).parents[1]), os.environ.get('PYTHONPATH', '')])}
    p = subprocess.run(cmd, cwd=d, capture_output=True, text=True, env=env)
    assert p.returncode == 0, p.stderr
    return d, next((d/'runs').iterdir()), p.stdout

@pytest.fixture
def picture(tmp_path):
    path = tmp_path/'a picture — ü.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)).save(path)
    return path

def test_train_says_how_it_did_and_where_things_are(trained):
    d, path, out = trained
    assert 'epoch 1/1' in out and 'test accuracy' in out and '95 % interval' in out
    assert {p.name for p in path.iterdir()} >= {'run.json', 'history.csv', 'model.safetensors', 'curves.png'}
    rec = json.loads((path/'run.json').read_text(encoding='utf-8'))
    assert rec['command'].endswith('train --data digits --epochs 1 --bs 64 --n-train 512') and rec['images'] == dict(train=512, valid=180, test=180)
    assert str(path.relative_to(d)) in out

@pytest.mark.parametrize('asked, kept', [('crop+cutout', 'crop+cutout'), ('none', False)])
def test_train_varies_images_as_asked(asked, kept, capfd, tmp_path):
    code, _, err = run(capfd, 'train', '--data', 'digits', '--epochs', 1, '--n-train', 64, '--augment', asked, '--out', tmp_path)
    assert code == 0, err
    assert json.loads(next(tmp_path.glob('*/run.json')).read_text(encoding='utf-8'))['data']['augment'] == kept

def test_evaluate_repeats_the_number(trained, capfd):
    _, path, _ = trained
    code, out, _ = run(capfd, 'evaluate', path, '--json')
    rec = json.loads((path/'run.json').read_text(encoding='utf-8'))
    assert code == 0 and json.loads(out)['top1'] == pytest.approx(rec['test']['top1'], abs=1e-9)

def test_evaluate_refuses_other_classes(trained, capfd):
    code, out, err = run(capfd, 'evaluate', trained[1], '--data', 'fashion_mnist_mini')
    assert (code, out) == (1, '') and 'T-shirt' in err and err.count('\n') == 1

def test_predict(trained, picture, capfd):
    code, out, _ = run(capfd, 'predict', picture, '--model', trained[1], '--top', '2')
    assert code == 0 and out.startswith(str(picture)) and out.count('%') == 2

def test_predict_goes_on_after_a_bad_file(trained, picture, capfd):
    (picture.parent/'broken.png').write_bytes(b'\x89PNG')
    code, out, err = run(capfd, 'predict', picture.parent, '--model', trained[1], '--json')
    rows = {Path(r['file']).name: r for r in map(json.loads, out.splitlines())}
    assert code == 1 and rows['broken.png']['error'] and rows[picture.name]['classes'] and '1 of 2 files could not be read' in err

def test_predict_many_with_progress(trained, picture, capfd, monkeypatch):
    "A folder of more images than a batch: every one answered, the bad ones listed, and on stderr how far it is"
    monkeypatch.setattr(cli._counted, '__defaults__', (0., 0.))
    for i in range(70): (picture.parent/f'{i}.png').write_bytes(picture.read_bytes())
    for n in ('bad.png', 'worse.jpg'): (picture.parent/n).write_bytes(b'no image')
    code, out, err = run(capfd, 'predict', picture.parent, '--model', trained[1])
    assert (code, out.count('.png: ')) == (1, 71) and '2 of 73 files could not be read' in err and '70 of 73 files\n' in err
    assert all(f'{n}: cannot be read' in err for n in ('bad.png', 'worse.jpg'))

def test_flips_of_digits_are_warned_of(trained, capfd):
    "A mirrored digit is another digit, or none"
    code, out, err = run(capfd, 'evaluate', trained[1], '--tta')
    assert code == 0 and 'warning: digits: a mirrored image' in err and 'flip' in out
    code, out, _ = run(capfd, 'evaluate', trained[1], '--ten-crop', '--json')
    assert code == 0 and json.loads(out)['tta']['split'] == 'test, ten_crop'
    assert 'warning' not in run(capfd, 'evaluate', trained[1])[2]

def test_compare_and_report(trained, capfd, tmp_path):
    code, out, _ = run(capfd, 'compare', trained[1], trained[1], '--json')
    res = json.loads(out)
    assert (code, res['diff'], res['agreement'], res['p']) == (0, 0, 1, 1)
    code, out, _ = run(capfd, 'report', trained[1], '--out', tmp_path/'page.html')
    page = (tmp_path/'page.html').read_text(encoding='utf-8')
    assert code == 0 and page.count('<img') >= 4 and 'src="http' not in page and 'href="http' not in page

def test_runs_and_data(trained, capfd):
    assert trained[1].name in run(capfd, 'runs', '--out', trained[0]/'runs')[1]
    assert 'fashion_mnist_mini' in run(capfd, 'data')[1]

BAD = [
    (['train', '--data', 'fashion_mnst'],                                       "did you mean 'fashion_mnist'"),
    (['train', '--data', 'nowhere/at/all'],                                     'nowhere/at/all'),
    (['train', '--data', 'digits', '--arch', 'resnte20'],                       "did you mean 'resnet20'"),
    (['train', '--data', 'digits', '--epochs', '0'],                            'at least one'),
    (['train', '--data', 'digits', '--bs', '0'],                                'bs'),
    (['train', '--data', 'digits', '--n-train', '-3'],                          'n_train'),
    (['train', '--data', 'digits', '--recipe', 'one-cycle'],                    "did you mean 'one_cycle'"),
    (['train', '--data', 'digits', '--precision', 'bf61'],                      "did you mean 'bf16'"),
    (['train', '--data', 'digits', '--size', '0'],                               'size'),
    (['train', '--data', 'digits', '--weights', 'no.safetensors'],              'no.safetensors'),
    (['evaluate', 'no-such-run'],                                               'no such run'),
    (['predict', 'no-such.jpg'],                                                'no-such.jpg'),
]
@pytest.mark.parametrize('args,says', BAD, ids=[' '.join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_a_status(args, says, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capfd, *args)
    assert code == 1 and err.startswith('error: ') and says in err and 'Traceback' not in err and len(err.strip().splitlines()) == 1, err
    assert not [p for p in tmp_path.rglob('*') if p.is_file()], 'something was left behind'

def test_a_file_where_the_runs_should_go(capfd, tmp_path):
    (tmp_path/'runs').write_text('')
    code, _, err = run(capfd, 'train', '--data', 'digits', '--n-train', '64', '--bs', '32', '--epochs', '1', '--out', tmp_path/'runs')
    assert code == 1 and err.startswith('error: ') and 'runs' in err

def test_a_broken_record(capfd, tmp_path):
    (tmp_path/'run.json').write_text('{"schema": 1, ')
    code, _, err = run(capfd, 'evaluate', tmp_path)
    assert code == 1 and 'not a run record' in err

@pytest.mark.parametrize('command', [c.name or c.callback.__name__ for c in cli.app.registered_commands])
def test_help_has_examples(command, capfd):
    code, out, _ = run(capfd, command, '--help')
    assert code == 0 and 'Examples' in out and f'resnet-course {command}' in out

def test_help_needs_no_torch():
    code = "import sys; from resnet_course import cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

@pytest.mark.skipif(os.name == 'nt', reason='signals are POSIX')
def test_interrupt(tmp_path):
    p = subprocess.Popen([sys.executable, '-u', '-m', 'resnet_course.cli', 'train', '--data', 'fashion_mnist_mini', '--epochs', '50'],
                         cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a background job of a shell inherits that it is ignored
    assert 'training' in p.stdout.readline()
    time.sleep(3)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 130 and 'Traceback' not in err, err
