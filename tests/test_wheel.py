"""The wheel as a stranger has it: installed into an environment of its own, used from another folder.
RESNET_COURSE_WHEEL_PYTHON names that environment's Python; `.ci/run` makes one, with the newest versions allowed."""
import json, os, subprocess, tarfile, zipfile
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
python = os.environ.get('RESNET_COURSE_WHEEL_PYTHON')
needs_env = pytest.mark.skipif(not python, reason='RESNET_COURSE_WHEEL_PYTHON names no environment with the wheel in it')

def built(pattern):
    "The newest file like `pattern` in dist"
    files = sorted((root/'dist').glob(pattern), key=os.path.getmtime)
    return files[-1] if files else pytest.skip('nothing is built: make wheel')

@pytest.fixture(scope='module')
def away(tmp_path_factory): return tmp_path_factory.mktemp('away')

def run(args, cwd, ok=0):
    "Run the environment's own command in `cwd`, with nothing of this checkout in sight"
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'IN_TEST', 'VIRTUAL_ENV')}
    exe = Path(python).parent/args[0] if args[0] != 'python' else python
    res = subprocess.run([str(exe), *map(str, args[1:])], cwd=cwd, env=env, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL)
    assert res.returncode == ok, f'{args}: status {res.returncode}\n{res.stdout[-3000:]}\n{res.stderr[-3000:]}'
    return res

def test_wheel_holds_what_it_should():
    wheel = built('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size < 12e6
    mods = {f.relative_to(root/'resnet_course').as_posix() for f in (root/'resnet_course').rglob('*.py')}
    assert mods <= {n.removeprefix('resnet_course/') for n in names}
    for f in (root/'resnet_course/assets').rglob('*'): assert f.is_dir() or f.relative_to(root).as_posix() in names
    for f in (root/'nbs/lessons').glob('*.ipynb'): assert f'resnet_course/notebooks/lessons/{f.name}' in names
    assert not [n for n in names if '__pycache__' in n or n.startswith(('tests/', 'nbs/', 'tools/'))]

def test_sdist_can_be_built_from():
    names = {n.partition('/')[2] for n in tarfile.open(built('*.tar.gz')).getnames()}
    for f in ('settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'nbs/index.ipynb'): assert f in names
    for f in (root/'nbs/lessons').glob('*.ipynb'): assert f'nbs/lessons/{f.name}' in names

@needs_env
def test_imports_from_the_wheel_and_says_nothing(away):
    "Every module imports, without a warning, from the environment and not from the checkout"
    mods = sorted(f.stem for f in (root/'resnet_course').glob('[a-z]*.py'))
    res = run(['python', '-c', f'import importlib, resnet_course; print(resnet_course.__file__); '
               f'[importlib.import_module("resnet_course." + m) for m in {mods}]'], away)
    assert Path(res.stdout.strip()).is_relative_to(Path(python).parent.parent) and not Path(res.stdout.strip()).is_relative_to(root/'resnet_course')
    assert res.stderr == ''

@needs_env
def test_newest_versions(away):
    "This environment is the other dependency set: fastcore 2, which the development pins forbid"
    v = json.loads(run(['python', '-c', 'import json; from importlib.metadata import version; '
                        'print(json.dumps({p: version(p) for p in ("fastcore", "fastai", "torch")}))'], away).stdout)
    print(v)
    assert int(v['fastcore'].split('.')[0]) >= 2

@needs_env
def test_doctor(away): assert run(['resnet-course', 'doctor'], away).stdout

@needs_env
def test_train_evaluate_predict(away):
    "From nothing to a prediction, with the commands of the README"
    out = run(['resnet-course', 'train', '--epochs', '1', '--n-train', '2000'], away).stdout
    assert 'test accuracy' in out
    r = next((away/'runs').iterdir())
    assert {f.name for f in r.iterdir()} >= {'run.json', 'history.csv', 'model.safetensors', 'curves.png'}
    rec = json.loads((r/'run.json').read_text())
    again = json.loads(run(['resnet-course', 'evaluate', r, '--json'], away).stdout)
    assert again['top1'] == pytest.approx(rec['test']['top1'], abs=.005)   # bf16 in another batch order may tip an image or two
    run(['python', '-c', 'from resnet_course.data import get_dls; from PIL import Image; x = get_dls("digits", augment=False).test.one_batch()[0][0]; '
         'Image.new("L", (40, 30), 128).save("gray.png"); Image.new("RGB", (64, 64), "red").save("red.jpg")'], away)
    lines = [json.loads(l) for l in run(['resnet-course', 'predict', 'gray.png', 'red.jpg', '--json'], away).stdout.splitlines()]
    assert [Path(l['file']).name for l in lines] == ['gray.png', 'red.jpg'] and all(l['classes'] for l in lines)

@needs_env
def test_bad_input_is_one_line(away):
    res = run(['resnet-course', 'train', '--arch', 'resnte20'], away, ok=1)
    assert "did you mean 'resnet20'" in res.stderr and len(res.stderr.strip().splitlines()) == 1

@needs_env
def test_lessons(away):
    if not list((root/'nbs/lessons').glob('*.ipynb')): pytest.skip('no lesson yet')
    run(['resnet-course', 'lessons', 'mine'], away)
    copied = sorted(f.name for f in (away/'mine/lessons').glob('*.ipynb'))
    assert copied == sorted(f.name for f in (root/'nbs/lessons').glob('*.ipynb'))
    nb = json.loads((away/'mine/lessons'/copied[0]).read_text(encoding='utf-8'))
    assert not any(c.get('outputs') for c in nb['cells'])
    (away/'mine/lessons'/copied[0]).write_text('my answers')
    run(['resnet-course', 'lessons', 'mine'], away)
    assert (away/'mine/lessons'/copied[0]).read_text() == 'my answers'
