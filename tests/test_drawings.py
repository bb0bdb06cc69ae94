"Drawings: well-formed, described, legible and inside their frame, with the networks' real numbers"
import html, re
import xml.etree.ElementTree as ET
from functools import partial
from types import SimpleNamespace

import pytest, torch
from torch import nn

from browser import open_browser
from resnet_course import drawings
from resnet_course.core import CourseError
from resnet_course.drawings import (
    Drawing, blocks, draw_alexnet, draw_block, draw_convolution, draw_data_parallel, draw_freezing,
    draw_grad_cam, draw_nchw, draw_network, draw_number_formats, draw_path, draw_receptive_field,
    draw_shortcuts, draw_splits, draw_stems, draw_training_step, draw_weight_decay, paths)
from resnet_course.layers import BasicBlock, Bottleneck
from resnet_course.models import create_model, group_names, param_groups
from resnet_course.summary import model_summary

splits = SimpleNamespace(train_ds=range(9000), valid_ds=range(1000), test_ds=range(2000))
plan = {'stage 1': -1, 'stage 2': -2, 'stage 3': -3}
makers = {
    'convolution': draw_convolution, 'strided': partial(draw_convolution, 5, 3, 2, 1),
    'nchw': draw_nchw, 'splits': partial(draw_splits, splits), 'step': draw_training_step,
    'receptive': draw_receptive_field, 'blocks': partial(draw_block, *blocks),
    'two': partial(draw_block, 'plain', 'basic'), 'shortcuts': draw_shortcuts,
    'projection': lambda: draw_block(BasicBlock(64, 128, 2), Bottleneck(256, 128, 2)),
    'stems': draw_stems, 'alexnet': draw_alexnet, 'parallel': partial(draw_data_parallel, 4),
    'resnet50': partial(draw_network, 'resnet50', n_out=1000),
    'freezing': partial(draw_freezing, 'resnet50', plan), 'decay': draw_weight_decay,
    'formats': draw_number_formats, 'cam': draw_grad_cam,
    **{name: partial(draw_path, name) for name in paths}}

@pytest.fixture(scope='module')
def drawn(): return {k: f() for k, f in makers.items()}

def tags(d, name): return list(ET.fromstring(d.svg).iter('{http://www.w3.org/2000/svg}' + name))

def test_every_public_function_is_tested():
    tested = {f.func if isinstance(f, partial) else f for f in makers.values()}
    public = [n for n in drawings.__all__ if n.startswith('draw_')]
    assert len(public) >= 12
    assert not [n for n in public if getattr(drawings, n) not in tested | {draw_block}]

def test_well_formed_and_described(drawn):
    for name, d in drawn.items():
        root = ET.fromstring(d.svg)
        assert root.get('role') == 'img' and root.get('viewBox').startswith('0 0 480 '), name
        assert root.get('aria-label') == f'{d.title}. {d.desc}', name
        assert [t.text for t in tags(d, 'title') + tags(d, 'desc')] == [d.title, d.desc]
        assert repr(d) == f'{d.title}. {d.desc}' and len(d.desc) > 40

def test_inside_and_legible(drawn):
    "By estimate; the browser measures below"
    for name, d in drawn.items():
        for x0, y0, x1, y1 in d.spans:
            assert 0 <= x0 <= x1 <= d.width and 0 <= y0 <= y1 <= d.height, name
        # on a phone of 390 px a page has a column of at least 340
        for t in tags(d, 'text'): assert float(t.get('font-size'))*340/d.width >= 9, name

def test_colors_of_both_themes(drawn):
    "Every class has a rule for both, and an attribute for pages that drop style sheets"
    for name, d in drawn.items():
        rules = ''.join(t.text for t in tags(d, 'style'))
        for e in ET.fromstring(d.svg).iter():
            cls = e.get('class')
            if cls in (None, 'rc-drawing'): continue
            assert f'.{cls}{{' in rules and (e.get('fill') or e.get('stroke')), (name, cls)
        assert rules.count('light-dark(') >= 2 and '<script' not in d.svg

