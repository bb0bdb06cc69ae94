"""Weights: checkpoints load completely or not at all, and saved models come back exactly"""
import json, os, pathlib, re
from importlib import import_module
from urllib.error import URLError

import pytest, torch, torchvision
from checkpoints import cases, lit_ema
from fastai.callback.all import ProgressCallback  # noqa: F401  gives Learner `no_bar`
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from helpers import file_size_limit
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from resnet_course.core import CourseError, MissingFileError
from resnet_course.loaders import get_dls
from resnet_course.models import create_model
from resnet_course.weight_files import read_weights
from resnet_course.weights import infer_arch, load_weights, torchvision_file
from resnet_course.saving import load_model, save_weights

def state(m): return {k: v.clone() for k, v in m.state_dict().items()}

def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def test_enough_cases(): assert len(cases) >= 40

AVERAGES = ['WeightAveraging', 'callback', 'NeMo', 'averaged parameters', 'MMEngine', 'Composer',
            'ema_pytorch', 'trained for quantization', 'averages in a list', 'an average that',
            'an average without']

@pytest.mark.parametrize('case', [c for c in cases if c.loads and any(o in c.title
                                  for o in AVERAGES)], ids=lambda c: c.title)
def test_the_right_one_of_two(case, tmp_path):
    "The weights that are expected are loaded, not those beside them"
    torch.manual_seed(0)
    net, sd = create_model('resnet8'), state(create_model('resnet8'))
    load_weights(net, case.make(tmp_path, sd), **case.args)
    assert same(state(net), sd)

@pytest.mark.parametrize('case', cases, ids=lambda c: c.title)
def test_case(case, tmp_path):
    torch.manual_seed(0)
    net, sd = create_model(**case.model), state(create_model('resnet8'))
    before = state(net)
    source = case.make(tmp_path, sd)
    if case.loads:
        report = load_weights(net, source, **case.args)
        assert case.says in str(report)
        assert not same(state(net), before)
        loaded = {*report.matched, *report.adapted}
        kept = [k for k in before if k not in loaded]
        assert all(torch.equal(before[k], net.state_dict()[k]) for k in kept)
        assert {*report.matched, *report.adapted, *report.missing, *report.skipped} >= {*before}
        return
    with pytest.raises(CourseError) as e: load_weights(net, source, **case.args)
    assert case.says in str(e.value)
    assert '\n' not in str(e.value) and len(str(e.value)) < 700
    assert same(state(net), before), 'the model was changed'
    assert not (tmp_path/'owned').exists(), 'code from the file was run'

@pytest.mark.parametrize('with_opt', [True, False])
def test_fastai_saves(with_opt, tmp_path):
    "fastai's own `learn.save`, whose settings of the optimizer are in a list of its own"
    learn = Learner(get_dls('digits', bs=32, n_train=64), create_model('resnet8', n_in=1),
                    loss_func=CrossEntropyLossFlat(), path=tmp_path, model_dir='.')
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
    net = create_model('resnet8', n_in=1)
    report = load_weights(net, learn.save('ordinary', with_opt=with_opt))
    assert len(report.matched) == 44 and same(state(net), state(learn.model))

def test_the_other_set_loads(tmp_path):
    "The report says how to load the set that was not taken, and that works"
    a, b = create_model('resnet8'), create_model('resnet8')
    torch.save(dict(model=a.state_dict(), model_ema=b.state_dict()), tmp_path/'w.pth')
    net = create_model('resnet8')
    report = load_weights(net, tmp_path/'w.pth')
    assert same(state(net), state(b)) and report.others == ['model']
    assert "part='model'" in str(report)
    load_weights(net, tmp_path/'w.pth', part='model')
    assert same(state(net), state(a))
    assert same(read_weights(tmp_path/'w.pth')[0], state(b))
    assert same(read_weights(tmp_path/'w.pth', part='model')[0], state(a))

def test_averaged_values():
    "The average is loaded, not what it was made from"
    net = create_model('resnet8')
    averaged = torch.optim.swa_utils.AveragedModel(net)
    with torch.no_grad(): net.conv1.weight.zero_()
    averaged.update_parameters(net)
    averaged.update_parameters(net)
    back = create_model('resnet8')
    load_weights(back, averaged.state_dict())
    assert same(state(back), state(averaged.module))

