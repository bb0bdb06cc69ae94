#!/usr/bin/env python3
"""The plan of the package, from the notebooks: sections, modules, a line for each, import order.

    python tools/house.py [--check] [--root DIR]     write the plan, or say what is stale or broken
    python tools/house.py --measure [MODULE ...]     how the code reads, in numbers
    python tools/house.py --unused                   public names that nothing else uses

The number of a notebook in nbs/api is its place in the reading order and in the import order; its
tens digit is its section. The plan is written to nbs/reference.qmd (the overview page of the
reference), to nbs/sidebar.yml and, between two markers, to CONTRIBUTING.md. The list of all pages
is written to nbs/llms.txt, and the version in settings.ini to the footer in _quarto.yml.
"""
import argparse, ast, json, re, sys
from configparser import ConfigParser
from pathlib import Path

SECTIONS = ['Foundations', 'Data', 'Networks', 'Training', 'Evaluation', 'Runs', 'Course', 'Tools']
ABOUT = ['what every module needs', 'from files to batches', 'from layers to weights',
         'from a learner to a trained network', 'from a network to its results',
         'from one call to a record', 'exercises and lessons', 'the command line and the site']
START, END = '<!-- map: made by tools/house.py -->', '<!-- end of map -->'

def source(cell): return ''.join(cell['source'])

def modules(root):
    "A dict for each api notebook, in order: file, number, name, summary, cells"
    found = []
    for f in sorted((root/'nbs/api').glob('*.ipynb')):
        cells = json.loads(f.read_text(encoding='utf-8'))['cells']
        name = re.search(r'#\| default_exp (\S+)', '\n'.join(map(source, cells)))[1]
        summary = re.search(r'^> (.*)', source(cells[0]), re.M)[1]
        found.append(dict(file=f, number=int(f.name[:2]), name=name, summary=summary, cells=cells))
    return found

