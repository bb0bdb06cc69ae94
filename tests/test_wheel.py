"""The wheel as a stranger has it: installed into its own environment, used from another folder

RESNET_COURSE_WHEEL_PYTHON names that environment's Python; `.ci/run` makes one, with the newest
versions allowed.
"""
import email, json, os, subprocess, tarfile, zipfile
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
python = os.environ.get('RESNET_COURSE_WHEEL_PYTHON')
needs_env = pytest.mark.skipif(
    not python, reason='RESNET_COURSE_WHEEL_PYTHON names no environment with the wheel in it')

def built(pattern):
    "The newest file in dist that matches `pattern`"
    files = sorted((root/'dist').glob(pattern), key=os.path.getmtime)
    return files[-1] if files else pytest.skip('nothing is built: make wheel')

def lessons(): return sorted(f.name for f in (root/'nbs/lessons').glob('*.ipynb'))

@pytest.fixture(scope='module')
def away(tmp_path_factory): return tmp_path_factory.mktemp('away')

def run(args, cwd, ok=0):
    "Run the environment's own command in `cwd`, with nothing of this checkout in sight"
    hidden = ('PYTHONPATH', 'IN_TEST', 'VIRTUAL_ENV')
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    exe = python if args[0] == 'python' else Path(python).parent/args[0]
    res = subprocess.run([str(exe), *map(str, args[1:])], cwd=cwd, env=env, capture_output=True,
                         text=True, timeout=900, stdin=subprocess.DEVNULL)
    said = f'{res.stdout[-3000:]}\n{res.stderr[-3000:]}'
    assert res.returncode == ok, f'{args}: status {res.returncode}\n{said}'
    return res

def test_contents_of_the_wheel():
    wheel, package = built('*.whl'), root/'resnet_course'
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size < 12e6
    mods = {f.relative_to(package).as_posix() for f in package.rglob('*.py')}
    assert mods <= {n.removeprefix('resnet_course/') for n in names}
    for f in (package/'assets').rglob('*'):
        assert f.is_dir() or f.relative_to(root).as_posix() in names
    for name in lessons(): assert f'resnet_course/notebooks/lessons/{name}' in names
    foreign = ('tests/', 'nbs/', 'tools/')
    assert not [n for n in names if '__pycache__' in n or n.startswith(foreign)]

def test_licenses_in_the_wheel():
    "An SPDX expression, and a notice for the code, the images and the weights"
    with zipfile.ZipFile(built('*.whl')) as wheel:
        names = wheel.namelist()
        metadata = next(n for n in names if n.endswith('.dist-info/METADATA'))
        fields = email.message_from_bytes(wheel.read(metadata))
    assert fields['License-Expression'] == 'Apache-2.0 AND MIT'
    notices = ['LICENSE', *(f'resnet_course/assets/{folder}/LICENSE'
                            for folder in ('fashion_mnist_mini', 'weights'))]
    assert fields.get_all('License-File') == notices
    info = metadata.removesuffix('METADATA')
    assert {f'{info}licenses/{n}' for n in notices} <= set(names)
    assert not [c for c in fields.get_all('Classifier') if c.startswith('License ::')]

def test_contents_of_the_sdist():
    "Everything that a build needs"
    names = {n.partition('/')[2] for n in tarfile.open(built('*.tar.gz')).getnames()}
    for f in ('settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE',
              'nbs/index.ipynb'): assert f in names
    for name in lessons(): assert f'nbs/lessons/{name}' in names

import_all = '''
import importlib, resnet_course
print(resnet_course.__file__)
for m in {}: importlib.import_module('resnet_course.' + m)
'''

@needs_env
def test_imports_without_a_warning(away):
    "Every module, from the environment and not from the checkout"
    mods = sorted(f.stem for f in (root/'resnet_course').glob('[a-z]*.py'))
    res = run(['python', '-c', import_all.format(mods)], away)
    path = Path(res.stdout.strip())
    assert path.is_relative_to(Path(python).parent.parent)
    assert not path.is_relative_to(root/'resnet_course')
    assert res.stderr == ''

print_versions = '''
import json
from importlib.metadata import version
print(json.dumps({p: version(p) for p in ('fastcore', 'fastai', 'torch')}))
'''

@needs_env
def test_newest_versions(away):
    "This environment is the other dependency set, with the fastcore 2 that development excludes"
    versions = json.loads(run(['python', '-c', print_versions], away).stdout)
    print(versions)
    assert int(versions['fastcore'].split('.')[0]) >= 2

@needs_env
def test_doctor(away): assert run(['resnet-course', 'doctor'], away).stdout

@needs_env
def test_version(away):
    "The command and the module answer the same"
    said = [run(c, away).stdout for c in (['resnet-course', '--version'],
                                          ['python', '-m', 'resnet_course', '--version'])]
    assert said[0] == said[1] and said[0].startswith('resnet-course ')

write_images = '''
from resnet_course.loaders import get_dls
from PIL import Image
get_dls('digits', augment=False).test.one_batch()
Image.new('L', (40, 30), 128).save('gray.png')
Image.new('RGB', (64, 64), 'red').save('red.jpg')
'''

@needs_env
def test_train_evaluate_predict(away):
    "From nothing to a prediction, with the commands of the README"
    out = run(['resnet-course', 'train', '--epochs', '1', '--n-train', '2000'], away).stdout
    assert 'test accuracy' in out
    r = next((away/'runs').iterdir())
    files = {f.name for f in r.iterdir()}
    assert files >= {'run.json', 'history.csv', 'model.safetensors', 'curves.png'}
    rec = json.loads((r/'run.json').read_text())
    again = json.loads(run(['resnet-course', 'evaluate', r, '--json'], away).stdout)
    # bf16 in another batch order may tip an image or two
    assert again['top1'] == pytest.approx(rec['test']['top1'], abs=.005)
    run(['python', '-c', write_images], away)
    out = run(['resnet-course', 'predict', 'gray.png', 'red.jpg', '--json'], away).stdout
    rows = [json.loads(line) for line in out.splitlines()]
    assert [Path(r['file']).name for r in rows] == ['gray.png', 'red.jpg']
    assert all(r['classes'] for r in rows)

@needs_env
def test_bad_input_is_one_line(away):
    res = run(['resnet-course', 'train', '--arch', 'resnte20'], away, ok=1)
    assert "did you mean 'resnet20'" in res.stderr
    assert len(res.stderr.strip().splitlines()) == 1

@needs_env
def test_lessons(away):
    "They are copied without outputs, and a second copy leaves changes alone"
    if not lessons(): pytest.skip('no lesson yet')
    run(['resnet-course', 'lessons', 'mine'], away)
    folder = away/'mine/lessons'
    copied = sorted(f.name for f in folder.glob('*.ipynb'))
    assert copied == lessons()
    nb = json.loads((folder/copied[0]).read_text(encoding='utf-8'))
    assert not any(c.get('outputs') for c in nb['cells'])
    (folder/copied[0]).write_text('my answers')
    run(['resnet-course', 'lessons', 'mine'], away)
    assert (folder/copied[0]).read_text() == 'my answers'
