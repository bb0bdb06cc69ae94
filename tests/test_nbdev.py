"nbdev's own commands in a clean clone: what they leave behind. A script stands in for Quarto."
import os, shutil, subprocess, sys
from pathlib import Path

import pytest

root = Path(__file__).parents[1]
# enough of every kind of source; all of them would take minutes
KEPT = ('nbs/api/00_core.ipynb', 'nbs/index.ipynb', 'nbs/lessons/01_first_classifier.ipynb',
        'nbs/guides/installing.qmd', 'nbs/reference.qmd')
# Writes what Quarto writes: a site, or one file with a folder of its figures
QUARTO = '''#!/bin/sh
if [ "$1" = --version ]; then echo 1.7.34; exit; fi
if [ "$1" != render ]; then exit; fi
case "$2" in
    ''|--*) mkdir -p _docs; echo '<html></html>' > _docs/index.html ;;
    *)  [ -f "$2" ] || { echo "ERROR: $2 not found" >&2; exit 1; }
        mkdir -p _docs/index_files; echo figure > _docs/index_files/figure.png
        echo '# by Quarto' > _docs/README.md ;;
esac
'''

def git(folder, *args):
    name = '-c', 'user.name=test', '-c', 'user.email=test@example.com'
    return subprocess.run(['git', *name, *args], cwd=folder, check=True, capture_output=True,
                          text=True).stdout

def is_kept(name):
    source = name.endswith(('.ipynb', '.qmd')) and name.startswith('nbs/')
    return name in KEPT if source else True

def copy_tracked(to):
    "Copy what git tracks, as it is now, without most of the notebooks"
    for name in git(root, 'ls-files', '-z').strip('\0').split('\0'):
        if not is_kept(name) or not os.path.lexists(root/name): continue
        (to/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root/name, to/name, follow_symlinks=False)

@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    "A clean repository, and the environment for commands in it"
    if os.name == 'nt': pytest.skip('the script that stands in for Quarto needs a Unix shell')
    if not (root/'.git').exists(): pytest.skip('git has to say which files are part of the project')
    folder, tools = tmp_path_factory.mktemp('clone'), tmp_path_factory.mktemp('tools')
    copy_tracked(folder)
    (tools/'quarto').write_text(QUARTO)
    (tools/'quarto').chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ['PATH']])
    env = dict(os.environ, PATH=path, PYTHONPATH=str(folder))
    git(folder, 'init', '-q')
    run('nbdev_export', folder, env)    # the index of symbols, of fewer notebooks
    git(folder, 'add', '-A')
    git(folder, 'commit', '-q', '-m', 'All')
    return folder, env

def run(command, folder, env):
    return subprocess.run(command, cwd=folder, env=env, shell=True, capture_output=True, text=True,
                          timeout=300)

# `nbdev_prepare` also runs every notebook, which the other tests do
PREPARE = (f'{sys.executable} -c "import nbdev.quarto as q, nbdev.test as t; '
           't.nbdev_test.__wrapped__ = lambda *a, **kw: True; q.prepare()"')

@pytest.mark.parametrize('command', [
    'nbdev_export', 'nbdev_clean', 'nbdev_docs --n_workers 0', 'nbdev_preview --n_workers 0',
    PREPARE], ids=['export', 'clean', 'docs', 'preview', 'prepare'])
def test_a_clean_clone_stays_clean(clone, command):
    folder, env = clone
    done = run(command, folder, env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not git(folder, 'status', '--porcelain')
    if 'docs' in command: assert (folder/'_docs/index.html').exists()

def test_quarto_does_not_write_the_readme(clone):
    "Its links would start in `nbs`: `make readme` writes it"
    folder, env = clone
    done = run('nbdev_readme', folder, env)
    assert done.returncode and 'none.ipynb' in done.stdout + done.stderr
    assert not git(folder, 'status', '--porcelain')

def test_a_readme_by_quarto_would_be_noticed(clone):
    "The script does write one, for a notebook that exists"
    folder, env = clone
    settings = (folder/'settings.ini').read_text()
    try:
        (folder/'settings.ini').write_text(settings.replace('none.ipynb', 'index.ipynb'))
        assert run('nbdev_readme', folder, env).returncode == 0
        assert 'README.md' in git(folder, 'status', '--porcelain')
    finally:
        git(folder, 'checkout', '-q', '--', '.')
        git(folder, 'clean', '-q', '-fd')
