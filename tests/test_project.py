"The project's own checks: that they pass as things are, and that they notice what they are for"
import json, os, re, shutil, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

import pytest, yaml

root = Path(__file__).resolve().parent.parent

def run(*args, cwd=root):
    # A notebook's test run tells nbdev not to export; these are not in one
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'PYTHONPATH')}
    return subprocess.run([*map(str, args)], cwd=cwd, env=env, capture_output=True, text=True)

def nbdev(command, *args, cwd): return run(Path(sys.executable).parent/f'nbdev_{command}', *args, cwd=cwd)

def check_tree(project): return run(sys.executable, root/'tools/check_tree.py', '--root', project)

def check_readme(project): return run(sys.executable, root/'tools/readme.py', '--check', '--root', project)

@pytest.fixture
def project(tmp_path):
    "A small copy: the front page, one module, and what they need"
    small = tmp_path/'small'
    for f in ['settings.ini', '_quarto.yml', 'nbs/nbdev.yml', 'nbs/index.ipynb', 'nbs/api/00_core.ipynb', 'resnet_course/core.py', 'README.md']:
        (small/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root/f, small/f)
    for f in (root/'nbs/images').glob('readme_*'):
        (small/'nbs/images').mkdir(exist_ok=True)
        shutil.copyfile(f, small/'nbs/images'/f.name)
    (small/'resnet_course/__init__.py').write_text('')
    assert nbdev('export', cwd=small).returncode == 0
    return small

