"Predictions: in Python, and as the site's script treats what they show"
import json, re
from pathlib import Path

import pytest
from browser import open_browser

from resnet_course.core import CourseError
from resnet_course.predictions import prediction

nbs = Path(__file__).resolve().parent.parent/'nbs'

@pytest.mark.parametrize('said', [None, '', '   ', ...])
def test_nothing_said(said):
    p = prediction('a share', said)
    assert p.said == '' and 'in place of the three dots' in repr(p)

@pytest.mark.parametrize('said,text', [('ten', 'ten'), (0, '0'), (0.5, '0.5'), ((1, 2), '1, 2'),
                                       (False, 'False'), ('a\nb', r'a\nb')])
def test_said(said, text):
    p = prediction('a share', said)
    assert p.said == text and f'you predicted {text}.' in repr(p)

def test_markup_is_escaped():
    p = prediction('<i>', '"><script>alert(1)</script>\x1b')
    assert '<script' not in p._repr_html_() and '\x1b' not in p._repr_html_()

def test_errors():
    for bad in ('', 3):
        with pytest.raises(CourseError): prediction(bad)

@pytest.mark.parametrize('f', sorted(nbs.glob('lessons/*.ipynb')), ids=lambda f: f.stem)
def test_lessons_ask_first(f):
    "A field comes right after its question, and no two fields of a lesson share their words"
    cells = json.loads(f.read_text(encoding='utf-8'))['cells']
    abouts = []
    for before, c in zip(cells, cells[1:]):
        for m in re.finditer(r"^prediction\('([^']+)', \.\.\.\)$", ''.join(c['source']), re.M):
            assert '**Predict' in ''.join(before['source']), m[0]
            abouts.append(m[1])
    assert len(set(abouts)) == len(abouts)

def page_of(*parts):
    "A page as both renderers make it, with the site's styles and script"
    style = (nbs/'styles.css').read_text(encoding='utf-8')
    script = (nbs/'assets/after.html').read_text(encoding='utf-8')
    body = ''.join(parts)
    return (f'<html><head><style>{style}</style></head><body><main id="quarto-document-content">'
            f'{body}</main>{script}</body></html>')

def cell(*outputs):
    outs = ''.join(f'<div class="cell-output"><pre>{o}</pre></div>' for o in outputs)
    return f'<div class="cell"><div class="sourceCode">code</div>{outs}</div>'

def ask(about):
    html = prediction(about)._repr_html_()
    return cell().removesuffix('</div>') + f'<div class="cell-output">{html}</div></div>'

lesson = (
    '<p id="q1"><strong>Predict:</strong> what?</p>', ask('first'),
    cell(), cell('answer 1'), cell('answer 1b'), '<p id="why1">Because.</p>',
    '<p id="q2">More. <strong>Predict</strong> again.</p>', ask('second'),
    cell(), '<p id="between">About the next cell.</p>', cell('answer 2'),
    '<p id="why2">Because 2.</p>', cell('unrelated'), '<p id="end">The end.</p>')

@pytest.fixture
def page(tmp_path):
    f = tmp_path/'lessons'/'one.html'
    f.parent.mkdir()
    f.write_text(page_of(*lesson), encoding='utf-8')
    with open_browser() as browser:
        page = browser.new_page(viewport=dict(width=390, height=800))
        page.goto(f.as_uri())
        yield page

def seen(page):
    "What of the lesson can be read"
    text = page.locator('main').inner_text()
    return [w for w in ('answer 1', 'answer 1b', 'Because.', 'what?', 'again.', 'About the next',
                        'answer 2', 'Because 2.', 'unrelated', 'The end.')
            if re.search(rf'{re.escape(w)}(?!\w)', text)]

# what leads to the second result is no part of it
start = ['what?', 'again.', 'About the next', 'unrelated', 'The end.']

def test_results_are_folded_until_something_is_written(page):
    assert seen(page) == start
    field = page.get_by_label('Your prediction: first')
    field.press('Enter')
    assert seen(page) == start and 'Write something first' in page.locator('main').inner_text()
    field.fill('ten <b>percent</b>')
    field.press('Enter')
    assert seen(page) == ['answer 1', 'answer 1b', 'Because.', *start]
    echo = page.locator('.course-predicted')
    assert echo.inner_text() == 'You predicted: ten <b>percent</b>'
    assert page.evaluate('document.activeElement.className') == 'course-predicted'

def test_they_are_remembered(page):
    page.get_by_label('Your prediction: first').fill('ten')
    page.get_by_role('button', name='Compare').first.click()
    page.reload()
    assert 'answer 1' in seen(page) and 'answer 2' not in seen(page)
    assert page.locator('.course-predicted').inner_text() == 'You predicted: ten'

def test_nobody_is_forced(page):
    for button in page.get_by_role('button', name='Show the result').all(): button.click()
    assert len(seen(page)) == 10
    assert page.locator('.course-predicted').first.inner_text().startswith('You made no prediction')

def test_keyboard_reaches_the_result(page):
    page.locator('body').press('Tab')       # the skip link
    page.keyboard.press('Tab')
    page.keyboard.type('ten')
    page.keyboard.press('Tab')
    page.keyboard.press('Enter')
    assert 'answer 1' in seen(page)

def test_without_scripts_everything_can_be_read(tmp_path):
    f = tmp_path/'one.html'
    f.write_text(page_of(*lesson), encoding='utf-8')
    with open_browser() as browser:
        page = browser.new_context(java_script_enabled=False).new_page()
        page.goto(f.as_uri())
        assert len(seen(page)) == 10 and 'three dots' in page.locator('main').inner_text()
