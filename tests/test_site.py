"The site as files: every page is there, every link leads somewhere, and nothing is external"
import html, importlib, inspect, json, re
from html.parser import HTMLParser
from operator import attrgetter
from pathlib import Path
from urllib.parse import unquote

import pytest

from resnet_course import _modidx

root = Path(__file__).resolve().parent.parent
home = 'https://resnet-course.github.io/resnet_course'

def is_hidden(f): return any(p.startswith(('.', '_')) for p in f.relative_to(root).parts)

notebooks = [f for f in sorted((root/'nbs').rglob('*.ipynb')) if not is_hidden(f)]

class Links(HTMLParser):
    "A page's ids, the links in it, and the files it loads"
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        href, src = a.get('href'), a.get('src')
        if a.get('id'): self.ids.add(a['id'])
        if tag == 'a' and href: self.links.append(href)
        if tag == 'link' and href and a.get('rel') != 'canonical': self.loads.append(href)
        if src and tag != 'a': self.loads.append(src)

def read(f): return f.read_text(encoding='utf-8')

@pytest.fixture(scope='module')
def pages(site):
    "Path → `Links` for each page of the site"
    return {f.relative_to(site).as_posix(): Links(read(f)) for f in sorted(site.rglob('*.html'))}

def markdown(f):
    "The sources of a notebook's Markdown cells"
    return [''.join(c['source']) for c in json.loads(read(f))['cells']
            if c['cell_type'] == 'markdown']

def page_of(f):
    "The page of a notebook: nbdev drops the number from its name"
    name = re.sub(r'^\d+[a-zA-Z0-9]*_', '', f.stem.lower()) + '.html'
    return f.relative_to(root/'nbs').with_name(name).as_posix()

def test_every_notebook_has_a_page(pages):
    assert {page_of(f) for f in notebooks} <= pages.keys()

def link_problem(link, name, site, pages):
    "What is wrong with a link on the page `name`, or None"
    if link.startswith(home): return 'leads out of the site and back in'
    if re.match(r'[a-z][a-z0-9+.-]*:|//', link): return None
    path, _, anchor = map(unquote, link.partition('#'))
    path = path.split('?')[0]
    target = (site/name).parent/path if path else site/name
    if target.is_dir(): target /= 'index.html'
    target = target.resolve()
    if not target.is_file(): return 'no such file'
    if not anchor or target.suffix != '.html': return None
    page = pages[target.relative_to(site.resolve()).as_posix()]
    return None if anchor in page.ids else 'no such anchor'

def test_links_and_anchors(site, pages):
    wrong = []
    for name, page in pages.items():
        for link in page.links + page.loads:
            problem = link_problem(link, name, site, pages)
            if problem: wrong.append(f'{name}: {link}: {problem}')
    assert not wrong, '\n'.join(wrong)

def test_nothing_from_other_hosts(site, pages):
    wrong = []
    for name, page in pages.items():
        wrong += [f'{name}: {u}' for u in page.loads if re.match(r'(https?:)?//', u)]
    for f in site.rglob('*.css'):
        for m in re.finditer(r'(@import[^;]*|url\(["\']?(https?:)?//[^)]*\))', read(f)):
            wrong.append(f'{f.name}: {m[0]}')
    assert not wrong

only_one_renderer = {
    'cross-references': r'(?<![\w`])@(fig|tbl|eq|sec)-',
    'Mermaid': r'```\s*\{?mermaid',
    'single-quoted attributes': r"\{[^}\n]*=\s*'[^}\n]*\}",
    'grid tables': r'^\+[-=]+\+',
    'citations': r'\[@\w'}

@pytest.mark.parametrize('what,pattern', only_one_renderer.items())
def test_only_what_both_renderers_read(what, pattern):
    "smalldocs and Quarto agree on a subset of Markdown; the sources keep to it"
    prose = {f: '\n'.join(markdown(f)) for f in notebooks}
    prose |= {f: read(f) for f in (root/'nbs').rglob('*.qmd')}
    wrong = []
    for f, text in prose.items():
        if 'Mermaid' not in what: text = re.sub(r'`[^`\n]*`', '', text)
        found = re.finditer(pattern, text, re.M)
        wrong += [f'{f.relative_to(root)}: {m[0]}' for m in found]
    assert not wrong

def test_page_weight(site, pages):
    "A page and the files it loads are under 3 MB"
    for name, page in pages.items():
        urls = [re.split('[#?]', u)[0] for u in page.loads if not u.startswith('data:')]
        files = {site/name} | {(site/name).parent/u for u in urls}
        size = sum(f.stat().st_size for f in files)
        assert size < 3e6, f'{name}: {size/1e6:.1f} MB'

def test_search_index(site):
    text = read(site/'search.js')
    index = json.loads(text.removeprefix('window.searchIndex = ').rstrip().rstrip(';'))
    assert any('freeze_to' in e['text'] + e['section'] for e in index)

def test_site_map_and_card(site, pages):
    "sitemap.xml and llms.txt name pages that exist; the card and the icon exist, too"
    for loc in re.findall(r'<loc>([^<]*)</loc>', read(site/'sitemap.xml')):
        assert html.unescape(loc).removeprefix(home + '/') in pages
    for link in re.findall(rf'\({home}/([^)]*)\)', read(site/'llms.txt')):
        assert (site/link).is_file(), link
    for name in ('index.html', 'lessons/first_classifier.html'):
        assert f'content="{home}/assets/social.png"' in read(site/name)
    for name in ('assets/social.png', 'assets/favicon.png', '404.html'):
        assert (site/name).is_file()

