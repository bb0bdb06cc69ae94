"Every page of the site in a real browser: light, dark and on a phone"
import re
from pathlib import Path

import pytest
from browser import open_browser, watched

pytestmark = pytest.mark.browser
root = Path(__file__).resolve().parent.parent
desktop, small = dict(width=1280, height=900), dict(width=390, height=844)
looks = dict(light=dict(color_scheme='light', viewport=desktop),
             dark=dict(color_scheme='dark', viewport=desktop),
             phone=dict(color_scheme='light', viewport=small, has_touch=True, is_mobile=True))
# Markup that a renderer should have converted; code may contain it
raw = [r':::', r'\{#', r'@fig-', r'@eq-', r'\\\(', r'\$\$', r'\]\(', r'^#{1,4} ']
visible = '''() => {
    const m = document.querySelector('main').cloneNode(true);
    m.querySelectorAll('pre, code, script, style, .katex').forEach(e => e.remove());
    return m.innerText || m.textContent; }'''
is_dark = "document.documentElement.classList.contains('quarto-dark')"
run_axe = "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)"

@pytest.fixture(scope='module')
def browser():
    with open_browser() as b: yield b

@pytest.fixture(scope='module')
def axe():
    package = Path(pytest.importorskip('axe_playwright_python').__file__).parent
    return next(package.rglob('axe.min.js')).read_text(encoding='utf-8')

def names(site): return sorted(f.relative_to(site).as_posix() for f in site.rglob('*.html'))

def page_problems(page):
    "Yield the visible problems of the open page"
    text = page.evaluate(visible)
    for p in raw:
        if re.search(p, text, re.M): yield f'raw markup {p}'
    formulas = page.locator('main span.math').count()
    rendered = page.locator('main span.math .katex').count()
    if formulas != rendered: yield f'{formulas - rendered} of {formulas} formulas are not rendered'
    errors = page.locator('.katex-error')
    if errors.count(): yield 'a formula with an error: ' + errors.first.inner_text()
    wide = page.evaluate('document.documentElement.scrollWidth - innerWidth')
    if wide > 1: yield f'{wide} px wider than the screen'
    mute = page.locator('main [tabindex="0"]:not(a, button, input, [aria-label])').count()
    if mute: yield f'{mute} scroll regions without a name'

# A table scrolls in the box around it
boxes = '''() => [...document.querySelectorAll('main pre, main table')]
    .filter(e => e.checkVisibility()).map(e => e.closest('.scroll-x') || e)
    .map(e => [e.innerText.slice(0, 80), e.scrollWidth, e.clientWidth])'''

# Answers and results that a reader opens
unfold = '''() => {
    document.querySelectorAll('details').forEach(e => { e.open = true; });
    document.querySelectorAll('.course-folded').forEach(e => e.classList.remove('course-folded'));
    dispatchEvent(new Event('resize')); }'''
folded = """[...document.querySelectorAll('main pre, main table')]
    .filter(e => !e.checkVisibility()).length"""

def test_nothing_is_cut_off(site, browser, capsys):
    "At 1280 px every line of code, every output and every table fits, folded or not"
    page, cut, n = browser.new_page(**looks['light']), [], 0
    for name in names(site):
        page.goto((site/name).as_uri())
        page.evaluate(unfold)
        assert not page.evaluate(folded), name
        rows = page.evaluate(boxes)
        n += len(rows)
        cut += [f'{name}: {text!r}: {need} px in {has}' for text, need, has in rows if need > has]
    with capsys.disabled():
        print(f'\n{len(names(site))} pages, {n} blocks and tables measured, {len(cut)} cut off')
    assert n > 1000 and not cut, '\n'.join(cut)

# Parts of signatures that end beyond their box or the screen
signatures = '''() => [...document.querySelectorAll('main .signature, main .signature *')]
    .filter(e => e.checkVisibility()).filter(e => {
        const {left, right} = e.getBoundingClientRect();
        const is_box = getComputedStyle(e).display !== 'inline';
        return left < 0 || right > innerWidth + 1 || is_box && e.scrollWidth > e.clientWidth + 1;
    }).map(e => e.innerText.slice(0, 80))'''

def test_signatures_fit_on_a_phone(site, browser):
    page, n = browser.new_page(**looks['phone']), 0
    for name in names(site):
        if not name.startswith('api/'): continue
        page.goto((site/name).as_uri())
        n += page.locator('main .signature').count()
        assert not page.evaluate(signatures), name
    assert n > 300

# Links beside the page whose text goes on where a box that hides it ends
clipped = '''() => [...document.querySelectorAll('#TOC a, #quarto-sidebar a, .navbar a')]
    .filter(e => e.checkVisibility()).filter(e => {
        const range = document.createRange();
        range.selectNodeContents(e);
        const {right} = range.getBoundingClientRect();
        const ends = box => getComputedStyle(box).overflowX !== 'visible'
            && right > box.getBoundingClientRect().right + 1;
        while (e && !ends(e)) e = e.parentElement;
        return e;
    }).map(e => e.innerText)'''

