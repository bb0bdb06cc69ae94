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
    assert page.locator('.course-progress').inner_text().startswith('1 of ')
