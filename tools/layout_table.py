"""Load, group and train what others publish, and record what happens: python tools/layout_table.py

Writes results/layouts.json: one row for each public layout or architecture, with its source, what
is expected and what happened. Nothing is downloaded: files are written here with the names and
shapes of the published ones, by the cases and tests in tests/, which this script runs.
"""
import argparse, inspect, sys, tempfile, time, warnings
from functools import partial
from pathlib import Path

root = Path(__file__).parents[1]
sys.path.insert(0, str(root/'tests'))

import timm, torch, torchvision, transformers
from checkpoints import cases

import test_architectures, test_layouts, test_other_tools, test_weights
from helpers import quiet
from resnet_course.core import CourseError, write_json
from resnet_course.freeze import freeze_report, snapshot
from resnet_course.learner import course_learner
from resnet_course.loaders import get_dls
from resnet_course.models import create_model, group_names
from resnet_course.records import source_commit, versions
from resnet_course.weights import load_weights

hub = 'https://github.com/'
sources = {   # Title of a case in tests/checkpoints.py → who writes such files
    "DataParallel's prefix module.": hub + 'bearpaw/pytorch-classification',
    "torch.compile's prefix _orig_mod.": hub + 'karpathy/nanoGPT',
    'nested under net, with accuracy and epoch': hub + 'kuangliu/pytorch-cifar',
    'nested under model_state_dict, with an optimizer':
        'PyTorch tutorial "Saving and Loading a General Checkpoint"',
    "fastai's file with the optimizer, whose settings are numpy scalars":
        hub + 'fastai/fastai (save_model)',
    'the options of argparse beside the weights': hub + 'facebookresearch/mae',
    'Lightning: model. under state_dict, hyper-parameters, callbacks':
        hub + 'Lightning-AI/pytorch-lightning',
    'the old format, before zip': 'PyTorch before 1.6',
    'a .th file as the CIFAR repositories keep it': hub + 'akamaster/pytorch_resnet_cifar10',
    'head called linear': hub + 'kuangliu/pytorch-cifar',
    'head called classifer': 'a misspelling in many repositories: self.classifer = nn.Linear(...)',
    'shortcut for downsample': hub + 'kuangliu/pytorch-cifar',
    "BatchNorm's counters missing": 'PyTorch before 0.4.1',
    "counters of a tool that counts operations": hub + 'Lyken17/pytorch-OpCounter (thop)',
    "fastai's vision_learner: body 0., head 1.": hub + 'fastai/fastai (vision_learner)',
    'safetensors without metadata': hub + 'huggingface/safetensors',
    'numpy 1 wrote a scalar beside the weights': hub + 'pytorch/pytorch/issues/138985',
    'a moving average beside the weights':
        hub + 'huggingface/pytorch-image-models (CheckpointSaver)',
    "PyTorch's AveragedModel": 'torch.optim.swa_utils.AveragedModel',
    'MoCo: two encoders and a queue': hub + 'facebookresearch/moco',
    'MoCo v3: base and momentum encoder': hub + 'facebookresearch/moco-v3',
    'SimSiam: encoder and predictor': hub + 'facebookresearch/simsiam',
    'SwAV: projection head and prototypes': hub + 'facebookresearch/swav',
    'DINO: student and teacher': hub + 'facebookresearch/dino',
    'BYOL: online and target encoder': hub + 'lucidrains/byol-pytorch',
    'solo-learn: backbone and projector': hub + 'vturrisi/solo-learn',
    'SupContrast: encoder.module. and head.': hub + 'HobbitLong/SupContrast',
    'VISSL: a trunk four levels down': hub + 'facebookresearch/vissl',
    'a LightningModule with self.resnet and metrics': hub + 'Lightning-AI/torchmetrics',
    'a network whose children were put into a Sequential':
        'common in PyTorch forums: nn.Sequential(*list(net.children())[:-1])',
    'MMPretrain: backbone. and head.fc.': hub + 'open-mmlab/mmpretrain',
    "Detectron2's names": hub + 'facebookresearch/detectron2',
    "weiaicunzai's names": hub + 'weiaicunzai/pytorch-cifar100',
    "transformers' names": 'hub: microsoft/resnet-18',
    "transformers' wrapper around timm": hub + 'huggingface/transformers (TimmWrapperModel)',
    'FSDP and activation checkpointing in the middle of names': 'torch.distributed.fsdp',
    'pruned, with masks': 'torch.nn.utils.prune',
    'in several files with an index': hub + 'huggingface/transformers (save_pretrained)',
    'a TorchScript program': 'torch.jit.save',
    'a whole pickled module': 'torch.save(net)',
    'a Git LFS pointer': 'a clone from the Hugging Face hub without git-lfs',
    "numpy's .npz": 'numpy.savez; google-research/big_transfer publishes such files',
    "Keras's .h5": hub + 'keras-team/keras-applications',
    'a Keras file': hub + 'keras-team/keras (version 3)',
    'an ONNX model': hub + 'onnx/models',
    'a program of torch.export': 'torch.export.save',
    'a TensorFlow Lite model': hub + 'tensorflow/tensorflow (lite)',
    'Flax weights': 'hub: google/vit-base-patch16-224 (flax_model.msgpack)',
    'LitEma beside the weights: names without dots': hub + 'CompVis/latent-diffusion',
    "the weights beside LitEma's average": hub + 'CompVis/latent-diffusion',
    'LitEma around a wrapper, in a dict of its own': hub + 'CompVis/latent-diffusion',
    'LitEma alone': hub + 'CompVis/latent-diffusion',
    "LitEma's average of a network with BatchNorm, alone": hub + 'CompVis/latent-diffusion',
    'torch_ema: a list of averaged parameters': hub + 'fadel/pytorch_ema',
    'lightly: the momentum backbone comes first': hub + 'lightly-ai/lightly',
    'MadryLab/robustness: model and attacker.model': hub + 'MadryLab/robustness',
    'a masked autoencoder: decoder and mask token': hub + 'keyu-tian/SparK',
    'a piece of a large network, asked for by its name':
        hub + 'qubvel-org/segmentation_models.pytorch',
    'a piece of a large network': hub + 'qubvel-org/segmentation_models.pytorch',
    'several networks in a list': 'ensembles: torch.save(dict(models=[...]))',
    'dropout before the head: fc.1': 'nn.Sequential(nn.Dropout(), nn.Linear(...)) as fc',
    'a head of two layers': 'nn.Sequential(nn.Linear(...), nn.ReLU(), nn.Linear(...)) as fc',
    "MMPretrain's deep stem": hub + 'open-mmlab/mmpretrain',
    'a stem in a Sequential of its own': 'self.stem = nn.Sequential(conv, bn, ...)',
    'a stem called layer0': hub + 'Cadene/pretrained-models.pytorch',
    'stages in a list, numbered from 0': 'self.layers = nn.ModuleList(...)',
    "pytorchcv's names": hub + 'osmr/pytorchcv',
    "pycls's names": hub + 'facebookresearch/pycls',
    "hysts's names": hub + 'hysts/pytorch_image_classification',
    "D-X-Y's names": hub + 'D-X-Y/ResNeXt-DenseNet',
}
sources |= {   # Weights in parts, objects beside them, more foreign formats
    'pruned, with a mask beside each weight': "register_buffer('mask', ...) beside a weight",
    'weight normalization of the head': 'torch.nn.utils.parametrizations.weight_norm',
    'weight normalization in its first form': 'torch.nn.utils.weight_norm',
    'spectral normalization': 'torch.nn.utils.parametrizations.spectral_norm',
    'the optimizer, a schedule and the loss themselves, not their state':
        'torch.save(dict(optimizer=optimizer, ...)) without state_dict()',
    'generators of random numbers, and functions that hold arguments':
        'random.Random, numpy.random.Generator, functools.partial',
    'numbers, arrays, paths, dates and containers of Python and NumPy':
        hub + 'MIC-DKFZ/nnUNet/issues/2683',
    'an average in a LightningModule beside the network':
        hub + 'huggingface/pytorch-image-models (ModelEmaV2 in a LightningModule)',
    'an OrderedDict with _metadata': 'torch.nn.Module.state_dict',
    'a network with grouped convolutions': 'nn.Conv2d(groups=2), as in AlexNet on two GPUs',
    'color weights into a gray network': 'timm.create_model(in_chans=1)',
    'another number of classes': 'weights for ImageNet in a network for other classes',
    "Detectron2's pickle of arrays": hub + 'facebookresearch/detectron2 (MODEL_ZOO)',
    'arrays that torch.save wrote': 'torch.save of {name: tensor.numpy()}',
    "PaddlePaddle's weights": hub + 'PaddlePaddle/PaddleClas',
    "MXNet's parameters": hub + 'apache/mxnet (gluon.model_zoo)',
    "MATLAB's file": hub + 'vlfeat/matconvnet',
    'a Core ML model': hub + 'apple/coremltools',
    'an OpenVINO model': hub + 'openvinotoolkit/open_model_zoo',
    "TensorFlow's saved model": hub + 'tensorflow/tensorflow (saved_model)',
    'a distributed checkpoint': 'torch.distributed.checkpoint.save',
    'one file of a distributed checkpoint': 'torch.distributed.checkpoint.save',
    'a zip archive that was not unpacked': 'weights published in an archive',
    'an archive that was not unpacked': 'weights published in an archive',
    'a web page that the download saved': 'wget of a page that shows a file',
}

