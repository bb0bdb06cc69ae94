"Networks have the layers and shapes that their description implies, train, and survive saving"
import tempfile
from pathlib import Path

import numpy as np, pytest, torch, torchvision
from hypothesis import HealthCheck, example, given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from resnet_course.core import CourseError
from resnet_course.layers import PreactBasicBlock, PreactBottleneck, ResBlock
from resnet_course.resnet import cifar_depths, depths
from resnet_course.models import (
    create_model, default_stem, eval_mode, group_names, list_models, options, param_groups)
from resnet_course.summary import model_summary
from resnet_course.weights import load_weights
from resnet_course.saving import load_model, save_weights

slow = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))

names = ['resnet8', 'resnet14', 'resnet20', 'plain8', 'plain14', 'resnet18', 'plain18', 'resnet34',
         'resnet50', 'resnext50_32x4d']

@st.composite
def resnets(draw):
    "Arguments of `create_model` for some ResNet, small enough to train here"
    def one_of(*choices): return draw(st.sampled_from(choices))
    kw = dict(name=one_of(*names), n_out=draw(st.integers(1, 12)), n_in=draw(st.integers(1, 4)),
              act=one_of('relu', 'elu', 'tanh', 'leaky_relu'),
              stem=one_of('imagenet', 'cifar', 'deep'), variant=one_of('v1', 'v1.5', 'v2'),
              nf=one_of(16, 32))
    if not kw['name'].startswith('plain'):
        kw['shortcut'] = one_of('A', 'B', 'C', 'none')
        kw['zero_gamma'] = kw['shortcut'] != 'none' and draw(st.booleans())
        if kw['shortcut'] != 'none': kw['drop_path'] = one_of(0., 0.1)
    return kw

sizes = st.tuples(st.integers(16, 48), st.integers(16, 48))

def n_of(net, cls): return sum(isinstance(m, cls) for m in net.modules())

def described(kw):
    "What a description implies: blocks, numbers of convolutions and BatchNorms"
    depth = int(''.join(c for c in kw['name'].split('_')[0] if c.isdigit()))
    block, n_blocks = (cifar_depths if depth in cifar_depths else depths)[depth]
    bottleneck, n = block.expansion == 4, sum(n_blocks)
    projections = 0
    if kw.get('shortcut') == 'B': projections = len(n_blocks) - (0 if bottleneck else 1)
    if kw.get('shortcut') == 'C': projections = n
    in_stem = 3 if kw['stem'] == 'deep' else 1
    in_branches = n*(3 if bottleneck else 2)
    # v2: one BatchNorm less in the first block, one more at the end, none after projections
    bns = in_stem + in_branches + (0 if kw['variant'] == 'v2' else projections)
    return dict(n_blocks=n_blocks, convs=in_stem + in_branches + projections, bns=bns,
                bottleneck=bottleneck)

@slow
@given(resnets(), sizes)
@example(dict(name='resnet18', n_out=10, n_in=3, act='relu', stem='imagenet', variant='v1.5',
              nf=64, shortcut='B'), (16, 16))
@example(dict(name='resnet50', n_out=10, n_in=3, act='relu', stem='cifar', variant='v1', nf=16,
              shortcut='A'), (17, 31))
