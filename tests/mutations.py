"""Break the code one line at a time, and see whether a test notices.

    python tests/mutations.py [--only MODULE ...] [--first N] [--notebooks] [--out FILE]

Not part of the test suite: it takes an hour. `mutations.json` says what to break: module → pairs of
the text of a line, which occurs once in the module, and what it becomes. Each pair changes what the
code does; a pair stays in the list whether or not a test notices it. A pair whose line has been
rewritten since is named and left out: replace it by one of today's lines.

Each mutation is applied to a copy of the project, to the api notebook and to the module that it
exports. The notebook runs, then, if it notices nothing, the module's test files. What nothing
notices is a survivor. With `--notebooks`, what a notebook misses is left for a later run, because
test files take minutes. The record is written after every mutation, and a second run skips what is
in it, unless the module, its notebook or its tests have changed since. What was found before such a
change stays in the record as outdated, with its commit, until it is tried again.
"""
import argparse, json, os, re, shutil, subprocess, sys, tempfile, time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent

# what tests a module besides its own file
EXTRA = dict(tables=['listing'], copies=['listing'], splits=['groups', 'listing'],
             presets=['photos', 'data'], weight_files=['layouts', 'damage', 'weights'],
             saving=['damage', 'layouts', 'other_tools', 'weights'],
             images=['data'], augment=['data'], datasets=['data'], loaders=['data'],
             folders=['data'], torch_loaders=['data'],
             layers=['networks'], alexnet=['networks'], resnet=['networks'],
             fastresnet=['networks'], models=['networks'], summary=['networks'],
             precision=['learner'], callbacks=['learner'], optimizers=['learner', 'recipes'],
             report=['runs'], quantize=['export'], experiments=['interpret'], lessons=['cli'],
             runs=['records', 'cli'], doctor=['cli'])

def notebook(project, module):
    "The notebook that exports `module`"
    for f in (project/'nbs/api').glob('*.ipynb'):
        if f.stem.split('_', 1)[1] == module: return f

def test_files(module):
    "The files in `tests` for `module`, its own first"
    names = [f'tests/test_{o}.py' for o in [module, *EXTRA.get(module, ())]]
    return [f for f in names if (root/f).is_file()]

def mutations():
    "Triples of module, old and new text, in the order of the notebooks"
    listed = json.loads((root/'tests/mutations.json').read_text(encoding='utf-8'))
    modules = sorted(listed, key=lambda m: notebook(root, m).name)
    return [(m, *pair) for m in modules for pair in listed[m]]

# Git

def git(*args): return subprocess.run(['git', *args], cwd=root, capture_output=True, text=True)

def unchanged(module, commit):
    "Are the module, its notebook and its tests as they were at `commit`?"
    files = [f'resnet_course/{module}.py', notebook(root, module), *test_files(module)]
    return git('diff', '--quiet', commit, '--', *map(str, files)).returncode == 0

# One mutation

def is_stale(module, old, new):
    "Is the line no longer in the module and its notebook, exactly once in each?"
    return mutated(root, module, old, new) is None

def mutated(project, module, old, new):
    "Path → content of the notebook and the module; None unless both have the text exactly once"
    f, py = notebook(project, module), project/f'resnet_course/{module}.py'
    d, n = json.loads(f.read_text(encoding='utf-8')), 0
    for c in d['cells']:
        text = ''.join(c['source'])
        if c['cell_type'] != 'code' or '#| export' not in text: continue
        n += text.count(old)
        c['source'] = text.replace(old, new).splitlines(keepends=True)
    code = py.read_text(encoding='utf-8')
    if n != 1 or code.count(old) != 1: return None
    return {f: json.dumps(d, ensure_ascii=False), py: code.replace(old, new)}

def run(project, *args):
    "Run a command in `project`: whether it fails, and its output. One that does not end fails"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    env = dict(os.environ, PYTHONPATH=str(project), PATH=path, OMP_NUM_THREADS='1',
               PYTHONDONTWRITEBYTECODE='1')
    try:
        res = subprocess.run(args, cwd=project, env=env, capture_output=True,
                             encoding='utf-8', errors='replace', timeout=900)
    except subprocess.TimeoutExpired: return True, ''
    return res.returncode != 0, res.stdout

def copy_to(folder):
    "A copy of the project"
    leave = shutil.ignore_patterns('.git', '.venv*', '_docs', '_proc', 'dist', 'build', 'runs',
                                   '__pycache__', '*.egg-info', '*.whl')
    copy = Path(folder)/'resnet_course_copy'
    return Path(shutil.copytree(root, copy, symlinks=True, ignore=leave))

def notebook_fails(project, module):
    return run(project, 'nbdev_test', '--path', notebook(project, module), '--n_workers', '0')[0]

def failing_test(project, *tests):
    "The name of the first of `tests` (files or names) that fails; '' if none does"
    if not tests: return ''
    failed, out = run(project, sys.executable, '-m', 'pytest', '-x', '-q', *tests)
    if not failed: return ''
    found = re.search(r'^(?:FAILED|ERROR) ([^\s[]+)', out, re.MULTILINE)   # without parameters
    return found[1] if found else tests[0]

