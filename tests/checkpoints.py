"""Checkpoints in every state: each case writes one and names the outcome of loading it

`tests/test_weights.py` checks every case; the notebook of `weights` shows them as a table.
"""
import argparse, collections, datetime, decimal, fractions, functools, io, json, os, pathlib
import pickle, random, re, struct, tarfile, types, uuid, warnings, zipfile
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np, torch
from safetensors.torch import save_file
from torch import nn
from torch.ao import quantization as ao
from torch.ao.quantization import quantize_fx
from torch.nn.utils import prune  # noqa: F401  nn.utils.prune

from resnet_course.models import create_model
from resnet_course.saving import save_weights

@dataclass
class Case:
    "A checkpoint: how to write it, the model to load it into, and the outcome"
    title:str
    make:Callable  # (folder, state dict of a resnet8) → path or state dict
    loads:bool
    says:str       # Part of the report or of the error
    model:dict = field(default_factory=dict) # Arguments of create_model
    args:dict = field(default_factory=dict)  # Arguments of load_weights

cases = []

def case(title, loads, says, model=None, **args):
    "Register the function below as a case"
    cfg = dict(name='resnet8') | (model or {})
    def decorate(f):
        cases.append(Case(title, f, loads, says, cfg, args))
        return f
    return decorate

def good(title, says='44 tensors matched', model=None, **args):
    return case(title, True, says, model, **args)

def bad(title, says, model=None, **args): return case(title, False, says, model, **args)

def save(d, obj, name='w.pth', **kwargs):
    torch.save(obj, d/name, **kwargs)
    return d/name

def write(d, content, name='w.pth'):
    (d/name).write_bytes(content)
    return d/name

def save_safetensors(sd, path, metadata=None):
    save_file(sd, path, metadata=metadata)
    return path

def rename(sd, f): return {f(k): v for k, v in sd.items()}

def prefixed(sd, prefix): return rename(sd, lambda k: prefix + k)

def with_head(sd, name): return rename(sd, lambda k: k.replace('fc.', f'{name}.'))

def cast(sd, dtype): return {k: v.to(dtype) if v.is_floating_point() else v for k, v in sd.items()}

def without_counters(sd): return {k: v for k, v in sd.items() if 'num_batches' not in k}

def replaced(sd, **tensors):
    "Replace or add tensors; two underscores stand for a dot"
    return sd | {k.replace('__', '.'): v for k, v in tensors.items()}

def as_bytes(obj):
    b = io.BytesIO()
    torch.save(obj, b)
    return b.getvalue()

def as_numpy(sd): return {k: v.numpy() for k, v in sd.items()}

class Touch:
    "Unpickled the ordinary way, this creates a file"
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return open, (self.path, 'w')

# Must load

@good('a plain state dict')
def _(d, sd): return save(d, sd)

@good('the state dict itself, not a file')
def _(d, sd): return sd

@good('a module instead of a file')
def _(d, sd):
    m = create_model('resnet8')
    m.load_state_dict(sd)
    return m

@good("DataParallel's prefix module.")
def _(d, sd): return save(d, prefixed(sd, 'module.'))

@good('prefix model.')
def _(d, sd): return save(d, prefixed(sd, 'model.'))

@good('prefix net.')
def _(d, sd): return save(d, prefixed(sd, 'net.'))

@good("torch.compile's prefix _orig_mod.")
def _(d, sd): return save(d, prefixed(sd, '_orig_mod.'))

@good('three prefixes at once')
def _(d, sd): return save(d, prefixed(sd, 'module._orig_mod.model.'))

@good('nested under state_dict')
def _(d, sd): return save(d, dict(state_dict=sd, epoch=3))

@good('nested under net, with accuracy and epoch')
def _(d, sd): return save(d, dict(net=sd, acc=93.02, epoch=199))

@good('nested under model_state_dict, with an optimizer')
def _(d, sd):
    opt = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=.1, momentum=.9)
    return save(d, dict(model_state_dict=sd, optimizer_state_dict=opt.state_dict()), 'w.pt')

@good("fastai's file with the optimizer, whose settings are numpy scalars")
def _(d, sd):
    hypers = dict(lr=np.float64(.001), mom=np.float32(.9), n=np.int64(3))
    return save(d, dict(model=sd, opt=dict(hypers=[hypers])))

@good('the options of argparse beside the weights')
def _(d, sd): return save(d, dict(state_dict=sd, args=argparse.Namespace(lr=.1, arch='resnet8')))

@good('Lightning: model. under state_dict, hyper-parameters, callbacks')
def _(d, sd):
    others = dict(hyper_parameters=dict(lr=.1), callbacks={}, loops={})
    o = {'state_dict': prefixed(sd, 'model.'), 'pytorch-lightning_version': '2.4', **others}
    return save(d, o, 'w.ckpt')

@good('two nests: model, in it state_dict')
def _(d, sd): return save(d, dict(model=dict(state_dict=sd)))

@good('only the average (EMA) weights', 'matched')
def _(d, sd): return save(d, dict(ema=prefixed(sd, 'module.')))

@good('an OrderedDict with _metadata')
def _(d, sd): return save(d, create_model('resnet8').state_dict())

@good('parameters, not tensors')
def _(d, sd):
    return save(d, {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in sd.items()})

@good('the old format, before zip')
def _(d, sd): return save(d, sd, _use_new_zipfile_serialization=False)

@good('a .th file as the CIFAR repositories keep it', 'float16 → float32')
def _(d, sd):
    sd = with_head(cast(without_counters(sd), torch.float16), 'linear')
    return save(d, dict(state_dict=prefixed(sd, 'module.'), best_prec1=91.7), 'w.th')

@good('head called linear')
def _(d, sd): return save(d, with_head(sd, 'linear'))

@good('head called classifier')
def _(d, sd): return save(d, with_head(sd, 'classifier'))

@good('head called classifer')
def _(d, sd): return save(d, with_head(sd, 'classifer'))

@good('shortcut for downsample', '56 tensors matched', model=dict(shortcut='B'))
def _(d, sd):
    sd = create_model('resnet8', shortcut='B').state_dict()
    return save(d, rename(sd, lambda k: k.replace('downsample', 'shortcut')))

@good("BatchNorm's counters missing", 'not in the file, set to 0')
def _(d, sd): return save(d, without_counters(sd))

@good('half precision', 'float16 → float32')
def _(d, sd): return save(d, cast(sd, torch.float16))

@good('bfloat16', 'bfloat16 → float32')
def _(d, sd): return save(d, cast(sd, torch.bfloat16))

@good('double precision', 'float64 → float32')
def _(d, sd): return save(d, cast(sd, torch.float64))

@good('color weights into a gray network', '3 → 1 channels', model=dict(n_in=1))
def _(d, sd): return save(d, sd)

@good('gray weights into a color network', '1 → 3 channels')
def _(d, sd): return save(d, create_model('resnet8', n_in=1).state_dict())

@good('weights for four channels', '4 → 3 channels')
def _(d, sd): return save(d, create_model('resnet8', n_in=4).state_dict())

@good('another number of classes', '100 classes, the model has 10')
def _(d, sd): return save(d, create_model('resnet8', 100).state_dict())

@good('no head in the file', 'missing: fc.weight, fc.bias')
def _(d, sd): return save(d, {k: v for k, v in sd.items() if not k.startswith('fc.')})