def luminance(color):
    rgb = [int(color[i:i + 2], 16)/255 for i in (1, 3, 5)]
    lin = [c/12.92 if c <= 0.04045 else ((c + 0.055)/1.055)**2.4 for c in rgb]
    return sum(w*c for w, c in zip((0.2126, 0.7152, 0.0722), lin))

def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05)/(low + 0.05)

def test_contrast():
    "Text on every box: 7 to 1 (WCAG AAA); edges and lines on the page: 3 to 1"
    for theme in (0, 1):
        page = drawings._kinds['page'][2*theme]
        for name, colors in drawings._kinds.items():
            assert contrast(colors[2*theme], drawings._inks['ink'][theme]) >= 7, name
            if name != 'page': assert contrast(colors[2*theme + 1], page) >= 3, name
        for name, colors in drawings._inks.items():
            assert contrast(colors[theme], page) >= (3 if name in ('branch', 'shortcut') else 4.5)

def test_names_are_escaped():
    class Odd(nn.Sequential): pass
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Odd(nn.Conv2d(4, 4, 3)))
    net.cfg = {'name': '<script>alert("x")</script>\x1b'}
    d = draw_network(net, 16)
    assert '<script' not in d.svg and '\x1b' not in d.svg
    ET.fromstring(d.svg)
    d = draw_freezing('resnet8', {'<b>&': -1})
    assert '&lt;b&gt;&amp;' in d.svg

@pytest.mark.parametrize('n,ks,stride,pad', [(5, 3, 1, 0), (5, 3, 2, 1), (6, 5, 1, 0),
                                            (7, 3, 3, 0)])
def test_a_convolution_is_right(n, ks, stride, pad):
    d = draw_convolution(n, ks, stride, pad, at=(0, 0))
    conv = nn.Conv2d(1, 1, ks, stride, pad, bias=False)
    side = conv(torch.zeros(1, 1, n, n)).shape[-1]
    assert d.texts[-1].endswith(f'= {side}') and f'output {side}×{side}' in d.texts
    values = [float(t.replace('−', '-')) for t in d.texts if re.fullmatch('−?[0-9]+', t)]
    x, rest = values[:(n + 2*pad)**2], values[(n + 2*pad)**2:]
    x = torch.tensor(x).view(1, 1, n + 2*pad, -1)
    w, y = torch.tensor(rest[:ks*ks]).view(1, 1, ks, ks), torch.tensor(rest[ks*ks:])
    assert torch.equal(torch.nn.functional.conv2d(x, w, stride=stride).flatten(), y)

@pytest.mark.parametrize('name,size', [('alexnet', 227), ('alexnet_tv', 224),
                                       ('alexnet_small', 28)])
def test_alexnets_shapes(name, size):
    d, net = draw_alexnet(name, size), create_model(name, n_out=1000)
    shapes, x = [], torch.zeros(2, 3, size, size)
    for m in [*net.features, net.avgpool, nn.Flatten(), *net.classifier]:
        x = m.eval()(x)
        if isinstance(m, (nn.Conv2d, nn.MaxPool2d, nn.Linear)):
            shapes.append('×'.join(map(str, x.shape[1:])))
    assert [t for t in d.texts if t in set(shapes)] == shapes
    assert d.texts[-1] == f'{sum(p.numel() for p in net.parameters()):,} parameters'

@pytest.mark.parametrize('name,size', [('resnet50', 224), ('resnet20', 32), ('plain20', 28),
                                       ('resnext50_32x4d', 128)])
def test_networks_have_their_shapes(name, size):
    d, net = draw_network(name, size), create_model(name)
    for r in model_summary(net, size, depth=1).rows:
        if not r['layer'].startswith('layer'): continue
        i = d.texts.index(r['layer'])
        assert d.texts[i + 1] == '×'.join(map(str, r['shape']))
        blocks_of = net.get_submodule(r['layer'])
        assert d.texts[i + 2] == f'{len(blocks_of)} × {type(blocks_of[0]).__name__}'
        assert d.texts[i + 3] == f'{r["params"]:,}'

@pytest.mark.parametrize('name,size', [('resnet18', 224), ('alexnet_small', 28), ('resnet14', 28)])
def test_all_parameters_are_drawn(name, size):
    "The rows add up to the total"
    net = create_model(name)
    rows = drawings._merged(net, size, None, 2 if hasattr(net, 'features') else 1)
    total = sum(p.numel() for p in net.parameters())
    assert sum(r['params'] for r in rows) == total
    texts = draw_network(net, size).texts
    assert all(f'{r["params"]:,}' in texts for r in rows if r['params'])

