"The plan of the package: import order, what `all` offers, and that nothing in fastai is changed"
import ast, importlib, json, re, subprocess, sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import house, mutations, walk

def cells(f, kind='code'):
    "The sources of a notebook's cells of one kind"
    d = json.loads(f.read_text(encoding='utf-8'))
    return [''.join(c['source']) for c in d['cells'] if c['cell_type'] == kind]

def run(code):
    "Run `code` in a process of its own; what it prints"
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                         capture_output=True, text=True)
    assert res.returncode == 0, res.stderr[-2000:]
    return res.stdout

def test_imports_follow_the_numbers(): assert house.backward_imports(root) == []
def test_numbers_are_unique(): assert house.double_numbers(root) == []

def test_mutations_are_of_todays_code():
    "Every module has some; a few lines may have been rewritten since the list was made"
    listed = mutations.mutations()
    assert {m for m, *_ in listed} == {m['name'] for m in house.modules(root)} - {'all'}
    stale = [(m, old) for m, old, new in listed if mutations.is_stale(m, old, new)]
    assert len(stale) <= len(listed)//10, stale

def test_a_backward_import_is_noticed(tmp_path):
    "Both forms of import, in any cell"
    api = tmp_path/'nbs/api'
    api.mkdir(parents=True)
    def write(name, *sources):
        cells = [dict(cell_type='markdown', source=[f'# {name}\n\n> Summary']),
                 *(dict(cell_type='code', source=[s]) for s in sources)]
        (api/f'{name}.ipynb').write_text(json.dumps(dict(cells=cells)))
    write('00_core', '#| default_exp core', '#| hide\nfrom resnet_course.late import f')
    write('10_early', '#| default_exp early', 'from resnet_course import core, late')
    write('20_late', '#| default_exp late', 'from resnet_course.core import CourseError')
    assert [line.split(',')[0] for line in house.backward_imports(tmp_path)] == [
        '00_core.ipynb imports late', '10_early.ipynb imports late']
    write('20_other', '#| default_exp other')
    assert house.double_numbers(tmp_path) == ['20_late.ipynb and 20_other.ipynb share a number']

def test_notebooks_leave_no_temporary_folders():
    "`mkdtemp` leaves its folder behind; a `TemporaryDirectory` goes with the kernel"
    left = [str(f) for f in (root/'nbs').rglob('*.ipynb') if 'mkdtemp' in ''.join(cells(f))]
    assert not left

def test_the_plan_is_current():
    for f, text in house.plan(root).items():
        assert (root/f).read_text(encoding='utf-8') == text, f'{f} is stale: run tools/house.py'

def test_every_module_is_in_the_plan():
    page = (root/'nbs/reference.qmd').read_text(encoding='utf-8')
    for m in house.modules(root): assert f"[{m['name']}](api/{m['file'].name})" in page

def test_summaries_fit_into_a_line():
    assert not [m['name'] for m in house.modules(root) if len(m['summary']) > 94]

def test_no_lines_over_the_limit():
    "100 in modules, except for the line that nbdev writes; 79 in lessons, which are cut off there"
    long = [m['module'] for m in house.measure(root) if m['over_100']]
    for f in [*root.glob('nbs/lessons/*.ipynb'), *root.glob('nbs/solutions/*.ipynb')]:
        long += [f'{f.name}: {o}' for c in cells(f) for o in c.splitlines() if len(o) > 79]
    assert not long

def test_all_is_short_and_the_same_objects():
    module = importlib.import_module('resnet_course.all')
    assert 20 < len(module.__all__) < 60
    for name in module.__all__:
        o = getattr(module, name)
        assert o is getattr(importlib.import_module(o.__module__), name)

@pytest.mark.parametrize('f', sorted(root.glob('nbs/lessons/*.ipynb')), ids=lambda f: f.stem)
def test_a_lesson_has_one_import_line(f):
    "What `all` has comes from it; what the lesson builds itself is imported where it is compared"
    names = set(importlib.import_module('resnet_course.all').__all__)
    text = '\n'.join(cells(f))
    assert text.count('from resnet_course.all import *') == 1
    names -= set(re.findall(r'^def (\w+)', text, re.MULTILINE))
    for m in re.finditer(r'from resnet_course\.(\w+) import ([^\n(]+|\([^)]*\))', text):
        again = set(re.findall(r'\w+', m[2])) & names
        assert not again, f'{f.name}: {again} is in resnet_course.all'

def test_library_code_does_not_use_all():
    for f in root.glob('resnet_course/**/*.py'):
        if f.name in ('_modidx.py', 'all.py'): continue
        assert 'resnet_course.all' not in f.read_text(encoding='utf-8'), f