def test_structure(kw, size):
    torch.manual_seed(0)
    net, d = create_model(**kw), described(kw)
    assert n_of(net, nn.Conv2d) == d['convs'] and n_of(net, nn.BatchNorm2d) == d['bns']
    assert n_of(net, nn.Linear) == 1
    k = len(d['n_blocks'])
    assert group_names(net) == ['stem', *(f'layer{i+1}' for i in range(k)), 'head']
    ps = [p for g in param_groups(net) for p in g]
    assert len({*map(id, ps)}) == len(ps) == len(list(net.parameters()))
    shapes = {r['layer']: r['shape'] for r in model_summary(net, size, depth=1).rows}
    h, w = size if kw['stem'] == 'cifar' else (-(-s//4) for s in size)
    for i in range(k):
        channels = kw['nf']*2**i*(4 if d['bottleneck'] else 1)
        assert shapes[f'layer{i+1}'] == (channels, h, w)
        h, w = -(-h//2), -(-w//2)

@slow
@given(resnets(), sizes)
def test_trains_and_survives_saving(kw, size):
    torch.manual_seed(0)
    net = create_model(**kw)
    x, y = torch.randn(4, kw['n_in'], *size), torch.randint(0, kw['n_out'], (4,))
    # a plain network of 34 layers on 1×1 maps starts with gradients of 60,000: larger steps diverge
    opt = torch.optim.SGD(net.parameters(), lr=1e-4)
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    opt.step()
    assert torch.isfinite(loss) and all(torch.isfinite(p).all() for p in net.parameters())
    assert all(p.grad is not None for p in net.parameters())
    with tempfile.TemporaryDirectory() as d, torch.no_grad():
        path = save_weights(net, Path(d)/'net', size=list(size))
        back, again = load_model(path), create_model(**net.cfg)
        report = load_weights(again, path)
        assert back.cfg == net.cfg == again.cfg
        assert len(report.matched) == len(net.state_dict()) and not report.missing
        out = net.eval()(x)
        assert out.shape == (4, kw['n_out'])
        for other in (back, again.eval()):
            sd = other.state_dict()
            assert all(torch.equal(v, sd[k]) for k, v in net.state_dict().items())
            # equal weights, but matrix-vector products may round differently with memory alignment
            # (a plain network of 50 layers may overflow before BatchNorm has seen enough: both do)
            torch.testing.assert_close(other(x), out, rtol=1e-5, atol=1e-6, equal_nan=True)

@slow
@given(st.sampled_from(list_models('alex*')), st.integers(1, 12), st.integers(1, 4),
       st.integers(1, 100), st.sampled_from(['relu', 'tanh']), st.sampled_from([None, 3, 4, 5]))
def test_alexnets(name, n_out, n_in, size, act, omit):
    "All sizes work from the smallest that the error message names"
    if name == 'alexnet_tv': omit = None
    with torch.device('meta'): net = create_model(name, n_out, n_in, act=act, omit=omit)
    x = torch.empty(2, n_in, size, size, device='meta')
    assert net.min_size == {'alexnet_tv': 63, 'alexnet_small': 1}.get(name, 67)
    if size >= net.min_size: assert net(x).shape == (2, n_out)
    else:
        smallest = f'smallest size that works is {net.min_size} px'
        with pytest.raises(CourseError, match=smallest): net(x)
        with pytest.raises(RuntimeError): net.features(x)
    assert n_of(net, nn.Conv2d) == 5 - (omit is not None) and n_of(net, nn.Linear) == 3
    n = 2*(8 - (omit is not None))
    assert sum(map(len, param_groups(net))) == len(list(net.parameters())) == n

@pytest.mark.parametrize('name', list_models())
def test_cfg_rebuilds(name):
    with torch.device('meta'): a = create_model(name, 7, 1)
    with torch.device('meta'): b = create_model(**a.cfg)
    def shapes(net): return [(k, v.shape) for k, v in net.state_dict().items()]
    assert a.cfg == b.cfg and shapes(a) == shapes(b)

# The pre-activation block

@pytest.mark.parametrize('block, no', [(PreactBasicBlock, 32), (PreactBottleneck, 8)])
@pytest.mark.parametrize('shortcut', ['A', 'B', 'C'])
def test_preact_shortcuts_start_after_the_activation(block, no, shortcut):
    "Where the shortcut has a module: with zeros in the branch, the block is that module alone"
    b = block(16, no, stride=2, shortcut=shortcut).eval()
    nn.init.zeros_(b.last_layer().weight)
    nn.init.uniform_(b.bn1.bias, -1, 1)
    x = torch.randn(2, 16, 8, 8)
    want = b.downsample(b.bn1(x).relu())
    torch.testing.assert_close(b(x), want, rtol=0, atol=0)
    assert not torch.allclose(want, b.downsample(x))

@pytest.mark.parametrize('block, no', [(PreactBasicBlock, 16), (PreactBottleneck, 4)])
def test_preact_identity_starts_before_the_activation(block, no):
    b = block(16, no).eval()
    nn.init.zeros_(b.last_layer().weight)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(b(x), x) and x.min() < 0

# Initial weights

@pytest.mark.parametrize('name', ['resnet18', 'resnet50', 'resnext50_32x4d'])
@pytest.mark.parametrize('variant', ['v1.5', 'v2'])
def test_initial_weights_scale_with_fan_out(name, variant):
    "Visible where a convolution changes the number of channels"
    torch.manual_seed(0)
    changing = 0
    for n, m in create_model(name, variant=variant).named_modules():
        if not isinstance(m, nn.Conv2d): continue
        fan_in, fan_out = m.weight[0].numel(), m.weight[:, 0].numel()  # as PyTorch counts groups
        assert m.weight.std().item()*fan_out**.5 == pytest.approx(2**.5, rel=.05), n
        changing += fan_in != fan_out
    assert changing > 5

# Published counts, one row per network

def counts(name, size=224, n_out=1000, **kw):
    with torch.device('meta'): s = model_summary(create_model(name, n_out, **kw), size)
    return s.params, s.macs

@pytest.mark.parametrize('name, params, gmacs', [
    ('resnet18', 11_689_512, 1.814), ('resnet34', 21_797_672, 3.664),
    ('resnet50', 25_557_032, 4.089), ('resnet101', 44_549_160, 7.801),
    ('resnet152', 60_192_808, 11.514), ('resnext50_32x4d', 25_028_904, 4.230),
    ('wide_resnet50_2', 68_883_240, 11.398), ('alexnet_tv', 61_100_840, 0.714)])
def test_torchvisions_counts(name, params, gmacs):
    p, m = counts(name)
    assert (p, round(m/1e9, 3)) == (params, gmacs)
    meta = torchvision.models.get_model_weights(name.removesuffix('_tv')).IMAGENET1K_V1.meta
    assert (meta['num_params'], meta['_ops']) == (params, gmacs)

@pytest.mark.parametrize('name', ['vit_b_16', 'swin_t', 'convnext_tiny', 'mobilenet_v3_small'])
def test_summary_of_other_networks(name):
    "torchvision's published numbers, of networks that are not built from this package's layers"
    with torch.device('meta'): net = torchvision.models.get_model(name, weights=None)
    s = model_summary(net, 224)
    meta = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta
    assert (s.params, round(s.macs/1e9, 3)) == (meta['num_params'], meta['_ops'])
    assert sum(r['params'] for r in s.rows) == s.params and sum(r['macs'] for r in s.rows) == s.macs
    assert net.training

def test_response_normalization_adds_no_multiply_adds():
    for name in list_models('alexnet*'):
        if name == 'alexnet_tv': continue
        size = 28 if name == 'alexnet_small' else 227
        assert counts(name, size)[1] == counts(name, size, norm=False)[1] > 0

@pytest.mark.parametrize('name, gmacs', [
    ('resnet18', 1.8), ('resnet34', 3.6), ('resnet50', 3.8), ('resnet101', 7.6),
    ('resnet152', 11.3)])
def test_table1(name, gmacs): assert abs(counts(name, variant='v1')[1]/1e9 - gmacs) < .065

@pytest.mark.parametrize('depth, params, mmacs', [
    (18, 11_173_962, 555), (34, 21_282_122, 1159), (50, 23_520_842, 1298), (101, 42_512_970, 2510),
    (152, 58_156_618, 3722)])
def test_cifar_stem_counts(depth, params, mmacs):
    p, m = counts(f'resnet{depth}', 32, 10, stem='cifar')
    assert (p, round(m/1e6)) == (params, mmacs)

@pytest.mark.parametrize('depth, millions', [
    (20, .27), (32, .46), (44, .66), (56, .85), (110, 1.7), (1202, 19.4)])
def test_table6(depth, millions):
    p, m = counts(f'resnet{depth}', 32, 10)
    assert round(p/1e6, 2 if depth < 100 else 1) == millions
    assert depth == 1202 or counts(f'plain{depth}', 32, 10) == (p, m)

@pytest.mark.parametrize('name, kw, params', [
    ('alexnet_1gpu', dict(n_out=10, n_in=1), 58_299_082),
    ('alexnet', dict(n_out=1000), 60_965_224)])
def test_alexnet_counts(name, kw, params): assert counts(name, 227, **kw)[0] == params

# The same scores and gradients as torchvision's networks

ours_and_theirs = ['resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152', 'resnext50_32x4d',
                   'resnext101_32x8d', 'wide_resnet50_2', 'wide_resnet101_2', 'alexnet_tv']

@pytest.mark.parametrize('name', ours_and_theirs)
@torch.no_grad()
def test_parity(name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name.removesuffix('_tv'))(weights=None)
    with torch.device('meta'): ours = create_model(name, 1000)
    ours.to_empty(device='cpu')
    load_weights(ours, theirs.state_dict())
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    large = 160 if name in ('resnet18', 'resnet50', 'alexnet_tv') else 80
    for train in (True, False):
        for size in ((64, 64), (97, 65), (large, large)):
            x, outs = torch.randn(2, 3, *size), []
            for net in (ours, theirs):
                torch.manual_seed(1)
                outs.append(net.train(train)(x))
            assert (outs[0] - outs[1]).abs().max() < 1e-5 and outs[1].abs().max() > 1e-3
    for (k, a), b in zip(ours.state_dict().items(), theirs.state_dict().values()):
        assert torch.allclose(a, b, atol=1e-5), k

def test_gradients_are_torchvisions():
    torch.manual_seed(0)
    ours, theirs = create_model('resnet18', 10), torchvision.models.resnet18(num_classes=10)
    load_weights(ours, theirs.state_dict())
    x, y = torch.randn(4, 3, 64, 64), torch.arange(4)
    for net in (ours, theirs): F.cross_entropy(net(x), y).backward()
    for (n, a), b in zip(ours.named_parameters(), theirs.parameters()):
        assert torch.allclose(a.grad, b.grad, atol=1e-5), n

# Errors

@pytest.mark.parametrize('args, says', [
    (dict(name='resnte50'), "did you mean 'resnet50'"),
    (dict(name='Resnet18'), "did you mean 'resnet18'"),
    (dict(name=''), 'choose from'),
    (dict(name=None), 'name=None: give text'),
    (dict(name='resnet18', stem='cifr'), "did you mean 'cifar'"),
    (dict(name='resnet18', shortcut='b'), 'choose from A, B, C'),
    (dict(name='resnet18', variant='v3'), 'unknown variant'),
    (dict(name='resnet18', act='relo'), "did you mean 'relu'"),
    (dict(name='resnet18', n_in=0), 'positive whole number'),
    (dict(name='resnet18', n_out=2.0), 'give a whole number'),
    (dict(name='resnet18', n_out=True), 'give a whole number'),
    (dict(name='plain18', shortcut='A'), 'use resnet18'),
    (dict(name='plain8', zero_gamma=True), 'drop one of the two'),
    (dict(name='plain8', drop_path=0.1), 'drop one of the two'),
    (dict(name='resnet8', drop_path=-0.1), 'a fraction below 1'),
    (dict(name='resnet8', drop_path='0.1'), 'drop_path'),
    (dict(name='alexnet', drop_path=0.1), 'no option'),
    (dict(name='resnet18', dropout=.5), 'no option'),
    (dict(name='alexnet', stem='cifar'), 'no option'),
    (dict(name='alexnet', init='he'), 'unknown init'),
    (dict(name='alexnet', omit=1), 'omit must be'),
], ids=str)
def test_wrong_arguments(args, says):
    with pytest.raises(CourseError, match=says): create_model(**args)

def test_stochastic_depth():
    "Timm's rates, nothing in evaluation, and a name in `cfg` only where it is used"
    nets = []
    for kw in (dict(drop_path=0.05), {}):
        torch.manual_seed(0)
        nets.append(create_model('resnet50', n_in=1, **kw))
    dropping, plain = nets
    rates = [m.drop.p for m in dropping.modules() if isinstance(m, ResBlock)]
    np.testing.assert_allclose(rates, np.linspace(0, 0.05, 16), atol=1e-6)
    assert all(m.drop is None for m in plain.modules() if isinstance(m, ResBlock))
    assert (dropping.cfg['drop_path'], 'drop_path' in plain.cfg) == (0.05, False)
    assert dropping.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad(): assert torch.equal(dropping.eval()(x), plain.eval()(x))

@pytest.mark.parametrize('shape, says', [
    ((3, 32, 32), r'x\[None\]'), ((2, 1, 32, 32), 'n_in=1'), ((32,), 'batch of images')])
def test_wrong_input(shape, says):
    with pytest.raises(CourseError, match=says): create_model('resnet8')(torch.zeros(shape))

@pytest.mark.parametrize('name, stem, side', [
    ('resnet18', 'imagenet', 33), ('resnet18', 'cifar', 9), ('resnet8', 'cifar', 5),
    ('resnet8', 'deep', 17)])
def test_one_image_in_training(name, stem, side):
    "The size that the error message names works, one pixel less does not"
    net = create_model(name, stem=stem)
    assert net(torch.randn(1, 3, side, side)).shape == (1, 10)
    with pytest.raises(CourseError, match=f'at least {side} px'):
        net(torch.randn(1, 3, side - 1, side - 1))
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.eval()
    assert net(torch.randn(1, 3, side - 1, side - 1)).shape == (1, 10)

def test_default_stem_names_a_stem_or_nothing():
    for n in list_models():
        for s in (16, 28, 32, 64, 96, 224):
            stem = default_stem(s, n)
            if 'stem' in options(n): assert stem in ('cifar', 'imagenet')
            else: assert stem is None

def test_eval_mode_restores_every_module():
    "Also after an error, and modules that were in evaluation mode before"
    net = create_model('resnet8').train()
    net.layer2.eval()
    modes = [m.training for m in net.modules()]
    with pytest.raises(ZeroDivisionError), eval_mode(net):
        assert not any(m.training for m in net.modules())
        1/0
    assert [m.training for m in net.modules()] == modes

@pytest.mark.parametrize('n_in', [1, 3])
def test_no_optimizer_reaches_the_whitening_filters(n_in, tmp_path):
    net = create_model('fast_resnet', n_in=n_in)
    assert group_names(net) == ['stem', 'layer1', 'layer2', 'layer3', 'head']
    assert sum(map(len, param_groups(net))) == len(list(net.parameters()))
    net.conv1.fit(torch.randn(64, n_in, 28, 28))
    before = net.conv1.weight.clone()
    for p in net.parameters(): p.requires_grad_(True)  # as `unfreeze` does
    opt = torch.optim.SGD(net.parameters(), lr=1., weight_decay=0.1)
    F.cross_entropy(net(torch.randn(8, n_in, 28, 28)), torch.randint(10, (8,))).backward()
    opt.step()
    assert torch.equal(net.conv1.weight, before) and net.conv1.bias.abs().max() > 0
    back = load_model(save_weights(net, tmp_path/'net'))
    assert torch.equal(back.conv1.weight, before) and back.cfg == net.cfg

@pytest.mark.parametrize('omit', [None, 3, 4, 5])
def test_alexnet_biases_belong_to_layers(omit):
    "Leaving a layer out does not move the ones of Krizhevsky et al. to another layer"
    net = create_model('alexnet_1gpu', n_out=2, omit=omit)
    biases = [float(m.bias[0]) for m in net.features if isinstance(m, nn.Conv2d)]
    assert biases == [b for i, b in enumerate((0, 1, 0, 1, 1), 1) if i != omit]

def test_what_follows_the_trunk_is_in_its_last_group():
    "A last normalization trains with the deepest blocks, not with the first ones"
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3)
            blocks = [nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)) for _ in range(12)]
            self.blocks = nn.Sequential(*blocks)
            self.norm = nn.BatchNorm2d(8)
            self.fc = nn.Linear(8, 10)
    net = Net()
    groups = [{id(p) for p in group} for group in param_groups(net)]
    assert group_names(net)[0] == 'stem' and group_names(net)[-1] == 'head' and len(groups) > 3
    assert {id(p) for p in net.norm.parameters()} < groups[-2]
    assert {id(p) for p in net.conv1.parameters()} <= groups[0]
