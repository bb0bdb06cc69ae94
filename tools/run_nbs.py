#!/usr/bin/env python3
"""Run notebooks from a fresh kernel, as `nbdev_test` does, and store their outputs.

    python tools/run_nbs.py nbs/lessons/01_first_classifier.ipynb [...] [--flags slow]

Cells marked with one of settings.ini's `tst_flags` (slow, cuda, download) do not run and keep
their outputs, unless --flags names the flag. A failing cell stops its notebook, leaves the file
unchanged, and exits 1.
"""
import argparse, base64, io, os, re, sys, time
from pathlib import Path

from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from fastcore.xtras import working_directory
from nbdev.clean import clean_nb
from nbdev.config import get_config
from PIL import Image

def is_code(cell): return cell.cell_type == 'code'

def skipped(cell, flags):
    "Is `cell` one that does not run here?"
    marked = rf'^#\|\s*(eval:\s*false|{"|".join(flags)})\b'
    return not is_code(cell) or bool(re.search(marked, cell.source, re.M))

def as_seen(text):
    "`text` as a terminal shows it in the end: of what a progress bar overwrites, the last"
    lines = [line.rstrip('\r').rsplit('\r', 1)[-1].rstrip() for line in text.split('\n')]
    return '\n'.join(lines).rstrip('\n') + '\n'

def is_own_warning(out):
    "Is `out` a library's warning about itself? It names the machine's folders, and teaches nobody"
    return out.get('name') == 'stderr' and 'site-packages' in ''.join(out['text'])

def smaller_png(data, most=200_000):
    "`data`, a PNG in base64; a large one, such as a photo, with 256 colors: a third of the size"
    if len(data) <= most: return data
    im, f = Image.open(io.BytesIO(base64.b64decode(data))).convert('RGB'), io.BytesIO()
    # the default way of choosing colors neglects small parts, such as a color bar
    palette = im.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    im.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(f, 'PNG', optimize=True)
    return base64.b64encode(f.getvalue()).decode()

def tidy_outputs(cell):
    """Drop warnings of libraries about themselves, and all but the last state of progress bars, and
    shrink large figures
    """
    if not cell.get('outputs'): return
    for o in cell.outputs:
        images = o.get('data') or {}
        if 'image/png' in images: images['image/png'] = smaller_png(images['image/png'])
    cell.outputs = [o for o in cell.outputs if not is_own_warning(o)]
    for o in cell.outputs:
        text = ''.join(o.get('text', ''))
        if '\r' in text: o['text'] = as_seen(text).splitlines(keepends=True)

def run_nb(path, flags):
    "Execute `path` in place"
    start, nb, shell = time.time(), read_nb(path), CaptureShell(path, mpl_format='retina')
    # execnb leaves the old outputs where a cell now prints nothing
    for c in nb.cells:
        if not skipped(c, flags): c.outputs = []
    # to execnb a semicolon at the end hides everything; in Jupyter it hides only the value
    mute = [c for c in nb.cells if is_code(c) and c.source.rstrip().endswith(';')]
    for c in mute: c.source = c.source.rstrip()[:-1]
    with working_directory(path.parent):
        shell.run_all(nb, exc_stop=True, preproc=lambda c: skipped(c, flags))
    for c in mute:
        c.source += ';'
        c.outputs = [o for o in c.get('outputs', []) if o.output_type != 'execute_result']
    for c in nb.cells: tidy_outputs(c)
    allowed = get_config().get('allowed_cell_metadata_keys', '').split()
    clean_nb(nb, allowed_cell_metadata_keys=allowed)
    write_nb(nb, path)
    print(f'{path}: {time.time() - start:.0f} s')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('notebooks', nargs='+', type=Path)
    p.add_argument('--flags', nargs='*', default=[], help='run cells with these flags, too')
    a = p.parse_args()
    cfg = get_config()
    sys.path.insert(0, str(cfg.config_path))
    os.environ['IN_TEST'] = '1'
    flags, failed = set(cfg.tst_flags.split()) - set(a.flags), []
    flags = flags or {'$^'}   # matches nothing
    for path in (p.absolute() for p in a.notebooks):
        try: run_nb(path, flags)
        except Exception as e:
            failed.append(path)
            print(f'{path}: {type(e).__name__}: {e}', file=sys.stderr)
    sys.exit(bool(failed))