nemo = hub + 'NVIDIA/NeMo (nemo/collections/common/callbacks/ema.py)'
composer = hub + 'mosaicml/composer (composer/algorithms/ema)'
sources |= {   # Averages that callbacks and other tools keep, and quantization
    "Lightning's WeightAveraging, sorted by name":
        hub + 'Lightning-AI/pytorch-lightning (WeightAveraging)',
    "Lightning's StochasticWeightAveraging":
        hub + 'Lightning-AI/pytorch-lightning (StochasticWeightAveraging)',
    'a callback with a dict of averages, and the weights to go on with':
        'callbacks of Lightning whose state_dict() has ema_weights and original_weights',
    'the plain weights beside the average of a callback':
        'callbacks of Lightning whose state_dict() has ema_state_dict',
    'a callback with an AveragedModel of the LightningModule':
        'torch.optim.swa_utils.AveragedModel in a callback of Lightning',
    'a callback with a list of averages of the whole state dict':
        'callbacks of Lightning that keep list(state_dict().values())',
    "NeMo's average among the optimizer's state": nemo,
    'an average that matches nothing in the file': hub + 'fadel/pytorch_ema',
    'an average without one of the stages': 'an average of the parameters that train',
    'a dict of averaged parameters': 'tutorials: class EMA with a dict self.shadow',
    'averaged parameters under names with underscores':
        'buffers, whose names cannot hold dots: name.replace(".", "_")',
    "MMEngine's files, where the two are exchanged":
        hub + 'open-mmlab/mmengine (mmengine/hooks/ema_hook.py)',
    "Composer's EMA": composer,
    "Composer's EMA in lists, parameters and buffers apart": composer,
    "Composer's EMA in dicts, parameters and buffers apart": composer,
    'ema_pytorch: the network itself comes first': hub + 'lucidrains/ema-pytorch',
    'several averages in a list': 'torch.save(dict(models=[...], ema=[...]))',
    'a list of averaged parameters alone': hub + 'fadel/pytorch_ema',
    "robustbench's normalization beside the weights": hub + 'RobustBench/robustbench',
    'trained for quantization, with BatchNorm inside the convolutions':
        'torch.ao.quantization.quantize_fx.prepare_qat_fx',
    'calibrated for quantization, without BatchNorm':
        'torch.ao.quantization.quantize_fx.prepare_fx',
    'a network of 8-bit integers': 'torch.ao.quantization.quantize_fx.convert_fx',
    'a head of 8-bit integers': 'torch.ao.quantization.quantize_dynamic',
}