def test_contents_and_menus_are_not_cut_off(site, browser):
    "Names such as RestoreBest.sets_final_weights are wider than their column"
    page, wrong = browser.new_page(**looks['light']), {}
    for name in names(site):
        page.goto((site/name).as_uri())
        found = page.evaluate(clipped)
        if found: wrong[name] = found
    assert not wrong

# Short names in tables that go on in a second line
broken = '''() => [...document.querySelectorAll('main td code')]
    .filter(e => e.checkVisibility() && !/\\s/.test(e.innerText) && e.innerText.length < 16)
    .filter(e => e.getClientRects().length > 1).map(e => e.innerText)'''

def test_names_and_numbers_are_not_broken(site, browser):
    "Tables scroll on a phone; names in the contents may break after a class, 0.01 may not"
    page = browser.new_page(**looks['phone'])
    for name in ('index.html', 'results.html', 'papers.html', 'api/freeze.html'):
        page.goto((site/name).as_uri())
        assert page.locator('main td code').count() and not page.evaluate(broken), name
    page = browser.new_page(**looks['light'])
    for name, breaks in (('lessons/alexnet.html', False), ('api/freeze.html', True)):
        page.goto((site/name).as_uri())
        contents = page.locator('#TOC').inner_html()
        assert ('.<wbr>' in contents) == breaks

# Lines of code that the renderer had to wrap
wrapped = '''() => [...document.querySelectorAll('main div.sourceCode pre')].filter(e => {
    e.querySelector('code').style.whiteSpace = 'pre';
    return !e.closest('.cell-output') && e.scrollWidth > e.clientWidth;
}).map(e => e.innerText.slice(0, 80))'''

def test_code_of_lessons_is_not_wrapped(site, browser):
    page, wrong = browser.new_page(**looks['light']), {}
    for name in names(site):
        if not re.match('index|lessons/|solutions/', name): continue
        page.goto((site/name).as_uri())
        assert name == 'index.html' or page.locator('main div.sourceCode pre').count()
        found = page.evaluate(wrapped)
        if found: wrong[name] = found
    assert not wrong

@pytest.fixture(scope='module', params=looks)
def visited(request, site, browser, axe):
    "Open every page in one look; name → its problems, and axe-core's findings"
    look, found = request.param, {}
    context = browser.new_context(**looks[look])
    for name in names(site):
        page, said = watched(context)
        page.goto((site/name).as_uri())
        page.wait_for_timeout(120)
        wrong = [*said, *page_problems(page)]
        dark = page.evaluate(is_dark)
        if dark != (look == 'dark'): wrong.append(f'dark is {dark}')
        page.evaluate(axe)
        found[name] = wrong, page.evaluate(run_axe)
        page.close()
    context.close()
    return found

def test_pages(visited):
    wrong = [f'{name}: {w}' for name, (said, _) in visited.items() for w in said]
    assert not wrong, '\n'.join(wrong)

def describe(name, violation):
    "A violation on the page `name` in one line"
    first, n_more = violation['nodes'][0], len(violation['nodes']) - 1
    summary = first.get('failureSummary', '')[:200]
    return f"{name}: {first['html'][:160]} {summary} (and {n_more} more)"

def test_accessible(visited):
    "axe-core finds nothing serious"
    found = {}
    for name, (_, violations) in visited.items():
        for v in violations:
            if v['impact'] not in ('serious', 'critical'): continue
            found.setdefault(v['id'], []).append(describe(name, v))
    lines = []
    for rule, places in found.items(): lines += [f'{rule}: {len(places)} pages', *places[:3]]
    assert not found, '\n'.join(lines)

def test_search(site, browser):
    "Typing finds, arrow keys choose, Enter opens the page"
    page, said = watched(browser.new_context(**looks['light']))
    page.goto((site/'index.html').as_uri())
    page.keyboard.press('/')
    page.keyboard.type('freeze_to', delay=20)
    page.wait_for_selector('.search-result')
    assert 'freeze_to' in page.locator('.smalldocs-search-results').inner_text()
    page.keyboard.press('ArrowDown')
    page.keyboard.press('Enter')
    page.wait_for_url(lambda u: 'index.html' not in u)
    assert 'freeze_to' in page.locator('main').inner_text() and not said

@pytest.mark.parametrize('query,first', [
    ('staged fine-tuning', 'staged_finetuning'), ('fine-tuning', 'staged_finetuning'),
    ('residual block', 'residual_block'), ('AlexNet', 'alexnet'), ('aelxnet', None)])
def test_search_prefers_titles(site, browser, query, first):
    page, said = watched(browser.new_context(**looks['light']))
    page.goto((site/'results.html').as_uri())
    page.locator('#quarto-search input').fill(query)
    page.wait_for_selector('.search-result')
    found = page.locator('.search-result').evaluate_all('es => es.map(e => e.href)')
    assert not [f for f in found if '/api/checks/' in f] and not said
    texts = page.locator('.search-result-text').all_inner_texts()
    assert not [t for t in texts if t.startswith('Skip to content')]
    if first: assert found[0] == (site/f'lessons/{first}.html').as_uri()

