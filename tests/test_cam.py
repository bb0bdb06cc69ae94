"Grad-CAM, activations and multiply-adds of other people's networks, against what others compute"
import copy, warnings

import pytest, timm, torch, torchvision
from torch import nn

from resnet_course.core import CourseError
from resnet_course.export import export_model
from resnet_course.freeze import snapshot
from resnet_course.interpret import get_activations, grad_cam, plot_activations, stage_names
from resnet_course.models import create_model
from resnet_course.summary import model_summary
from resnet_course.weights import load_weights

def network(name, size=64):
    "With other random numbers than the initial ones, so that every layer matters"
    torch.manual_seed(0)
    source = timm.create_model if name.startswith('timm/') else torchvision.models.get_model
    net = source(name.removeprefix('timm/'), num_classes=7).eval()
    torch.manual_seed(1)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(std=.1)
            m.running_var.uniform_(.5, 1.5)
        if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm)) and m.weight is not None:
            nn.init.uniform_(m.weight, .5, 1.5)
    heads = [p for n, p in net.named_parameters() if p.ndim == 2 and len(p) == 7]
    for p in heads: nn.init.normal_(p, std=.1)
    return net, torch.randn(2, 3, size, size)

def channels_first(o): return o.movedim(3, 1)

def without_class_token(o): return o[:, 1:].transpose(1, 2).unflatten(2, (14, 14))

class Copy(nn.Module):
    def forward(self, x): return x.clone()

# network, size, its last map by the advice of pytorch-grad-cam, how that becomes N,C,H,W
LAST = [('resnet18', 64, 'layer4', None), ('resnext50_32x4d', 64, 'layer4', None),
        ('vgg11_bn', 64, 'features.27', None), ('alexnet', 96, 'features.11', None),
        ('squeezenet1_0', 96, 'features', None), ('mobilenet_v2', 64, 'features', None),
        ('mobilenet_v3_small', 64, 'features', None), ('efficientnet_b0', 64, 'features', None),
        ('densenet121', 64, 'features', None), ('convnext_tiny', 64, 'features', None),
        ('shufflenet_v2_x0_5', 64, 'conv5', None), ('mnasnet0_5', 64, 'layers', None),
        ('regnet_x_400mf', 64, 'trunk_output', None), ('googlenet', 64, 'inception5b', None),
        ('swin_t', 64, 'norm', channels_first),
        ('vit_b_16', 224, 'encoder.layers.encoder_layer_11.ln_1', without_class_token),
        ('timm/vit_tiny_patch16_224', 224, 'blocks.11.norm1', without_class_token),
        ('timm/swin_tiny_patch4_window7_224', 224, 'norm', channels_first),
        ('timm/efficientnet_b0', 64, 'bn2', None), ('timm/convnext_atto', 64, 'stages', None)]

@pytest.mark.parametrize('name,size,layer,reshape', LAST, ids=[o[0] for o in LAST])
def test_against_pytorch_grad_cam(name, size, layer, reshape):
    "The map at the last place that has one is the same as pytorch-grad-cam's at that layer"
    cam = pytest.importorskip('pytorch_grad_cam', reason='grad-cam is not installed')
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    net, x = network(name, size)
    net, x = net.double(), x.double()   # where evidence cancels, float32 leaves few digits
    for cls in range(7):   # one that something speaks for
        ours = grad_cam(net, x, cls=cls)
        if (ours.amax((1, 2)) > 0).all(): break
    # some networks overwrite the output of that layer, of which pytorch-grad-cam knows nothing
    other = copy.deepcopy(net)
    for m in other.modules():
        if hasattr(m, 'inplace'): m.inplace = False
    if name == 'densenet121':
        other.features.add_module('copy', Copy())
        layer = 'features.norm5'
    with cam.GradCAM(other, [other.get_submodule(layer)], reshape_transform=reshape) as f:
        theirs = torch.tensor(f(x, [ClassifierOutputTarget(cls)]*2))
    low, high = ours.amin((1, 2), True), ours.amax((1, 2), True)
    diff = ((ours - low)/(high - low) - theirs).abs().max()
    assert diff < 5e-6, float(diff)

