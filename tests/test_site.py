"The site as files: every page is there, every link leads somewhere, and nothing is external"
import html, importlib, inspect, json, os, re, shutil, sys
from collections import defaultdict
from html.parser import HTMLParser
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest, yaml

from resnet_course import _modidx

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import build_site, house

home = 'https://resnet-course.github.io/resnet_course'

def find(folder, suffix):
    "Files in `folder`, except for hidden ones, which nbdev and Quarto ignore"
    files = sorted(folder.rglob(f'*{suffix}'))
    return [f for f in files
            if not any(p.startswith(('.', '_')) for p in f.relative_to(folder).parts)]

notebooks = find(root/'nbs', '.ipynb')

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

sources = notebooks + find(root/'nbs', '.qmd')

def page_of(f):
    "The page of a source: nbdev drops the number from its name"
    name = re.sub(r'^\d+[a-zA-Z0-9]*_', '', f.stem.lower()) + '.html'
    return f.relative_to(root/'nbs').with_name(name).as_posix()

def test_every_source_has_a_page(pages):
    assert {page_of(f) for f in sources} == pages.keys()

# Each source has a page of its own

def output_of(f):
    "The page that Quarto makes of a file that nbdev prepared"
    name = f.with_suffix('.html').name
    if f.suffix == '.ipynb':
        first = json.loads(read(f))['cells'][0]
        front = yaml.safe_load(''.join(first['source']).strip().strip('-'))
        name = front['output-file']
    return f.with_name(name)

def doubles(prepared):
    "A line for each page that several files in a folder prepared for Quarto would become"
    made = defaultdict(list)
    for f in find(prepared, '.ipynb') + find(prepared, '.qmd'):
        made[str(output_of(f)).lower()].append(f)
    return [f"{' and '.join(f.name for f in fs)} become one page: rename one"
            for fs in made.values() if len(fs) > 1]

@pytest.fixture(scope='module')
def prepared(site):
    "What nbdev prepares for Quarto; building the site leaves it in _proc"
    folder = root/'_proc'
    if not folder.is_dir():
        from nbdev.config import get_config
        build_site.process(get_config(), False)
    return folder

def test_nbdev_prepares_a_page_for_each_source(prepared):
    found = find(prepared, '.ipynb') + find(prepared, '.qmd')
    assert len(found) == len(sources) and not doubles(prepared)

def front_matter(title, output):
    source = f'---\ntitle: {title}\noutput-file: {output}\n---\n'
    cell = dict(cell_type='raw', id='front', metadata={}, source=[source])
    return json.dumps(dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5))

def test_two_sources_with_one_page_are_refused(tmp_path):
    pytest.importorskip('smalldocs', reason='smalldocs needs Python 3.11')
    (tmp_path/'_quarto.yml').write_text('project: {type: website}\nwebsite: {title: t}\n')
    for name in ('11_find.ipynb', '11b_find.ipynb'):
        (tmp_path/name).write_text(front_matter('Find', 'find.html'))
    assert doubles(tmp_path) == ['11_find.ipynb and 11b_find.ipynb become one page: rename one']
    with pytest.raises(SystemExit, match='11_find.ipynb and nbs/11b_find.ipynb .*: rename one'):
        build_site.course_site(tmp_path).build()

@pytest.mark.parametrize('is_newer', [True, False])
def test_pages_are_prepared_again_when_the_code_for_it_changes(tmp_path, monkeypatch, is_newer):
    import nbdev.doclinks, nbdev.quarto, nbdev.serve
    monkeypatch.setattr(nbdev.doclinks, '_build_modidx', lambda: None)
    monkeypatch.setattr(nbdev.quarto, 'refresh_quarto_yml', lambda: None)
    monkeypatch.setattr(nbdev.serve, 'proc_nbs', lambda path, force, **kwargs: force)
    (tmp_path/'_proc').mkdir()
    (tmp_path/'showdoc.py').touch()
    os.utime(tmp_path/'_proc', (1000, 1000))
    os.utime(tmp_path/'showdoc.py', (1000 + 2*is_newer - 1,)*2)
    cfg = SimpleNamespace(config_path=tmp_path, nbs_path=tmp_path, lib_path=tmp_path)
    assert build_site.process(cfg, False) == is_newer
    assert build_site.process(cfg, True)

# Titles: every entry and link leads to what it names

def plain(text):
    "Text without tags, code marks and typographic apostrophes"
    text = html.unescape(re.sub('<[^>]*>', '', text)).strip()
    return text.replace('`', '').replace('’', "'")

def title_of(f):
    "The title of a source"
    top = markdown(f)[0] if f.suffix == '.ipynb' else read(f)
    return plain(re.search(r'^(?:# |title: )(.*)', top, re.M)[1])

def heading(text):
    "The title that a page shows"
    return plain(re.search(r'<h1 class="title">(.*?)</h1>', text, re.S)[1])

def wrong_titles(site):
    "A line for each page whose heading or title is not its source's"
    wrong = []
    for f in sources:
        text, title = read(site/page_of(f)), title_of(f)
        shown = plain(re.search('<title>(.*?)</title>', text)[1])
        if heading(text) != title or not shown.startswith(title):
            wrong.append(f'{page_of(f)}: {heading(text)} ({shown}), not {title}')
    return wrong