def test_blocks_show_what_runs():
    d = draw_block('bottleneck')
    layers = [t for t in d.texts if re.search('conv|BatchNorm|ReLU|^[+]$', t)]
    assert layers == ['1×1 conv, 64', 'BatchNorm', 'ReLU', '3×3 conv, 64', 'BatchNorm', 'ReLU',
                      '1×1 conv, 256', 'BatchNorm', '+', 'ReLU']
    assert '+' not in draw_block('plain').texts
    v1, v15 = (draw_block(Bottleneck(256, 128, 2, variant=v)).texts for v in ('v1', 'v1.5'))
    assert '1×1 conv /2, 128' in v1 and '3×3 conv /2, 128' in v15
    assert not [t for t in v15 if t.startswith('1×1 conv /2')]

def test_freezing_shows_the_flags():
    net = create_model('resnet50')
    for g in param_groups(net)[:3]:
        for p in g: p.requires_grad_(False)
    d = draw_freezing(net)
    assert [t for t in d.texts if t in ('frozen', 'trains')] == ['frozen']*3 + ['trains']*3
    assert 'layer3, layer4, head in training' in d.desc
    assert all(n in d.texts for n in group_names(net))

@pytest.mark.parametrize('call,says', [
    (lambda: draw_convolution(2, 3), 'larger than'), (lambda: draw_convolution(12, 7, 1, 3), 'fit'),
    (lambda: draw_convolution('5'), 'n='), (lambda: draw_block('basik'), "'basic'"),
    (lambda: draw_block(), '1 to 4'), (lambda: draw_nchw(99), 'n=99'),
    (lambda: draw_network('resnet999'), 'unknown model'), (lambda: draw_splits(3), 'train_ds'),
    (lambda: draw_network(create_model('resnet8'), n_out=3), 'name of a network'),
    (lambda: draw_alexnet('resnet18'), 'not an AlexNet'),
    (lambda: draw_freezing('resnet8', {'a': 9}), 'stages'),
    (lambda: draw_data_parallel(3, 64), 'equally')])
def test_errors(call, says):
    with pytest.raises(CourseError, match=re.escape(says)): call()

def test_save(tmp_path):
    f = draw_block('basic').save(tmp_path/'basic.svg')
    assert ET.parse(f).getroot().get('role') == 'img'

# What a browser measures: texts outside of the frame or of less than 9 px, on a page of 390 px
measure = '''() => [...document.querySelectorAll('svg')].flatMap(s => {
    const box = s.viewBox.baseVal, scale = s.getBoundingClientRect().width/box.width;
    const name = s.querySelector('title').textContent;
    return [...s.querySelectorAll('text')].flatMap(t => {
        const b = t.getBBox(), size = t.getAttribute('font-size')*scale, wrong = [];
        if (b.x < 0 || b.y < 0 || b.x + b.width > box.width || b.y + b.height > box.height)
            wrong.push(`${name}: ${t.textContent} is outside`);
        if (size < 9) wrong.push(`${name}: ${t.textContent} has ${size} px`);
        return wrong;
    });
})'''

def test_in_a_browser(drawn):
    "Nothing outside, nothing tiny, and colors that follow the reader's theme"
    page_html = '<body style="margin:24px">' + ''.join(d.svg for d in drawn.values())
    with open_browser() as browser:
        for scheme, color in (('light', 'rgb(255, 255, 255)'), ('dark', 'rgb(29, 33, 37)')):
            page = browser.new_page(viewport=dict(width=390, height=800), color_scheme=scheme)
            page.set_content(page_html)
            assert page.evaluate(measure) == []
            fill = "getComputedStyle(document.querySelector('.rc-page')).fill"
            assert page.evaluate(fill) == color
            assert page.evaluate('document.documentElement.scrollWidth') <= 390

def test_title_is_text():
    d = Drawing('a & b', 'less than < and more', 50)
    assert html.escape('a & b. less than < and more') in d.svg
