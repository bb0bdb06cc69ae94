#!/usr/bin/env python3
"""Prepare the notebooks for nbdev, which makes the site from them; prints what was changed.

    python tools/tidy_nbs.py [--check] [--root DIR]

- Imports in the api notebooks get cells of their own. For the documentation nbdev runs exported
  cells and every cell that imports something, but no others. A cell that imports and does
  something else would run without the cells it builds on, and the site would not build.
- Text after the title and the summary gets a cell of its own: nbdev makes front matter of their
  cell, and drops everything else in it.
"""
import argparse, ast, hashlib, json, re, sys
from pathlib import Path

def is_import(node): return isinstance(node, (ast.Import, ast.ImportFrom))

def does_something(nodes):
    "Is there an expression or an assignment anywhere in `nodes`?"
    inner = [n for node in nodes for n in ast.walk(node)]
    return any(isinstance(n, (ast.Expr, ast.Assign)) for n in inner)

def lines_of(node): return range(node.lineno - 1, node.end_lineno)

def text_of(source, node):
    "The lines of `node`, or only its own text if they hold other statements"
    text = '\n'.join(source.split('\n')[i] for i in lines_of(node))
    return ast.get_source_segment(source, node) if ';' in text else text

def split(source):
    "`source` as two: its imports, and the rest; None if it needs no splitting"
    if re.search(r'^#\|\s*(exporti?|exports|eval:\s*false)\b', source, re.M): return None
    if 'sys.path' in source: return None   # what it finds depends on the order
    try: body = ast.parse(source).body
    except SyntaxError: return None
    imports, rest = [n for n in body if is_import(n)], [n for n in body if not is_import(n)]
    if not imports or not does_something(rest): return None
    lines = source.split('\n')
    flags = [line for line in lines if line.startswith('#|')]
    kept = '\n'.join(without_imports(source, imports, rest)).strip('\n')
    moved = [text_of(source, n) for n in imports]
    return '\n'.join(flags + moved), '\n'.join([*flags, kept])

def without_imports(source, imports, rest):
    "The lines without flags and imports; what shares a line with an import stays"
    gone = {i for n in imports for i in lines_of(n)}
    kept = {}
    for n in rest:
        if n.lineno - 1 in gone:
            kept.setdefault(n.lineno - 1, []).append(ast.get_source_segment(source, n))
    left = []
    for i, line in enumerate(source.split('\n')):
        if line.startswith('#|'): continue
        if i in kept: left.append('; '.join(kept[i]))
        elif i not in gone: left.append(line)
    return left

def split_title(source):
    "A title cell as two: title, summary and settings; and other text. None if there is none"
    lines = source.split('\n')
    if not lines[0].startswith('# '): return None
    for i, line in enumerate(lines):
        if line.strip() and not re.match(r'# |>|- [\w-]+: \S', line):
            return '\n'.join(lines[:i]).strip(), '\n'.join(lines[i:]).strip()
    return None

def as_lines(s): return s.splitlines(keepends=True)

def new_cell(kind, source, old):
    "A cell of `kind` to stand beside the cell `old`"
    cell_id = hashlib.sha1((source + old['id']).encode()).hexdigest()[:8]
    cell = dict(cell_type=kind, id=cell_id, metadata={}, source=as_lines(source))
    return cell | dict(execution_count=None, outputs=[]) if kind == 'code' else cell

def split_cell(c, is_title, is_api):
    "The cell as a list of one or two"
    source, kind = ''.join(c['source']), c['cell_type']
    if is_title:
        parts = split_title(source)
        if parts is None: return [c]
        c['source'] = as_lines(parts[0])
        return [c, new_cell(kind, parts[1], c)]
    parts = split(source) if is_api and kind == 'code' else None
    if parts is None: return [c]
    c['source'] = as_lines(parts[1])
    return [new_cell(kind, parts[0], c), c]

def has_title(c):
    return c['cell_type'] == 'markdown' and re.search(r'^# ', ''.join(c['source']), re.M)

def tidy(path, check=False):
    "Split the cells of `path` that need it; how many there were"
    nb, cells, titled = json.loads(path.read_text(encoding='utf-8')), [], False
    for c in nb['cells']:
        is_title = not titled and bool(has_title(c))
        titled = titled or is_title
        cells += split_cell(c, is_title, 'api' in path.parts)
    n = len(cells) - len(nb['cells'])
    if n and not check:
        nb['cells'] = cells
        path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    return n

def notebooks(root):
    "All notebooks of the project but hidden ones"
    files = sorted((root/'nbs').rglob('*.ipynb'))
    return [f for f in files
            if not any(p.startswith(('.', '_')) for p in f.relative_to(root).parts)]

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--check', action='store_true',
                   help='change nothing; exit 1 if there is something to split')
    p.add_argument('--root', type=Path, default=Path(__file__).resolve().parent.parent)
    a = p.parse_args()
    counts = {f: tidy(f, a.check) for f in notebooks(a.root)}
    found = {f: n for f, n in counts.items() if n}
    done = 'to split' if a.check else 'split'
    for f, n in found.items(): print(f'{f.relative_to(a.root)}: {n} cells {done}')
    if a.check and found: print('run tools/tidy_nbs.py, then nbdev_clean')
    sys.exit(bool(a.check and found))