@good('half a head in the file', 'only part of the head fits')
def _(d, sd): return save(d, {k: v for k, v in sd.items() if k != 'fc.bias'})

@good("counters of a tool that counts operations", 'not in the model')
def _(d, sd):
    counts = dict(total_ops=torch.zeros(1), layer1__0__conv1__total_params=torch.zeros(1))
    return save(d, replaced(sd, **counts))

@good('an auxiliary head and a normalization layer', 'not in the model')
def _(d, sd):
    sd = replaced(sd, aux_head__weight=torch.zeros(3, 3), normalize__mean=torch.zeros(3))
    return save(d, sd)

@good("fastai's vision_learner: body 0., head 1.", 'not in the model',
      model=dict(name='resnet18', stem='imagenet'))
def _(d, sd):
    names = dict(conv1='0.0', bn1='0.1', layer1='0.4', layer2='0.5', layer3='0.6', layer4='0.7')
    res = {'1.8.weight': torch.zeros(10, 512)}
    for k, v in create_model('resnet18').state_dict().items():
        first, _, rest = k.partition('.')
        if first in names: res[f'{names[first]}.{rest}'] = v
    return save(d, dict(model=res, opt={}))

@good('views into one big tensor')
def _(d, sd):
    big = torch.zeros(sum(v.numel() for v in sd.values()))
    views = {k: big[:v.numel()].view(v.shape) for k, v in sd.items() if v.is_floating_point()}
    return save(d, sd | views)

@good('channels-last tensors')
def _(d, sd):
    convs = [k for k, v in sd.items() if v.ndim == 4]
    return save(d, sd | {k: sd[k].to(memory_format=torch.channels_last) for k in convs})

@good('safetensors without metadata')
def _(d, sd): return save_safetensors(sd, d/'w.safetensors')

@good('safetensors called .pth')
def _(d, sd): return save_safetensors(sd, d/'w.pth')

@good('a .pth called .safetensors')
def _(d, sd): return save(d, sd, 'w.safetensors')

@good('our own file')
def _(d, sd): return save_weights(create_model('resnet8'), d/'w', size=32)

@good('a network with grouped convolutions', '16 tensors matched',
      model=dict(name='alexnet_small', n_in=1))
def _(d, sd):
    sd = create_model('alexnet_small', n_in=1).state_dict()
    return save(d, prefixed(sd, 'module.'))

# Self-supervised training, wrappers, other libraries' names, several sets of weights

def body(sd): return {k: v for k, v in sd.items() if not k.startswith('fc.')}

def bodies(sd): return body(sd), body(create_model('resnet8').state_dict())

@good('numpy 1 wrote a scalar beside the weights')
def _(d, sd):
    path = save(d, dict(model=sd, best_accuracy=np.float64(.9)), 'new.pth')
    with zipfile.ZipFile(path) as a, zipfile.ZipFile(d/'w.pth', 'w') as z:
        for o in a.namelist():
            content = a.read(o).replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
            z.writestr(o, content)
    return d/'w.pth'

@good('numbers, arrays, paths, dates and containers of Python and NumPy')
def _(d, sd):
    others = [np.float16(1), np.uint8(2), np.int16(3), np.bool_(True), np.arange(3), np.float32,
              np.array(['a']), np.random.get_state(), pathlib.PurePosixPath('a'), range(3),
              pathlib.Path('a'), datetime.datetime(2020, 1, 1), datetime.timedelta(1), slice(1),
              fractions.Fraction(1, 2), decimal.Decimal(1), uuid.uuid4(), frozenset([1]),
              collections.deque([1]), collections.Counter('ab'), types.SimpleNamespace(a=1),
              collections.defaultdict(list, a=[1])]
    return save(d, dict(state_dict=sd, others=others))

@good('weights in a defaultdict')
def _(d, sd): return save(d, dict(model=collections.defaultdict(dict, sd)))

@good('a moving average beside the weights', "taken: 'state_dict_ema'")
def _(d, sd):
    other = create_model('resnet8').state_dict()
    return save(d, dict(state_dict=other, state_dict_ema=sd, epoch=3))

@good('the weights beside their moving average', "taken: 'state_dict'", part='state_dict')
def _(d, sd):
    other = create_model('resnet8').state_dict()
    return save(d, dict(state_dict=sd, state_dict_ema=other, epoch=3))

@good("PyTorch's AveragedModel")
def _(d, sd):
    averaged = torch.optim.swa_utils.AveragedModel(create_model('resnet8'))
    return save(d, averaged.state_dict())

@good('an average in a LightningModule beside the network', "taken: 'state_dict.ema_model'")
def _(d, sd):
    other = create_model('resnet8').state_dict()
    return save(d, dict(state_dict=prefixed(other, 'model.') | prefixed(sd, 'ema_model.')))

@good('MoCo: two encoders and a queue', "taken: 'state_dict.module.encoder_q'")
def _(d, sd):
    q, k = bodies(sd)
    names = prefixed(q, 'module.encoder_q.') | prefixed(k, 'module.encoder_k.')
    return save(d, dict(state_dict=names | {'module.queue': torch.zeros(8, 9)}))

@good('MoCo v3: base and momentum encoder', "taken: 'state_dict.module.base_encoder'")
def _(d, sd):
    q, k = bodies(sd)
    names = prefixed(q, 'module.base_encoder.') | prefixed(k, 'module.momentum_encoder.')
    return save(d, dict(state_dict=names))

@good('SimSiam: encoder and predictor', '42 tensors matched')
def _(d, sd):
    names = prefixed(body(sd), 'module.encoder.') | {'module.encoder.fc.0.weight': torch.ones(2, 2)}
    return save(d, dict(state_dict=names | {'module.predictor.0.weight': torch.ones(2, 2)}))

@good('SwAV: projection head and prototypes', '42 tensors matched')
def _(d, sd):
    names = {'projection_head.0.weight': torch.ones(2, 2), 'prototypes.weight': torch.ones(2, 2)}
    return save(d, prefixed(body(sd) | names, 'module.'))

@good('DINO: student and teacher', "taken: 'teacher'")
def _(d, sd):
    t, s = bodies(sd)
    head = {'head.mlp.0.weight': torch.ones(2, 2)}
    student, teacher = prefixed(s, 'module.backbone.'), prefixed(t, 'backbone.')
    return save(d, dict(student=student | head, teacher=teacher | head, epoch=100))

@good('BYOL: online and target encoder', "taken: 'online_encoder'")
def _(d, sd):
    o, t = bodies(sd)
    return save(d, prefixed(o, 'online_encoder.net.') | prefixed(t, 'target_encoder.net.'))

@good('solo-learn: backbone and projector', '42 tensors matched')
def _(d, sd):
    names = prefixed(body(sd), 'backbone.') | {'projector.0.weight': torch.ones(2, 2)}
    return save(d, dict(state_dict=names))

@good('SupContrast: encoder.module. and head.', '42 tensors matched')
def _(d, sd):
    names = prefixed(body(sd), 'encoder.module.') | {'head.0.weight': torch.ones(2, 2)}
    return save(d, dict(model=names))

@good('VISSL: a trunk four levels down', '42 tensors matched')
def _(d, sd):
    trunk = dict(trunk=prefixed(body(sd), '_feature_blocks.'), heads={})
    return save(d, dict(classy_state_dict=dict(base_model=dict(model=trunk))))