def by_section(mods):
    "Section number → its modules"
    return {i: [m for m in mods if m['number']//10 == i] for i in range(len(SECTIONS))}

# Import order

def imported(cell):
    "The modules of the package that a code cell imports"
    if cell['cell_type'] != 'code': return set()
    text = source(cell)
    names = set(re.findall(r'\b(?:from|import) resnet_course\.(\w+)', text))
    for m in re.finditer(r'\bfrom resnet_course import ([\w, ]+)', text):
        names |= {o.strip() for o in m[1].split(',')}
    return names

def backward_imports(root):
    "A line for each import, in any cell of an api notebook, of a module with a larger number"
    mods = modules(root)
    number = {m['name']: m['number'] for m in mods}
    lines = []
    for m in mods:
        names = set().union(*(imported(c) for c in m['cells']))
        late = sorted(o for o in names if number.get(o, -1) > m['number'])
        lines += [f"{m['file'].name} imports {o}, which comes later ({number[o]})" for o in late]
    return lines

def double_numbers(root):
    "A line for each number that two notebooks have"
    seen, lines = {}, []
    for m in modules(root):
        number, name = m['number'], m['file'].name
        if number in seen: lines.append(f'{seen[number]} and {name} share a number')
        seen[number] = name
    return lines

# Pages: what llms.txt lists

FOLDERS = {'Lessons': 'lessons', 'Guides': 'guides', 'Front page, results, papers': '.',
           'Reference': 'api', 'Solutions': 'solutions'}

def page(f):
    "The name, title and summary of the page that nbdev and Quarto make of the file `f`"
    name = re.sub(r'^\d+[a-zA-Z0-9]*_', '', f.stem.lower()) + '.html'
    if f.suffix == '.ipynb':
        top = source(json.loads(f.read_text(encoding='utf-8'))['cells'][0])
        return name, re.search(r'^# (.*)', top, re.M)[1], re.search(r'^> (.*)', top, re.M)[1]
    top = f.read_text(encoding='utf-8')
    title, summary = (re.search(rf'^{key}: (.*)', top, re.M)[1] for key in ('title', 'description'))
    return name, title, summary

def llms_txt(root, config):
    "nbs/llms.txt: the title, address and summary of every page, for programs that read the site"
    home = config['doc_host'] + config['doc_baseurl']
    lines = [f"# {config['title']}", '', f"> {config['description']}"]
    for section, folder in FOLDERS.items():
        files = sorted([*(root/'nbs'/folder).glob('*.ipynb'), *(root/'nbs'/folder).glob('*.qmd')])
        lines += ['', f'## {section}', '']
        for f in files:
            if f.name == '404.qmd': continue
            name, title, summary = page(f)
            summary = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', summary)   # links lead elsewhere here
            address = f'{home}/{name}' if folder == '.' else f'{home}/{folder}/{name}'
            lines.append(f'- [{title}]({address}): {summary}')
    return '\n'.join(lines) + '\n'

def footer(text, version):
    "_quarto.yml, with the version in the footer replaced"
    return re.sub(r'(left: resnet_course) [^,\s]+,', rf'\1 {version},', text)

# The plan, in three places

def reference_page(mods):
    "nbs/reference.qmd"
    lines = ['---', 'title: Reference', 'description: What each module is for, in reading order',
             '---', '', 'The modules of `resnet_course`, in the order in which to read them. Each '
             'imports only from those above it.', '',
             '<!-- Made by tools/house.py from the notebooks in nbs/api -->']
    for i, ms in by_section(mods).items():
        lines += ['', f'## {SECTIONS[i]}: {ABOUT[i]}', '']
        lines += ['| module | what it is for |', '|---|---|']
        lines += [f"| [{m['name']}](api/{m['file'].name}) | {m['summary']} |" for m in ms]
    return '\n'.join(lines) + '\n'

def sidebar(text, mods):
    "nbs/sidebar.yml, with the reference's part replaced"
    head = text[:text.index('    - id: reference')]
    lines = ['    - id: reference', '      contents:', '        - text: Overview',
             '          href: reference.qmd']
    for i, ms in by_section(mods).items():
        files = ', '.join(f"api/{m['file'].name}" for m in ms)
        lines += [f'        - section: {SECTIONS[i]}', f'          contents: [{files}]']
    return head + '\n'.join(lines) + '\n'

def contributing(text, mods):
    "CONTRIBUTING.md, with the map between its markers replaced"
    lines = ['| section | module | what it is for |', '|---|---|---|']
    for i, ms in by_section(mods).items():
        for j, m in enumerate(ms):
            section = f'**{SECTIONS[i]}**, {ABOUT[i]}' if j == 0 else ''
            link = f"[`{m['file'].stem}`](nbs/api/{m['file'].name})"
            lines.append(f"| {section} | {link} | {m['summary']} |")
    before, rest = text.split(START)
    return before + START + '\n' + '\n'.join(lines) + '\n' + END + rest.split(END)[1]

def plan(root):
    "File → what it should hold"
    mods, config = modules(root), ConfigParser()
    def read(f): return (root/f).read_text(encoding='utf-8')
    config.read(root/'settings.ini', encoding='utf-8')
    config = config['DEFAULT']
    return {'nbs/reference.qmd': reference_page(mods),
            'nbs/llms.txt': llms_txt(root, config),
            '_quarto.yml': footer(read('_quarto.yml'), config['version']),
            'nbs/sidebar.yml': sidebar(read('nbs/sidebar.yml'), mods),
            'CONTRIBUTING.md': contributing(read('CONTRIBUTING.md'), mods)}

# How the code reads

def public_functions(tree):
    "Every public function and method, and the `__init__` of every public class"
    for node in tree.body:
        public = not node.name.startswith('_') if hasattr(node, 'name') else False
        if isinstance(node, ast.ClassDef) and public: yield from public_functions(node)
        if isinstance(node, ast.FunctionDef) and (public or node.name == '__init__'): yield node

def parameters(f):
    "The parameters of a function, except for `self`"
    args = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
    return [a for a in args if a.arg not in ('self', 'cls')]

def returns(f):
    "Does `f` return or yield a value?"
    exits = [n for n in ast.walk(f) if isinstance(n, (ast.Return, ast.Yield))]
    return any(n.value is not None for n in exits)

def describes_return(f, lines):
    "Does a comment behind the signature say what `f` returns?"
    signature = lines[f.lineno - 1:f.body[0].lineno]
    return any(re.search(r'\)\s*(->[^#]*)?:\s*#\s*\S', line) for line in signature)

def measure(root, names=()):
    "A row for each module, and one for all"
    total = dict(module='total', lines=0, over_100=0, code=0, nodes=0, walrus=0, parameters=0,
                 annotated=0, returns=0, described=0)
    for m in modules(root):
        if names and m['name'] not in names: continue
        text = (root/f"resnet_course/{m['name']}.py").read_text(encoding='utf-8')
        lines, tree = text.splitlines(), ast.parse(text)
        fs = list(public_functions(tree))
        ps, rs = [p for f in fs for p in parameters(f)], [f for f in fs if returns(f)]
        # the line with __all__ is nbdev's
        written = [o for o in lines if not re.match(r'__all__ =|           \'', o)]
        row = dict(module=m['name'], lines=len(lines), over_100=sum(len(o) > 100 for o in written),
                   code=sum(not re.match(r'\s*(#|$)', o) for o in lines),
                   nodes=sum(1 for _ in ast.walk(tree)),
                   walrus=sum(isinstance(n, ast.NamedExpr) for n in ast.walk(tree)),
                   parameters=len(ps), annotated=sum(p.annotation is not None for p in ps),
                   returns=len(rs), described=sum(describes_return(f, lines) for f in rs))
        for k in total.keys() - {'module'}: total[k] += row[k]
        yield row
    yield total

def unused_names(root):
    "The public names that no other module, page, test or tool mentions, and the number of all"
    mods = modules(root)
    code = {m['name']: (root/f"resnet_course/{m['name']}.py").read_text(encoding='utf-8')
            for m in mods}
    pages = [f for f in (root/'nbs').rglob('*.ipynb') if f.parent.name != 'api']
    others = [*pages, *(root/'nbs').rglob('*.qmd'), *root.glob('resnet_course/checks/*.py')]
    for folder in ('tests', 'benchmarks', 'tools'): others += (root/folder).glob('*.py')
    elsewhere = '\n'.join(f.read_text(encoding='utf-8') for f in others)
    # the line with __all__ is nbdev's
    bare = {m: re.sub(r'(?s)__all__ = \[.*?\]', '', text) for m, text in code.items()}
    bare['all'] = code['all']
    unused, n = [], 0
    for m, text in code.items():
        found = re.search(r'(?s)__all__ = (\[.*?\])', text)
        if not found or m == 'all': continue
        rest = elsewhere + '\n'.join(o for name, o in bare.items() if name != m)
        for name in ast.literal_eval(found[1]):
            n += 1
            if not re.search(rf'\b{re.escape(name)}\b', rest): unused.append(f'{m}.{name}')
    return unused, n

def show(row):
    "A row of `measure` as text"
    annotated, described = (f'{row[a]}/{row[b]}' for a, b in (('annotated', 'parameters'),
                                                              ('described', 'returns')))
    density = row['nodes']/row['code']
    return (f"{row['module']:14} {row['lines']:6} {row['over_100']:8} {density:10.1f} "
            f"{row['walrus']:6} {annotated:>12} {described:>12}")

if __name__ == '__main__':
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    p.add_argument('--check', action='store_true',
                   help='change nothing; exit 1 if anything is wrong')
    p.add_argument('--measure', nargs='*', metavar='MODULE', help='print a table instead')
    p.add_argument('--unused', action='store_true', help='print a list instead')
    p.add_argument('--root', type=Path, default=Path(__file__).resolve().parent.parent)
    a = p.parse_args()
    if a.measure is not None:
        print('module          lines over 100 nodes/line walrus    annotated    described')
        for row in measure(a.root, a.measure): print(show(row))
        sys.exit()
    if a.unused:
        unused, n = unused_names(a.root)
        print(f'{len(unused)} of {n} public names: {", ".join(unused)}')
        sys.exit()
    wrong = double_numbers(a.root) + backward_imports(a.root)
    files = plan(a.root)
    now = {f: (a.root/f).read_text(encoding='utf-8') for f in files if (a.root/f).is_file()}
    stale = [f for f, text in files.items() if now.get(f) != text]
    if a.check: wrong += [f'{f} is stale: run `python tools/house.py`' for f in stale]
    else:
        for f in stale: (a.root/f).write_text(files[f], encoding='utf-8')
        print(f"Wrote {', '.join(stale)}" if stale else 'The plan: up to date.')
    print(*wrong, sep='\n', end='\n' if wrong else '')
    if a.check and not wrong: print('The plan: up to date, imports in order.')
    sys.exit(bool(wrong))
