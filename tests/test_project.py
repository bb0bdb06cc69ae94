"The project's own checks pass, and they notice what they are for"
import json, os, re, shutil, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

import pytest, yaml

root = Path(__file__).resolve().parent.parent

def run(*args, cwd=root, **env):
    # A notebook's test run tells nbdev not to export
    kept = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'PYTHONPATH')}
    return subprocess.run([*map(str, args)], cwd=cwd, env=kept | env, capture_output=True,
                          text=True)

def nbdev(command, *args, cwd, **env):
    return run(Path(sys.executable).parent/f'nbdev_{command}', *args, cwd=cwd, **env)

def tool(name, project, *args):
    "Run one of our tools on `project`"
    return run(sys.executable, root/f'tools/{name}.py', *args, '--root', project)

def check_tree(project): return tool('check_tree', project)
def check_readme(project): return tool('readme', project, '--check')

small_files = ['settings.ini', '_quarto.yml', 'nbs/nbdev.yml', 'nbs/index.ipynb',
               'nbs/api/00_core.ipynb', 'resnet_course/core.py', 'README.md']

@pytest.fixture
def project(tmp_path):
    "A small copy: the front page, one module, and what they need"
    small = tmp_path/'small'
    images = [f.relative_to(root) for f in (root/'nbs/images').glob('readme_*')]
    for f in [*small_files, *images]:
        (small/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root/f, small/f)
    shutil.copyfile(root/'_quarto.yml', small/'nbs/_quarto.yml')
    (small/'resnet_course/__init__.py').write_text('')
    assert nbdev('export', cwd=small).returncode == 0
    return small

@pytest.fixture
def core_nb(project): return project/'nbs/api/00_core.ipynb'

@pytest.fixture
def core_py(project): return project/'resnet_course/core.py'

def read_cells(nb): return json.loads(nb.read_text(encoding='utf-8'))['cells']

def sources(nb): return [''.join(c['source']) for c in read_cells(nb)]

