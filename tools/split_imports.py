#!/usr/bin/env python3
"""Give imports cells of their own in the api notebooks, and say which were changed.

    python tools/split_imports.py [--check] [--root DIR]

To make the documentation nbdev runs exported cells, and every cell that imports something, but no others. A cell that
imports and does something else as well is then run without the cells it builds on, and the site does not build.
"""
import argparse, ast, hashlib, json, re, sys
from pathlib import Path

def is_import(node): return isinstance(node, (ast.Import, ast.ImportFrom))

def split(source):
    "`source` as two: its imports, and the rest; `None` if it needs no splitting"
    if re.search(r'^#\|\s*(exporti?|exports|eval:\s*false)\b', source, re.M): return
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

def as_lines(s): return s.splitlines(keepends=True)

def split_nb(path, check=False):
    "How many cells of `path` had to be split"
    nb, cells, n = json.loads(path.read_text(encoding='utf-8')), [], 0
    for c in nb['cells']:
        two = split(''.join(c['source'])) if c['cell_type'] == 'code' else None
        if two:
            n += 1
            new = hashlib.sha1((two[0] + c['id']).encode()).hexdigest()[:8]
            cells.append(dict(cell_type='code', execution_count=None, id=new, metadata={}, outputs=[], source=as_lines(two[0])))
            c['source'] = as_lines(two[1])
        cells.append(c)
    if n and not check:
        nb['cells'] = cells
        path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    return n

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--check', action='store_true', help='change nothing; exit 1 when there is something to split')
    p.add_argument('--root', type=Path, default=Path(__file__).resolve().parent.parent)
    a = p.parse_args()
    found = {f: n for f in sorted((a.root/'nbs/api').rglob('*.ipynb')) if (n := split_nb(f, a.check))}
    for f, n in found.items(): print(f'{f.relative_to(a.root)}: imports {"share" if a.check else "shared"} {n} cells with other code')
    if a.check and found: print('run tools/split_imports.py, then nbdev_clean')
    sys.exit(bool(a.check and found))
