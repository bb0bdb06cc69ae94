#!/usr/bin/env python3
"""Write README.md from nbs/index.ipynb, or say that it is stale. Nothing is run: the README shows
the outputs that are stored in the notebook.

    python tools/readme.py [--check] [--root DIR]

Links and images that are relative to nbs/ become relative to the top of the repository, where
GitHub resolves them (setup.py makes them absolute for PyPI). Images among the outputs are stored
as nbs/images/readme_*.png.
"""
import argparse, re, sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

NOTE = ('<!-- Made from nbs/index.ipynb by tools/readme.py: change that notebook, then run '
        '`make readme`. -->\n\n')

def flags(cell):
    "The flags of a code cell, such as 'hide' or 'echo: false'"
    if cell.cell_type != 'code': return set()
    return set(re.findall(r'^#\|\s*(\w+:\s*\w+|\w+)', cell.source, re.M))

def shown(cell):
    "Does any of `cell` belong in the README?"
    hidden = {'hide', 'include: false', 'export', 'exporti', 'default_exp'}
    return cell.cell_type != 'raw' and not flags(cell) & hidden

def prepare(nb):
    "Drop what Quarto would drop"
    nb.cells = [c for c in nb.cells if shown(c)]
    for c in nb.cells:
        if c.cell_type == 'markdown': c.source = without_quarto(c.source)
        else: prepare_code(c)
    nb.cells = [c for c in nb.cells if c.source or c.get('outputs')]
    return nb

def without_quarto(text):
    "Drop fences and attributes, which mean nothing to GitHub"
    text = re.sub(r'^:::.*\n?', '', text, flags=re.M)
    return re.sub(r'(\]\([^)]*\))\{[^}]*\}', r'\1', text)

def prepare_code(c):
    "Apply and drop the flags of a code cell, and tidy its outputs"
    f = flags(c)
    alt = re.search(r'^#\|\s*fig-alt:\s*"?(.*?)"?$', c.source, re.M)
    if alt: c.metadata['fig-alt'] = alt[1]
    if 'output: false' in f: c.outputs = []
    c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip()
    if 'echo: false' in f: c.source = ''
    for o in c.outputs: tidy(o)
    c.outputs = [o for o in c.outputs if o.output_type != 'stream' or o.text.strip()]

def tidy(out):
    "Make training tables plain HTML: GitHub shows neither styles nor progress bars"
    data = out.get('data', {})
    if data.get('text/html'):
        html = re.sub(r'<style.*?</style>|<progress.*?</progress>', '', data['text/html'],
                      flags=re.S)
        data['text/html'] = html.strip()
    # GitHub shows Markdown better than the HTML of the same thing
    if 'text/markdown' in data: data.pop('text/html', None)

def relink(text, top='nbs'):
    "Make links relative to the notebook's folder relative to the repository's top"
    def fix(m):
        link = m[2]
        if re.match(r'([a-z]+:|#|/)', link): return m[0]
        return m[1] + (link[3:] if link.startswith('../') else f'{top}/{link}')
    return re.sub(r'(\]\(|(?:src|href)=")([^)"\s]+)', fix, text)

def describe(body, nb):
    "Give the images of cells that have a `fig-alt`, as Quarto calls it, this text instead of 'png'"
    for i, c in enumerate(nb.cells):
        alt = c.metadata.get('fig-alt')
        if alt: body = re.sub(rf'!\[png\]\((\S*/readme_{i}_\d+\.png)\)', rf'![{alt}](\1)', body)
    return body

def readme(root):
    "The README's text, and its images: file → bytes"
    nb = prepare(nbformat.read(root/'nbs/index.ipynb', 4))
    # the code fences need it, and nbdev_clean drops it
    nb.metadata.setdefault('language_info', dict(name='python'))
    resources = dict(unique_key='readme', output_files_dir='images')
    body, res = MarkdownExporter().from_notebook_node(nb, resources=resources)
    # nbconvert leaves an empty fence where a cell's input is not shown
    body = re.sub(r'```python\n\s*```\n', '', body)
    body = describe(body, nb)
    body = re.sub(r'\n{3,}', '\n\n', relink(body)).strip() + '\n'
    return NOTE + body, {f'nbs/{k}': v for k, v in res.get('outputs', {}).items()}

def read(path): return path.read_bytes() if path.is_file() else None

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--check', action='store_true',
                   help='change nothing; exit 1 if README.md is stale')
    p.add_argument('--root', type=Path, default=Path(__file__).resolve().parent.parent)
    a = p.parse_args()
    text, images = readme(a.root)
    files = {'README.md': text.encode(), **images}
    stale = [f for f, b in files.items() if read(a.root/f) != b]
    unused = [f for f in (a.root/'nbs/images').glob('readme_*')
              if f'nbs/images/{f.name}' not in files]
    current = 'README.md: up to date.'
    if a.check:
        print('README.md is stale: run `make readme`' if stale or unused else current)
        sys.exit(bool(stale or unused))
    for f in unused: f.unlink()
    for f in stale:
        (a.root/f).parent.mkdir(parents=True, exist_ok=True)
        (a.root/f).write_bytes(files[f])
    print(f"Wrote {', '.join(stale)}" if stale else current)
