"The site as files: everything is there, every link and anchor leads somewhere, nothing comes from another host"
import html, json, re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

root = Path(__file__).resolve().parent.parent
home = 'https://resnet-course.github.io/resnet_course'
notebooks = [f for f in sorted((root/'nbs').rglob('*.ipynb')) if not any(p.startswith(('.', '_')) for p in f.relative_to(root).parts)]

class Links(HTMLParser):
    "A page's ids, the links in it, and what it loads"
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get('id'): self.ids.add(a['id'])
        if tag == 'a' and a.get('href'): self.links.append(a['href'])
        if tag == 'link' and a.get('href') and a.get('rel') != 'canonical': self.loads.append(a['href'])
        if a.get('src') and tag != 'a': self.loads.append(a['src'])

@pytest.fixture(scope='module')
def pages(site): return {f.relative_to(site).as_posix(): Links(f.read_text(encoding='utf-8')) for f in sorted(site.rglob('*.html'))}

def cells(f, kind='markdown'): return [''.join(c['source']) for c in json.loads(f.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == kind]

def page_of(f):
    "The page a notebook becomes: nbdev drops the number from its name"
    return f.relative_to(root/'nbs').with_name(re.sub(r'^\d+[a-zA-Z0-9]*_', '', f.stem.lower()) + '.html').as_posix()

def test_a_page_for_each_notebook(pages):
    assert not [p for f in notebooks if (p := page_of(f)) not in pages]

def test_links_and_anchors(site, pages):
    wrong = []
    for name, page in pages.items():
        for link in page.links + page.loads:
            if link.startswith(home): wrong.append(f'{name}: {link} leads out and back in')
            if re.match(r'[a-z][a-z0-9+.-]*:|//', link): continue
            path, _, anchor = (unquote(p) for p in link.partition('#'))
            path = path.split('?')[0]
            target = (site/name).parent/path if path else site/name
            if target.is_dir(): target /= 'index.html'
            if not target.resolve().is_file(): wrong.append(f'{name}: no {link}')
            elif anchor and target.suffix == '.html' and anchor not in pages[target.resolve().relative_to(site.resolve()).as_posix()].ids:
                wrong.append(f'{name}: no anchor {link}')
    assert not wrong, '\n'.join(wrong)

def test_nothing_from_elsewhere(site, pages):
    loads = [f'{n}: {u}' for n, p in pages.items() for u in p.loads if re.match(r'(https?:)?//', u)]
    css = [f'{f.name}: {m[0]}' for f in site.rglob('*.css') for m in re.finditer(r'(@import[^;]*|url\(["\']?(https?:)?//[^)]*\))', f.read_text(encoding='utf-8'))]
    assert not loads + css

@pytest.mark.parametrize('what,pattern', {
    'cross-references': r'(?<![\w`])@(fig|tbl|eq|sec)-', 'Mermaid': r'```\s*\{?mermaid', 'single-quoted attributes': r"\{[^}\n]*=\s*'[^}\n]*\}",
    'grid tables': r'^\+[-=]+\+', 'citations': r'\[@\w'}.items())
def test_only_what_both_renderers_read(what, pattern):
    "smalldocs and Quarto agree on a subset of Markdown; the sources keep to it"
    prose = {f: '\n'.join(cells(f)) for f in notebooks} | {f: f.read_text(encoding='utf-8') for f in (root/'nbs').rglob('*.qmd')}
    bare = {f: re.sub(r'`[^`\n]*`', '', t) if 'Mermaid' not in what else t for f, t in prose.items()}
    assert not [f'{f.relative_to(root)}: {m[0]}' for f, t in bare.items() for m in re.finditer(pattern, t, re.M)]

def test_weight(site, pages):
    "A lesson with all it loads is under 3 MB"
    for name, page in pages.items():
        files = {(site/name).parent/u.split('#')[0].split('?')[0] for u in page.loads if not u.startswith('data:')}
        size = (site/name).stat().st_size + sum(f.stat().st_size for f in files)
        assert size < 3e6, f'{name}: {size/1e6:.1f} MB'

def test_search_index(site):
    text = (site/'search.js').read_text(encoding='utf-8')
    index = json.loads(text.removeprefix('window.searchIndex = ').rstrip().rstrip(';'))
    assert any('freeze_to' in e['text'] + e['section'] for e in index)

def test_what_machines_read(site, pages):
    "Site map and llms.txt name pages that are there; the card and the icon are there too"
    for loc in re.findall(r'<loc>([^<]*)</loc>', (site/'sitemap.xml').read_text(encoding='utf-8')):
        assert html.unescape(loc).removeprefix(home + '/') in pages
    for link in re.findall(rf'\({home}/([^)]*)\)', (site/'llms.txt').read_text(encoding='utf-8')): assert (site/link).is_file(), link
    for name in ('index.html', 'lessons/first_classifier.html'):
        assert f'content="{home}/assets/social.png"' in (site/name).read_text(encoding='utf-8') and (site/'assets/social.png').is_file()
    assert (site/'assets/favicon.png').is_file() and (site/'404.html').is_file()

def test_lessons_can_be_downloaded(site):
    for f in (root/'nbs/lessons').glob('*.ipynb'): assert json.loads((site/'lessons'/f.name).read_text(encoding='utf-8'))['cells']

def test_paper_map_names_what_is_there():
    "Every name in the map from papers to code is a symbol of the package, a network, or a recipe"
    from resnet_course import _modidx
    from resnet_course.models import list_models
    from resnet_course.recipes import recipes
    names = {s.split('.')[-1] for m in _modidx.d['syms'].values() for s in m} | set(list_models()) | set(recipes) | {'alexnets', 'depths', 'cifar_depths'}
    rows = [l for c in cells(root/'nbs/papers.ipynb') for l in c.split('\n') if l.startswith('|')]
    assert len(rows) > 40 and not [l for l in rows if 'not yet' in l]
    said = {m for l in rows for m in re.findall(r'`([A-Za-z_]\w+)`', l.rsplit('|', 2)[1])}
    assert len(said) > 50 and not said - names