def test_lessons_can_be_downloaded(site):
    for f in (root/'nbs/lessons').glob('*.ipynb'):
        assert json.loads(read(site/'lessons'/f.name))['cells']

def test_paper_map_names_exist():
    "Every name in the map from papers to code is a symbol of the package, a network, or a recipe"
    from resnet_course.models import list_models
    from resnet_course.recipes import recipes
    symbols = {s.split('.')[-1] for syms in _modidx.d['syms'].values() for s in syms}
    names = symbols | {*list_models(), *recipes, 'alexnets', 'depths', 'cifar_depths'}
    lines = '\n'.join(markdown(root/'nbs/papers.ipynb')).split('\n')
    rows = [l for l in lines if l.startswith('|')]
    assert len(rows) > 40 and not [l for l in rows if 'not yet' in l]
    code = [l.rsplit('|', 2)[1] for l in rows]
    said = set(re.findall(r'`([A-Za-z_]\w+)`', '\n'.join(code)))
    assert len(said) > 50 and not said - names

# What nbdev makes of the notebooks, which is also what Quarto gets

def prepared(f):
    "The Markdown of a notebook of `_proc`: prose, and what its outputs show"
    for c in json.loads(read(f))['cells']:
        if c['cell_type'] == 'markdown': yield ''.join(c['source'])
        for o in c.get('outputs', []):
            text = ''.join(o.get('data', {}).get('text/markdown', ''))
            if text: yield text

@pytest.fixture(scope='module')
def proc(site):
    "Path in nbs → pieces of Markdown of every processed notebook; building the site makes them"
    files = sorted((root/'_proc').rglob('*.ipynb'))
    if not files: pytest.skip('no _proc beside the site: make docs')
    return {f.relative_to(root/'_proc').as_posix(): list(prepared(f)) for f in files}

def test_no_links_in_code(proc):
    "No renderer turns a link within a code block into a link"
    wrong = []
    for name, texts in proc.items():
        blocks = re.findall(r'^ {0,3}(```|~~~)(.*?)^ {0,3}\1', '\n\n'.join(texts), re.S | re.M)
        for block in blocks:
            wrong += [f'{name}: {m}' for m in re.findall(r'\]\(https?://[^)]*\)', block[1])]
    assert not wrong

def test_no_word_links_to_a_command(proc):
    "`train` is a split or a mode, and hardly ever the function behind the command"
    wrong = []
    for name, texts in proc.items():
        links = re.findall(r'\[`([^`]+)`\]\([^)]*api/cli\.html[^)]*\)', '\n'.join(texts))
        wrong += [f'{name}: {word}' for word in links if not word.startswith('resnet_course.cli')]
    assert not wrong

def shown(proc):
    "Name → the Markdown of its signature"
    for texts in proc.values():
        for text in texts:
            m = re.match(r'---\n\n#+ (\S+)\n\n::: \{\.signature\}', text)
            if m: yield m[1], text

def rows(text):
    "The first column of the table in a signature, without its head and what is returned"
    names = re.findall(r'^\| <code>(.*?)</code> \|', text, re.M)
    return [html.unescape(o).lstrip('*') for o in names]

def public_objects():
    "Name → object, for every public function, class and method of the package"
    for module, symbols in _modidx.d['syms'].items():
        for name in (s.removeprefix(module + '.') for s in symbols):
            if any(re.match('_(?!_)', part) for part in name.split('.')): continue
            yield name, attrgetter(name)(importlib.import_module(module))

def own_parameters(o):
    "The parameters that a table should list"
    o = getattr(o, 'fget', None) or o
    try: ps = inspect.signature(o).parameters.values()
    except ValueError: return []
    added = getattr(o, '_methods', ()) if isinstance(o, type) else ()
    return [p for p in ps if p.name not in ('self', *added)]

def says_nothing(p): return p.annotation is p.default is p.empty

def test_tables_of_signatures(proc):
    "Every public name has a table with a row for each parameter, in order, and one source link"
    pages, wrong = dict(shown(proc)), []
    objects = dict(public_objects())
    assert len(pages) > 300
    # methods within a class statement are documented only by the class
    wrong += [f'{name} is not shown' for name in objects if name not in pages and '.' not in name]
    for name, text in pages.items():
        params = own_parameters(objects[name])
        is_empty = all(map(says_nothing, params)) and '\n| ' not in text
        expected = [] if is_empty else [p.name for p in params]
        if rows(text) != expected: wrong.append(f'{name}: {rows(text)} instead of {expected}')
        n_links = len(re.findall(r'\[source\]\(\S+\.py#L\d+\)', text))
        if n_links != 1: wrong.append(f'{name}: {n_links} links to the source')
    assert not wrong, '\n'.join(wrong)

def test_private_names_are_not_shown(proc):
    assert not [name for name, _ in shown(proc) if re.search(r'(^|\.)_(?!_)', name)]

def test_callbacks_show_their_own_parameters(proc):
    pages = dict(shown(proc))
    own = dict(RetainHeap=[], CourseProgress=[], DDPCallback=[], EMA=['decay'])
    for name, expected in own.items():
        assert rows(pages[name]) == expected
        assert 'after_create' not in pages[name]