zero = hub + 'deepspeedai/DeepSpeed (zero_to_fp32.py)'
peft = hub + 'huggingface/peft'
sources |= {   # Heads beside their bodies, wrappers, the layouts of other libraries
    'a body and a linear layer in a Sequential': 'nn.Sequential(encoder, nn.Linear(...))',
    'a body, pooling, dropout and a linear layer in a Sequential':
        'fastai forums: nn.Sequential(body, head) with a head made by hand',
    "fastai's head of two linear layers": hub + 'fastai/fastai (create_vision_model)',
    'SimCLR: a head of two linear layers beside the encoder': hub + 'leftthomas/SimCLR',
    "DeepCluster's top_layer": hub + 'facebookresearch/deepcluster',
    "MMDetection's fc_cls beside a backbone": hub + 'open-mmlab/mmdetection',
    'every layer in a wrapper called module':
        'wrappers that keep the layer as self.module, such as DataParallel around each layer',
    'every layer in a wrapper called base_layer': peft + ' (tuners keep the layer as base_layer)',
    'every block in a wrapper called module':
        hub + 'facebookresearch/fairscale (checkpoint_wrapper)',
    "PEFT's trained copy of the head": peft + ' (modules_to_save)',
    "PaddlePaddle's names and transposed layers": hub + 'PaddlePaddle/PaddleClas',
    "TensorFlow's names of BatchNorm": hub + 'tensorflow/models (slim)',
    'names with slashes': hub + 'google-research/big_transfer',
    "MXNet's names with underscores": hub + 'dmlc/gluon-cv',
    'a head that is a 1×1 convolution': hub + 'tensorflow/models (slim: logits is a convolution)',
    'a student and a teacher under short names': hub + 'HobbitLong/RepDistiller',
    'the student of the two': hub + 'HobbitLong/RepDistiller',
    'two networks with equal rights': hub + 'bhanML/Co-teaching',
    'a larger teacher': hub + 'HobbitLong/RepDistiller',
    "PEFT's adapters beside the weights": peft,
    "loralib's adapter beside the weights": hub + 'microsoft/LoRA',
    'adapters alone': peft + ' (adapter_model.safetensors)',
    'a parametrization of its own': 'torch.nn.utils.parametrizations.orthogonal',
    "FSDP's flat parameters": 'torch.distributed.fsdp, LOCAL_STATE_DICT',
    "DeepSpeed's empty tensors of ZeRO stage 3": zero,
    "DeepSpeed's state of one process": zero, "DeepSpeed's folder": zero,
    'one of several files, by its name': hub + 'huggingface/transformers (save_pretrained)',
    'BatchNorm folded into the convolutions': 'torch.nn.utils.fusion.fuse_conv_bn_eval',
    "numpy's .npy with a dict":
        'numpy.save(file, dict); ethereon/caffe-tensorflow writes such files',
    "PaddlePaddle's program": hub + 'PaddlePaddle/PaddleClas (inference models)',
    "ncnn's layers": hub + 'Tencent/ncnn', 'a model for one kind of device':
        hub + 'airockchip/rknn_model_zoo',
    'an unfinished download': 'a browser that was closed', 'a file of zeros': 'a full disk',
    "Orbax's folder": hub + 'google/orbax',
    'a folder without weights': 'a clone without its large files'}