def attempt(module, old, new, files=True):
    "Who notices a mutation: 'notebook', a test's name, 'nobody', or '' without test `files`"
    start = time.time()
    with tempfile.TemporaryDirectory() as tmp:
        project = copy_to(tmp)
        for f, text in mutated(project, module, old, new).items():
            f.write_text(text, encoding='utf-8')
        if notebook_fails(project, module): who = 'notebook'
        elif not files: who = ''
        else: who = failing_test(project, *test_files(module)) or 'nobody'
    return dict(module=module, line=old, becomes=new, noticed_by=who,
                seconds=round(time.time() - start))

# The record

class Record:
    "What is known, in a file"
    def __init__(self, path, todo):
        self.path, self.todo = path, todo
        d = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
        self.commit = git('rev-parse', 'HEAD').stdout.strip()
        self.passing = {}   # module → notebook or test → commit at which it passes
        for m, found in d.get('unchanged_code_passes', {}).items():
            self.passing[m] = {who: c for who, c in found.items() if unchanged(m, c)}
        known = [r for r in (*d.get('outdated', ()), *d.get('rows', ())) if self.key(r) in todo]
        self.rows, self.outdated = {}, {}
        for r in known:
            found = self.rows if unchanged(r['module'], r['commit']) else self.outdated
            found[self.key(r)] = r

    @staticmethod
    def key(row): return row['module'], row['line'], row['becomes']

    def add(self, row):
        "Add the row of a mutation, and write the file"
        self.rows[self.key(row)] = dict(row, commit=self.commit)
        self.write()

    def survivors(self): return [r for r in self.rows.values() if r['noticed_by'] == 'nobody']

    def write(self):
        "Write the rows in the order of the list"
        rows = [self.rows[o] for o in self.todo if o in self.rows]
        old = [self.outdated[o] for o in self.todo if o in self.outdated and o not in self.rows]
        lost = Counter(r['module'] for r in self.survivors())
        counts = Counter(r['module'] for r in rows)
        record = dict(commit=self.commit, listed=len(self.todo), mutations=len(rows),
                      survivors=len(self.survivors()),
                      modules={m: dict(mutations=n, survivors=lost[m]) for m, n in counts.items()},
                      unchanged_code_passes=self.passing, rows=rows, outdated=old)
        text = json.dumps(record, indent=1, ensure_ascii=False) + '\n'
        self.path.write_text(text, encoding='utf-8')

def passes(record, module, who):
    "Does what noticed a mutation, the notebook or a test, pass without one?"
    if who == 'nobody' or who in record.passing.get(module, {}): return True
    with tempfile.TemporaryDirectory() as tmp:
        project = copy_to(tmp)
        if who == 'notebook': failed = notebook_fails(project, module)
        else: failed = failing_test(project, who)
    if failed: print(f'{module}: {who} fails without any mutation', flush=True)
    else: record.passing.setdefault(module, {})[who] = record.commit
    return not failed

def run_module(record, module, todo, jobs, files):
    "Try the mutations of one module that are not in the record; False if it fails unchanged"
    new = [o for o in todo if o not in record.rows]
    with ThreadPoolExecutor(jobs) as ex:
        for row in ex.map(lambda o: attempt(*o, files), new):
            who = row['noticed_by']
            if who and not passes(record, module, who): return False
            if who: record.add(row)
            old, becomes = row['line'].strip(), row['becomes'].strip()
            print(f"{len(record.rows):3}/{len(record.todo)} {module}: {old[:50]!r} → "
                  f"{becomes[:50]!r}: {who or 'not the notebook'} ({row['seconds']} s)", flush=True)
    return True

def main(only, first, jobs, files, out):
    "Run what is not in the record; the exit status"
    every, stale = mutations(), [o for o in mutations() if is_stale(*o)]
    for m, old, _ in stale: print(f'{m}: not exactly once in the module and its notebook: {old!r}')
    every = [o for o in every if o not in stale]
    if git('diff', '--quiet', 'HEAD', '--', 'nbs/api', 'resnet_course', 'tests').returncode:
        sys.exit('the record names a commit: commit nbs/api, resnet_course and tests first')
    record = Record(out, every)
    modules = [m for m in dict.fromkeys(m for m, *_ in every) if not only or m in only]
    by_module = {m: [o for o in every if o[0] == m][:first] for m in modules}
    broken = [m for m, todo in by_module.items() if not run_module(record, m, todo, jobs, files)]
    record.write()
    if broken: print(f'these fail without any mutation: {", ".join(broken)}')
    n, lost = len(record.rows), record.survivors()
    print(f'{n} of {len(every)} mutations tried, {len(lost)} survived')
    return bool(broken or stale) or len(lost) > 3

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--only', nargs='*', default=[], help='these modules')
    p.add_argument('--first', type=int, help='at most this many of each module')
    p.add_argument('--notebooks', action='store_true', help='do not run test files')
    p.add_argument('--jobs', type=int, default=1)
    p.add_argument('--out', type=Path, default=root/'results/mutations.json')
    a = p.parse_args()
    sys.exit(main(a.only, a.first, a.jobs, not a.notebooks, a.out))