def test_in_place():
    "torchvision's blocks overwrite the output of bn2; the maps are those of our blocks"
    torch.manual_seed(0)
    theirs, x = torchvision.models.resnet18(num_classes=10).eval(), torch.randn(2, 3, 96, 96)
    ours = create_model('resnet18', 10).eval()
    load_weights(ours, theirs.state_dict())
    for name in ('layer4', 'layer4.1.bn2', 'layer4.1.bn1', 'layer2.0.conv2', 'bn1', 'layer3.1'):
        a, b = (grad_cam(net, x, name=name, relu=False) for net in (ours, theirs))
        assert torch.equal(a, b), name
        a, b = (get_activations(net, x, [name])[name] for net in (ours, theirs))
        assert torch.equal(a, b), name

@pytest.mark.parametrize('wrap', [
    nn.DataParallel, lambda o: torch.compile(o, backend='eager'),
    lambda o: nn.DataParallel(torch.compile(o, backend='eager'))])
def test_wrapped(wrap, tmp_path):
    "A wrapped network is looked into as if it were not"
    torch._dynamo.reset()
    net, x = create_model('resnet8').eval(), torch.randn(2, 3, 32, 32)
    wrapped = wrap(net)
    assert torch.equal(grad_cam(wrapped, x), grad_cam(net, x))
    assert stage_names(wrapped) == stage_names(net)
    a, b = get_activations(wrapped, x), get_activations(net, x)
    assert all(torch.equal(a[k], b[k]) for k in b)
    assert model_summary(wrapped, 32).macs == model_summary(net, 32).macs
    assert export_model(wrapped, tmp_path/'w.onnx', 32).difference < 1e-4

def test_compiled_in_place():
    net, x = create_model('resnet8').eval(), torch.randn(2, 3, 32, 32)
    want = grad_cam(net, x)
    net.compile(backend='eager')
    net(x)
    assert torch.equal(grad_cam(net, x), want) and len(get_activations(net, x)) == 4

@pytest.mark.parametrize('name', ['mobilenet_v2', 'densenet121', 'swin_t', 'squeezenet1_0'])
def test_activations(name):
    "Every stage has an output; nothing in the network changes"
    net, x = network(name)
    before = snapshot(net)
    acts = get_activations(net, x)
    assert len(acts) >= 3 and all(o.ndim == 4 for o in acts.values())
    grad_cam(net, x)
    assert all(torch.equal(v, before[k]) for k, v in snapshot(net).items())
    assert not any(m._forward_hooks for m in net.modules())
    plot_activations(net, x[0], 2)

class Attention(nn.Module):
    "Tokens of a grid of patches; the scores come from a class token, as in CaiT and ViT"
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, stride=8)
        self.attn = nn.Module()
        self.attn.drop = nn.Dropout(0.)
        self.mix, self.norm, self.head = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 7)
    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1)
        for _ in range(2):   # the same layers twice
            a = self.attn.drop((x@x.transpose(1, 2)).softmax(-1)[:, None])
            x = self.norm(x + self.mix(a[:, 0]@x))
        return self.head(x[:, 0])

def test_matrices_of_attention_are_no_maps():
    "Of all outputs, one of tokens is explained, although others are squares"
    torch.manual_seed(0)
    net, x = Attention().eval(), torch.randn(2, 3, 32, 32)
    cam = grad_cam(net, x, relu=False)
    assert cam.shape == (2, 32, 32) and cam.any()
    assert 'attn.drop' not in stage_names(net)
    _, c, h, w = get_activations(net, x, ['patches'])['patches'].shape
    assert (c, h, w) == (8, 4, 4)
    plot_activations(net, x[0], 2, names=['patches', 'norm'])
    with pytest.raises(CourseError, match='head has no output with a position'):
        plot_activations(net, x[0], 2, names=['head'])

