"Networks of torchvision and timm, and others' own: parameter groups, freezing, training"
import pytest, timm, torch, torchvision
from fastai.callback.progress import ProgressCallback  # noqa: F401  gives Learner `no_bar`
from torch import nn

from resnet_course.freeze import freeze_report, snapshot
from resnet_course.learner import course_learner
from resnet_course.loaders import get_dls
from resnet_course.models import create_model, group_names, param_groups

TORCHVISION = '''resnet18 resnet152 resnext50_32x4d alexnet vgg11 vgg16_bn squeezenet1_0
densenet121
inception_v3 googlenet shufflenet_v2_x1_0 mobilenet_v2 mobilenet_v3_large mnasnet1_0 regnet_x_400mf
efficientnet_b0 efficientnet_v2_s convnext_tiny convnext_base swin_t swin_v2_b vit_b_16
maxvit_t'''.split()

TIMM = '''resnet50d vit_tiny_patch16_224
deit_tiny_distilled_patch16_224 swin_tiny_patch4_window7_224
convnext_atto convnextv2_atto efficientnet_b0 mobilenetv3_small_050 densenet121 vgg11_bn
inception_v4 xception41 mixer_s32_224 crossvit_tiny_240 levit_128s beit_base_patch16_224
cait_xxs24_224 coat_lite_tiny pit_ti_224 pvt_v2_b0 regnety_002 res2net50_14w_8s dla34
hrnet_w18_small nfnet_l0 maxvit_rmlp_pico_rw_256 ghostnet_100 mobilevit_xxs volo_d1_224
xcit_nano_12_p16_224 repvgg_a0 fastvit_t8 vit_small_r26_s32_224 vitamin_small_224
qwen3_vit_306m deepseek_vit_412m gemma4_vit_167m naflexvit_base_patch16_siglip'''.split()

def create(source, name, n=7):
    "A network without memory for its weights"
    if name.startswith('regnet_'):   # torchvision computes its widths with tensors
        return torchvision.models.get_model(name, num_classes=n)
    with torch.device('meta'):
        if source == 'torchvision': return torchvision.models.get_model(name, num_classes=n)
        if not timm.is_model(name): pytest.skip(f'timm {timm.__version__} has no {name}')
        return timm.create_model(name, num_classes=n)

def is_in(p, group): return any(p is o for o in group)

@pytest.mark.parametrize('source,name', [('torchvision', o) for o in TORCHVISION]
                                        + [('timm', o) for o in TIMM])
def test_groups(source, name):
    "Every parameter is in exactly one of a few groups, and the scores come from the last"
    net = create(source, name)
    groups, names = param_groups(net), group_names(net)
    ids = [id(p) for group in groups for p in group]
    assert sorted(ids) == sorted(map(id, net.parameters())) and len(set(ids)) == len(ids)
    assert all(groups) and len(set(names)) == len(names) == len(groups)
    assert 4 <= len(groups) <= 8 and names[-1] == 'head', names
    assert any(p.shape[0] == 7 for p in groups[-1])
    assert sum(p.numel() for p in groups[-1]) < 0.6*sum(p.numel() for p in net.parameters())

@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'beit_base_patch16_224', 'volo_d1_224'])
def test_bare_parameters_are_in_the_stem(name):
    "A class token and positions that sit on the model itself train with the stem"
    net = create('timm', name)
    for _, p in net.named_parameters(recurse=False): assert is_in(p, param_groups(net)[0])

def test_blocks_of_transformers_are_stages():
    assert group_names(create('timm', 'vit_tiny_patch16_224')) == [
        'stem', 'blocks.0-2', 'blocks.3-5', 'blocks.6-8', 'blocks.9-11', 'head']
    assert group_names(create('timm', 'swin_tiny_patch4_window7_224')) == [
        'stem', 'layers.0', 'layers.1', 'layers.2', 'layers.3', 'head']

ENCODERS = 'vit_tiny_patch16_224 deepseek_vit_412m gemma4_vit_167m qwen3_vit_306m'.split()

