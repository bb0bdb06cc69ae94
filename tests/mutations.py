"""Break the code one line at a time, and see whether a test notices.

    python tests/mutations.py [--only MODULE ...] [--jobs 2] [--out results/mutations.json]

Not part of the test suite: it takes half an hour. Each mutation is applied to a copy of the project, to the api
notebook and to the module that it exports. Then the notebook runs, and the test files of the module if the
notebook has noticed nothing. A mutation that nothing notices is a survivor, and is printed.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
# module: [(the line's text, what it becomes), ...]; each text stands once in the module
MUTATIONS = json.loads((root/'tests/mutations.json').read_text(encoding='utf-8'))

def notebook(project, module):
    "The notebook that exports `module`"
    for f in (project/'nbs/api').glob('*.ipynb'):
        if f.stem.split('_', 1)[1] == module: return f

def apply(project, module, old, new):
    "Mutate the notebook and the module; False if the text does not stand in both exactly once"
    f, py = notebook(project, module), project/f'resnet_course/{module}.py'
    d, n = json.loads(f.read_text(encoding='utf-8')), 0
    for c in d['cells']:
        text = ''.join(c['source'])
        if c['cell_type'] != 'code' or old not in text or '#| export' not in text: continue
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
    try: return subprocess.run(args, cwd=project, env=env, capture_output=True, timeout=900).returncode != 0
    except subprocess.TimeoutExpired: return True

def attempt(module, old, new):
    "Who notices the mutation: 'notebook', 'tests', or nobody"
    start = time.time()
    with tempfile.TemporaryDirectory() as tmp:
        project = Path(tmp)/'resnet_course_copy'
        shutil.copytree(root, project, symlinks=True, ignore=shutil.ignore_patterns(
            '.git', '.venv*', '_docs', '_proc', 'dist', 'build', 'runs', '__pycache__', '*.egg-info'))
        if not apply(project, module, old, new): who = 'not applied'
        elif run(project, 'nbdev_test', '--path', notebook(project, module), '--n_workers', '0'):
            who = 'notebook'
        else:
            files = [f for f in (f'tests/test_{module}.py', *EXTRA.get(module, ())) if (root/f).is_file()]
            caught = files and run(project, sys.executable, '-m', 'pytest', '-x', '-q', *files)
            who = 'tests' if caught else 'nobody'
    row = dict(module=module, line=old, becomes=new, noticed_by=who, seconds=round(time.time() - start))
    print(f"{who:12} {module}: {old.strip()[:60]!r} → {new.strip()[:60]!r}", flush=True)
    return row

# what tests a module besides its own file
EXTRA = dict(callbacks=['tests/test_learner.py'], precision=['tests/test_learner.py'],
             layers=['tests/test_networks.py'], resnet=['tests/test_networks.py'],
             alexnet=['tests/test_networks.py'], fastresnet=['tests/test_networks.py'],
             models=['tests/test_networks.py'], summary=['tests/test_networks.py'])

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--only', nargs='*', default=[], help='these modules')
    p.add_argument('--jobs', type=int, default=2)
    p.add_argument('--out', type=Path, default=root/'results/mutations.json')
    a = p.parse_args()
    todo = [(m, *o) for m, os_ in MUTATIONS.items() for o in os_ if not a.only or m in a.only]
    with ThreadPoolExecutor(a.jobs) as ex: rows = list(ex.map(lambda o: attempt(*o), todo))
    lost = [r for r in rows if r['noticed_by'] in ('nobody', 'not applied')]
    commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=root, capture_output=True, text=True)
    record = dict(commit=commit.stdout.strip(), mutations=len(rows), survivors=len(lost), rows=rows)
    a.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    print(f'{len(rows)} mutations, {len(lost)} survived')
    sys.exit(len(lost) > len(rows)/20)