def edit(nb, change):
    d = json.loads(nb.read_text(encoding='utf-8'))
    change(d['cells'])
    nb.write_text(json.dumps(d, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')

def append_code(nb, source):
    cell = dict(cell_type='code', execution_count=None, id='deadbeef', metadata={}, outputs=[],
                source=source.splitlines(keepends=True))
    edit(nb, lambda cells: cells.append(cell))

def append_line(f):
    with open(f, 'a') as out: out.write('\nx = 1\n')

# check_tree

def test_tree_is_clean(project):
    res = check_tree(project)
    assert res.returncode == 0, res.stdout + res.stderr

def test_stale_export(project, core_py):
    append_line(core_py)
    res = check_tree(project)
    assert res.returncode == 1 and 'core.py is not what its notebook exports' in res.stdout

def test_module_without_notebook(project):
    (project/'resnet_course/orphan.py').write_text('"Nobody exports me"\n')
    res = check_tree(project)
    assert res.returncode == 1 and 'orphan.py has no notebook' in res.stdout

def test_missing_module(project, core_py):
    core_py.unlink()
    res = check_tree(project)
    assert res.returncode == 1 and 'core.py is missing' in res.stdout

def test_dirty_notebook(project, core_nb):
    def count(cells):
        code = [c for c in cells if c['cell_type'] == 'code']
        code[0]['execution_count'] = 7
    edit(core_nb, count)
    res = check_tree(project)
    assert res.returncode == 1 and '00_core.ipynb is not clean' in res.stdout

def test_check_changes_nothing(project, core_py):
    append_line(core_py)
    before = core_py.read_bytes()
    check_tree(project)
    assert core_py.read_bytes() == before

def test_failing_cell(project, core_nb):
    append_code(core_nb, 'assert 1 == 2')
    res = nbdev('test', '--path', 'nbs/api/00_core.ipynb', cwd=project)
    assert res.returncode == 1 and '00_core.ipynb' in res.stderr

# nbdev's own commands

quarto = '''#!{python}
"Write what Quarto writes when nbdev calls it, without rendering anything"
import sys
from pathlib import Path

def write(f, text):
    f.parent.mkdir(parents=True, exist_ok=True)
    f.write_text(text)

command, *args = sys.argv[1:]
out, sources = Path('_docs'), [f for f in Path('.').rglob('*.ipynb') if '_docs' not in f.parts]
write(Path('.quarto/index'), '')
if '-o' in args:
    if not Path(args[0]).is_file(): sys.exit('No valid input files passed to render')
    write(out/args[args.index('-o') + 1], 'made by Quarto')
    sources = [Path(args[0])]
else:
    for f in sources: write(out/f.with_suffix('.html'), command)
for f in sources: write(out/f'{{f.stem}}_files/figure/1.png', '')
'''

def snapshot(project):
    "Every file but what .gitignore names"
    ignored = {'_docs', '_proc', '__pycache__', '.last_checked'}
    files = [f for f in project.rglob('*') if f.is_file()]
    return {str(f): f.read_bytes() for f in files
            if not ignored & set(f.relative_to(project).parts)}

def only_exports(cells):
    "Drop the code cells that export nothing"
    exports = '#| default_exp', '#| export'
    cells[:] = [c for c in cells if c['cell_type'] == 'markdown'
                or ''.join(c['source']).startswith(exports)]

@pytest.mark.skipif(os.name == 'nt', reason='the stand-in for Quarto is a script for Unix shells')
@pytest.mark.parametrize('command', ['export', 'clean', 'docs', 'preview', 'prepare', 'readme'])
def test_nbdev_leaves_the_project_as_it_was(project, tmp_path, command):
    program = tmp_path/'bin/quarto'
    program.parent.mkdir()
    program.write_text(quarto.format(python=sys.executable))
    program.chmod(0o755)
    # `prepare` runs the notebooks: leave nothing that needs files of the whole project
    for nb in (project/'nbs/index.ipynb', project/'nbs/api/00_core.ipynb'):
        edit(nb, only_exports)
    # older than the front page: nbdev would write it anew
    os.utime(project/'README.md', (0, 0))
    before = snapshot(project)
    path = os.pathsep.join([str(program.parent), str(Path(sys.executable).parent),
                            os.environ['PATH']])
    res = nbdev(command, cwd=project, PATH=path)
    assert snapshot(project) == before
    # tools/readme.py writes the README; nbdev's command for it has to fail, not to overwrite it
    assert (res.returncode != 0) == (command == 'readme'), res.stdout + res.stderr
    if command == 'docs': assert (project/'_docs/index.html').read_text() == 'render'

# The README

def test_readme_is_current():
    res = check_readme(root)
    assert res.returncode == 0, res.stdout + res.stderr

def test_stale_readme(project):
    def add(cells): cells[0]['source'].append('\nOne more sentence.')
    edit(project/'nbs/index.ipynb', add)
    res = check_readme(project)
    assert res.returncode == 1 and 'stale' in res.stdout
    assert tool('readme', project).returncode == 0
    assert check_readme(project).returncode == 0
    assert 'One more sentence.' in (project/'README.md').read_text()

def test_pictures_in_the_readme_are_described():
    text = (root/'README.md').read_text(encoding='utf-8')
    described = re.findall(r'!\[([^]]*)\]\(nbs/images/readme_\S+\)', text)
    assert len(described) == 2 and all(len(alt) > 40 for alt in described)

# All files

text_files = ('.py', '.ipynb', '.md', '.json', '.yml', '.toml', '.ini')

def test_no_paths_of_one_machine():
    "No file in the repository names a folder of the machine that it was made on"
    files = subprocess.run(['git', 'ls-files', '-z'], cwd=root, capture_output=True, text=True)
    if files.returncode: pytest.skip('not a git checkout')
    home = [f'{p}/' for p in (Path.home(), root) if len(p.parts) > 1]
    paths = [root/f for f in files.stdout.split('\0') if f.endswith(text_files)]
    texts = {f: f.read_text(encoding='utf-8') for f in paths if f.is_file()}
    assert not [f for f, text in texts.items() if any(h in text for h in home)]

def test_one_version():
    "Everything that names the version names the same"
    settings = ConfigParser(delimiters=['='])
    settings.read(root/'settings.ini', encoding='utf-8')
    version = settings['DEFAULT']['version']
    cited = re.search(r'^version: (.*)$', (root/'CITATION.cff').read_text(), re.M)
    changed = re.search(r'^## (\S+)', (root/'CHANGELOG.md').read_text(), re.M)
    assert cited[1] == changed[1] == version
    assert f'"{version}"' in (root/'resnet_course/__init__.py').read_text()

yaml_files = [*(root/'.github').rglob('*.yml'), root/'.pre-commit-config.yaml',
              root/'CITATION.cff', root/'_quarto.yml']

@pytest.mark.parametrize('file', yaml_files, ids=lambda f: f.name)
def test_yaml_is_valid(file):
    assert isinstance(yaml.safe_load(file.read_text(encoding='utf-8')), dict)

def test_links_in_markdown():
    "The files that CONTRIBUTING and README link to exist"
    for f in ('CONTRIBUTING.md', 'README.md'):
        text = (root/f).read_text(encoding='utf-8')
        for link in re.findall(r'\]\((?![a-z]+:|#)([^)#\s]+)', text):
            assert (root/link).exists(), f'{f}: {link}'

# Warnings

import_all = """
import importlib, pkgutil, warnings
import resnet_course
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter('always')
    for m in pkgutil.walk_packages(resnet_course.__path__, 'resnet_course.'):
        importlib.import_module(m.name)
print(*{w.filename for w in seen}, sep='\\n')
"""

def test_no_warning_is_ours():
    "Importing warns about nothing in this package's code"
    res = subprocess.run([sys.executable, '-c', import_all], cwd=root, capture_output=True,
                         text=True, env={**os.environ, 'PYTHONPATH': str(root)})
    assert res.returncode == 0, res.stderr
    package = root/'resnet_course'
    assert not [f for f in res.stdout.splitlines() if Path(f).is_relative_to(package)]

def test_imports_where_warnings_are_errors():
    "What fastai's imports make torch and pandas warn about does not stop those who use `-W error`"
    res = subprocess.run([sys.executable, '-W', 'error', '-c', 'import resnet_course.all'],
                         cwd=root, capture_output=True, text=True,
                         env={**os.environ, 'PYTHONPATH': str(root)})
    assert res.returncode == 0, res.stderr

# What people read before they have anything

def test_sizes_agree():
    "The environments' sizes in the guide, in CONTRIBUTING, and in what make prints"
    guide = (root/'nbs/guides/installing.qmd').read_text(encoding='utf-8')
    cuda = re.search(r'PyTorch with CUDA \| (\d+ GB)', guide)[1]
    dev = re.search(r'about (\d+ GB) of disk space', (root/'CONTRIBUTING.md').read_text())[1]
    makefile = (root/'Makefile').read_text()
    said = {kind: re.search(rf'/\.installed-{kind}: \$\(PACKAGE\).*\n.*and (\d+ GB) with',
                            makefile)[1] for kind in ('plain', 'dev')}
    assert said == dict(plain=cuda, dev=dev)

def test_quoted_errors_exist():
    "What Troubleshooting quotes as a message of this package is one"
    guide = (root/'nbs/guides/troubleshooting.qmd').read_text(encoding='utf-8')
    blocks = re.findall(r'^```(\w*)\n(.*?)^```', guide, re.S | re.M)
    # of Python, pip, the system; the first is made of parts, see the next test
    others = 'out of memory', 'Error: ', 'ERROR: ', 'Warning: ', 'Killed', '  '
    lines = [o for kind, block in blocks if not kind for o in block.splitlines()
             if not any(word in o for word in others)]
    quoted = lines + re.findall(r'^\*\*"(.*?)"', guide, re.M)
    assert len(quoted) > 6
    code = '\n'.join(f.read_text(encoding='utf-8') for f in (root/'resnet_course').glob('*.py'))
    code = re.sub(r"'\s*\n\s*f?'", '', code)   # strings that go on in the next line
    for message in quoted:
        pieces = re.split(r'…|\(.*|\bnan\b', message)   # a value, or a reason of the system's
        for piece in (o.strip(' :') for o in pieces):
            assert piece in code, f'{message}: no message says {piece!r}'

def test_quoted_advice_about_memory():
    from resnet_course.core import OutOfMemoryError, memory_advice
    with pytest.raises(OutOfMemoryError) as e:
        with memory_advice(64, accumulate=1): raise RuntimeError('CUDA error: out of memory')
    guide = (root/'nbs/guides/troubleshooting.qmd').read_text(encoding='utf-8')
    assert f'```\nerror: {e.value}\n' in guide

# Workflows

workflows = sorted((root/'.github/workflows').glob('*.yml'))

def read_yaml(file): return yaml.safe_load(file.read_text(encoding='utf-8'))

def steps_of(file): return [s for job in read_yaml(file)['jobs'].values() for s in job['steps']]

@pytest.mark.parametrize('file', workflows, ids=lambda f: f.name)
def test_actions_have_a_major_version(file):
    "No action is taken from a branch that may change under us; PyPI's is called release/v1"
    used = [step['uses'] for step in steps_of(file) if 'uses' in step]
    assert used
    for action in used: assert re.fullmatch(r'[\w-]+(/[\w-]+)+@(release/)?v\d+', action), action

# The inputs that we use, as each action's action.yml names them; GitHub only warns about others
inputs = {'actions/setup-python': {'python-version', 'cache', 'cache-dependency-path'},
          'actions/upload-artifact': {'name', 'path'},
          'actions/download-artifact': {'name', 'path'},
          'actions/upload-pages-artifact': {'path'},
          'quarto-dev/quarto-actions/setup': {'version'}}

@pytest.mark.parametrize('file', workflows, ids=lambda f: f.name)
def test_inputs_of_actions(file):
    for step in steps_of(file):
        name = step.get('uses', '').split('@')[0]
        assert not step.get('with', {}).keys() - inputs.get(name, set()), name

@pytest.mark.parametrize('file', workflows, ids=lambda f: f.name)
def test_workflows_run_what_exists(file):
    "Scripts, folders, make's targets and nbdev's commands"
    makefile = (root/'Makefile').read_text()
    for text in [step['run'] for step in steps_of(file) if 'run' in step]:
        for path in re.findall(r'(?<![\w./])(?:tools|tests|nbs|\.ci)/[\w./-]+', text):
            assert (root/path).exists(), path
        for target in re.findall(r'\bmake ([\w./-]+)', text):
            assert re.search(rf'^{target}:', makefile, re.M), target
        for command in re.findall(r'\bnbdev_\w+', text): assert shutil.which(command), command

def test_the_site_is_deployed_from_where_it_is_built():
    settings = ConfigParser(delimiters=['='])
    settings.read(root/'settings.ini', encoding='utf-8')
    steps = {s['uses'].split('@')[0]: s for s in steps_of(root/'.github/workflows/docs.yml')
             if 'uses' in s}
    assert steps['actions/upload-pages-artifact']['with']['path'] == settings['DEFAULT']['doc_path']
    quarto = steps['quarto-dev/quarto-actions/setup']['with']['version']
    assert re.fullmatch(r'1\.[78]\.\d+', quarto)

def test_no_deployment_is_cut_short():
    "Pages refuses the next one while one that was cancelled still counts as in progress"
    flow = read_yaml(root/'.github/workflows/docs.yml')
    assert flow['concurrency'] == {'group': 'pages', 'cancel-in-progress': False}

def test_permissions():
    "The jobs that publish may write or ask for a token, and no other job may"
    read = [read_yaml(file) for file in workflows]
    assert all(flow['permissions'] == {'contents': 'read'} for flow in read)
    jobs = {name: job for flow in read for name, job in flow['jobs'].items()}
    may = {name: job['permissions'] for name, job in jobs.items() if 'permissions' in job}
    token = {'id-token': 'write'}
    assert may == dict(deploy={'pages': 'write', **token}, publish=token,
                       github={'contents': 'write'})

# tidy_nbs

def test_tidy():
    "nbdev can run the cells that it needs for the documentation, and drops no text"
    res = tool('tidy_nbs', root, '--check')
    assert res.returncode == 0, res.stdout

def tidy(project):
    "Notice something, change it, and find nothing more"
    assert tool('tidy_nbs', project, '--check').returncode == 1
    assert tool('tidy_nbs', project).returncode == 0
    assert tool('tidy_nbs', project, '--check').returncode == 0

def test_imports_are_split(project, core_nb):
    "The tool moves imports, their flags with them, and nothing else"
    append_code(core_nb, '#| hide\nx = 1\nfrom os import (path,\n    sep)\n'
                         'import re; y = x + 1\nprint(y)')
    tidy(project)
    imports, rest = sources(core_nb)[-2:]
    assert imports == '#| hide\nfrom os import (path,\n    sep)\nimport re'
    assert rest == '#| hide\nx = 1\ny = x + 1\nprint(y)'

def test_title_is_split(project, core_nb):
    "Text in the title's cell would not be on the site"
    def crowd(cells):
        title = '# core\n\n> Summary\n\nAnd a paragraph.\n\n- A: list'
        cells[0]['source'] = title.splitlines(keepends=True)
    edit(core_nb, crowd)
    tidy(project)
    assert sources(core_nb)[:2] == ['# core\n\n> Summary', 'And a paragraph.\n\n- A: list']
