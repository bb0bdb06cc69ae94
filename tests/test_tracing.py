"The networks can be traced, scripted, exported and quantized, and still check their input"
import copy, io, warnings

import pytest, torch
from torch import nn
from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx
from torchvision.models import resnet18 as tv_resnet18
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from resnet_course.core import CourseError
from resnet_course.models import create_model

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::FutureWarning')

NETS = dict(
    resnet8=dict(name='resnet8'), plain8=dict(name='plain8'),
    imagenet=dict(name='resnet18', stem='imagenet'), deep=dict(name='resnet18', stem='deep'),
    v1=dict(name='resnet50', variant='v1', nf=8), v2=dict(name='resnet8', variant='v2'),
    v2_bottleneck=dict(name='resnet50', variant='v2', nf=8),
    projections=dict(name='resnet8', shortcut='C'), gelu=dict(name='resnet8', act='gelu'),
    gray=dict(name='resnet8', n_in=1),
    resnext=dict(name='resnext50_32x4d'), alexnet_small=dict(name='alexnet_small'),
    alexnet=dict(name='alexnet', n_out=4), alexnet_tv=dict(name='alexnet_tv', n_out=4),
    fast=dict(name='fast_resnet'))

@pytest.fixture(autouse=True)
def fresh_compiler():
    "Forget what earlier tests compiled, or there is too much"
    torch._dynamo.reset()

def network(which, train=False):
    torch.manual_seed(0)
    net = create_model(**NETS[which]).train(train)
    side = 67 if which in ('alexnet', 'alexnet_tv') else 48
    return net, torch.randn(2, net.n_in, side, side)

@pytest.mark.parametrize('which', NETS)
def test_fx(which):
    net, x = network(which)
    traced = torch.fx.symbolic_trace(net)
    assert torch.equal(traced(x), net(x))
    inside = torch.fx.symbolic_trace(nn.Sequential(nn.Identity(), net))
    assert torch.equal(inside(x), net(x))

@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('which', [o for o in NETS if not o.startswith('alexnet')])
def test_script(which, train):
    net, x = network(which, train)
    scripted = torch.jit.script(copy.deepcopy(net))
    assert torch.equal(scripted(x), net(x))
    b = io.BytesIO()
    torch.jit.save(scripted, b)
    b.seek(0)
    assert torch.equal(torch.jit.load(b)(x), net(x))

@pytest.mark.parametrize('which', [o for o in NETS if o.startswith('alexnet')])
def test_script_alexnet(which):
    net, x = network(which)
    assert torch.equal(torch.jit.script(net)(x), net(x))

@pytest.mark.parametrize('which', NETS)
def test_trace_without_warnings(which):
    net, x = network(which)
    with warnings.catch_warnings():
        warnings.simplefilter('error', torch.jit.TracerWarning)
        traced = torch.jit.trace(net, x)
    assert torch.equal(traced(x), net(x))

@pytest.mark.parametrize('which', NETS)
def test_export_and_compile(which):
    net, x = network(which)
    batch = torch.export.Dim('batch')
    program = torch.export.export(net, (x,), dynamic_shapes=({0: batch},))
    wide = torch.cat([x, x])
    torch.testing.assert_close(program.module()(wide), net(wide))
    compiled = torch.compile(copy.deepcopy(net), backend='eager', fullgraph=True)
    assert torch.equal(compiled(x), net(x))

@pytest.mark.parametrize('which', ['imagenet', 'deep', 'v1', 'resnext'])
def test_feature_extractor(which):
    net, x = network(which)
    out = create_feature_extractor(net, ['layer2', 'layer4'])(x)
    assert out['layer2'].shape[1]*4 == out['layer4'].shape[1]
    assert 'layer4.1.conv2' in get_graph_node_names(net)[1]

def test_nodes_have_the_names_of_torchvision():
    "So that code for torchvision's networks works for ours"
    ours, theirs = create_model('resnet18').eval(), tv_resnet18().eval()
    stages = [f'layer{i}' for i in range(1, 5)]
    names = [set(get_graph_node_names(net)[1]) for net in (ours, theirs)]
    convs = {k for k, m in theirs.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))}
    assert convs <= names[0] & names[1]
    x = torch.randn(1, 3, 64, 64)
    a, b = (create_feature_extractor(net, stages)(x) for net in (ours, theirs))
    assert [o.shape for o in a.values()] == [o.shape for o in b.values()]

