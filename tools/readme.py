#!/usr/bin/env python3
"""Write README.md from nbs/index.ipynb, or say that it is stale. Nothing is run: the outputs stored in the notebook are shown.

    python tools/readme.py [--check] [--root DIR]

Links and pictures that are relative to nbs/ are made relative to the top of the repository, where GitHub resolves them
(setup.py makes them absolute for PyPI). Pictures among the outputs are stored as nbs/images/readme_*.png.
"""
import argparse, re, sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

NOTE = '<!-- Made from nbs/index.ipynb by tools/readme.py: change that notebook, then run `make readme`. -->\n\n'

def flags(cell): return set(re.findall(r'^#\|\s*(\w+:\s*\w+|\w+)', cell.source, re.M)) if cell.cell_type == 'code' else set()

def shown(cell):
    "Does any of `cell` belong into the README?"
    return cell.cell_type != 'raw' and not flags(cell) & {'hide', 'include: false', 'export', 'exporti', 'default_exp'}

def prepare(nb):
    "Drop what Quarto would drop"
    nb.cells = [c for c in nb.cells if shown(c)]
    for c in nb.cells:
        if c.cell_type == 'markdown':
            # Quarto's fences and attributes mean nothing to GitHub
            c.source = re.sub(r'^:::.*\n?', '', c.source, flags=re.M)
            c.source = re.sub(r'(\]\([^)]*\))\{[^}]*\}', r'\1', c.source)
        else:
            f = flags(c)
            if 'output: false' in f: c.outputs = []
            c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip()
            if 'echo: false' in f: c.source = ''
            for o in c.outputs: tidy(o)
            c.outputs = [o for o in c.outputs if o.output_type != 'stream' or o.text.strip()]
    nb.cells = [c for c in nb.cells if c.source or c.get('outputs')]
    return nb

def tidy(out):
    "Training tables as plain HTML: GitHub shows neither styles nor progress bars"
    html = out.get('data', {}).get('text/html')
    if html: out.data['text/html'] = re.sub(r'<style.*?</style>|<progress.*?</progress>', '', html, flags=re.S).strip()
    # A fixed-width rendering of the same thing would only be shown in place of it
    if 'text/markdown' in out.get('data', {}): out.data.pop('text/html', None)

def relink(text, top='nbs'):
    "Point what is relative to the notebook's folder to the same file from the repository's top"
    def fix(m):
        link = m[2]
        if re.match(r'([a-z]+:|#|/)', link): return m[0]
        return m[1] + (link[3:] if link.startswith('../') else f'{top}/{link}')
    return re.sub(r'(\]\(|(?:src|href)=")([^)"\s]+)', fix, text)

def readme(root):
    "The README's text, and the pictures that go with it"
    nb = prepare(nbformat.read(root/'nbs/index.ipynb', 4))
    nb.metadata.setdefault('language_info', dict(name='python'))  # nbdev_clean takes it away; the code fences need it
    exporter = MarkdownExporter()
    body, res = exporter.from_notebook_node(nb, resources=dict(unique_key='readme', output_files_dir='images'))
    # nbconvert leaves an empty fence where a cell's input is not shown
    body = re.sub(r'```python\n\s*```\n', '', body)
    body = re.sub(r'\n{3,}', '\n\n', relink(body)).strip() + '\n'
    return NOTE + body, {f'nbs/{k}': v for k, v in res.get('outputs', {}).items()}

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--check', action='store_true', help='change nothing; exit 1 when README.md is stale')
    p.add_argument('--root', type=Path, default=Path(__file__).resolve().parent.parent)
    a = p.parse_args()
    text, pictures = readme(a.root)
    files = {'README.md': text.encode(), **pictures}
    stale = [f for f, b in files.items() if not (a.root/f).is_file() or (a.root/f).read_bytes() != b]
    unused = [f for f in (a.root/'nbs/images').glob('readme_*') if f'nbs/images/{f.name}' not in files]
    if a.check:
        print('README.md is stale: run `make readme`' if stale or unused else 'README.md: up to date.')
        sys.exit(bool(stale or unused))
    for f in unused: f.unlink()
    for f in stale:
        (a.root/f).parent.mkdir(parents=True, exist_ok=True)
        (a.root/f).write_bytes(files[f])
    print(f"Wrote {', '.join(stale)}" if stale else 'README.md: up to date.')
