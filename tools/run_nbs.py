#!/usr/bin/env python3
"""Run notebooks from a fresh kernel and store their outputs in them, as `nbdev_test` runs them without storing.

    python tools/run_nbs.py nbs/lessons/01_first_classifier.ipynb [...] [--flags slow]

Cells marked with one of settings.ini's `tst_flags` (slow, cuda, download) are left alone, outputs included,
unless --flags names the flag. A failing cell stops its notebook, leaves the file as it was, and exits 1.
"""
import argparse, os, re, sys, time
from pathlib import Path

from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from fastcore.xtras import working_directory
from nbdev.clean import clean_nb
from nbdev.config import get_config

def skipped(cell, flags):
    "Is `cell` one that does not run here?"
    return cell.cell_type != 'code' or bool(re.search(rf'^#\|\s*(eval:\s*false|{"|".join(flags)})\b', cell.source, re.M))

def as_seen(text):
    "`text` as a terminal shows it in the end: of what a progress bar wrote over itself, the last"
    return ''.join(l.rstrip('\r').rsplit('\r', 1)[-1].rstrip() + '\n' for l in text.split('\n')).rstrip('\n') + '\n'

def run_nb(path, flags):
    "Execute `path` in place"
    nb, shell, start = read_nb(path), CaptureShell(path, mpl_format='retina'), time.time()
    for c in nb.cells:
        if c.cell_type == 'code' and not skipped(c, flags): c.outputs = []   # execnb leaves the old ones where a cell now prints nothing
    # execnb takes a semicolon at the end for "show nothing at all"; in Jupyter it hides the value, and what was printed stays
    mute = [c for c in nb.cells if c.cell_type == 'code' and c.source.rstrip().endswith(';')]
    for c in mute: c.source = c.source.rstrip()[:-1]
    with working_directory(path.parent): shell.run_all(nb, exc_stop=True, preproc=lambda c: skipped(c, flags))
    for c in mute: c.source, c.outputs = c.source + ';', [o for o in c.get('outputs', []) if o.output_type != 'execute_result']
    for c in nb.cells:  # a library's warning about itself names the machine's folders, and teaches nobody
        if c.get('outputs'): c.outputs = [o for o in c.outputs if not (o.get('name') == 'stderr' and 'site-packages' in ''.join(o['text']))]
    for o in (o for c in nb.cells for o in c.get('outputs', []) if '\r' in ''.join(o.get('text', ''))):
        o['text'] = as_seen(''.join(o['text'])).splitlines(keepends=True)
    clean_nb(nb, allowed_cell_metadata_keys=get_config().get('allowed_cell_metadata_keys', '').split())
    write_nb(nb, path)
    print(f'{path}: {time.time() - start:.0f} s')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('notebooks', nargs='+', type=Path)
    p.add_argument('--flags', nargs='*', default=[], help='run cells with these flags too')
    a = p.parse_args()
    cfg = get_config()
    sys.path.insert(0, str(cfg.config_path))
    os.environ['IN_TEST'] = '1'
    flags, failed = set(cfg.tst_flags.split()) - set(a.flags) or {'$^'}, []
    for path in (p.absolute() for p in a.notebooks):
        try: run_nb(path, flags)
        except Exception as e:
            failed.append(path)
            print(f'{path}: {type(e).__name__}: {e}', file=sys.stderr)
    sys.exit(bool(failed))