@pytest.mark.parametrize('name', ['mixer_s32_224', 'pit_ti_224', 'cait_xxs24_224', 'volo_d1_224'])
def test_maps_of_other_networks(name):
    "Layers that run several times, maps without influence, only tokens in the end"
    kwargs = {} if name == 'pit_ti_224' else dict(img_size=64)
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=7, **kwargs).eval()
    size = 224 if name == 'pit_ti_224' else 64
    for p in net.parameters():   # some heads begin with zeros
        if p.ndim == 2 and len(p) == 7: nn.init.normal_(p, std=.1)
    cam = grad_cam(net, torch.randn(1, 3, size, size), cls=1, relu=False)
    assert cam.shape == (1, size, size) and torch.isfinite(cam).all() and cam.any()
    assert not any('attn_drop' in o for o in stage_names(net))

@pytest.mark.parametrize('name', ['mixer_s32_224', 'resmlp_12_224'])
def test_a_head_of_zeros(name):
    "The map is constant, as the scores are, and a warning says so; with other weights it is not"
    torch.manual_seed(0)
    net, x = timm.create_model(name, num_classes=7, img_size=64).eval(), torch.randn(2, 3, 64, 64)
    with pytest.warns(UserWarning, match='do not change with the image'): cam = grad_cam(net, x)
    assert not cam.any()
    nn.init.normal_(net.head.weight, std=.1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert grad_cam(net, x, relu=False).std() > 0

def test_precision_and_modes():
    "A network in bfloat16, and gradients that are switched off outside"
    net, x = create_model('resnet8').eval(), torch.randn(2, 3, 32, 32)
    want = grad_cam(net, x)
    with torch.no_grad(): assert torch.equal(grad_cam(net, x), want)
    with torch.inference_mode(): assert torch.equal(grad_cam(net, x), want)
    half = grad_cam(copy.deepcopy(net).bfloat16(), x)
    assert half.dtype == torch.float32 and half.shape == want.shape
    plot_activations(copy.deepcopy(net).bfloat16(), x[0], 2)

def test_scores_in_a_tuple():
    class Two(nn.Sequential):
        def forward(self, x): return super().forward(x), x
    net = Two(create_model('resnet8'))
    with pytest.raises(CourseError, match='return the scores alone'):
        grad_cam(net, torch.randn(2, 3, 32, 32))

def test_no_map():
    "A network without maps of the image, or a layer without one, is an error of one sentence"
    net = nn.Sequential(nn.Flatten(), nn.Linear(3*32*32, 8), nn.ReLU(), nn.Linear(8, 7))
    with pytest.raises(CourseError, match='no map for Grad-CAM'):
        grad_cam(net, torch.randn(2, 3, 32, 32))
    with pytest.raises(CourseError, match='fc has no output with a position'):
        grad_cam(create_model('resnet8'), torch.randn(2, 3, 32, 32), name='fc')

PUBLISHED = '''alexnet convnext_tiny convnext_base densenet121 densenet201 efficientnet_b0
efficientnet_b3 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet1_0
mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_400mf regnet_y_800mf resnet18 resnet34
resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d shufflenet_v2_x0_5 shufflenet_v2_x1_0
shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_t swin_b swin_v2_t vgg11 vgg16 vgg19_bn
vit_b_16 vit_b_32 vit_l_16 wide_resnet50_2 wide_resnet101_2'''.split()

@pytest.mark.parametrize('name', PUBLISHED)
def test_published_multiply_adds(name):
    "They are those in torchvision's documentation, attention included"
    weights = next(iter(torchvision.models.get_model_weights(name)))
    with warnings.catch_warnings(), torch.device('cpu' if 'regnet' in name else 'meta'):
        warnings.simplefilter('ignore')
        aux = {} if name != 'googlenet' else dict(aux_logits=False)   # as in its weights
        net = torchvision.models.get_model(name, **aux)
    summary = model_summary(net, weights.transforms.keywords['crop_size'])
    assert round(summary.macs/1e9, 3) == weights.meta['_ops']
    assert summary.params == weights.meta['num_params']