@good('a LightningModule with self.resnet and metrics')
def _(d, sd):
    names = prefixed(sd, 'resnet.') | {'train_acc.confmat': torch.zeros(2, 2)}
    return save(d, dict(state_dict=names))

@good('a network whose children were put into a Sequential', '42 tensors matched')
def _(d, sd):
    net = create_model('resnet8')
    return save(d, prefixed(nn.Sequential(*list(net.children())[:-1]).state_dict(), 'features.'))

@good('MMPretrain: backbone. and head.fc.')
def _(d, sd):
    names = prefixed(body(sd), 'backbone.')
    return save(d, dict(meta=dict(epoch=1), state_dict=names | {
        'head.fc.weight': sd['fc.weight'], 'head.fc.bias': sd['fc.bias']}))

@good('stages called stage1, stage2, stage3')
def _(d, sd): return save(d, rename(sd, lambda k: re.sub('^layer', 'stage', k)))

@good("Detectron2's names", '122 tensors matched', model=dict(name='resnet18', stem='imagenet'))
def _(d, sd):
    def name(k):
        k = re.sub(r'^bn1', 'stem.conv1.norm', re.sub(r'^conv1', 'stem.conv1', k))
        k = re.sub(r'^layer(\d)', lambda m: f'res{int(m[1]) + 1}', k)
        k = re.sub(r'\.bn(\d)\.', r'.conv\1.norm.', k)
        return k.replace('downsample.0.', 'shortcut.').replace('downsample.1.', 'shortcut.norm.')
    sd = create_model('resnet18').state_dict()
    return save(d, rename(sd, name))

@good("weiaicunzai's names", '122 tensors matched', model=dict(name='resnet18', stem='cifar'))
def _(d, sd):
    places = dict(conv1='0', bn1='1', conv2='3', bn2='4')
    def name(k):
        if not k.startswith('layer'):
            return re.sub('^bn1', 'conv1.1', re.sub('^conv1', 'conv1.0', k))
        stage, i, m, rest = k.split('.', 3)
        where = 'shortcut' if m == 'downsample' else f'residual_function.{places[m]}'
        return f'conv{int(stage[5:]) + 1}_x.{i}.{where}.{rest}'
    return save(d, rename(create_model('resnet18', stem='cifar').state_dict(), name))

@good("transformers' names", '122 tensors matched', model=dict(name='resnet18', stem='imagenet'))
def _(d, sd): return save_weights(create_model('resnet18'), d/'hf', layout='huggingface')

@good("transformers' wrapper around timm")
def _(d, sd): return save(d, prefixed(sd, 'timm_model.'))

@good('FSDP and activation checkpointing in the middle of names')
def _(d, sd):
    inner = 'layer1._fsdp_wrapped_module.0._checkpoint_wrapped_module.'
    return save(d, rename(sd, lambda k: k.replace('layer1.0.', inner)))

@good('pruned, with masks', 'pruning mask applied')
def _(d, sd):
    net = create_model('resnet8')
    nn.utils.prune.l1_unstructured(net.layer1[0].conv1, 'weight', .5)
    return save(d, net.state_dict())

@good('in several files with an index')
def _(d, sd):
    names = list(sd)
    parts = {'model-1.safetensors': names[:20], 'model-2.safetensors': names[20:]}
    for file, keys in parts.items(): save_safetensors({k: sd[k] for k in keys}, d/file)
    index = dict(metadata={}, weight_map={k: file for file, keys in parts.items() for k in keys})
    return write(d, json.dumps(index).encode(), 'model.safetensors.index.json')

# More names, places and wrappers

@good('lightly: the momentum backbone comes first', "taken: 'state_dict.backbone'")
def _(d, sd):
    b, m = bodies(sd)
    return save(d, dict(state_dict=prefixed(m, 'backbone_momentum.') | prefixed(b, 'backbone.')))

@good('MadryLab/robustness: model and attacker.model', "taken: 'model.module.model'")
def _(d, sd):
    names = prefixed(sd, 'module.model.') | prefixed(sd, 'module.attacker.model.')
    return save(d, dict(model=names | {'module.normalizer.new_mean': torch.zeros(3, 1, 1)}))

@good('several networks in a list', "taken: 'models.0'")
def _(d, sd): return save(d, dict(models=[sd, create_model('resnet8').state_dict()]))

@good('a piece of a large network, asked for by its name', part='encoder')
def _(d, sd):
    rest = prefixed(create_model('resnet32').state_dict(), 'decoder.')
    return save(d, prefixed(sd, 'encoder.') | rest)

@good('a masked autoencoder: decoder and mask token', '42 tensors matched')
def _(d, sd):
    names = {'mask_token': torch.zeros(1, 1, 8), 'decoder_embed.weight': torch.ones(8, 8)}
    return save(d, dict(model=body(sd) | names))

@good('dropout before the head: fc.1')
def _(d, sd): return save(d, with_head(sd, 'fc.1'))

@good('a head of two layers', '42 tensors matched')
def _(d, sd):
    names = {'fc.0.weight': torch.ones(8, 64), 'fc.2.weight': torch.ones(10, 8)}
    return save(d, body(sd) | names)

@good('head called output')
def _(d, sd): return save(d, with_head(sd, 'output'))

@good("MMPretrain's deep stem", '134 tensors matched', model=dict(name='resnet18', stem='deep'))
def _(d, sd):
    sd = create_model('resnet18', stem='deep').state_dict()
    def name(k): return re.sub('^bn1', 'stem.7', re.sub('^conv1', 'stem', k))
    return save(d, dict(state_dict=prefixed(rename(sd, name), 'backbone.')))

def with_stem(sd, conv, bn):
    return rename(sd, lambda k: re.sub(r'^bn1\.', f'{bn}.', re.sub(r'^conv1\.', f'{conv}.', k)))

@good('a stem in a Sequential of its own')
def _(d, sd): return save(d, with_stem(sd, 'stem.0', 'stem.1'))

@good('a stem called layer0')
def _(d, sd): return save(d, with_stem(sd, 'layer0.conv1', 'layer0.bn1'))

@good('stages in a list, numbered from 0')
def _(d, sd):
    def name(k): return re.sub(r'^layer(\d)', lambda m: f'layers.{int(m[1]) - 1}', k)
    return save(d, rename(sd, name))

def renamed_blocks(stem, block, conv, bn, shortcut, head='fc'):
    """The state dict of a resnet18 under other names, which are functions of numbers from 1

    `stem` and `shortcut` are a convolution and a BatchNorm."""
    def name(k):
        first, _, rest = k.partition('.')
        if first in ('conv1', 'bn1'): return f'{stem[first == "bn1"]}.{rest}'
        if first == 'fc': return f'{head}.{rest}'
        i, kind, rest = rest.split('.', 2)
        where = block(int(first[5:]), int(i) + 1)
        if kind == 'downsample': return f'{where}.{shortcut[int(rest[0])]}{rest[1:]}'
        return f'{where}.{(conv if kind[:2] == "co" else bn)(int(kind[-1]))}.{rest}'
    return rename(create_model('resnet18').state_dict(), name)

def letter(n): return ' abc'[n]

resnet18 = dict(name='resnet18', stem='imagenet')