libraries = {   # Network of torchvision or timm → arguments of `create_model` for the same one
    ('torchvision', 'resnet18'): {}, ('torchvision', 'resnet34'): {},
    ('torchvision', 'resnet50'): {}, ('torchvision', 'resnext50_32x4d'): {},
    ('torchvision', 'alexnet'): dict(name='alexnet_tv'),
    ('timm', 'resnet18'): {}, ('timm', 'resnet34'): {}, ('timm', 'resnet50'): {},
    ('timm', 'resnet50c'): dict(name='resnet50', stem='deep'), ('timm', 'resnext50_32x4d'): {}}
others = {    # The same for networks that ours are not: these pool in their shortcuts, or attend
    ('timm', 'resnet50d'): dict(name='resnet50', stem='deep'),
    ('timm', 'seresnet50'): dict(name='resnet50')}

trained = [('torchvision', 'shufflenet_v2_x0_5'), ('torchvision', 'mnasnet0_5'),
           ('torchvision', 'mobilenet_v2'), ('torchvision', 'regnet_y_400mf'),
           ('timm', 'resnet10t'), ('timm', 'mobilenetv3_small_050'), ('timm', 'ghostnet_050'),
           ('timm', 'convnext_atto')]

def source(library, name):
    "How to get a network of a library"
    call = dict(torchvision='torchvision.models.get_model').get(library, 'timm.create_model')
    return f'{call}({name!r})'

def network(library, name, n):
    "A network of a library, with random weights"
    if library == 'timm': return timm.create_model(name, num_classes=n)
    return torchvision.models.get_model(name, num_classes=n, weights=None)

# What happens; each returns the result, and details