def test_search_on_a_phone(site, browser):
    "The search stands beside the button of the menu, and its results fit on the screen"
    page, said = watched(browser.new_context(**looks['phone']))
    page.goto((site/'lessons/alexnet.html').as_uri())
    search = page.locator('#quarto-search input')
    assert search.is_visible() and not page.locator('#navbarCollapse').is_visible()
    search.fill('dropout')
    page.wait_for_selector('.search-result')
    box = page.locator('.smalldocs-search-results').bounding_box()
    assert box['x'] >= 0 and box['x'] + box['width'] <= small['width'] and not said

def test_page_for_unknown_addresses(site, browser):
    "A server shows it at any depth, and its links still lead into the site"
    def serve(route):
        path = re.sub('^https://site.test/resnet_course/', '', route.request.url).split('?')[0]
        file = site/path if (site/path).is_file() else site/'404.html'
        route.fulfill(path=file, status=200 if file.name != '404.html' else 404)
    page, top = browser.new_page(**looks['light']), 'https://site.test/resnet_course/'
    page.route('**/*', serve)
    page.goto(top + 'lessons/no/such/page.html')
    loads = page.locator('link[rel=stylesheet], script[src]').evaluate_all(
        'es => es.map(e => e.href || e.src)')
    assert len(loads) > 5 and all((site/u.removeprefix(top)).is_file() for u in loads)
    assert page.locator('.navbar').evaluate('e => getComputedStyle(e).display') == 'flex'
    hrefs = page.locator('a:not([href=""])').evaluate_all('es => es.map(e => e.href)')
    inside = {h.split('#')[0].removeprefix(top) for h in hrefs if h.startswith('https://site.test')}
    assert len(inside) > 5 and all((site/h).is_file() for h in inside if 'no/such' not in h)
    page.get_by_role('link', name='front page', exact=True).click()
    assert page.url == top + 'index.html'

collect_todo = '''() => {
    const all = 'a[href], button, input, select, textarea, [tabindex="0"]';
    window.todo = new Set([...document.querySelectorAll(all)].filter(
        e => e.checkVisibility({visibilityProperty: true}) && e.tabIndex >= 0 && !e.disabled)); }'''

def test_keyboard(site, browser):
    "Tab alone reaches everything that can be clicked, and the first stop skips the menus"
    page = browser.new_page(**looks['light'])
    for name in ('index.html', 'papers.html'):
        page.goto((site/name).as_uri())
        page.wait_for_timeout(200)
        page.evaluate(collect_todo)
        page.keyboard.press('Tab')
        assert page.evaluate('document.activeElement.className') == 'skip-link'
        for _ in range(page.evaluate('todo.size') + 5):
            page.evaluate('todo.delete(document.activeElement)')
            page.keyboard.press('Tab')
        left = page.evaluate('[...todo].map(e => e.outerHTML.slice(0, 120))')
        assert not left, left

def test_theme_is_remembered(site, browser):
    page = browser.new_page(**looks['light'])
    page.goto((site/'index.html').as_uri())
    page.locator('.quarto-color-scheme-toggle').first.click()
    page.goto((site/'papers.html').as_uri())
    page.wait_for_function(is_dark)

def test_lesson_bar(site, browser):
    "A lesson links to Colab and to its notebook, and remembers that it was completed"
    lesson = next((n for n in names(site) if n.startswith('lessons/')), None)
    if lesson is None: pytest.skip('no lesson yet')
    page = browser.new_page(**looks['light'])
    page.goto((site/lesson).as_uri())
    colab, download = page.locator('.lesson-bar a').all()
    assert (root/re.search(r'nbs/lessons/.*', colab.get_attribute('href'))[0]).is_file()
    assert (site/'lessons'/download.get_attribute('href')).is_file()
    page.get_by_role('button', name='Mark this lesson as done').click()
    page.reload()
    assert page.locator('.lesson-done button').get_attribute('aria-pressed') == 'true'
    assert page.locator('.sidebar-link.done').count() == 1
    n = len({f.name[:2] for f in (root/'nbs/lessons').glob('*.ipynb')})
    assert page.locator('.course-progress').inner_text() == f'1 of {n} lessons done'

def test_a_lesson_in_two_parts_counts_once(site, browser):
    page = browser.new_page(**looks['light'])
    for part, count in (('find_the_bug', '0 of 13'), ('find_more_bugs', '1 of 13')):
        page.goto((site/f'lessons/{part}.html').as_uri())
        page.get_by_role('button', name='Mark this lesson as done').click()
        assert page.locator('.course-progress').inner_text() == f'{count} lessons done'
    assert page.locator('.sidebar-link.done').count() == 2