@good("pytorchcv's names", '122 tensors matched', model=resnet18)
def _(d, sd):
    return save(d, renamed_blocks(
        ['features.init_block.conv.conv', 'features.init_block.conv.bn'],
        lambda s, b: f'features.stage{s}.unit{b}', lambda n: f'body.conv{n}.conv',
        lambda n: f'body.conv{n}.bn', ['identity_conv.conv', 'identity_conv.bn'], 'output'))

@good("pycls's names", '122 tensors matched', model=resnet18)
def _(d, sd):
    return save(d, dict(model_state=renamed_blocks(
        ['stem.conv', 'stem.bn'], lambda s, b: f's{s}.b{b}', lambda n: f'f.{letter(n)}',
        lambda n: f'f.{letter(n)}_bn', ['proj', 'bn'], 'head.fc')))

@good("hysts's names", '122 tensors matched', model=resnet18)
def _(d, sd):
    return save(d, dict(model=renamed_blocks(
        ['conv', 'bn'], lambda s, b: f'stage{s}.block{b}', lambda n: f'conv{n}', lambda n: f'bn{n}',
        ['shortcut.conv', 'shortcut.bn'])))

@good("D-X-Y's names", '122 tensors matched', model=resnet18)
def _(d, sd):
    return save(d, dict(state_dict=prefixed(renamed_blocks(
        ['conv_1_3x3', 'bn_1'], lambda s, b: f'stage_{s}.{b - 1}', lambda n: f'conv_{letter(n)}',
        lambda n: f'bn_{letter(n)}', ['downsample.conv', 'downsample.bn'], 'classifier'),
        'module.')))

@good('pruned, with a mask beside each weight', 'pruning mask applied')
def _(d, sd):
    masks = {k.replace('weight', 'mask'): torch.ones_like(v) for k, v in sd.items() if v.ndim == 4}
    return save(d, sd | masks)

@good('weight normalization of the head', 'weight normalization applied')
def _(d, sd):
    net = create_model('resnet8')
    nn.utils.parametrizations.weight_norm(net.fc)
    return save(d, net.state_dict())

@good('weight normalization in its first form', 'weight normalization applied')
def _(d, sd):
    g = sd['fc.weight'].norm(dim=1, keepdim=True)
    return save(d, replaced(body(sd), fc__bias=sd['fc.bias'], fc__weight_g=g,
                            fc__weight_v=2*sd['fc.weight']))

@good('spectral normalization', 'spectral normalization applied')
def _(d, sd):
    net = create_model('resnet8')
    nn.utils.parametrizations.spectral_norm(net.layer1[0].conv1)
    return save(d, net.state_dict())

@good('the optimizer, a schedule and the loss themselves, not their state')
def _(d, sd):
    opt = torch.optim.AdamW([nn.Parameter(torch.ones(2))])
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, 3)
    others = dict(opt=opt, schedule=schedule, loss=nn.CrossEntropyLoss(), norm=nn.BatchNorm2d,
                  act=nn.GELU())
    return save(d, dict(state_dict=sd, **others))

@good('generators of random numbers, and functions that hold arguments')
def _(d, sd):
    others = [random.Random(0), np.random.RandomState(0), np.random.default_rng(0), ...,
              functools.partial(int, base=3), np.ma.array([1]), np.complex64(1),
              np.datetime64('2020')]
    return save(d, dict(state_dict=sd, others=others))

# Averages without names of their own

def lit_ema(net, shift=1.):
    "The buffers of latent diffusion's LitEma, around `net`: parameters by names without dots"
    named = {k.replace('.', ''): p.detach() + shift for k, p in net.named_parameters()}
    return dict(decay=torch.tensor(.999), num_updates=torch.tensor(7), **named)

def network(sd):
    net = create_model('resnet8')
    net.load_state_dict(sd)
    return net

@good('LitEma beside the weights: names without dots', "taken: 'state_dict.model_ema'")
def _(d, sd):
    average = prefixed(lit_ema(network(sd)), 'model_ema.')
    return save(d, dict(state_dict=prefixed(sd, 'model.') | average), 'w.ckpt')

@good("the weights beside LitEma's average", "taken: 'state_dict', one of several",
      part='state_dict')
def _(d, sd):
    average = prefixed(lit_ema(network(sd)), 'model_ema.')
    return save(d, dict(state_dict=prefixed(sd, 'model.') | average))

@good('LitEma around a wrapper, in a dict of its own', "taken: 'ema'")
def _(d, sd):
    wrapped = nn.ModuleDict(dict(net=network(sd)))
    return save(d, dict(model=wrapped.state_dict(), ema=lit_ema(wrapped)))

@good('LitEma alone', '16 tensors matched', model=dict(name='alexnet_small', n_in=1))
def _(d, sd):
    wrapped = nn.ModuleDict(dict(net=create_model('alexnet_small', n_in=1)))
    return save(d, lit_ema(wrapped))

@good('torch_ema: a list of averaged parameters', "taken: 'ema'")
def _(d, sd):
    params = [p.detach() for p in network(sd).parameters()]
    ema = dict(decay=.99, num_updates=3, shadow_params=params, collected_params=[])
    return save(d, dict(model=sd, ema=ema))

# Averages that callbacks and other tools keep

def lightning(sd, **callbacks):
    "A checkpoint of Lightning 2, with the state of some callbacks"
    numbers = dict(best_model_score=torch.tensor(.3), best_k_models={'a.ckpt': torch.tensor(.3)})
    return dict(state_dict=prefixed(sd, 'model.'), epoch=1, loops={}, optimizer_states=[],
                callbacks={"ModelCheckpoint{'monitor': 'val_loss'}": numbers} | callbacks)

def other(): return create_model('resnet8').state_dict()

def params(sd): return {k: v for k, v in sd.items() if not re.search('running|num_batches', k)}

@good("Lightning's WeightAveraging, sorted by name", "taken: 'state_dict', one of several")
def _(d, sd):
    ckpt = lightning(sd, WeightAveraging=dict(latest_update_step=3))
    ckpt['averaging_state'] = dict(n_averaged=torch.tensor(3))
    ckpt['current_model_state'] = prefixed(other(), 'model.')
    return save(d, dict(sorted(ckpt.items())))

@good("Lightning's StochasticWeightAveraging",
      "taken: 'callbacks.StochasticWeightAveraging.average_model_state'")
def _(d, sd):
    swa = dict(n_averaged=2, average_model_state=prefixed(sd, 'model.'))
    return save(d, lightning(other(), StochasticWeightAveraging=swa))

@good('a callback with a dict of averages, and the weights to go on with',
      "taken: 'callbacks.EMA.ema_weights'")
def _(d, sd):
    ema = dict(original_weights=prefixed(other(), 'model.'), ema_weights=prefixed(sd, 'model.'))
    return save(d, lightning(other(), **{"EMA{'decay': 0.999}": ema}))

@good('the plain weights beside the average of a callback', "taken: 'state_dict', one of several",
      part='state_dict')
def _(d, sd):
    return save(d, lightning(sd, EMACallback=dict(ema_state_dict=prefixed(other(), 'model.'))))

@good('a callback with an AveragedModel of the LightningModule', "taken: 'callbacks.EMA2.state'")
def _(d, sd):
    average = prefixed(sd, 'module.model.') | dict(n_averaged=torch.tensor(3))
    return save(d, lightning(other(), EMA2=dict(state=average)))

@good('a callback with a list of averages of the whole state dict',
      "taken: 'callbacks.EMA.ema_weights'")
