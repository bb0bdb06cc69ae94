"""Break the code one line at a time, and see whether a test notices.

    python tests/mutations.py [--only MODULE ...] [--jobs 2] [--out results/mutations.json]

Not part of the test suite: it takes half an hour or more. Each mutation is applied to a copy of the
project, to the api notebook and to the module that it exports. Then the notebook runs, and the test
files of the module if the notebook notices nothing. What nothing notices is a survivor.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
# module: [(the line's text, what it becomes), ...]; each text occurs once in the module
MUTATIONS = json.loads((root/'tests/mutations.json').read_text(encoding='utf-8'))

def notebook(project, module):
    "The notebook that exports `module`"
    for f in (project/'nbs/api').glob('*.ipynb'):
        if f.stem.split('_', 1)[1] == module: return f

def apply(project, module, old, new):
    "Mutate the notebook and the module; False unless both contain the text exactly once"
    f, py = notebook(project, module), project/f'resnet_course/{module}.py'
    d, n = json.loads(f.read_text(encoding='utf-8')), 0
    for c in d['cells']:
        text = ''.join(c['source'])
        if c['cell_type'] != 'code' or '#| export' not in text: continue
        n += text.count(old)
        c['source'] = text.replace(old, new).splitlines(keepends=True)
    code = py.read_text(encoding='utf-8')
    if n != 1 or code.count(old) != 1: return False
    f.write_text(json.dumps(d, ensure_ascii=False), encoding='utf-8')
    py.write_text(code.replace(old, new), encoding='utf-8')
    return True

def run(project, *args):
    "Does the command fail, in `project`?"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    env = dict(os.environ, PYTHONPATH=str(project), PATH=path, OMP_NUM_THREADS='1',
               PYTHONDONTWRITEBYTECODE='1')
    try: res = subprocess.run(args, cwd=project, env=env, capture_output=True, timeout=900)
    except subprocess.TimeoutExpired: return True
    return res.returncode != 0

def copy_to(folder):
    "A copy of the project"
    leave = shutil.ignore_patterns('.git', '.venv*', '_docs', '_proc', 'dist', 'build', 'runs',
                                   '__pycache__', '*.egg-info')
    copy = Path(folder)/'resnet_course_copy'
    return Path(shutil.copytree(root, copy, symlinks=True, ignore=leave))

def noticed(project, module):
    "What fails: 'notebook', 'tests' or nothing ('nobody')"
    if run(project, 'nbdev_test', '--path', notebook(project, module), '--n_workers', '0'):
        return 'notebook'
    files = [f'tests/test_{module}.py', *EXTRA.get(module, ())]
    files = [f for f in files if (root/f).is_file()]
    failed = files and run(project, sys.executable, '-m', 'pytest', '-x', '-q', *files)
    return 'tests' if failed else 'nobody'

def attempt(module, old=None, new=None):
    "Who notices a mutation; without one, whether everything passes"
    start = time.time()
    with tempfile.TemporaryDirectory() as tmp:
        project = copy_to(tmp)
        applied = old is None or apply(project, module, old, new)
        who = noticed(project, module) if applied else 'not applied'
    row = dict(module=module, line=old, becomes=new, noticed_by=who,
               seconds=round(time.time() - start))
    what = f'{old.strip()[:60]!r} → {new.strip()[:60]!r}' if old else 'unchanged'
    print(f'{who:12} {module}: {what}', flush=True)
    return row

# what tests a module besides its own file
EXTRA = dict(callbacks=['tests/test_learner.py'], precision=['tests/test_learner.py'],
             layers=['tests/test_networks.py'], resnet=['tests/test_networks.py'],
             alexnet=['tests/test_networks.py'], fastresnet=['tests/test_networks.py'],
             models=['tests/test_networks.py'], summary=['tests/test_networks.py'])

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--only', nargs='*', default=[], help='these modules')
    p.add_argument('--jobs', type=int, default=2)
    p.add_argument('--out', type=Path, default=root/'results/mutations.json')
    a = p.parse_args()
    modules = [m for m in MUTATIONS if not a.only or m in a.only]
    todo = [(m, *mutation) for m in modules for mutation in MUTATIONS[m]]
    with ThreadPoolExecutor(a.jobs) as ex:
        broken = [r['module'] for r in ex.map(attempt, modules) if r['noticed_by'] != 'nobody']
        if broken: sys.exit(f'these fail without any mutation: {", ".join(broken)}')
        rows = list(ex.map(lambda o: attempt(*o), todo))
    lost = [r for r in rows if r['noticed_by'] in ('nobody', 'not applied')]
    commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=root, capture_output=True, text=True)
    record = dict(commit=commit.stdout.strip(), mutations=len(rows), survivors=len(lost), rows=rows)
    a.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    print(f'{len(rows)} mutations, {len(lost)} survived')
    sys.exit(len(lost) > len(rows)/20)
