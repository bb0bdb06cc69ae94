#!/usr/bin/env python3
"""Check that the committed files are what the notebooks make, on a copy of the project:
`nbdev_clean` must change no notebook, and `nbdev_export` must write exactly the modules there are.

    python tools/check_tree.py [--root DIR]
"""
import argparse, os, shutil, subprocess, sys, tempfile
from pathlib import Path

def contents(root):
    "Every notebook and module under `root`, by relative path"
    def is_hidden(f):
        return any(p.startswith(('.', '_')) for p in f.relative_to(root).parts[:-1])
    files = [*(root/'nbs').rglob('*.ipynb'), *(root/'resnet_course').rglob('*.py'),
             root/'nbs/nbdev.yml']
    return {str(f.relative_to(root)): f.read_bytes() for f in files if not is_hidden(f)}

remake = '''
from nbdev.clean import nbdev_clean
from nbdev.doclinks import nbdev_export
from nbdev.quarto import refresh_quarto_yml
nbdev_clean.__wrapped__()
nbdev_export.__wrapped__()
refresh_quarto_yml()
'''

def remade(root, before):
    "The same files, as a fresh copy of the notebooks cleans and exports them"
    # these two change where nbdev finds its settings, and whether it exports at all
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'PYTHONPATH')}
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp)/root.name
        for f in [*before, 'settings.ini', '_quarto.yml']:
            # not the modules, except for those written by hand: one whose notebook is gone must
            # not come back
            if f.endswith('.py') and not Path(f).name.startswith('__'): continue
            (copy/f).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root/f, copy/f)
        # a copy, because on some systems making links is a privilege
        shutil.copyfile(root/'_quarto.yml', copy/'nbs/_quarto.yml')
        subprocess.run([sys.executable, '-c', remake], cwd=copy, env=env, check=True)
        return contents(copy)

def reason(f, before, after):
    "What is wrong with the file `f`, and what to do"
    if f not in after: return 'has no notebook that exports it: delete it'
    if f.endswith('.ipynb'): return 'is not clean: run nbdev_clean'
    if f.endswith('.yml'): return 'is not what settings.ini says: run `make docs`'
    if f not in before: return 'is missing: run nbdev_export'
    return 'is not what its notebook exports: run nbdev_export'

def differences(root):
    "What is wrong, one line per file"
    before = contents(root)
    after = remade(root, before)
    files = sorted(before.keys() | after.keys())
    return [f'{f} {reason(f, before, after)}' for f in files if before.get(f) != after.get(f)]

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--root', type=Path, default=Path(__file__).resolve().parent.parent)
    wrong = differences(p.parse_args().root.resolve())
    print('\n'.join(wrong) if wrong else 'Export and notebooks: clean.')
    sys.exit(bool(wrong))