def _(d, sd): return save(d, lightning(other(), EMA=dict(ema_weights=list(sd.values()))))

@good("NeMo's average among the optimizer's state", "taken: 'optimizer_states.0.ema'")
def _(d, sd):
    state = dict(opt=dict(state={}), ema=tuple(params(sd).values()), decay=.99)
    return save(d, lightning(sd) | dict(optimizer_states=[state]))

@good('an average that matches nothing in the file', "not taken: the average 'ema', because its")
def _(d, sd): return save(d, dict(model=sd, ema=[torch.ones(3)]*99))

@good('an average without one of the stages', "not taken: the average 'ema', because 10 of 42")
def _(d, sd):
    return save(d, dict(model=sd, ema={k: v for k, v in sd.items() if 'layer1' not in k}))

@good('a dict of averaged parameters', "taken: 'ema.shadow'")
def _(d, sd): return save(d, dict(model=sd, ema=dict(shadow=params(sd), decay=.99)))

@good('averaged parameters under names with underscores', "taken: 'ema'")
def _(d, sd):
    return save(d, dict(model=sd, ema={k.replace('.', '_'): v for k, v in params(sd).items()}))

@good("MMEngine's files, where the two are exchanged", "taken: 'state_dict', one of several")
def _(d, sd):
    ema = prefixed(other(), 'module.backbone.') | dict(steps=torch.tensor(3))
    meta = dict(epoch=3, mmengine_version='0.10.4')
    return save(d, dict(meta=meta, state_dict=prefixed(sd, 'backbone.'), ema_state_dict=ema))

@good("Composer's EMA", "taken: 'state.algorithms.EMA.ema_model'")
def _(d, sd):
    ema = dict(training_model=prefixed(other(), 'module.'), ema_model=prefixed(sd, 'module.'))
    state = dict(model=prefixed(other(), 'module.'), algorithms=[('EMA', ema)])
    return save(d, dict(state=state, rng=[]))

def apart(sd, as_list):
    "Parameters and buffers apart, as Composer's EMA kept them"
    named = params(sd)
    buffers = {k: v for k, v in sd.items() if k not in named}
    if as_list: return dict(parameters=list(named.values()), buffers=list(buffers.values()))
    return {'parameters': prefixed(named, 'module.'), 'buffers': prefixed(buffers, 'module.')}

def composers(sd, as_list):
    ema = dict(ema_model=apart(sd, as_list), training_model=apart(other(), as_list))
    model = prefixed(other(), 'module.')
    return dict(state=dict(model=model, algorithms=[('EMA', ema | dict(repr='EMA()'))]))

@good("Composer's EMA in lists, parameters and buffers apart",
      "taken: 'state.algorithms.EMA.ema_model'")
def _(d, sd): return save(d, composers(sd, True))

@good("Composer's EMA in dicts, parameters and buffers apart",
      "taken: 'state.algorithms.EMA.ema_model'")
def _(d, sd): return save(d, composers(sd, False))

@good('ema_pytorch: the network itself comes first', "taken: 'ema.ema_model'")
def _(d, sd):
    ema = prefixed(other(), 'online_model.') | prefixed(sd, 'ema_model.')
    return save(d, dict(model=other(), ema=ema | dict(step=torch.tensor([3]))))

@good("robustbench's normalization beside the weights", 'not in the model')
def _(d, sd):
    return save(d, replaced(sd, mu=torch.zeros(3, 1, 1), sigma=torch.ones(3, 1, 1)))