@pytest.mark.parametrize('name', ENCODERS)
def test_encoders_without_a_head(name):
    "Their blocks are no head; behind them, a layer of one's own is"
    net = create('timm', name, 0)
    assert group_names(net)[0] == 'stem' and group_names(net)[-1].startswith('blocks.')
    assert len(group_names(net)) == 5
    own = nn.Sequential(net, nn.Linear(net.num_features, 7))
    assert group_names(own) == [*group_names(net), 'head']
    assert [id(p) for p in param_groups(own)[-1]] == [id(p) for p in own[1].parameters()]

class HeadFirst(nn.Module):
    "A head of any name, defined before the body, and parameters of the model's own"
    def __init__(self, head='head'):
        super().__init__()
        self.name = head
        self.add_module(head, nn.Linear(8, 10))
        self.gain = nn.Parameter(torch.ones(1))
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
                                  nn.Conv2d(8, 8, 3))
    def forward(self, x):
        return getattr(self, self.name)(self.gain*self.body(x).mean((2, 3)))

@pytest.mark.parametrize('name', ['head', 'fc', 'top', 'my_scores'])
def test_head_before_the_body(name):
    net = HeadFirst(name)
    groups = param_groups(net)
    assert [id(p) for p in groups[-1]] == [id(p) for p in getattr(net, name).parameters()]
    assert sum(map(len, groups)) == len(list(net.parameters()))

@pytest.mark.parametrize('wrap', [
    nn.Sequential, nn.DataParallel, lambda net: nn.Sequential(nn.Identity(), net),
    lambda net: nn.ModuleDict(dict(m=net))])
def test_wrapped(wrap):
    "A wrapper changes no groups"
    net = create_model('resnet18')
    want = [[id(p) for p in group] for group in param_groups(net)]
    assert [[id(p) for p in group] for group in param_groups(wrap(net))] == want

def test_shared_parameters_are_in_one_group():
    a, b, c = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 4)
    b.weight = a.weight
    net = nn.Sequential(nn.Conv2d(3, 4, 3), a, b, nn.Flatten(), c)
    assert sum(map(len, param_groups(net))) == len(list(net.parameters()))

@pytest.fixture(scope='module')
def dls(): return get_dls('digits', bs=32, n_train=96, seed=0)

def fit(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit(1, .05, wd=.1)

def test_everything_trains(dls):
    "A parameter on the model itself trains, too"
    learn = course_learner(dls, HeadFirst(), precision='fp32')
    before = snapshot(learn)
    fit(learn)
    report = freeze_report(learn, before)
    assert report.ok, str(report)
    learn.freeze()
    before = snapshot(learn)
    fit(learn)
    assert {k for k in before if not torch.equal(before[k], snapshot(learn)[k])} == {
        'head.weight', 'head.bias'}

@pytest.mark.parametrize('bn', ['eval', 'stats', 'train'])
def test_what_was_frozen_by_hand_stays(dls, bn):
    "Whatever is frozen and unfrozen meanwhile, and whoever creates an optimizer"
    net = create_model('resnet8', n_in=1)
    for name, p in net.named_parameters(): p.requires_grad_(not name.startswith('layer2'))
    learn = course_learner(dls, net, precision='fp32')
    for freeze in [lambda: None, learn.freeze, learn.unfreeze,
                   lambda: learn.freeze_to('layer2', bn=bn), lambda: learn.freeze_to(0, bn=bn)]:
        freeze()
        before = snapshot(learn)
        fit(learn)
        report = freeze_report(learn, before)
        assert report.ok, str(report)
        assert report.by_hand == [f'layer2.{n}' for n, _ in net.layer2.named_parameters()]
        assert 'frozen by hand' in str(report)
        for name in report.by_hand: assert torch.equal(before[name], net.get_parameter(name))
    net.layer2.requires_grad_(True)
    before = snapshot(learn)
    fit(learn)
    report = freeze_report(learn, before)
    assert report.ok and not report.by_hand

def test_frozen_by_hand_is_kept_by_fine_tune(dls):
    net = create_model('resnet8', n_in=1)
    net.conv1.requires_grad_(False)
    was = net.conv1.weight.clone()
    learn = course_learner(dls, net, precision='fp32')
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(1)
    assert torch.equal(was, net.conv1.weight) and net.layer1[0].conv1.weight.requires_grad