def edit(nb, change):
    d = json.loads(nb.read_text(encoding='utf-8'))
    change(d['cells'])
    nb.write_text(json.dumps(d, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')

def test_tree_is_clean(project):
    res = check_tree(project)
    assert res.returncode == 0, res.stdout + res.stderr

def test_stale_export(project):
    with open(project/'resnet_course/core.py', 'a') as f: f.write('\nx = 1\n')
    res = check_tree(project)
    assert res.returncode == 1 and 'core.py is not what its notebook exports' in res.stdout

def test_module_without_notebook(project):
    (project/'resnet_course/orphan.py').write_text('"Nobody exports me"\n')
    res = check_tree(project)
    assert res.returncode == 1 and 'orphan.py has no notebook' in res.stdout

def test_missing_module(project):
    (project/'resnet_course/core.py').unlink()
    res = check_tree(project)
    assert res.returncode == 1 and 'core.py is missing' in res.stdout

def test_dirty_notebook(project):
    def count(cells): next(c for c in cells if c['cell_type'] == 'code')['execution_count'] = 7
    edit(project/'nbs/api/00_core.ipynb', count)
    res = check_tree(project)
    assert res.returncode == 1 and '00_core.ipynb is not clean' in res.stdout

def test_check_changes_nothing(project):
    with open(project/'resnet_course/core.py', 'a') as f: f.write('\nx = 1\n')
    before = (project/'resnet_course/core.py').read_bytes()
    check_tree(project)
    assert (project/'resnet_course/core.py').read_bytes() == before

def test_failing_cell(project):
    def fail(cells): cells.append(dict(cell_type='code', execution_count=None, id='deadbeef', metadata={}, outputs=[], source=['assert 1 == 2']))
    edit(project/'nbs/api/00_core.ipynb', fail)
    res = nbdev('test', '--path', 'nbs/api/00_core.ipynb', cwd=project)
    assert res.returncode == 1 and '00_core.ipynb' in res.stderr

def test_readme_is_current():
    res = check_readme(root)
    assert res.returncode == 0, res.stdout + res.stderr

def test_stale_readme(project):
    edit(project/'nbs/index.ipynb', lambda cells: cells[0]['source'].append('\nOne more sentence.'))
    res = check_readme(project)
    assert res.returncode == 1 and 'stale' in res.stdout
    assert run(sys.executable, root/'tools/readme.py', '--root', project).returncode == 0
    assert check_readme(project).returncode == 0
    assert 'One more sentence.' in (project/'README.md').read_text()

def test_nothing_of_one_machine():
    "No file in the repository names a folder of the machine that it was made on"
    files = subprocess.run(['git', 'ls-files', '-z'], cwd=root, capture_output=True, text=True)
    if files.returncode: pytest.skip('not a git checkout')
    home = [f'{p}/' for p in (Path.home(), root) if len(p.parts) > 1]
    found = [f for f in files.stdout.split('\0') if f and (root/f).suffix in ('.py', '.ipynb', '.md', '.json', '.yml', '.toml', '.ini')
             and (root/f).is_file() and any(h in (root/f).read_text(encoding='utf-8') for h in home)]
    assert not found

def test_one_version():
    "Everything that names the version names the same"
    settings = ConfigParser(delimiters=['='])
    settings.read(root/'settings.ini', encoding='utf-8')
    version = settings['DEFAULT']['version']
    assert re.search(r'^version: (.*)$', (root/'CITATION.cff').read_text(), re.M)[1] == version
    assert f'"{version}"' in (root/'resnet_course/__init__.py').read_text()
    assert re.search(r'^## (\S+)', (root/'CHANGELOG.md').read_text(), re.M)[1] == version

@pytest.mark.parametrize('file', [*(root/'.github').rglob('*.yml'), root/'.pre-commit-config.yaml', root/'CITATION.cff', root/'_quarto.yml'],
                         ids=lambda f: f.name)
def test_yaml_reads(file): assert isinstance(yaml.safe_load(file.read_text(encoding='utf-8')), dict)

def test_links_in_markdown():
    "What CONTRIBUTING and README point to is there"
    for f in ('CONTRIBUTING.md', 'README.md'):
        for link in re.findall(r'\]\((?![a-z]+:|#)([^)#\s]+)', (root/f).read_text(encoding='utf-8')): assert (root/link).exists(), f'{f}: {link}'

def test_tidy():
    "nbdev can run the cells that it needs for the documentation, and drops no text"
    res = run(sys.executable, root/'tools/tidy_nbs.py', '--check')
    assert res.returncode == 0, res.stdout

def test_imports_are_split(project):
    "The tool moves imports, their flags with them, and nothing else"
    src = '#| hide\nx = 1\nfrom os import (path,\n    sep)\nimport re; y = x + 1\nprint(y)'
    edit(project/'nbs/api/00_core.ipynb', lambda cells: cells.append(dict(cell_type='code', execution_count=None, id='deadbeef', metadata={},
                                                                          outputs=[], source=src.splitlines(keepends=True))))
    assert run(sys.executable, root/'tools/tidy_nbs.py', '--check', '--root', project).returncode == 1
    assert run(sys.executable, root/'tools/tidy_nbs.py', '--root', project).returncode == 0
    a, b = [''.join(c['source']) for c in json.loads((project/'nbs/api/00_core.ipynb').read_text())['cells'][-2:]]
    assert (a, b) == ('#| hide\nfrom os import (path,\n    sep)\nimport re', '#| hide\nx = 1\ny = x + 1\nprint(y)')
    assert run(sys.executable, root/'tools/tidy_nbs.py', '--check', '--root', project).returncode == 0

def test_title_is_split(project):
    "Text in the title's cell would not be on the site"
    def crowd(cells): cells[0]['source'] = ['# core\n', '\n', '> Summary\n', '\n', 'And a paragraph.\n', '\n', '- A: list']
    edit(project/'nbs/api/00_core.ipynb', crowd)
    assert run(sys.executable, root/'tools/tidy_nbs.py', '--check', '--root', project).returncode == 1
    assert run(sys.executable, root/'tools/tidy_nbs.py', '--root', project).returncode == 0
    assert [''.join(c['source']) for c in json.loads((project/'nbs/api/00_core.ipynb').read_text())['cells'][:2]] == ['# core\n\n> Summary', 'And a paragraph.\n\n- A: list']