def prepared(sd, train):
    "A network of PyTorch's quantization, prepared for training or for calibration"
    mappings = dict(qat=ao.get_default_qat_qconfig_mapping, ptq=ao.get_default_qconfig_mapping)
    prepare, mapping = ((quantize_fx.prepare_qat_fx, mappings['qat']) if train else
                        (quantize_fx.prepare_fx, mappings['ptq']))
    net, x = network(sd).train(train), torch.randn(2, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        res = prepare(net, mapping('fbgemm'), (x,))
        if not train: res(x)   # training would change BatchNorm's statistics
    return res

@good('trained for quantization, with BatchNorm inside the convolutions', 'fake_quant')
def _(d, sd): return save(d, prepared(sd, True).state_dict())

@good('several averages in a list', "taken: 'ema.0'")
def _(d, sd): return save(d, dict(models=[other()], ema=[sd]))

@good('folds under their numbers', "taken: '0', one of several")
def _(d, sd): return save(d, {0: sd, 1: other()})

@good('a number of the training beside the weights', 'ema_decay (not in the model)')
def _(d, sd): return save(d, replaced(sd, ema_decay=torch.tensor(.9)))

# A head beside its body, layers in wrappers, other libraries' layout of a tensor

class Body(nn.Module):
    "A network without its head, which fits into a Sequential"
    def __init__(self, sd):
        super().__init__()
        net = network(sd)
        self.layers = nn.Sequential(*list(net.children())[:-1])

def head(sd, name):
    return {f'{name}.weight': sd['fc.weight'], f'{name}.bias': sd['fc.bias']}

@good('a body and a linear layer in a Sequential', "fc.weight, fc.bias (the file's 1)")
def _(d, sd): return save(d, prefixed(body(sd), '0.') | head(sd, '1'))

@good('a body, pooling, dropout and a linear layer in a Sequential', "(the file's 1.3)")
def _(d, sd):
    layers = Body(sd).layers
    return save(d, prefixed(layers.state_dict(), '0.') | head(sd, '1.3'))

@good("fastai's head of two linear layers", "as fastai's vision_learner does", model=dict(
      name='resnet18', stem='imagenet'))
def _(d, sd):
    net = create_model('resnet18')
    layers = nn.Sequential(*list(net.children())[:-2])
    top = nn.Sequential(nn.BatchNorm1d(1024), nn.Linear(1024, 512), nn.BatchNorm1d(512),
                        nn.Linear(512, 10))
    return save(d, dict(model=nn.Sequential(layers, top).state_dict(), opt={}))

@good('SimCLR: a head of two linear layers beside the encoder', 'give the network the same head')
def _(d, sd):
    top = {'g.0.weight': torch.ones(8, 64), 'g.2.weight': torch.ones(4, 8)}
    return save(d, prefixed(body(sd), 'f.') | top)

@good("DeepCluster's top_layer", "fc.weight, fc.bias (the file's top_layer)")
def _(d, sd): return save(d, dict(state_dict=prefixed(body(sd) | head(sd, 'top_layer'), 'module.')))

@good("MMDetection's fc_cls beside a backbone", "(the file's bbox_head.fc_cls)")
def _(d, sd):
    return save(d, dict(state_dict=prefixed(body(sd), 'backbone.') | head(sd, 'bbox_head.fc_cls')))

def inserted(sd, name):
    "`sd` of a network with a module around each of its layers"
    return {f'{k.rpartition(".")[0]}.{name}.{k.rpartition(".")[2]}': v for k, v in sd.items()}

@good('every layer in a wrapper called module')
def _(d, sd): return save(d, prefixed(inserted(sd, 'module'), 'module.'))

@good('every layer in a wrapper called base_layer')
def _(d, sd): return save(d, inserted(sd, 'base_layer'))

@good('every block in a wrapper called module')
def _(d, sd): return save(d, rename(sd, lambda k: re.sub(r'^(layer\d\.\d)\.', r'\1.module.', k)))

@good("PEFT's trained copy of the head", "PEFT's trained copy")
def _(d, sd):
    other = create_model('resnet8').state_dict()
    top = head(other, 'fc.original_module') | head(sd, 'fc.modules_to_save.default')
    return save(d, prefixed(body(sd) | top, 'base_model.model.'))

def paddle(k): return k.replace('running_mean', '_mean').replace('running_var', '_variance')

@good("PaddlePaddle's names and transposed layers", 'fc.weight (transposed)')
def _(d, sd):
    sd = sd | {'fc.weight': sd['fc.weight'].t().contiguous()}
    return save(d, rename(without_counters(sd), paddle))

@good("TensorFlow's names of BatchNorm", 'not in the file, set to 0')
def _(d, sd):
    def name(k):
        if '.running' in k: return k.replace('running_var', 'moving_variance').replace(
            'running_mean', 'moving_mean')
        return re.sub(r'(bn\d)\.bias', r'\1.beta', re.sub(r'(bn\d)\.weight', r'\1.gamma', k))
    return save(d, rename(without_counters(sd), name))

@good('names with slashes')
def _(d, sd): return save(d, rename(sd, lambda k: 'backbone/' + k.replace('.', '/')))

@good("MXNet's names with underscores")
def _(d, sd): return save(d, rename(sd, lambda k: 'resnetv10_' + k.replace('.', '_')))

@good('a head that is a 1×1 convolution', 'fc.weight (1×1 convolution → linear layer)')
def _(d, sd): return save(d, replaced(sd, fc__weight=sd['fc.weight'][..., None, None]))

# The one that is taken of two, and why

@good('a student and a teacher under short names',
      "taken: 'model_t', one of several sets of weights, "
      'because a teacher or an average is preferred to a student')
def _(d, sd): return save(d, dict(model_s=create_model('resnet8').state_dict(), model_t=sd))

@good('the student of the two', "taken: 'net_s', one of several sets", part='net_s')
def _(d, sd): return save(d, dict(net_t=create_model('resnet8').state_dict(), net_s=sd))

@good('two networks with equal rights', "taken: 'net1', one of several sets of weights, "
      'because it comes first')
def _(d, sd): return save(d, dict(net1=sd, net2=create_model('resnet8').state_dict()))

@good('a larger teacher', "not taken: the teacher 'model_t', because")
def _(d, sd): return save(d, dict(model_s=sd, model_t=create_model('resnet32').state_dict()))

# Must be refused without running anything and without changing the model

@bad('a list of averaged parameters alone', 'holds only an average without names')
def _(d, sd): return save(d, dict(shadow_params=list(params(sd).values()), decay=.99))

@bad("LitEma's average of a network with BatchNorm, alone", 'use the file that also contains')
def _(d, sd): return save(d, lit_ema(network(sd)))

@bad('calibrated for quantization, without BatchNorm', 'a network prepared for quantization')
def _(d, sd): return save(d, prepared(sd, False).state_dict())

@bad('a network of 8-bit integers', 'integers of a quantized network; use the checkpoint from')
def _(d, sd):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return save(d, quantize_fx.convert_fx(prepared(sd, False)).state_dict())

@bad('a head of 8-bit integers', 'integers of a quantized network; use the checkpoint from')
def _(d, sd):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return save(d, ao.quantize_dynamic(network(sd), {nn.Linear}).state_dict())

@bad('a pickle that runs code', 'could run code')
def _(d, sd): return save(d, dict(sd, evil=Touch(d/'owned')))

@bad('the same in the old format', 'could run code')
def _(d, sd): return save(d, dict(sd, evil=Touch(d/'owned')), _use_new_zipfile_serialization=False)

@bad('a bare pickle that runs code', 'could run code')
def _(d, sd): return write(d, pickle.dumps(Touch(d/'owned'), protocol=2))

@bad('a whole pickled module', 'could run code')
def _(d, sd): return save(d, create_model('resnet8'))

@bad('a TorchScript program', 'a TorchScript program, not weights')
def _(d, sd):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(d/'w.pt'))
    return d/'w.pt'

@bad('a truncated .pth', 'not a complete PyTorch checkpoint')
def _(d, sd): return write(d, as_bytes(sd)[:-5000])

@bad('a .pth cut after 100 bytes', 'not a complete PyTorch checkpoint')
def _(d, sd): return write(d, as_bytes(sd)[:100])

@bad('a .pth with zeros in its middle', '')
def _(d, sd):
    b = bytearray(as_bytes(sd))
    b[200:1200] = bytes(1000)
    return write(d, bytes(b))

@bad('a truncated safetensors file', 'not a complete safetensors file')
def _(d, sd):
    whole = save_safetensors(sd, d/'a')
    return write(d, whole.read_bytes()[:-100], 'w.safetensors')

@bad('safetensors whose header claims a terabyte', 'not a complete')
def _(d, sd): return write(d, struct.pack('<Q', 2**40) + b'{"a":1}', 'w.safetensors')

@bad('safetensors with a header of nonsense', 'not a complete safetensors file')
def _(d, sd): return write(d, struct.pack('<Q', 20) + b'{' + b'x'*19, 'w.safetensors')

@bad('an empty file', 'empty file')
def _(d, sd): return write(d, b'')

@bad('a text file', 'not a complete PyTorch checkpoint')
def _(d, sd): return write(d, b'these are not the weights you are looking for\n')

@bad('a web page that the download saved', 'web page')
def _(d, sd): return write(d, b'<!DOCTYPE html><html><head><title>404 Not Found</title>')

@bad('a JSON file', 'text file')
def _(d, sd): return write(d, json.dumps(dict(conv1=[1, 2])).encode())

@bad('a Git LFS pointer', 'git lfs pull')
def _(d, sd):
    pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'
    return write(d, pointer)

@bad('random bytes', 'not a complete PyTorch checkpoint')
def _(d, sd): return write(d, np.random.default_rng(0).bytes(5000))

@bad('a zip bomb', 'unpacks to')
def _(d, sd):
    with zipfile.ZipFile(d/'w.pth', 'w', zipfile.ZIP_DEFLATED) as z:
        z.writestr('w/data.pkl', bytes(50_000_000))
        z.writestr('w/version', '3')
    return d/'w.pth'

@bad('a zip archive of something else', 'not a complete PyTorch checkpoint')
def _(d, sd):
    with zipfile.ZipFile(d/'w.pth', 'w') as z: z.writestr('readme.txt', 'hello')
    return d/'w.pth'

@bad('a tar archive', 'not a complete PyTorch checkpoint')
def _(d, sd):
    with tarfile.open(d/'w.pth', 'w') as t: t.add(save(d, sd, 'inner.pth'), 'inner.pth')
    return d/'w.pth'

@bad("numpy's .npz", 'not a complete PyTorch checkpoint')
def _(d, sd):
    np.savez(d/'w.npz', **as_numpy(sd))
    return d/'w.npz'

@bad("Keras's .h5", 'not a complete PyTorch checkpoint')
def _(d, sd): return write(d, b'\x89HDF\r\n\x1a\n' + bytes(500), 'w.h5')

@bad('a Keras file', 'but Keras weights')
def _(d, sd):
    with zipfile.ZipFile(d/'w.keras', 'w') as z: z.writestr('model.weights.h5', b'')
    return d/'w.keras'

@bad('an ONNX model', 'use OnnxModel to run it')
def _(d, sd): return write(d, b'\x08\x08\x12\x07pytorch' + bytes(100), 'w.onnx')