@pytest.mark.parametrize('which', ['imagenet', 'resnet8', 'v1', 'v2'])
def test_fx_int8(which):
    """Post-training quantization keeps the scores within a few percent.

    Not of `fast_resnet`: PyTorch cannot quantize its first layer, whose filters are a buffer."""
    net, x = network(which)
    config = get_default_qconfig_mapping('x86')
    prepared = quantize_fx.prepare_fx(copy.deepcopy(net), config, x)
    for _ in range(3): prepared(x)
    int8 = quantize_fx.convert_fx(prepared)
    a, b = net(x), int8(x)
    assert a.shape == b.shape and (a - b).norm() < .15*a.norm()

@pytest.mark.parametrize('which', NETS)
@pytest.mark.parametrize('wrap', [lambda o: o, nn.Sequential, nn.DataParallel])
def test_input_is_checked(which, wrap):
    "Whether the network is called by itself or by a wrapper"
    net, x = network(which)
    with pytest.raises(CourseError, match='create it with n_in=5'):
        wrap(net)(x[:, :1].repeat(1, 5, 1, 1))
    with pytest.raises(CourseError, match='add a batch dimension'): wrap(net)(x[0])

def test_other_checks():
    net = create_model('alexnet')
    with pytest.raises(CourseError, match='smallest size that works'):
        net(torch.randn(2, 3, 20, 20))
    with pytest.raises(CourseError, match='use a batch of several images'):
        create_model('resnet18').train()(torch.randn(1, 3, 32, 32))

def pt2e_error(net, x):
    """How far the scores of `net` are from those after PyTorch 2's quantization, as a fraction

    The quantizers that come with torchao 0.18 also refuse torchvision's ResNets under torch 2.14
    ("more than one output node"), so the test has one of its own."""
    pt2e = pytest.importorskip('torchao.quantization.pt2e.quantize_pt2e',
                               reason='PT2E quantization is in torchao')
    from torchao.quantization.pt2e import observer
    from torchao.quantization.pt2e.quantizer import (
        QuantizationAnnotation, QuantizationSpec, Quantizer)
    def spec(kind, low, high): return QuantizationSpec(torch.int8, kind, low, high,
                                                       torch.per_tensor_affine)
    images = spec(observer.HistogramObserver.with_args(eps=2**-12), -128, 127)
    weights = spec(observer.MinMaxObserver.with_args(eps=2**-12), -127, 127)
    layers = torch.ops.aten.conv2d.default, torch.ops.aten.linear.default
    class Layers(Quantizer):
        def annotate(self, model):
            for node in model.graph.nodes:
                if node.target not in layers: continue
                inputs = {node.args[0]: images, node.args[1]: weights}
                node.meta['quantization_annotation'] = QuantizationAnnotation(inputs, None, True)
            return model
        def validate(self, model): pass
    prepared = pt2e.prepare_pt2e(torch.export.export(net, (x,)).module(), Layers())
    for _ in range(3): prepared(x)
    int8 = pt2e.convert_pt2e(prepared)
    n_layers = sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in net.modules())
    names = [str(node.target) for node in int8.graph.nodes]
    assert sum('dequantize' in name for name in names) >= 2*n_layers
    with torch.no_grad(): a, b = net(x), int8(x)
    return ((a - b).norm()/a.norm()).item()

@pytest.mark.parametrize('which', ['resnet8', 'v2', 'alexnet_small'])
def test_pt2e_int8(which): assert pt2e_error(*network(which)) < .15

def test_pt2e_as_far_as_torchvision():
    torch.manual_seed(0)
    theirs, x = tv_resnet18(num_classes=10).eval(), torch.randn(2, 3, 64, 64)
    ours = create_model('resnet18', 10).eval()
    ours.load_state_dict(theirs.state_dict())
    assert abs(pt2e_error(ours, x) - pt2e_error(theirs, x)) < .01
