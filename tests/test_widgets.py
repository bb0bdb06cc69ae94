"Widgets: the script draws what Python drew, the keyboard works, and nothing leaves the drawing"
import re
import xml.etree.ElementTree as ET
from collections import Counter

import pytest
from browser import open_browser, watched

from resnet_course.core import CourseError
from resnet_course.widgets import explore_convolution, explore_shortcut

convolutions = [(6, 3, 2, 0, 1), (5, 3, 1, 1, 0), (7, 1, 1, 2, 5), (7, 5, 3, 2, 3), (6, 3, 3, 0, 0)]
shortcuts = [(3, True), (3, False), (0, True), (12, True), (10, False)]

def content(svg):
    "Texts, and the number of shapes by class; without what a page adds"
    root = ET.fromstring(svg)
    texts, shapes = [], Counter()
    for e in root.iter():
        tag = e.tag.split('}')[-1]
        if tag == 'text': texts.append(''.join(e.itertext()))
        if tag in ('rect', 'circle', 'polyline', 'polygon'): shapes[e.get('class')] += 1
    return sorted(texts), shapes

@pytest.fixture(scope='module')
def browser():
    with open_browser() as b: yield b

def shown(browser, widget, width=390):
    page, wrong = watched(browser.new_context(viewport=dict(width=width, height=800)),
                          ok=('file:', 'data:', 'blob:', 'about:'))
    page.set_content(f'<body style="margin:24px">{widget._repr_html_()}')
    return page, wrong

def svg_of(page):
    return page.evaluate('new XMLSerializer().serializeToString(document.querySelector("svg"))')

@pytest.mark.parametrize('widget', [explore_convolution(*a) for a in convolutions]
                         + [explore_shortcut(*a) for a in shortcuts], ids=str)
def test_script_draws_what_python_drew(browser, widget):
    page, wrong = shown(browser, widget)
    assert content(svg_of(page)) == content(widget.drawing.svg)
    assert page.locator('.rc-status').inner_text() == widget.status
    assert not wrong

@pytest.mark.parametrize('make,settings', [(explore_convolution, convolutions),
                                           (explore_shortcut, shortcuts)])
def test_controls_lead_to_the_same_drawings(browser, make, settings):
    page, wrong = shown(browser, make())
    for args in settings:
        want = make(*args)
        values = {name: attrs.get('value', attrs.get('checked'))
                  for name, _, _, attrs in want.controls}
        for name, v in [*values.items()]*2:   # the last slider's range depends on the others
            page.evaluate('''([name, v]) => { const i = document.querySelector(`[name=${name}]`);
                if (i.type === 'checkbox') i.checked = v; else i.value = v;
                i.dispatchEvent(new Event('input')); }''', [name, v])
        assert content(svg_of(page)) == content(want.drawing.svg), args
        assert page.locator('.rc-status').inner_text() == want.status
    assert not wrong

def test_keyboard(browser):
    page, _ = shown(browser, explore_convolution())
    before = page.locator('.rc-status').inner_text()
    page.get_by_label('stride').focus()
    page.keyboard.press('ArrowLeft')
    assert page.locator('.rc-status').inner_text() != before
    page, _ = shown(browser, explore_shortcut())
    page.get_by_label('shortcut', exact=True).focus()
    page.keyboard.press('Space')
    assert page.locator('.rc-status').inner_text() == explore_shortcut(on=False).status

measure = '''() => { const s = document.querySelector('svg'), h = s.viewBox.baseVal.height;
    const scale = s.getBoundingClientRect().width/480;
    return [...s.querySelectorAll('rect, text, polyline')].filter(e => { const b = e.getBBox();
        const small = e.tagName === 'text' && e.getAttribute('font-size')*scale < 9;
        return small || b.x < 0 || b.y < 0 || b.x + b.width > 480 || b.y + b.height > h; })
        .map(e => e.outerHTML); }'''

def test_inside_and_legible_in_every_state(browser):
    page, _ = shown(browser, explore_convolution())
    for n, ks, stride, pad in ((3, 1, 3, 0), (7, 1, 1, 2), (7, 5, 1, 2), (3, 5, 1, 0)):
        for name, v in dict(n=n, ks=ks, stride=stride, pad=pad).items():
            page.evaluate('''([name, v]) => { const i = document.querySelector(`[name=${name}]`);
                i.value = v; i.dispatchEvent(new Event('input')); }''', [name, v])
            assert page.evaluate(measure) == []
    page, _ = shown(browser, explore_shortcut(12))
    assert page.evaluate(measure) == []
    assert page.evaluate('document.documentElement.scrollWidth') <= 390

def test_several_on_a_page(browser):
    page, wrong = shown(browser, explore_convolution())
    page.set_content(explore_convolution()._repr_html_()*2 + explore_shortcut()._repr_html_())
    page.get_by_label('stride').first.press('ArrowLeft')
    first, second, _ = page.locator('.rc-status').all_inner_texts()
    assert first != second and not wrong

def test_without_scripts_the_drawing_stays():
    for w in (explore_convolution(), explore_shortcut()):
        html = re.sub('<script.*?</script>', '', w._repr_html_(), flags=re.S)
        assert w.status in html and '<svg' in html and len(ET.fromstring(w.drawing.svg)) > 10
        assert repr(w) == f'{w.drawing.title}. {w.status}'

def test_errors():
    for call in (lambda: explore_convolution(3, 5), lambda: explore_convolution(99),
                 lambda: explore_convolution(at=99), lambda: explore_shortcut(99)):
        with pytest.raises(CourseError): call()