@bad('an ONNX model under another name', 'use OnnxModel to run it')
def _(d, sd): return write(d, b'\x08\x08\x12\x07pytorch' + bytes(100), 'w.pth')

@bad('a program of torch.export', 'torch.export.load')
def _(d, sd):
    net = create_model('resnet8').eval()
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 32, 32),)), d/'w.pt2')
    return d/'w.pt2'

@bad('a TensorFlow Lite model', 'TensorFlow Lite')
def _(d, sd): return write(d, bytes(4) + b'TFL3' + bytes(99), 'w.tflite')

@bad('Flax weights', 'Flax weights')
def _(d, sd): return write(d, b'\x81\xa6params\x80', 'flax_model.msgpack')

@bad('a function of a library whose classes are harmless', 'could run code')
def _(d, sd):
    class Write:
        def __reduce__(self): return np.savetxt, (str(d/'owned'), [1.])
    return save(d, dict(state_dict=sd, evil=Write()))

@bad("Detectron2's pickle of arrays", 'read it with pickle.load')
def _(d, sd): return write(d, pickle.dumps(dict(model=as_numpy(sd), __author__='')), 'R-50.pkl')

@bad('arrays that torch.save wrote', 'torch.from_numpy')
def _(d, sd): return save(d, as_numpy(sd))

@bad("PaddlePaddle's weights", 'NumPy arrays')
def _(d, sd): return write(d, pickle.dumps(as_numpy(sd), protocol=2), 'w.pdparams')

@bad("MXNet's parameters", 'mxnet.nd.load')
def _(d, sd): return write(d, struct.pack('<QQ', 0x112, 0) + bytes(99), 'resnet-0000.params')

@bad("MATLAB's file", 'scipy.io.loadmat')
def _(d, sd): return write(d, b'MATLAB 5.0 MAT-file' + bytes(500), 'w.mat')

@bad('a Core ML model', 'Core ML')
def _(d, sd): return write(d, b'\x08\x04\x12\x10' + bytes(99), 'w.mlmodel')

@bad('an OpenVINO model', 'OpenVINO')
def _(d, sd): return write(d, b'<?xml version="1.0"?><net name="resnet">', 'w.xml')

@bad("TensorFlow's saved model", 'tf.train.load_checkpoint')
def _(d, sd): return write(d, b'\x08\x01\x12', 'saved_model.pb').parent

@bad('a distributed checkpoint', 'dcp_to_torch_save')
def _(d, sd):
    write(d, b'\x80', '.metadata')
    return write(d, b'PK', '__0_0.distcp').parent

@bad('one file of a distributed checkpoint', 'dcp_to_torch_save')
def _(d, sd): return write(d, b'PK', '__0_0.distcp')

@bad('a zip archive that was not unpacked', 'unpack it')
def _(d, sd):
    with zipfile.ZipFile(d/'w.zip', 'w') as z: z.write(save(d, sd, 'inner.pth'), 'a/inner.pth')
    return d/'w.zip'

@bad('a folder of weights', 'such as model.safetensors')
def _(d, sd): return save_safetensors(sd, d/'model.safetensors').parent

@bad('a body whose decoder is larger', 'are not in the model')
def _(d, sd): return save(d, body(sd) | prefixed(create_model('resnet32').state_dict(), 'decoder.'))

@bad('a mask whose weight has another shape', 'not in the model')
def _(d, sd): return save(d, replaced(sd, layer1__0__conv1__mask=torch.ones(3)))

@bad('an archive that was not unpacked', 'unpack it')
def _(d, sd): return write(d, b'\x1f\x8b\x08' + bytes(99), 'w.tar.gz')

@bad('an index of files that are missing', 'one of the 1 parts')
def _(d, sd):
    index = json.dumps(dict(weight_map=dict(a='model-1.safetensors')))
    return write(d, index.encode(), 'model.safetensors.index.json')

@bad('an index that points to another folder', 'in another folder')
def _(d, sd):
    index = json.dumps(dict(weight_map=dict(a='../model-1.safetensors')))
    return write(d, index.encode(), 'model.safetensors.index.json')

@bad('one of several files', 'tensors are missing')
def _(d, sd): return save_safetensors({k: sd[k] for k in list(sd)[:20]}, d/'w.safetensors')

@bad('a part that the file does not have', "unknown part 'ema'", part='ema')
def _(d, sd): return save(d, dict(state_dict=sd, model=sd))

@bad('a piece of a large network', 'belong to a different network')
def _(d, sd):
    rest = prefixed(create_model('resnet32').state_dict(), 'decoder.')
    return save(d, prefixed(body(sd), 'encoder.') | rest)

@bad('two of three stages exchanged', 'shape', model=dict(name='resnet14'))
def _(d, sd):
    sd = create_model('resnet14').state_dict()
    swap = dict(layer1='layer2', layer2='layer1')
    return save(d, rename(sd, lambda k: swap.get(k[:6], k[:6]) + k[6:]))

@bad('unrelated names of the same number of layers', 'are missing')
def _(d, sd): return save(d, rename(sd, lambda k: k.replace('conv', 'c').replace('bn', 'b')))

@bad('a pickle of numpy arrays', '')
def _(d, sd): return write(d, pickle.dumps(as_numpy(sd)))

@bad('a pickle nested ten thousand deep', '')
def _(d, sd): return write(d, b'\x80\x02' + b']'*10_000 + b'a'*9_999 + b'.')

@bad('a list', 'it holds a list')
def _(d, sd): return save(d, list(sd.values()))

@bad('a lone tensor', 'it holds a Tensor')
def _(d, sd): return save(d, torch.ones(3))

@bad('an empty dict', 'an empty dict')
def _(d, sd): return save(d, {})

@bad('an optimizer without a model', "it holds a dict with 'optimizer'")
def _(d, sd): return save(d, dict(optimizer=dict(state={}), epoch=3))

@bad('two heads under two names', 'has fc.weight twice')
def _(d, sd): return save(d, replaced(sd, linear__weight=sd['fc.weight']))

@bad('a tensor of the wrong shape', 'layer1.0.conv1.weight: shape (16, 16, 5, 5)')
def _(d, sd):
    return save(d, replaced(sd, layer1__0__conv1__weight=torch.zeros(16, 16, 5, 5)))

@bad('a huge tensor that repeats one number', 'shape (1000000, 1000000)')
def _(d, sd): return save(d, replaced(sd, bn1__weight=torch.zeros(1).expand(10**6, 10**6)))

@bad('a NaN', 'layer2.0.conv1.weight: NaN or infinite')
def _(d, sd):
    sd['layer2.0.conv1.weight'][0, 0] = float('nan')
    return save(d, sd)

@bad('an infinity', 'NaN or infinite')
def _(d, sd):
    sd['fc.bias'][3] = float('inf')
    return save(d, sd)

@bad('infinite only after the cast to float32', 'NaN or infinite')
def _(d, sd):
    big = torch.full((10,), 1e300, dtype=torch.float64)
    return save(d, replaced(sd, fc__bias=big))

@bad('a negative variance', 'negative variances')
def _(d, sd):
    sd['bn1.running_var'][0] = -1
    return save(d, sd)

@bad('integer weights', 'a different kind of tensor')
def _(d, sd): return save(d, replaced(sd, conv1__weight=sd['conv1.weight'].long()))