def test_pages_have_the_titles_of_their_sources(site): assert not wrong_titles(site)

def test_an_overwritten_page_is_noticed(site, tmp_path):
    for f in sources:
        (tmp_path/page_of(f)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(site/page_of(f), tmp_path/page_of(f))
    shutil.copy(site/'lessons/find_more_bugs.html', tmp_path/'lessons/find_the_bug.html')
    assert wrong_titles(tmp_path) == ['lessons/find_the_bug.html: 11b. Find the bug, part two '
                                      '(11b. Find the bug, part two – resnet_course), '
                                      'not 11. Find the bug']

def links_in(site, name, pattern):
    "Page and text of each link on the page `name` whose tag and text match `pattern`"
    found = []
    for href, text in re.findall(pattern, read(site/name), re.S):
        target = ((site/name).parent/unquote(href)).resolve()
        found.append((target.relative_to(site.resolve()).as_posix(), plain(text)))
    return found

sidebar_link = r'<a href="([^"#:]*\.html)" class="[^"]*sidebar-link[^"]*"[^>]*>(.*?)</a>'

@pytest.mark.parametrize('name', ['index.html', 'lessons/shipping.html', 'reference.html'])
def test_entries_of_the_sidebar(site, name):
    titles = {page_of(f): heading(read(site/page_of(f))) for f in sources}
    titles |= {'index.html': 'Front page', 'reference.html': 'Overview'}
    entries = [e for e in links_in(site, name, sidebar_link) if e != ('index.html', name)]
    assert len(entries) > 30 and entries == [(page, titles[page]) for page, _ in entries]

def test_sidebar_lists_the_lessons_in_order(site):
    lessons = [page_of(f) for f in sources if f.parent.name == 'lessons']
    entries = [page for page, _ in links_in(site, 'index.html', sidebar_link)]
    assert [page for page in entries if page.startswith('lessons/')] == lessons

def test_previous_and_next(site):
    lessons = [f for f in sources if f.parent.name == 'lessons']
    for before, after in zip(lessons, lessons[1:]):
        for a, b, side in ((before, after, 'next'), (after, before, 'previous')):
            link = rf'nav-page-{side}"><a href="([^"]*)"[^>]*>(.*?)</a>'
            shown = heading(read(site/page_of(b)))
            assert links_in(site, page_of(a), link) == [(page_of(b), shown)]

def test_reference_opens_the_overview(site):
    link = r'<a class="nav-link" href="([^"#:]*\.html)">(.*?)</a>'
    assert ('reference.html', 'Reference') in links_in(site, 'lessons/alexnet.html', link)
    text = read(site/'reference.html')
    for section in house.SECTIONS: assert f'>{section}: ' in text
    for m in house.modules(root): assert f"href=\"api/{m['name']}.html\"" in text

def test_version_on_every_page(site, pages):
    from resnet_course import __version__
    for name in pages: assert f'resnet_course {__version__}, ' in read(site/name), name

# Links

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
    # it gives answers away, and repeats what lessons say
    assert not [e['href'] for e in index if e['href'].startswith('api/checks/')]
    assert not [e['href'] for e in index if 'Skip to content' in e['text']]

def test_skip_link_is_not_part_of_a_page(site, pages):
    "Quarto's search takes the text of a page's elements; the link is made by a script"
    for name in pages:
        text = re.sub('<script.*?</script>', '', read(site/name), flags=re.S)
        assert 'Skip to content' not in text

def test_site_map_and_card(site, pages):
    "sitemap.xml and llms.txt name pages that exist; the card and the icon exist, too"
    for loc in re.findall(r'<loc>([^<]*)</loc>', read(site/'sitemap.xml')):
        assert html.unescape(loc).removeprefix(home + '/') in pages
    listed = re.findall(rf'\({home}/([^)]*)\)', read(site/'llms.txt'))
    assert set(listed) == {p for p in pages if not re.match('404|api/checks', p)}
    for name in ('index.html', 'lessons/first_classifier.html'):
        assert f'content="{home}/assets/social.png"' in read(site/name)
    for name in ('assets/social.png', 'assets/favicon.png', '404.html'):
        assert (site/name).is_file()

def test_lessons_can_be_downloaded(site):
    for f in (root/'nbs/lessons').glob('*.ipynb'):
        assert json.loads(read(site/'lessons'/f.name))['cells']

def test_arxiv_numbers_are_links():
    bare = [f'{f.name}: {m[0]}' for f in notebooks for text in markdown(f)
            for m in re.finditer(r'(?<!\[)arXiv[ :]\d{4}\.\d+(?!\]\()', text)]
    assert not bare

# What the website section of _quarto.yml may hold in Quarto 1.7, from its reference; llms-txt came
# with 1.9, and an unknown key makes Quarto refuse the whole project
known_to_quarto = set('''title description favicon site-url site-path repo-url repo-subdir
    repo-branch repo-actions repo-link-target repo-link-rel issue-url image image-alt open-graph
    twitter-card google-analytics announcement cookie-consent search navbar sidebar page-navigation
    page-footer back-to-top-navigation bread-crumbs comments reader-mode draft-mode drafts
    body-header body-footer margin-header margin-footer other-links code-links'''.split())

def test_quarto_accepts_the_settings():
    for name in ('_quarto.yml', 'nbs/sidebar.yml', 'nbs/nbdev.yml'):
        website = yaml.safe_load(read(root/name))['website']
        assert not website.keys() - known_to_quarto, name

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

def shown_in(f):
    "The Markdown of a notebook of `_proc`: prose, and what its outputs show"
    for c in json.loads(read(f))['cells']:
        if c['cell_type'] == 'markdown': yield ''.join(c['source'])
        for o in c.get('outputs', []):
            text = ''.join(o.get('data', {}).get('text/markdown', ''))
            if text: yield text

@pytest.fixture(scope='module')
def proc(prepared):
    "Path in nbs → pieces of Markdown of every processed notebook"
    files = find(prepared, '.ipynb')
    return {f.relative_to(prepared).as_posix(): list(shown_in(f)) for f in files}

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

@pytest.fixture(scope='module')
def by_pandoc(proc, prepared):
    "Path in nbs → the HTML that pandoc, which renders for Quarto, makes of the page"
    pypandoc = pytest.importorskip('pypandoc', reason='pandoc is in pypandoc_binary')
    texts = {f: '\n\n'.join(pieces) for f, pieces in proc.items()}
    texts |= {f.relative_to(prepared).as_posix(): read(f) for f in find(prepared, '.qmd')}
    return {f: pypandoc.convert_text(text, 'html', 'markdown', extra_args=['--mathjax'])
            for f, text in texts.items()}

def visible(page):
    "The text of a page, without code and formulas"
    hidden = r'<pre.*?</pre>|<code.*?</code>|<span class="math.*?</span>|<s(cript|tyle).*?</s\1>'
    return html.unescape(re.sub(r'<[^>]+>', '', re.sub(hidden, '', page, flags=re.S)))

def test_pandoc_leaves_no_markup(by_pandoc):
    markup = r'\]\(|:::|`|\{\.\w+\}|&#|^\s*\|.*\|'
    wrong = [f'{name}: {line.strip()[:100]}' for name, page in by_pandoc.items()
             for line in visible(page).splitlines() if re.search(markup, line)]
    assert not wrong, '\n'.join(wrong)

def test_pandoc_makes_tables_of_signatures(by_pandoc, proc):
    n = 0
    for name, texts in proc.items():
        expected = ['\n| ' in text for _, text in shown({name: texts})]
        divs = re.findall(r'<div class="signature">(.*?)</div>', by_pandoc[name], re.S)
        assert ['<table' in div for div in divs] == expected, name
        n += len(divs)
    assert n > 300

def test_pandoc_makes_no_dash_of_an_option(by_pandoc):
    "Outside of code, two hyphens become a dash, and `--data` cannot be copied from the page"
    wrong = [f'{name}: {found}' for name, page in by_pandoc.items()
             for found in re.findall(r'(?<!\w)[–—][a-z][\w-]*', visible(page))]
    assert not wrong

def test_pandocs_ids_are_unique(by_pandoc):
    for name, page in by_pandoc.items():
        ids = re.findall(r'<[^>]*? id="([^"]*)"', page)
        assert len(ids) == len(set(ids)), name

def test_links_lead_somewhere_in_pandocs_pages(by_pandoc):
    "Within the site, whether they are relative or nbdev's, which are absolute"
    pages = {page_of(root/'nbs'/name): Links(text) for name, text in by_pandoc.items()}
    sources_of = {name: page_of(root/'nbs'/name) for name in by_pandoc}
    wrong = []
    for page, o in pages.items():
        for link in o.links:
            if re.match(r'\w+:', link) and not link.startswith(home): continue
            to, _, anchor = unquote(link).removeprefix(home + '/').partition('#')
            folder = '' if link.startswith(home) else os.path.dirname(page)
            to = os.path.normpath(os.path.join(folder, to)) if to else page
            to = sources_of.get(to, to)
            if to not in pages: wrong += [] if (root/'nbs'/to).exists() else [f'{page}: {link}']
            elif anchor and anchor not in pages[to].ids: wrong.append(f'{page}: {link}')
    assert not wrong, '\n'.join(wrong)

def test_no_name_is_described_as_anything_else_would_be(proc):
    "Without a docstring, Python has one for any function, and for the `__repr__` of any object"
    wrong = [name for name, text in shown(proc)
             if re.search(r'^(Call self as a function|Return \w+\(self\))\.$', text, re.M)]
    assert not wrong

def test_private_names_are_not_shown(proc):
    assert not [name for name, _ in shown(proc) if re.search(r'(^|\.)_(?!_)', name)]

def test_callbacks_show_their_own_parameters(proc):
    pages = dict(shown(proc))
    own = dict(RetainHeap=[], CourseProgress=[], DDPCallback=[],
               EMA=['decay', 'every', 'steps'])
    for name, expected in own.items():
        assert rows(pages[name]) == expected
        assert 'after_create' not in pages[name]