def test_six_calls_at_the_top():
    "They are imported when they are first used, so that `import resnet_course` stays instant"
    out = run('import sys, resnet_course as r\n'
              'assert "torch" not in sys.modules\n'
              'print(*(getattr(r, n).__name__ for n in r.__all__))')
    assert out.split() == ['get_dls', 'create_model', 'load_weights',
                           'course_learner', 'fit_recipe',
                           'run_stages']

def test_fastai_is_left_alone():
    "Importing the whole package changes no class of fastai or PyTorch"
    code = '''
import importlib, pkgutil
import fastai.vision.all, fastai.distributed, fastai.callback.all, torch
from fastai.learner import Learner, Recorder
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders, TfmdDL
from fastai.optimizer import OptimWrapper
classes = [Learner, Recorder, ProgressCallback, DataLoaders, TfmdDL, OptimWrapper, torch.nn.Module]
before = [dict(vars(c)) for c in classes]
import resnet_course
for m in pkgutil.walk_packages(resnet_course.__path__, 'resnet_course.'):
    importlib.import_module(m.name)
for c, old in zip(classes, before):
    changed = {k for k in {*old, *vars(c)} if old.get(k) is not vars(c).get(k)}
    assert not {k for k in changed if not k.startswith('__')}, (c, changed)
print('same')'''
    assert run(code).strip() == 'same'

def test_no_class_is_told_by_its_name():
    "Layers know each other by declared attributes: no `type(x).__name__ ==`, no `x.__dict__`"
    for f in root.glob('resnet_course/*.py'):
        if f.name == '_modidx.py': continue
        tree = ast.parse(f.read_text(encoding='utf-8'))
        for node in ast.walk(tree):
            pokes = isinstance(node, ast.Attribute) and node.attr == '__dict__'
            assert not pokes, f'{f.name}: __dict__'
            if isinstance(node, ast.Compare):
                parts = [n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)]
                assert '__name__' not in parts, f'{f.name}:{node.lineno} compares a class name'

def test_the_code_in_numbers():
    "What CONTRIBUTING says about the package as it is today"
    *rows, total = house.measure(root)
    assert total['nodes']/total['code'] <= 10 and total['walrus'] == 0
    assert total['annotated']/total['parameters'] >= .95
    assert total['described']/total['returns'] >= .9
    text = (root/'CONTRIBUTING.md').read_text(encoding='utf-8')
    largest = max(row['lines'] for row in rows)
    assert f'| {len(rows)}; {largest} |' in text

def test_parameters_are_described_in_a_line():
    "docments drops a second line, so the reference would show half a sentence"
    found = []
    for f in root.glob('resnet_course/*.py'):
        text = f.read_text(encoding='utf-8')
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef) or not node.args.args: continue
            args = [a.lineno for a in (*node.args.args, *node.args.kwonlyargs)]
            if max(args) == node.lineno: continue
            lines = text.splitlines()[node.lineno:max(args) + 1]
            found += [f'{f.name}: {o.strip()}' for o in lines if o.strip().startswith('#')]
    assert not found

def asks_for(node):
    "Does a call look an attribute up by a name written in the code: `hasattr(x, 'a')`?"
    names = node.args[1:2] if isinstance(node, ast.Call) else []
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    if not is_call or node.func.id not in ('hasattr', 'getattr'): return False
    return any(isinstance(o, ast.Constant) for o in names)

def unexplained(text):
    "Numbers of the lines that sniff without a comment in the line or the one above"
    lines = text.splitlines()
    found = [node.lineno for node in ast.walk(ast.parse(text)) if asks_for(node)]
    return [n for n in found if '#' not in ''.join(lines[max(n - 2, 0):n])]

def test_the_walk_is_current():
    "CONTRIBUTING lists the modules that a run calls; and resuming reads its checkpoint once"
    train, resume, reads = walk.walks()
    text = (root/'CONTRIBUTING.md').read_text(encoding='utf-8')
    assert walk.table(train, resume) in text, 'stale: run tools/walk.py'
    assert reads == 1

def test_sniffing_is_explained():
    "Only objects of other libraries are asked which attributes they have, and a comment says why"
    assert unexplained("def f(x):\n    y = getattr(x, 'a', 0)\n") == [2]
    assert unexplained("# timm's have no `a`\ny = getattr(x, 'a', 0)\nz = getattr(x, a)") == []
    found = {f.name: unexplained(f.read_text(encoding='utf-8'))
             for f in root.glob('resnet_course/*.py') if f.name != '_modidx.py'}
    assert not {name: lines for name, lines in found.items() if lines}
