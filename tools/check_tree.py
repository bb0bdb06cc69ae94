#!/usr/bin/env python3
"""Is what is committed what the notebooks make? On a copy of the project, so that yours stays as it is:
`nbdev_clean` must change no notebook, and `nbdev_export` must write exactly the modules that are there.

    python tools/check_tree.py [--root DIR]
"""
import argparse, os, shutil, subprocess, sys, tempfile
from pathlib import Path

def contents(root):
    "Every notebook and module under `root`, by relative path"
    files = [*(root/'nbs').rglob('*.ipynb'), *(root/'resnet_course').rglob('*.py'), root/'nbs/nbdev.yml']
    keep = lambda f: not any(p.startswith(('.', '_')) for p in f.relative_to(root).parts[:-1])
    return {str(f.relative_to(root)): f.read_bytes() for f in files if keep(f)}

def remade(root, before):
    "The same files, as a fresh copy of the notebooks cleans and exports them"
    # nbdev takes its settings, and its hint that a test is running, from where and how it is started
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'PYTHONPATH')}
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp)/root.name
        for f in [*before, 'settings.ini', '_quarto.yml']:
            # Modules are made anew, so one whose notebook is gone does not come back
            if f.endswith('.py') and not f.endswith('__init__.py'): continue
            (copy/f).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root/f, copy/f)
        # A copy, for the systems where making links is a privilege
        shutil.copyfile(root/'_quarto.yml', copy/'nbs/_quarto.yml')
        code = ('from nbdev.clean import nbdev_clean; from nbdev.doclinks import nbdev_export; '
                'from nbdev.quarto import refresh_quarto_yml; '
                'nbdev_clean.__wrapped__(); nbdev_export.__wrapped__(); refresh_quarto_yml()')
        subprocess.run([sys.executable, '-c', code], cwd=copy, env=env, check=True)
        return contents(copy)

def differences(root):
    "What is wrong, a line each"
    before = contents(root)
    after = remade(root, before)
    wrong = []
    for f in sorted(before.keys() | after.keys()):
        if before.get(f) == after.get(f): continue
        if f not in after: why = 'has no notebook that exports it: delete it'
        elif f.endswith('.ipynb'): why = 'is not clean: run nbdev_clean'
        elif f.endswith('.yml'): why = 'is not what settings.ini says: run `make docs`'
        else: why = 'is missing: run nbdev_export' if f not in before else 'is not what its notebook exports: run nbdev_export'
        wrong.append(f'{f} {why}')
    return wrong

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--root', type=Path, default=Path(__file__).resolve().parent.parent)
    wrong = differences(p.parse_args().root.resolve())
    print(*wrong, sep='\n') if wrong else print('Export and notebooks: clean.')
    sys.exit(bool(wrong))