def load(case, tmp):
    "Load a case's file as its test does, and again for the report"
    test_weights.test_case(case, new(tmp))
    sd = create_model('resnet8').state_dict()
    folder = new(tmp)
    file = case.make(folder, sd)
    try: text, verb = str(load_weights(create_model(**case.model), file, **case.args)), 'loads'
    except CourseError as e: text, verb = str(e), 'refused'
    text = text.replace(f'{folder}/', '').replace(str(folder), 'folder').replace('\n ', ';')
    return f'{verb}: {case.says if case.says in text else text}', text

def load_library(library, name, args, tmp):
    "Load another library's state dict from a file, as it saves one"
    net = network(library, name, 1000)
    torch.save(net.state_dict(), tmp/'w.pth')
    ours = create_model(**dict(name=name, n_out=1000) | args)
    try: report = load_weights(ours, tmp/'w.pth')
    except CourseError as e: return 'refused', str(e).replace(f'{tmp}/', '')
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad(): torch.testing.assert_close(ours.eval()(x), net.eval()(x))
    return f'loads: {len(report.matched)} tensors matched', str(report)

def run_test(test, tmp, verb, **args):
    "Run a test; it raises if it fails"
    if 'tmp_path' in inspect.signature(test).parameters: args['tmp_path'] = new(tmp)
    test(**args)
    return verb, ''

def group(library, name, tmp):
    "Every parameter in one group, the scores from the last"
    test_architectures.test_groups(library, name)
    return 'groups', ', '.join(group_names(test_architectures.create(library, name)))

def train(library, name, tmp):
    "Train for two epochs; every tensor that trains has to move"
    dls = get_dls('digits', size=32, bs=32, n_train=64, n_in=3, seed=0, device='cpu')
    learn = quiet(course_learner(dls, network(library, name, 10), precision='fp32', seed=0))
    before = snapshot(learn)
    # decay, too: behind ConvNeXt's layer scale of 1e-6, gradients alone are lost in rounding
    learn.fit(2, .1, wd=.1)
    report = freeze_report(learn, before)
    return ('trains' if report.ok else 'does not train'), str(report).splitlines()[-1]

def new(tmp): return Path(tempfile.mkdtemp(dir=tmp))

def parameters(test):
    "What `pytest.mark.parametrize` gives to a test"
    names, values = test.pytestmark[0].args
    names = names.split(',')
    return [dict(zip(names, v if len(names) > 1 else [v])) for v in values]

def position_rows():
    "Rows of positions that depend on the size of maps or windows, as for `rows`"
    timms = hub + 'huggingface/pytorch-image-models'
    verb = 'loads: positions as timm interpolates them'
    maps = test_weights.test_positions_of_maps_and_branches
    for title, (name, size) in test_weights.OWN_POSITIONS.items():
        yield 'layout', title, timms, verb, partial(run_test, maps, verb=verb, name=name, size=size)
    windows = test_weights.test_relative_positions_of_another_window
    for title, args in test_weights.TABLES.items():
        named = dict(zip(('name', 'size', 'kwargs', 'module', 'says'), args))
        yield 'layout', title, timms, verb, partial(run_test, windows, verb=verb, **named)
    others = {"timm's MViT v2 at 224 px in one for 160 px": (
        timms, 'loads: positions as SAM interpolates them',
        test_weights.test_relative_positions_of_rows_and_columns, {})}
    for version in ('', 'V2'):
        others[f"torchvision's Swin{version} in one with smaller windows"] = (
            hub + 'pytorch/vision', "loads: the network's own indices",
            test_weights.test_indices_of_another_window, dict(version=version))
    for title, (who, verb, test, args) in others.items():
        yield 'layout', title, who, verb, partial(run_test, test, verb=verb, **args)

