#!/usr/bin/env python3
"""Two things that nbdev needs to make the site from the notebooks, and that are easily forgotten; says which it changed.

    python tools/tidy_nbs.py [--check] [--root DIR]

- Imports in the api notebooks get cells of their own. To make the documentation nbdev runs exported cells, and every
  cell that imports something, but no others. A cell that imports and does something else as well is then run without
  the cells it builds on, and the site does not build.
- What follows the title and the summary gets a cell of its own: nbdev makes front matter of their cell, and drops
  everything else in it.
"""
import argparse, ast, hashlib, json, re, sys
from pathlib import Path

def is_import(node): return isinstance(node, (ast.Import, ast.ImportFrom))

def split(source):
    "`source` as two: its imports, and the rest; `None` if it needs no splitting"
    if re.search(r'^#\|\s*(exporti?|exports|eval:\s*false)\b', source, re.M): return
    if 'sys.path' in source: return   # what it finds depends on the order
    try: body = ast.parse(source).body
    except SyntaxError: return
    rest = [n for n in body if not is_import(n)]
    if len(rest) == len(body) or not any(isinstance(n, (ast.Expr, ast.Assign)) for r in rest for n in ast.walk(r)): return
    lines, flags, imports = source.split('\n'), [l for l in source.split('\n') if l.startswith('#|')], []
    for n in body:
        if not is_import(n): continue
        text = '\n'.join(lines[n.lineno-1:n.end_lineno])
        imports.append(ast.get_source_segment(source, n) if ';' in text else text)
    gone = {i for n in body if is_import(n) for i in range(n.lineno-1, n.end_lineno)}
    # What shares a line with an import, after a semicolon, stays
    kept = {n.lineno-1: '; '.join(ast.get_source_segment(source, m) for m in rest if m.lineno == n.lineno) for n in rest if n.lineno-1 in gone}
    left = [kept.get(i, l) for i, l in enumerate(lines) if (i not in gone or i in kept) and not l.startswith('#|')]
    return '\n'.join(flags + imports), '\n'.join(flags + ['\n'.join(left).strip('\n')])

def split_title(source):
    "A title cell as two: title, summary and settings; and what else stands in it. `None` if there is nothing else"
    lines = source.split('\n')
    i = next((i for i, l in enumerate(lines) if l.strip() and not re.match(r'# |>|- [\w-]+: \S', l)), None)
    if i is None or not lines[0].startswith('# '): return
    return '\n'.join(lines[:i]).strip(), '\n'.join(lines[i:]).strip()

def as_lines(s): return s.splitlines(keepends=True)

def new_cell(kind, source, old):
    "A cell of `kind` to stand beside the cell `old`"
    cell = dict(cell_type=kind, id=hashlib.sha1((source + old['id']).encode()).hexdigest()[:8], metadata={}, source=as_lines(source))
    return cell | dict(execution_count=None, outputs=[]) if kind == 'code' else cell

def tidy(path, check=False):
    "How many cells of `path` had to be split"
    nb, cells, n, titled = json.loads(path.read_text(encoding='utf-8')), [], 0, False
    for c in nb['cells']:
        source, kind = ''.join(c['source']), c['cell_type']
        first = kind == 'markdown' and not titled and bool(re.search(r'^# ', source, re.M))
        two = split_title(source) if first else split(source) if kind == 'code' and 'api' in path.parts else None
        titled = titled or first
        if two:
            n += 1
            c['source'] = as_lines(two[0] if first else two[1])
            cells += [c, new_cell(kind, two[1], c)] if first else [new_cell(kind, two[0], c), c]
        else: cells.append(c)
    if n and not check:
        nb['cells'] = cells
        path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    return n

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--check', action='store_true', help='change nothing; exit 1 when there is something to split')
    p.add_argument('--root', type=Path, default=Path(__file__).resolve().parent.parent)
    a = p.parse_args()
    nbs = [f for f in sorted((a.root/'nbs').rglob('*.ipynb')) if not any(p.startswith(('.', '_')) for p in f.relative_to(a.root).parts)]
    found = {f: n for f in nbs if (n := tidy(f, a.check))}
    for f, n in found.items(): print(f'{f.relative_to(a.root)}: {n} cells {"to split" if a.check else "split"}')
    if a.check and found: print('run tools/tidy_nbs.py, then nbdev_clean')
    sys.exit(bool(a.check and found))