@pytest.mark.parametrize('kind', ['lit', 'list'])
def test_averages_without_names(kind, tmp_path):
    "Averaged parameters, BatchNorm's statistics of the plain weights, and the plain ones by `part`"
    plain, back = create_model('resnet8'), create_model('resnet8')
    plain.bn1.running_mean += 3
    if kind == 'lit':
        average = {f'model_ema.{k}': v for k, v in lit_ema(plain).items()}
        ckpt = {f'model.{k}': v for k, v in plain.state_dict().items()} | average
    else:
        params = [p.detach() + 1 for p in plain.parameters()]
        ckpt = dict(model=plain.state_dict(), ema=dict(decay=.9, shadow_params=params))
    torch.save(ckpt, tmp_path/'w.pth')
    report = load_weights(back, tmp_path/'w.pth')
    for (k, p), q in zip(plain.named_parameters(), back.parameters()):
        assert torch.equal(p + 1, q), k
    assert torch.equal(back.bn1.running_mean, plain.bn1.running_mean)
    [other] = report.others
    load_weights(back, tmp_path/'w.pth', part=other)
    assert same(state(back), state(plain))

class Ambiguous(torch.nn.Module):
    "layer1.10 and layer11.0 are the same without dots"
    def __init__(self):
        super().__init__()
        self.layer1 = torch.nn.ModuleList(torch.nn.Conv2d(2, 2, 1) for _ in range(11))
        self.layer11 = torch.nn.ModuleList([torch.nn.Conv2d(2, 2, 1)])

def test_ambiguous_names_without_dots():
    "One sentence, for each of the two ways to take the average, and the plain weights load"
    net, back = Ambiguous(), Ambiguous()
    average = {f'model_ema.{k}': v for k, v in lit_ema(net).items()}
    ckpt = dict(state_dict=net.state_dict() | average)
    for part in (None, 'state_dict.model_ema'):
        with pytest.raises(CourseError, match="layer1.10.weight or layer11.0.*part='state_dict'"):
            load_weights(back, ckpt, part=part)
    load_weights(back, ckpt, part='state_dict')
    assert same(state(back), state(net))

# Positions of transformers at another size of images

def timm_vit(size, name='vit_tiny_patch16_224', **kwargs):
    timm = pytest.importorskip('timm', reason='timm is not installed')
    return timm.create_model(name, img_size=size, num_classes=3, depth=1, **kwargs)

def tv_vit(size):
    return torchvision.models.VisionTransformer(size, 16, 1, 3, 192, 64, num_classes=3)

def hf_vit(size):
    transformers = pytest.importorskip('transformers', reason='transformers is not installed')
    cfg = transformers.ViTConfig(hidden_size=192, num_hidden_layers=1, num_attention_heads=3,
                                 intermediate_size=64, image_size=size, num_labels=3)
    return transformers.ViTForImageClassification(cfg)

DEIT = 'deit_tiny_distilled_patch16_224'
POSITIONS = {   # title → network, size of its images, number of other tokens
    "timm's ViT at 224 px in one for 96 px": (timm_vit, 96, 1),
    "timm's ViT at 224 px in one for 64×144 px": (timm_vit, (64, 144), 1),
    "torchvision's ViT at 224 px in one for 96 px": (tv_vit, 96, 1),
    "transformers' ViT at 224 px in one for 96 px": (hf_vit, 96, 1),
    "timm's distilled DeiT at 224 px in one for 384 px": (lambda o: timm_vit(o, DEIT), 384, 2),
    "timm's ViT without a class token in one for 64×256 px":
        (lambda o: timm_vit(o, class_token=False, global_pool='avg'), (64, 256), 0)}