@bad('complex weights', 'a different kind of tensor')
def _(d, sd): return save(d, replaced(sd, conv1__weight=sd['conv1.weight'].cfloat()))

@bad('sparse weights', 'a different kind of tensor')
def _(d, sd): return save(d, replaced(sd, fc__weight=sd['fc.weight'].to_sparse()))

@bad('tensors without data (meta)', 'a different kind of tensor')
def _(d, sd): return {k: v.to('meta') for k, v in sd.items()}

@bad('a deeper network that has every tensor of ours', "name='resnet14'")
def _(d, sd): return save(d, create_model('resnet14').state_dict())

@bad('a shallower network', "name='resnet8'", model=dict(name='resnet14'))
def _(d, sd): return save(d, sd)

@bad('a wider network', 'nf=32')
def _(d, sd): return save(d, create_model('resnet8', nf=32).state_dict())

@bad('another stem', "stem='imagenet'")
def _(d, sd): return save(d, create_model('resnet8', stem='imagenet').state_dict())

@bad('projections where the network has none', "shortcut='B'")
def _(d, sd): return save(d, create_model('resnet8', shortcut='B').state_dict())

@bad('no projections where the network has some', "shortcut='A'", model=dict(shortcut='B'))
def _(d, sd): return save(d, sd)

@bad('a pre-activation network', "variant='v2'")
def _(d, sd): return save(d, create_model('resnet8', variant='v2').state_dict())

@bad('half of the body', 'tensors are missing')
def _(d, sd): return save(d, {k: v for k, v in sd.items() if 'layer3' not in k})

@bad('a head for maps of another width', 'fc.weight: shape')
def _(d, sd): return save(d, replaced(sd, fc__weight=torch.zeros(10, 99)))

@bad('another architecture altogether', 'does not fit')
def _(d, sd): return save(d, nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).state_dict())

@bad('our own file of a network with another activation', "trained with act='tanh'")
def _(d, sd): return save_weights(create_model('resnet8', act='tanh'), d/'w')

@bad('our own file of a plain network', "trained with shortcut='none'")
def _(d, sd): return save_weights(create_model('plain8'), d/'w')

@bad('v1 weights into a v1.5 network', "use create_model(..., variant='v1')",
     model=dict(name='resnet50', nf=8), variant='v1')
def _(d, sd): return save(d, create_model('resnet50', variant='v1', nf=8).state_dict())

@bad('our own v1 file into a v1.5 network', "use create_model(..., variant='v1')",
     model=dict(name='resnet50', nf=8))
def _(d, sd): return save_weights(create_model('resnet50', variant='v1', nf=8), d/'w')

@bad('a file that says v1, declared as v1.5', 'its metadata says v1, not v1.5',
     model=dict(name='resnet50', nf=8), variant='v1.5')
def _(d, sd): return save_weights(create_model('resnet50', variant='v1', nf=8), d/'w')

@bad('metadata that is not JSON', 'its metadata is not JSON')
def _(d, sd):
    return save_safetensors(sd, d/'w.safetensors', metadata=dict(resnet_course='{'))

@bad('a directory', 'a directory')
def _(d, sd): return d

@bad('a named pipe', 'not a regular file')
def _(d, sd):
    os.mkfifo(d/'w.pth')
    return d/'w.pth'

@bad('a link to itself', 'cannot be read')
def _(d, sd):
    (d/'w.pth').symlink_to(d/'w.pth')
    return d/'w.pth'

@bad('a file that does not exist', 'no such file')
def _(d, sd): return d/'nowhere.pth'

@bad('a mistyped name', "did you mean 'torchvision'")
def _(d, sd): return 'torchvison'

if os.name == 'nt':   # Windows has no named pipes and restricts links
    cases = [c for c in cases if c.title not in ('a named pipe', 'a link to itself')]

# Weights that only other programs can complete

@bad("PEFT's adapters beside the weights", 'it holds adapters')
def _(d, sd):
    lora = {'fc.lora_A.default.weight': torch.ones(2, 64),
            'fc.lora_B.default.weight': torch.ones(10, 2)}
    return save(d, prefixed(body(sd) | head(sd, 'fc.base_layer') | lora, 'base_model.model.'))

@bad("loralib's adapter beside the weights", 'whose scale is not in the file')
def _(d, sd):
    return save(d, replaced(sd, fc__lora_A=torch.ones(2, 64), fc__lora_B=torch.ones(10, 2)))

@bad('adapters alone', 'without the weights that they adapt')
def _(d, sd): return save(d, {'base_model.model.fc.lora_A.weight': torch.ones(2, 64)})

@bad('a parametrization of its own', 'remove_parametrizations')
def _(d, sd):
    net = create_model('resnet8')
    nn.utils.parametrizations.orthogonal(net.layer1[0].conv1)
    return save(d, net.state_dict())

@bad("FSDP's flat parameters", 'StateDictType.FULL_STATE_DICT')
def _(d, sd): return save(d, {'_fsdp_wrapped_module._flat_param': torch.ones(999)})

@bad("DeepSpeed's empty tensors of ZeRO stage 3", 'zero_to_fp32.py')
def _(d, sd): return save(d, dict(module={k: torch.empty(0) for k in sd}, ds_version='0.14'))

@bad("DeepSpeed's state of one process", 'zero_to_fp32.py')
def _(d, sd):
    flat = dict(fp32_flat_groups=[torch.ones(99)], zero_stage=3)
    return save(d, dict(optimizer_state_dict=flat, ds_version='0.14'))

@bad("DeepSpeed's folder", 'zero_to_fp32.py')
def _(d, sd):
    (d/'global_step5').mkdir()
    return d

@bad('one of several files, by its name', '.index.json')
def _(d, sd): return save(d, {k: sd[k] for k in list(sd)[:20]}, 'model-00001-of-00003.bin')

@bad('BatchNorm folded into the convolutions', 'instead of BatchNorm, which was folded')
def _(d, sd):
    convs = {k: v for k, v in sd.items() if v.ndim == 4}
    biases = {k.replace('weight', 'bias'): torch.zeros(len(v)) for k, v in convs.items()}
    return save(d, convs | biases | head(sd, 'fc'))

@bad("numpy's .npy with a dict", 'allow_pickle=True')
def _(d, sd):
    np.save(d/'w.npy', as_numpy(sd), allow_pickle=True)
    return d/'w.npy'

@bad("PaddlePaddle's program", '.pdparams')
def _(d, sd): return write(d, b'\x08\x08' + bytes(99), 'inference.pdiparams')

@bad("ncnn's layers", 'an ncnn model')
def _(d, sd): return write(d, b'7767517\n75 83\nInput data 0 1 data', 'resnet.param')

@bad('a model for one kind of device', 'one kind of device')
def _(d, sd): return write(d, b'RKNN' + bytes(99), 'resnet.rknn')

@bad('an unfinished download', 'let the download finish')
def _(d, sd): return write(d, as_bytes(sd)[:999], 'resnet.pth.crdownload')

@bad('a file of zeros', 'zeros')
def _(d, sd): return write(d, bytes(5000), 'w.bin')

@bad("Orbax's folder", 'orbax.checkpoint')
def _(d, sd): return write(d, b'{}', '_METADATA').parent

@bad('a folder without weights', 'a directory without a weights file')
def _(d, sd): return write(d, b'a', 'readme.md').parent