def rows():
    "Kind, what, source, expectation, and the function that finds the result"
    by_title = {c.title: c for c in cases}
    for title, who in sources.items():
        c = by_title[title]
        verb = 'loads' if c.loads else 'refused'
        yield 'layout', title, who, f'{verb}: {c.says}', partial(load, c)
    for with_opt in (True, False):
        yield ('layout', f'learn.save(with_opt={with_opt})', hub + 'fastai/fastai', 'loads',
               partial(run_test, test_weights.test_fastai_saves, verb='loads', with_opt=with_opt))
    for title, (make, size, n_other) in test_weights.POSITIONS.items():
        library = title.split("'")[0]
        repos = dict(timm='huggingface/pytorch-image-models', torchvision='pytorch/vision',
                     transformers='huggingface/transformers')
        who = hub + repos[library]
        yield ('layout', title, who, 'loads: positions as timm interpolates them',
               partial(run_test, test_weights.test_positions_of_another_grid, make=make, size=size,
                       n_other=n_other, verb='loads: positions as timm interpolates them'))
    yield from position_rows()
    verb = 'loads: positions as timm interpolates them'
    blocks = test_weights.test_positions_in_blocks
    for size in (96, 384):
        yield ('layout', f"timm's NesT at 224 px in one for {size} px",
               hub + 'huggingface/pytorch-image-models', verb,
               partial(run_test, blocks, verb=verb, size=size))
    verb = 'loads: the network before its preparation'
    fused = test_weights.test_trained_for_quantization_where_norms_come_first
    for title, make in test_weights.FUSED.items():
        yield ('layout', f'{title}, trained for quantization',
               'torch.ao.quantization.quantize_fx.prepare_qat_fx', verb,
               partial(run_test, fused, verb=verb, make=make))
    verb = 'loads: outputs without fake quantization'
    yield ('layout', "torchvision's quantizable networks, trained for quantization",
           hub + 'pytorch/vision (torchvision/models/quantization)', verb,
           partial(run_test, test_weights.test_trained_for_quantization, verb=verb))
    for (library, name), args in libraries.items():
        n = len(network(library, name, 1000).state_dict())
        yield ('layout', f'{library}, {name}', source(library, name),
               f'loads: {n} tensors matched', partial(load_library, library, name, args))
    for (library, name), args in others.items():
        yield ('layout', f'{library}, {name}', source(library, name), 'refused',
               partial(load_library, library, name, args))
    for library in ('torchvision', 'timm', 'transformers'):
        test = getattr(test_layouts, f'test_{library}')
        for args in parameters(test):
            verb = f'loads strictly in {library}'
            with_ = ', '.join(f'{k}={v!r}' for k, v in args.get('kwargs', {}).items())
            what = f"our {args['name']}{' with ' if with_ else ''}{with_}, saved for {library}"
            yield 'ours', what, library, verb, partial(run_test, test, verb=verb, **args)
    for library in ('torchvision', 'timm'):
        for name in getattr(test_architectures, library.upper()):
            if library == 'timm' and not timm.is_model(name): continue   # of a newer timm
            yield ('architecture', f'{library}, {name}', source(library, name), 'groups',
                   partial(group, library, name))
    for library, name in trained:
        yield ('training', f'{library}, {name}', source(library, name), 'trains',
               partial(train, library, name))
    for name in test_other_tools.ANY:
        verb = 'trains, is evaluated, looked into and exported'
        library = 'timm' if name.startswith('timm/') else 'torchvision'
        name_only = name.removeprefix('timm/')
        yield ('training', f'{library}, {name_only}', source(library, name_only), verb,
               partial(run_test, test_other_tools.test_any_network, verb=verb, name=name))

def outcome(f, tmp):
    "The result and details of a row; what fails is a result, too"
    try: return f(tmp=tmp)
    except Exception as e: return 'fails', f'{type(e).__name__}: {e}'[:500]

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--only', default='', help='part of a kind or name; prints, writes nothing')
    only = p.parse_args().only
    warnings.simplefilter('ignore')
    torch.manual_seed(0)
    made_by, found, began = source_commit(), [], time.monotonic()
    with tempfile.TemporaryDirectory() as tmp:
        for kind, what, who, expected, f in rows():
            if only not in f'{kind}: {what}': continue
            result, detail = outcome(f, new(tmp))
            found.append(dict(kind=kind, what=what, source=who, expected=expected, result=result,
                              detail=detail))
            if result != expected: print(found[-1], flush=True)
    wrong = sum(r['result'] != r['expected'] for r in found)
    print(f'{len(found)} rows, {wrong} not as expected, {time.monotonic() - began:.0f} s')
    others = {m.__name__: m.__version__ for m in (timm, transformers)}
    if not only:
        write_json(dict(commit=made_by, versions=versions() | others, rows=found),
                   root/'results/layouts.json')
    sys.exit(bool(wrong))