@pytest.mark.parametrize('make,size,n_other', POSITIONS.values(), ids=list(POSITIONS))
def test_positions_of_another_grid(make, size, n_other, tmp_path):
    "They are those of timm's `resample_abs_pos_embed`, and the report says so"
    layers = pytest.importorskip('timm.layers', reason='timm is not installed')
    a, b = make(224), make(size)
    torch.save(a.state_dict(), tmp_path/'w.pth')
    report = load_weights(b, tmp_path/'w.pth')
    [(name, note)] = report.adapted.items()
    h, w = (size, size) if isinstance(size, int) else size
    assert note == f'positions of 14×14 patches → {h//16}×{w//16}' and note in str(report)
    want = layers.resample_abs_pos_embed(a.state_dict()[name], [h//16, w//16], [14, 14], n_other)
    assert torch.equal(b.state_dict()[name], want) and not torch.equal(want, want*0)
    others = {k: v for k, v in state(a).items() if k != name}
    assert same(others, {k: v for k, v in state(b).items() if k != name})

# timm's networks whose positions it does not interpolate itself: title → name, another size
OWN_POSITIONS = {
    "timm's PiT at 224 px in one for 96 px": ('pit_ti_224', 96),
    "timm's PiT at 224 px in one for 96×224 px": ('pit_ti_224', (96, 224)),
    "timm's CrossViT at 240 px in one for 480 px": ('crossvit_tiny_240', 480),
    "timm's CrossViT at 240 px in one for 240×480 px": ('crossvit_tiny_240', (240, 480)),
    "timm's Visformer at 224 px in one for 96 px": ('visformer_tiny', 96),
    "timm's TNT at 224 px in one for 96×224 px": ('tnt_s_patch16_224', (96, 224))}

def timms_positions(net, h, w):
    "Name of each of a network's position tables → what timm's functions make of it for h×w px"
    def tokens(v, *grid): return resample_abs_pos_embed(v, grid)
    def as_map(v, *grid):
        return resample_abs_pos_embed_nhwc(v.permute(0, 2, 3, 1), grid).permute(0, 3, 1, 2)
    from timm.layers import resample_abs_pos_embed, resample_abs_pos_embed_nhwc
    tables = dict(
        PoolingVisionTransformer=dict(pos_embed=(as_map, (h - 16)//8 + 1, (w - 16)//8 + 1)),
        Visformer={f'pos_embed{i}': (as_map, h//4//2**i, w//4//2**i) for i in (1, 2, 3)},
        TNT=dict(patch_pos=(tokens, h//16, w//16)),
        CrossVit=dict(pos_embed_0=(tokens, h//12, w//12),
                      pos_embed_1=(tokens, h*224//240//16, w*224//240//16)))[type(net).__name__]
    return {k: f(getattr(net, k), *grid) for k, (f, *grid) in tables.items()}

@pytest.mark.parametrize('size', [96, 384])
def test_positions_in_blocks(size, tmp_path):
    "NesT's are those of timm's function"
    timm = pytest.importorskip('timm', reason='timm is not installed')
    from timm.models.nest import resize_pos_embed
    torch.manual_seed(0)
    a, b = (timm.create_model('nest_tiny', img_size=o, num_classes=3) for o in (224, size))
    torch.save(a.state_dict(), tmp_path/'w.pth')
    report = load_weights(b, tmp_path/'w.pth')
    names = [f'levels.{i}.pos_embed' for i in range(3)]
    assert list(report.adapted) == names and 'positions of 56×56 patches' in str(report)
    for k in names:
        want = resize_pos_embed(a.state_dict()[k], b.state_dict()[k])
        assert want.any() and torch.equal(b.state_dict()[k], want)

@pytest.mark.parametrize('name,size', OWN_POSITIONS.values(), ids=list(OWN_POSITIONS))
def test_positions_of_maps_and_branches(name, size, tmp_path):
    "They are those of timm's functions for maps and tokens, and the network takes such images"
    timm = pytest.importorskip('timm', reason='timm is not installed')
    torch.manual_seed(0)
    a, b = (timm.create_model(name, num_classes=3, **o) for o in ({}, dict(img_size=size)))
    torch.save(a.state_dict(), tmp_path/'w.pth')
    report = load_weights(b, tmp_path/'w.pth')
    h, w = (size, size) if isinstance(size, int) else size
    want = timms_positions(a, h, w)
    assert report.adapted.keys() == want.keys() and not report.missing
    assert all('positions of' in o for o in report.adapted.values())
    assert all(torch.equal(getattr(b, k), v) for k, v in want.items())
    assert b.eval()(torch.zeros(1, 3, h, w)).isfinite().all()

def test_positions_that_are_not_known():
    "A grid that is not square in the file, mixed patches, and windows that are not square"
    with pytest.raises(CourseError, match='pos_embed: .*create it for the image size'):
        load_weights(timm_vit(224), timm_vit((64, 160)).state_dict())
    timm = pytest.importorskip('timm', reason='timm is not installed')
    for name in ('mixer_s32_224', 'gmlp_ti16_224', 'resmlp_12_224'):
        a, b = (timm.create_model(name, num_classes=3, img_size=o) for o in (128, 64))
        with pytest.raises(CourseError, match='more: create it for the image size that'):
            load_weights(b, a.state_dict())
    # timm's CrossViT for 224 px has positions for 336 patches, which are no grid of its branch
    cross = timm.create_model('crossvit_tiny_240', num_classes=3)
    with pytest.raises(CourseError, match='pos_embed_0: .*create it for the image size'):
        load_weights(timm.create_model('crossvit_tiny_240', num_classes=3, img_size=224),
                     cross.state_dict())
    def swin(*window): return torchvision.models.SwinTransformer([4, 4], 24, [2], [2], list(window))
    with pytest.raises(CourseError, match='relative_position.*create it for the image size'):
        load_weights(swin(4, 4), swin(4, 8).state_dict())

# Relative positions for another window: title → timm's network, its other size and options,
# timm's module with the function that resizes, and what the report says

SMALL = dict(depth=1, embed_dim=96, num_heads=3)
TABLES = {
    "timm's Swin at 224 px in one for 96 px": (
        'swin_tiny_patch4_window7_224', 96, {}, 'swin_transformer', 'a 7×7 window → 6×6'),
    "timm's Swin in one with oblong windows": (
        'swin_tiny_patch4_window7_224', (224, 448), dict(window_size=(7, 14)), 'swin_transformer',
        'a 7×7 window → 7×14'),
    "timm's BEiT at 224 px in one for 128×96 px": (
        'beit_base_patch16_224', (128, 96), SMALL, 'beit', 'a 14×14 window → 8×6'),
    "timm's MaxViT at 224 px in one for 320 px": (
        'maxvit_tiny_tf_224', 320, {}, 'maxxvit', 'a 7×7 window → 10×10'),
    "timm's CoAtNet at 224 px in one for 128 px": (
        'coatnet_pico_rw_224', 128, {}, 'maxxvit', 'a 14×14 window → 8×8'),
    "timm's EfficientViT-M0 at 224 px in one for 160 px": (
        'efficientvit_m0', 160, {}, 'efficientvit_msra', 'a 7×7 window → 5×5')}

def randomize_positions(net):
    for k, p in net.named_parameters():
        if re.search('relative_position|attention_biases|rel_pos', k): nn.init.normal_(p)

@pytest.mark.parametrize('name,size,kwargs,module,says', TABLES.values(), ids=list(TABLES))
def test_relative_positions_of_another_window(name, size, kwargs, module, says, tmp_path):
    "Every tensor is the one that timm's own function gives, bit for bit"
    timm = pytest.importorskip('timm', reason='timm is not installed')
    torch.manual_seed(0)
    own = {k: v for k, v in kwargs.items() if k != 'window_size'}
    a = timm.create_model(name, num_classes=3, **own)
    b = timm.create_model(name, num_classes=3, img_size=size, **kwargs)
    randomize_positions(a)
    torch.save(a.state_dict(), tmp_path/'w.pth')
    report = load_weights(b, tmp_path/'w.pth')
    assert f'relative positions of {says}' in report.adapted.values() and not report.missing
    convert = import_module(f'timm.models.{module}').checkpoint_filter_fn
    want = convert({k: v.clone() for k, v in a.state_dict().items()}, b)
    assert same(want, b.state_dict())

def test_relative_positions_of_rows_and_columns():
    "MViT's lines are those that SAM's own code would interpolate"
    timm = pytest.importorskip('timm', reason='timm is not installed')
    from timm.models.vision_transformer_sam import get_rel_pos
    a, b = (timm.create_model('mvitv2_tiny', num_classes=3, img_size=o) for o in (224, 160))
    randomize_positions(a)
    report = load_weights(b, a.state_dict())
    old, new = (dict(o.named_parameters()) for o in (a, b))
    assert len(report.adapted) == 20
    for k in report.adapted:
        n = (len(new[k]) + 1)//2
        assert torch.equal(get_rel_pos(n, n, old[k]), get_rel_pos(n, n, new[k]))

@pytest.mark.parametrize('version', ['', 'V2'])
def test_indices_of_another_window(version):
    "What follows from the window is the network's own, for torchvision's Swin, too"
    block = getattr(torchvision.models.swin_transformer, f'SwinTransformerBlock{version}')
    def swin(n):
        return torchvision.models.SwinTransformer([4, 4], 24, [2], [2], [n, n], block=block)
    a, b = swin(7), swin(4)
    index = 'features.1.0.attn.relative_position_index'
    want = b.state_dict()[index]
    report = load_weights(b, a.state_dict())
    assert torch.equal(b.state_dict()[index], want)
    assert 'depends on the image size' in report.skipped[index]
    x = torch.randn(1, 3, 32, 32)
    assert b.eval()(x).isfinite().all()

def test_trained_for_quantization():
    "torchvision's quantizable networks: outputs are those without fake quantization"
    from torch.ao import quantization as ao
    for name in ('resnet18', 'mobilenet_v2'):
        quantizable = getattr(torchvision.models.quantization, name)
        a = quantizable(weights=None, quantize=False, num_classes=3).train()
        a.fuse_model(is_qat=True)
        a.qconfig = ao.get_default_qat_qconfig('fbgemm')
        a, x = ao.prepare_qat(a), torch.randn(2, 3, 64, 64)
        a(x)   # moves BatchNorm's statistics
        b = getattr(torchvision.models, name)(num_classes=3)
        report = load_weights(b, a.state_dict())
        a.apply(ao.disable_fake_quant)
        assert not report.missing
        torch.testing.assert_close(a.eval()(x), b.eval()(x), rtol=1e-4, atol=1e-5)

class Unit(nn.Sequential):
    "A convolution and its BatchNorm under the usual names, as in GoogLeNet"
    def __init__(self, ni, nf):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(ni, nf, 3, bias=False), nn.BatchNorm2d(nf)

def prepared_for_training(net, x):
    from torch.ao.quantization import get_default_qat_qconfig_mapping, quantize_fx
    return quantize_fx.prepare_qat_fx(net.train(), get_default_qat_qconfig_mapping('fbgemm'), (x,))

def units(n=2):
    "Convolutions and BatchNorms, by number and in numbered modules"
    more = [Unit(8, 8) for _ in range(n)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Sequential(*more),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

@pytest.mark.filterwarnings('ignore')
def test_trained_for_quantization_in_numbered_modules():
    x = torch.randn(4, 3, 12, 12)
    a, b = units(), units()
    a(x)   # moves BatchNorm's statistics
    want = state(a)
    sd = prepared_for_training(a, x).state_dict()
    assert {'0.bn.weight', '3.1.conv.bn.weight'} <= sd.keys()
    load_weights(b, sd)
    assert same(state(b), want)
    with pytest.raises(CourseError, match='are missing'): load_weights(units(3), sd)

FUSED = dict(   # networks in which BatchNorm comes before the convolution
    preactivation=lambda: create_model('resnet20', variant='v2'),
    bottlenecks=lambda: create_model('resnet50', 10, variant='v2', nf=8),
    densenet=lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=3),
    regnet=lambda: torchvision.models.regnet_y_400mf(num_classes=3))

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('make', FUSED.values(), ids=list(FUSED))
def test_trained_for_quantization_where_norms_come_first(make):
    "The BatchNorm in a convolution is the one that follows it, wherever its name is"
    x = torch.randn(2, 3, 64, 64)
    a, b = make(), make()
    a(x)   # moves BatchNorm's statistics
    want = state(a)
    load_weights(b, {f'model.{k}': v for k, v in prepared_for_training(a, x).state_dict().items()})
    assert same(state(b), want)

def test_the_version_of_a_layout():
    "torchvision's MNASNet asks for it"
    a, b = (torchvision.models.mnasnet0_5(num_classes=3) for _ in range(2))
    load_weights(b, dict(a.state_dict()))
    assert same(state(a), state(b))

def test_a_head_beside_the_body():
    "Loaded by its place, also of another network; one for another width is not"
    def parts(net):
        return nn.Sequential(net.features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.classifier[1])
    a, b = (torchvision.models.mobilenet_v2(num_classes=3) for _ in range(2))
    report = load_weights(b, parts(a).state_dict())
    assert same(state(a), state(b)) and report.adapted['classifier.1.bias'] == "the file's 3"
    sd = {f'0.{k}': v for k, v in create_model('resnet8').state_dict().items() if 'fc.' not in k}
    for name, width in (('1', 65), ('projector', 64), ('1.0.1', 64)):
        layer = {f'{name}.weight': torch.ones(10, width), f'{name}.bias': torch.ones(10)}
        report = load_weights(create_model('resnet8'), sd | layer)
        assert report.missing == ([] if name == '1.0.1' else ['fc.weight', 'fc.bias'])
    two = {f'{k}.{o}': torch.ones(10, 64)[:, :64 if o == 'weight' else 1].squeeze(1)
           for k in ('task1', 'task2') for o in ('weight', 'bias')}
    assert load_weights(create_model('resnet8'), sd | two).missing == ['fc.weight', 'fc.bias']

def test_transposed_layers():
    "All of a transformer's, its square ones too; only if its biases show that they are"
    timm = pytest.importorskip('timm', reason='timm is not installed')
    a, b = (timm.create_model('vit_tiny_patch16_224', num_classes=3, depth=2) for _ in range(2))
    sd = {k: v.t() if v.ndim == 2 else v for k, v in a.state_dict().items()}
    report = load_weights(b, sd)
    assert same(state(a), state(b)) and report.adapted['blocks.0.attn.proj.weight'] == 'transposed'
    sd['head.weight'] = a.head.weight   # some are, some are not
    with pytest.raises(CourseError, match='shape'): load_weights(b, sd)

def test_a_wrapper_is_not_a_part():
    "Two modules inside a block, of which each has the layer's name, are not a wrapper"
    sd = create_model('resnet8').state_dict()
    def inside(name): return {re.sub(r'^(layer\d\.\d)', rf'\1.{name}', k): v for k, v in sd.items()}
    with pytest.raises(CourseError, match='does not fit'):
        load_weights(create_model('resnet8'), inside('a') | inside('b'))

def test_an_average_beside_parameters_and_buffers():
    net, ema = create_model('resnet8'), create_model('resnet8')
    named = dict(parameters=dict(net.named_parameters()), buffers=dict(net.named_buffers()))
    step = torch.tensor([3.])
    sets, other = dict(named, ema=ema.state_dict(), step_size=step), create_model('resnet8')
    load_weights(other, sets)
    assert same(state(other), state(ema))
    load_weights(other, dict(named, step_size=step))
    assert same(state(other), state(net))

def test_masks_are_applied():
    net = create_model('resnet8').eval()
    prune.random_unstructured(net.layer2[0].conv2, 'weight', .5)
    back, x = create_model('resnet8').eval(), torch.randn(2, 3, 32, 32)
    load_weights(back, net.state_dict())
    assert torch.equal(net(x), back(x))

is_root = not hasattr(os, 'geteuid') or os.geteuid() == 0

@pytest.mark.skipif(is_root, reason='root can read every file')
def test_no_permission(tmp_path):
    p = save_weights(create_model('resnet8'), tmp_path/'w')
    p.chmod(0)
    with pytest.raises(CourseError, match='cannot be read'):
        load_weights(create_model('resnet8'), p)

def test_no_permission_even_as_root(tmp_path, monkeypatch):
    p = save_weights(create_model('resnet8'), tmp_path/'w')
    def refuse(*a, **k): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr('builtins.open', refuse)
    with pytest.raises(CourseError, match='cannot be read .Permission denied'): read_weights(p)

def test_damaged_archive(tmp_path):
    path = tmp_path/'w.pth'
    torch.save(dict(w=torch.zeros(1000)), path)
    b = bytearray(path.read_bytes())
    i = b.index(b'PK\x01\x02')   # the directory at the end
    b[i:i + 4] = b'XXXX'
    path.write_bytes(b)
    with pytest.raises(CourseError, match='not a complete PyTorch checkpoint'): read_weights(path)

def test_web_page_after_blank_lines(tmp_path):
    (tmp_path/'w.pth').write_bytes(b'\n'*40 + b'<html><body>not found</body></html>')
    with pytest.raises(CourseError, match='a text file .<html>'): read_weights(tmp_path/'w.pth')

def test_outputs_do_not_depend_on_the_keys(tmp_path):
    "A network loaded from renamed tensors has the same outputs as the one that was saved"
    a, b = create_model('resnet20').eval(), create_model('resnet20').eval()
    sd = {'module.' + k.replace('fc.', 'linear.'): v for k, v in a.state_dict().items()}
    torch.save(dict(state_dict=sd), tmp_path/'w.th')
    load_weights(b, tmp_path/'w.th')
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad(): assert torch.equal(a(x), b(x))

def test_wrapped_model():
    "A model in DataParallel loads a plain file, and a plain model loads a wrapped one's"
    a, b = create_model('resnet8'), torch.nn.DataParallel(create_model('resnet8'))
    load_weights(b, a.state_dict())
    assert same(state(a), state(b.module))
    load_weights(a, b.state_dict())

def test_infer_arch_tells_shortcuts_and_variants_apart():
    "What infer_arch finds is the configuration that the model was created with"
    for cfg in (dict(name='resnet20', shortcut='C'), dict(name='resnet50', shortcut='C'),
                dict(name='resnet50', shortcut='B'), dict(name='resnet32', variant='v2', nf=8)):
        net = create_model(**cfg)
        assert net.cfg | infer_arch(net.state_dict())[0] == net.cfg

# Files whose configuration is wrong

def with_wrong_config(path, change):
    "Save a resnet8 with changed metadata"
    meta = dict(cfg=create_model('resnet8').cfg)
    change(meta)
    sd = create_model('resnet8').state_dict()
    save_file(sd, path, metadata=dict(resnet_course=json.dumps(meta)))
    return path

@pytest.mark.parametrize('change, says', [
    (lambda m: m.pop('cfg'), 'has no configuration'),
    (lambda m: m.update(cfg=[1, 2]), 'has no configuration'),
    (lambda m: m.update(cfg={}), 'no model can be built'),
    (lambda m: m['cfg'].update(name='resnet9'), 'unknown model'),
    (lambda m: m['cfg'].update(name=['resnet8']), 'name=.*give text'),
    (lambda m: m['cfg'].update(name='resnet14'), 'do not match its configuration'),
    (lambda m: m['cfg'].update(n_out=10**12), 'do not match its configuration'),
    (lambda m: m['cfg'].update(n_out='10'), 'give a whole number'),
    (lambda m: m['cfg'].update(n_in=-3), 'positive whole number'),
    (lambda m: m['cfg'].update(nf=1.5), 'no model can be built'),
    (lambda m: m['cfg'].update(evil='x'), 'has no option'),
    (lambda m: m['cfg'].update(stem=3), 'no model can be built'),
])
def test_wrong_config(tmp_path, change, says):
    path = with_wrong_config(tmp_path/'w.safetensors', change)
    with pytest.raises(CourseError, match=says): load_model(path)

def test_nan_in_own_file(tmp_path):
    net = create_model('resnet8')
    net.fc.bias.data[0] = float('nan')
    with pytest.raises(CourseError, match='NaN'): load_model(save_weights(net, tmp_path/'w'))

def test_save_refuses(tmp_path):
    net = create_model('resnet8')
    with pytest.raises(CourseError, match='saved as .safetensors'):
        save_weights(net, tmp_path/'w.pth')
    with pytest.raises(CourseError, match='JSON'): save_weights(net, tmp_path/'w', x=torch.ones(1))
    assert not list(tmp_path.iterdir())

def test_round_trip_is_exact(tmp_path):
    net = create_model('resnet20', n_in=1, act='elu', variant='v2')
    net = net.to(memory_format=torch.channels_last)
    net(torch.randn(4, 1, 28, 28))   # moves BatchNorm's statistics
    back = load_model(save_weights(net, tmp_path/'deep'/'er'/'w', size=28, vocab=['a', 'b']))
    assert same(state(net), state(back))
    assert back.cfg == net.cfg and back.meta['vocab'] == ['a', 'b']
    assert not back.training
    assert {'torch', 'resnet_course'} <= back.meta['versions'].keys()

def test_half_precision_is_loaded_as_single(tmp_path):
    net = create_model('resnet8', n_out=10, n_in=1).eval()
    path = save_weights(net.half(), tmp_path/'w.safetensors')
    assert load_model(path)(torch.zeros(1, 1, 28, 28)).dtype == torch.float32

def test_full_disk_leaves_no_file(tmp_path):
    net = create_model('resnet8')
    with file_size_limit(), pytest.raises((CourseError, OSError)) as e:
        save_weights(net, tmp_path/'w.safetensors')
    assert not list(tmp_path.iterdir()), e.value

# torchvision's weights

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "Torch's hub cache, in an empty folder"
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    folder = tmp_path/'hub'/'checkpoints'
    folder.mkdir(parents=True)
    return folder

def save_resnet18(folder):
    net = torchvision.models.resnet18()
    torch.save(net.state_dict(), folder/'resnet18-f37072fd.pth')
    return net

def test_offline_names_the_file(hub, monkeypatch):
    def offline(*a, **k): raise URLError('no network')
    monkeypatch.setattr('resnet_course.download.urlopen', offline)
    monkeypatch.setattr('time.sleep', lambda s: None)
    with pytest.raises(MissingFileError) as e:
        load_weights(create_model('resnet18', 1000), 'torchvision')
    assert 'download.pytorch.org/models/resnet18-f37072fd.pth' in str(e.value)
    assert str(hub/'resnet18-f37072fd.pth') in str(e.value) and 'no network' in str(e.value)
    assert '\n' not in str(e.value)

def test_hash_is_checked(hub):
    save_resnet18(hub)
    with pytest.raises(CourseError, match='damaged'):
        load_weights(create_model('resnet18'), 'torchvision')

def test_wrong_download_is_not_kept(hub, monkeypatch):
    monkeypatch.setattr('resnet_course.weights.fetch', lambda url, path: save_resnet18(hub))
    with pytest.raises(MissingFileError, match='wrong checksum'):
        load_weights(create_model('resnet18'), 'torchvision')
    assert not list(hub.glob('*.pth'))

def test_from_the_cache(hub, monkeypatch):
    "A valid file in the cache loads by each of its names into a network with other classes"
    theirs = save_resnet18(hub)
    monkeypatch.setattr('resnet_course.weights.checksum', lambda path: 'f37072fd' + '0'*56)
    for name in ('torchvision', 'IMAGENET1K_V1', 'ResNet18_Weights.IMAGENET1K_V1'):
        net = create_model('resnet18', 10)
        report = load_weights(net, name)
        assert len(report.matched) == 120
        assert torch.equal(net.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)

@pytest.mark.parametrize('model, name, says', [
    (dict(name='resnet18'), 'IMAGENET1K_V2', 'unknown weights for resnet18'),
    (dict(name='resnet20'), 'torchvision', 'torchvision has no weights for resnet20'),
    (dict(name='alexnet'), 'torchvision', 'torchvision has no weights for alexnet;'),
    (dict(name='plain18'), 'torchvision', 'torchvision has no weights for plain18'),
])
def test_not_in_torchvision(model, name, says):
    with pytest.raises(CourseError, match=says): load_weights(create_model(**model), name)

@pytest.mark.parametrize('name, file', [
    ('resnet18', 'resnet18-f37072fd.pth'), ('alexnet', 'alexnet-owt-7be5be79.pth')])
def test_models_without_cfg(hub, monkeypatch, name, file):
    "torchvision's own models are recognized by their shapes or by their class"
    found = []
    def download(url, path): found.append(path.name)
    monkeypatch.setattr('resnet_course.weights._download', download)
    torchvision_file(getattr(torchvision.models, name)())
    assert found == [file]

# He et al.'s own ResNet-50

he = pathlib.Path.home()/'.fastai/data/weights/resnet50-imagenet-v1.pth'

@pytest.mark.skipif(not he.exists(), reason=f"no weights/{he.name} in fastai's data folder")
def test_he_resnet50():
    "The paper's own weights recognize four photos, and are less confident in a v1.5 network"
    skimage_data = pytest.importorskip('skimage.data')
    from PIL import Image
    from sklearn.datasets import load_sample_image
    meta = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    photos = dict(palace=load_sample_image('china.jpg'), espresso=skimage_data.coffee(),
                  tripod=skimage_data.camera())
    photos['Egyptian cat'] = skimage_data.cat()
    images = [Image.fromarray(o).convert('RGB') for o in photos.values()]
    xb = torch.stack([meta.transforms()(o) for o in images])
    confidence = {}
    for v in ('v1', 'v1.5'):
        net = create_model('resnet50', 1000, variant=v)
        report = load_weights(net, he, variant='v1' if v == 'v1' else None)
        assert len(report.matched) == 320
        with torch.no_grad(): p, i = net.eval()(xb).softmax(1).max(1)
        if v == 'v1': assert [meta.meta['categories'][j] for j in i] == list(photos)
        confidence[v] = p.mean()
    assert confidence['v1'] > .8 and confidence['v1'] > confidence['v1.5']
    with pytest.raises(CourseError, match="variant='v1'"): load_weights(net, he, variant='v1')
