"What a GPU would do, on a GPU where there is one, and imitated where there is none"
import configparser, json, re, runpy, sys, time
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.callback.mixup import CutMix, MixUp
from fastai.metrics import accuracy
from fastcore.xtras import working_directory
from conftest import root
from helpers import CtrlC, bits, digits_learner, exit_status, fork, needs_fork, photos, quiet
from imitation import imitate
from torch.torch_version import TorchVersion

from resnet_course import loaders, optimizers, reuse
from resnet_course.augment import (
    AlternatingFlip, ColorJitter, Cutout, HorizontalFlip, Lighting, PadCrop, RandomAffine,
    RandomErasing, RandomResizedCrop, ScaleJitter, ToFloat, resize_smoothly)
from resnet_course.callbacks import (
    EMA, CourseCutMix, CourseMixUp, CourseProgress, TerminateOnNaN, _DeviceLoss, _DeviceMean,
    synchronize)
from resnet_course.checkpoint import Checkpoint, Interrupted, read_checkpoint
from resnet_course.evaluate import evaluate, tta
from resnet_course.fastresnet import whitening
from resnet_course.finetune import Stage, run_stages
from resnet_course.layers import lrn
from resnet_course.learner import course_learner
from resnet_course.loaders import get_dls
from resnet_course.models import create_model
from resnet_course.optimizers import torch_muon
from resnet_course.precision import backend_flags, layout_for
from resnet_course.predict import predict_images
from resnet_course.recipes import fit_recipe
from resnet_course.saving import load_model, save_weights

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs an NVIDIA GPU')

def in_a_process(f, *args):
    "`imitate` leaves traces in PyTorch: run `f(*args)` in a process of its own"
    assert exit_status(fork(f, *args), 120) == 0

# Nothing waits for the GPU

def augmentations():
    lighting = Lighting(torch.ones(3), torch.eye(3))
    flip = AlternatingFlip()
    flip.start_epoch(range(100))
    as_bytes = [PadCrop(), PadCrop(2, 'reflect'), HorizontalFlip(), flip]
    as_floats = [RandomResizedCrop(24), ScaleJitter(16), ColorJitter(hue=0.1), RandomAffine(),
                 lighting, Cutout(), RandomErasing()]
    return as_bytes, as_floats

def check_augmentations(kind):
    "On both kinds of device"
    x = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    as_bytes, as_floats = augmentations()
    with imitate(kind) as device:
        xb = x.to(kind, non_blocking=True)
        floats = ToFloat().on_images(xb)
        for tfm in (*as_bytes, *as_floats):
            images = xb if tfm in as_bytes else floats
            for _ in range(2): images = tfm.on_images(images)
            assert images.device.type == kind
        resize_smoothly(floats, (20, 24))
        assert device.waits == [], device.waits

@needs_fork
@pytest.mark.parametrize('kind', ['cuda', 'mps'])
def test_augmentation_does_not_wait(kind): in_a_process(check_augmentations, kind)

def learner_on(device, net, opt):
    "What callbacks and metrics look at, without fastai's loop"
    return SimpleNamespace(
        model=net, opt=opt, training=True, iter=1, n_iter=10, epoch=0, n_epoch=1, pct_train=0.1,
        dls=SimpleNamespace(device=device, train=range(10)), cbs=[], loss_func=F.cross_entropy)

def check_steps(opt_func):
    "Steps of training, but for the backward pass, which is PyTorch's alone"
    x, y = torch.randn(6, 3, 32, 32), torch.randint(10, (6,))
    with imitate('cuda') as device:
        with torch.device('cuda'): net = create_model('resnet8')
        opt = opt_func([list(net.parameters())], lr=0.1)
        learn = learner_on(torch.device('cuda'), net, opt)
        metrics, nan = [_DeviceLoss(), _DeviceMean(accuracy)], TerminateOnNaN()
        ema = EMA(0.9)
        for cb in (nan, ema): cb.learn = learn
        ema.before_fit()
        for m in metrics: m.reset()
        del device.waits[:]   # of moving the network to the device
        for _ in range(3):
            learn.yb = (y.to('cuda', non_blocking=True),)
            learn.pred = net(x.to('cuda', non_blocking=True))
            learn.loss = F.cross_entropy(learn.pred, *learn.yb)
            for m in metrics: m.accumulate(learn)
            for p in net.parameters(): p.grad = torch.ones_like(p)
            opt.step()
            ema.after_step()
            nan.after_batch()
            opt.zero_grad()
        assert device.waits == [], device.waits
        assert torch.isfinite(metrics[0].value).item() and device.waits == ['_local_scalar_dense']
        fused = [group.get('fused') for group in opt.opt.param_groups]
    assert fused == ([None] if opt_func is torch_muon else [True])

def test_predict_computes_on_the_device_that_was_chosen(monkeypatch, tmp_path):
    "On a GPU where there is one, or on the one that `--device` names"
    chosen, asked = torch.device('cuda', 1), []
    monkeypatch.setattr(reuse, 'default_device', lambda: chosen)
    def load(path, device):
        asked.append(device)
        return load_model(path, 'cpu')
    monkeypatch.setattr(reuse, 'load_model', load)
    save_weights(create_model('resnet8', 2), tmp_path/'net.safetensors', vocab=['a', 'b'], size=32,
                 mean=[.5]*3, std=[.25]*3)
    _, _, found = reuse.predict_run([photos(tmp_path/'x')], tmp_path/'net.safetensors')
    assert len(list(found)) == 24 and asked == [chosen]

def test_more_processes_read_photos_for_a_gpu(monkeypatch):
    "Up to 16 where the processor has them, 8 without a GPU; none for a few photos"
    monkeypatch.setattr('os.cpu_count', lambda: 64)
    to_image = SimpleNamespace(images=SimpleNamespace(x=None), kept={})
    gpu, cpu = torch.device('cuda'), torch.device('cpu')
    assert loaders._workers(to_image, 10_000, gpu) == 16
    assert loaders._workers(to_image, 10_000, cpu) == loaders._workers(to_image, 10_000, None) == 8
    assert loaders._workers(to_image, 100, gpu) == 0

@pytest.mark.parametrize('device', ['cuda', 'mps'])
def test_loss_is_read_once_in_many_batches_on_any_gpu(device):
    "By the check for NaN and the progress bar: reading it waits for the device"
    reads = []
    class Loss:
        is_cuda = device == 'cuda'
        def item(self): return reads.append('item') or 1.
    loss, stop, bar = Loss(), TerminateOnNaN(), CourseProgress()
    loss.device = torch.device(device)
    stop.learn = SimpleNamespace(training=True, loss=loss, iter=1)
    bar.learn = SimpleNamespace(smooth_loss=loss, iter=1)
    bar.pbar = SimpleNamespace(update=lambda n: None)
    with mock.patch.object(stop, 'check_loss', lambda loss: reads.append('check')):
        for i in range(1, 101):
            stop.learn.iter = bar.learn.iter = i
            stop.after_batch()
            bar.after_batch()
    assert sorted(reads) == ['check', 'check', 'item', 'item']

@needs_fork
@pytest.mark.parametrize('name', ['torch_sgd', 'torch_adamw', 'torch_sgd_no_norms', 'torch_muon'])
def test_steps_do_not_wait_and_are_fused(name):
    in_a_process(check_steps, getattr(optimizers, name))

def check_mixing(ours, theirs, is_rows):
    "A batch is mixed, and its loss computed, as by fastai's own callback on the CPU"
    x, y = torch.rand(6, 3, 17, 12), torch.randint(3, (6,))
    if is_rows: y = F.one_hot(y, 3).float()
    def mix(cb, x, y):
        cb.learn = SimpleNamespace(x=x, y=y, xb=(x,), yb=(y,), training=True)
        cb.stack_y, cb.old_lf = not is_rows, torch.nn.CrossEntropyLoss()
        torch.manual_seed(5)
        cb.before_batch()
        loss = [] if is_rows else [cb.lf(cb.learn.xb[0].mean((2, 3)), *cb.learn.yb)]
        return [*cb.learn.xb, *cb.learn.yb, *loss]
    want = mix(theirs(0.7), x.clone(), y.clone())
    with imitate('cuda') as device:
        sent = [o.to('cuda', non_blocking=True) for o in (x.clone(), y.clone())]
        got = mix(ours(0.7), *sent)
        assert device.waits == [], device.waits
        for a, b in zip(got, want, strict=True):
            assert a.device.type == 'cuda' and (a.cpu() - b).abs().max() < 1e-6

@needs_fork
@pytest.mark.parametrize('is_rows', [False, True], ids=['classes', 'rows'])
@pytest.mark.parametrize('ours,theirs', [(CourseMixUp, MixUp), (CourseCutMix, CutMix)])
def test_mixing_does_not_wait(ours, theirs, is_rows):
    in_a_process(check_mixing, ours, theirs, is_rows)

def check_order_of_colors():
    "The imitation sees what it is for: an order that is read back from the device"
    x = torch.rand(4, 3, 8, 8)
    with imitate('cuda') as device:
        xb, order = (o.to('cuda', non_blocking=True) for o in (x, torch.randperm(4)))
        order[0].item()
        xb[xb.sum((1, 2, 3)) > 0]
        torch.zeros(3, device='cuda') + torch.tensor([1., 2., 3.], device='cuda')
        assert len(device.waits) == 3, device.waits

@needs_fork
def test_the_imitation_notices(): in_a_process(check_order_of_colors)

def check_photos(folder):
    "Bytes from pinned memory, and labels, are sent without waiting"
    dl = get_dls(folder, bs=4, size=32, device='cpu', in_memory=False).train.new(after_batch=None)
    with imitate('cuda') as device:
        dl.device = torch.device('cuda', 0)
        batches = list(dl)
        assert device.waits == [], device.waits
    assert len(batches) > 1 and all(o.device.type == 'cuda' for b in batches for o in b)
    assert dl._photos.loader.pin_memory

@needs_fork
def test_photos_do_not_wait(tmp_path): in_a_process(check_photos, photos(tmp_path))

@needs_gpu
def test_training_on_a_gpu_does_not_wait():
    "PyTorch itself watches: an epoch of training, after one for warming up"
    dls = get_dls('digits', bs=64, augment='crop+rotate+jitter+cutout', device='cuda')
    learn = quiet(course_learner(dls, 'resnet8', seed=0))
    class Watch(Callback):
        order = 1000
        def before_batch(self):
            if self.training and self.iter == 5: torch.cuda.set_sync_debug_mode('error')
        def after_batch(self):
            if self.training and self.iter == 15: torch.cuda.set_sync_debug_mode('default')
    learn.fit(1)
    try: learn.fit(1, cbs=Watch())
    finally: torch.cuda.set_sync_debug_mode('default')

# What an Apple GPU refuses

def check_old_mps():
    "PyTorch before 2.7 could not resize with anti-aliasing, and Apple's GPUs have no float64"
    x = torch.rand(40, 3, 16, 20)
    smaller = F.interpolate(x, (7, 9), mode='bilinear', antialias=True)
    filters = whitening(x)
    with imitate('mps', old=True), mock.patch('torch.__version__', TorchVersion('2.6.0')):
        xb = x.to('mps')
        with pytest.raises(TypeError, match='float64'): xb.double()
        with pytest.raises(NotImplementedError):
            F.interpolate(xb, (7, 9), mode='bilinear', antialias=True)
        ours, own = resize_smoothly(xb, (7, 9)), whitening(xb)
        assert ours.device.type == own.device.type == 'mps'
        assert (ours.cpu() - smaller).abs().max() < 1e-5
        assert (own.cpu() - filters).abs().max() < 1e-5

@needs_fork
def test_old_pytorch_on_an_apple_gpu(): in_a_process(check_old_mps)

def test_layout_on_an_apple_gpu():
    "Channels-last gave wrong gradients until 2.14"
    for version, layout in (('2.13.1', torch.contiguous_format), ('2.14.0', torch.channels_last)):
        with mock.patch('torch.__version__', TorchVersion(version)):
            assert layout_for('mps') is layout and layout_for('cpu') is torch.channels_last

# Settings

def test_float32_is_not_tf32():
    "In training only if asked for, in evaluation never"
    learn, seen = digits_learner(precision='fp32'), []
    class Note(Callback):
        def after_pred(self): seen.append((self.training, torch.backends.cudnn.allow_tf32))
    with mock.patch.object(learn, 'compute_flags', lambda is_fit=False: backend_flags('tf32')):
        learn.fit(1, 0.01, cbs=Note())
    learn.add_cb(Note())
    before, seen[:] = torch.backends.cudnn.allow_tf32, [o for o in seen if o[0]][:1]
    evaluate(learn)
    assert seen[0] == (True, True) and set(seen[1:]) == {(False, False)}
    assert torch.backends.cudnn.allow_tf32 == before

def by_predict(model, dls):
    model.meta = dict(vocab=list('0123456789'), size=8, stats=([.5], [.25]))
    list(predict_images(model, [np.zeros((8, 8), np.uint8)], precision='fp32'))

def by_evaluate(model, dls): evaluate(model, dls=dls)
def by_tta(model, dls): tta(model, dls=dls)

@pytest.mark.parametrize('use', [by_evaluate, by_tta, by_predict])
@pytest.mark.filterwarnings('ignore:.*mirrored image')
def test_a_network_without_a_learner_is_not_tested_in_tf32(use):
    "There is no learner that would set the flags; afterwards they are as before"
    learn, seen = digits_learner(), set()
    def flags(): return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    learn.model.conv1.register_forward_hook(lambda *_: seen.add(flags()))
    with backend_flags('tf32'):
        use(learn.model, learn.dls)
        assert seen == {(False, False)} and flags() == (True, True)

def test_a_head_on_features_is_deterministic_too():
    "It has a learner of its own"
    learn, seen = digits_learner(n_train=64, deterministic=True), set()
    learn.create_opt()
    def note(m, *_): seen.add((m.training, torch.are_deterministic_algorithms_enabled()))
    learn.model.fc.register_forward_hook(note)
    run_stages(learn, [Stage('head', -1, 1, 0.05, cache=1)])
    assert (True, True) in seen and (True, False) not in seen
    assert not torch.are_deterministic_algorithms_enabled()

def test_training_time_includes_what_the_gpu_still_computes():
    "The clock is read after waiting for the device of the batches"
    learn, seen = digits_learner(n_train=64), []
    def wait(device):
        seen.append(torch.device(device))
        time.sleep(0.3)
    with mock.patch('resnet_course.callbacks.synchronize', wait): learn.fit(1, 0.01)
    assert seen == [torch.device(learn.dls.device)]
    row, = learn.history.rows
    assert row['train_seconds'] > 0.3
    with mock.patch('torch.cuda.synchronize') as cuda, mock.patch('torch.mps.synchronize') as mps:
        for device in ('cpu', None, 'cuda:1', 'mps'): synchronize(device)
    assert cuda.call_args.args == ('cuda:1',) and cuda.call_count == mps.call_count == 1

@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_response_norm_in_half_precision(dtype):
    "Activations of hundreds: their squares are beyond float16"
    x = torch.rand(2, 8, 5, 5)*1000
    want = lrn()(x)
    with torch.autocast('cpu', torch.float16): got = lrn()(x.to(dtype))
    assert got.isfinite().all() and (got.float() - want).abs().max() < 0.02*want.abs().max()

def test_checkpoint_in_a_thread(tmp_path):
    "Bit-identical to one that is written at once, and complete when training ends"
    def train(folder, behind, at=None):
        learn = digits_learner(n_train=160)
        cb = [CtrlC(*at)] if at else []
        with mock.patch.object(Checkpoint, '__init__', checkpoint_init(behind)):
            fit_recipe(learn, 'step', epochs=3, checkpoint=folder, minutes=0, cbs=cb)
        return learn
    a = train(tmp_path/'a', False)
    b = train(tmp_path/'b', True)
    assert torch.equal(bits(a), bits(b)) and b.history.saving > 0
    with pytest.raises(Interrupted): train(tmp_path/'c', True, at=(1, 3))
    assert read_checkpoint(tmp_path/'c')['pos']['iter'] == 5
    c = digits_learner(n_train=160)
    fit_recipe(c, 'step', epochs=3, checkpoint=tmp_path/'c', resume=True)
    assert torch.equal(bits(a), bits(c))

def checkpoint_init(behind):
    "`Checkpoint.__init__`, for one that is written in a thread or not"
    init = Checkpoint.__init__
    def f(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.behind = behind
    return f

# The command that checks and measures it

def run_gpu(tool, *args):
    "Run its `main`; the exit status"
    with mock.patch.object(sys, 'argv', ['gpu.py', *map(str, args)]):
        with pytest.raises(SystemExit) as e: tool['main']()
    return e.value.code

def check_parts(file):
    "With parts of the test's own, each of them in a process"
    tool = runpy.run_path(str(root/'benchmarks/gpu.py'))
    def part(found, text='well', ok=True, error=None, seconds=0):
        found['kept'] = text
        tool['o'].save()
        time.sleep(seconds)
        if error: raise error
        return text, ok
    machine = tool['parts']['machine']
    tool['parts'].clear()
    tool['parts'].update(
        broken=(lambda found: part(found, error=ValueError('broken')), 1), machine=machine,
        slow=(lambda found: part(found, seconds=60), 0.1), good=(part, 1),
        wrong=(lambda found: part(found, 'no', False), 1))
    assert run_gpu(tool, '--device', 'cpu', '--quick', '--out', root/'results/gpu.json') == 2
    assert run_gpu(tool, '--device', 'cpu', '--quick', '--out', file) == 1
    assert run_gpu(tool, '--device', 'cpu', '--parts', 'good', '--out', file.with_name('b')) == 0

def check_rounds():
    "Races that last a tenth of a second each, and batches with a known number of rounds"
    tool = runpy.run_path(str(root/'benchmarks/gpu.py'))
    seconds = iter([9., 30., 12.])
    def race(epochs, augment, seed):
        time.sleep(0.1)
        return dict(seed=seed, epochs=epochs, train_seconds=next(seconds), first_epoch_seconds=2.,
                    precision='bf16', test=(0.94, 0.93, 0.92)[seed], test_flips=0.95)
    inside, o, found = tool['time_to'].__globals__, tool['o'], {}
    inside['race'], o.limit = race, 60
    text, _ = tool['time_to'](found, 0.93, 15, 8, None)
    assert 'medians of 3' in text and [r['seed'] for r in found['rounds']] == [0, 1, 2]
    assert (found['train_seconds'], found['test'], found['met']) == (12, 0.93, True)
    seconds, o.limit = iter([9., 30.]), 0.15   # the time is over after the first
    inside['race'] = race
    assert 'medians of 1' in tool['time_to']({}, 0.93, 15, 8, None)[0]
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3*32*32, 10))
    rates = tool['clock'](tool['Same'](2, 32, 10, 20), net, 3, 2, rounds=4, precision='fp32')
    assert len(rates) == 4 and min(rates) > 0
    assert tool['summary']([1., 9., 4.]) == dict(rounds=[1., 9., 4.], images_per_second=4.)

@needs_fork
def test_rounds_and_their_medians(): in_a_process(check_rounds)

@needs_fork
def test_parts_that_fail_or_hang_are_passed_over(tmp_path):
    "What they had found is kept, and the record is written; rehearsals are no record"
    in_a_process(check_parts, tmp_path/'a')
    res = json.loads((tmp_path/'a').read_text())
    states = {name: part['state'] for name, part in res['parts'].items()}
    assert states == dict(broken='failed', slow='out of time', good='ok', wrong='wrong')
    assert all(part['found']['kept'] and part['text'] for part in res['parts'].values())
    assert res['parts']['slow']['seconds'] < 20 and res['rehearsal'] and res['quick']
    assert {'device', 'cores', 'versions'} <= res['machine'].keys()

def test_the_bundle_has_what_the_machine_lacks():
    "Everything that the package requires, and the images, bit for bit"
    tool, settings = runpy.run_path(str(root/'tools/gpu_bundle.py')), configparser.ConfigParser()
    settings.read(root/'settings.ini')
    # PyTorch's and scikit-learn's own requirements come with them
    there = {'torch', 'torchvision', 'accelerate', 'safetensors', 'typer', 'matplotlib', 'numpy',
             'scikit-learn', 'pillow', 'pyyaml', 'scipy', 'filelock', 'jinja2'}
    def names(lines): return {re.match(r'[\w-]+', line)[0] for line in lines}
    assert names(settings['DEFAULT']['requirements'].split()) <= there | names(tool['wheels'])
    data = np.random.RandomState(0).bytes(10_000*3073)
    picture, classes = tool['to_picture'](data)
    assert picture.size == (3200, 3200) and tool['from_picture'](picture, classes) == data

def test_parts_of_the_bundle_have_a_limit(tmp_path):
    "What does not fit goes into another part; an image file above the limit is an error"
    tool = runpy.run_path(str(root/'tools/gpu_bundle.py'))
    pack, inside = tool['pack'], tool['pack'].__globals__
    assert inside['most'] == 60*2**20
    data, batches = tmp_path/inside['folder'], {}
    data.mkdir()
    (data/inside['names']).write_text('cat')
    for i in range(3):
        raw = bytes([i])*3073*10_000
        (data/f'{i}.bin').write_bytes(raw)
        batches[f'{i}.bin'] = tool['md5'](raw)
    def download(python, to):
        to.mkdir(parents=True)
        (to/'one.whl').write_bytes(b'1'*1000)
    def packed(most):
        with mock.patch.dict(inside, batches=batches, download=download, most=most):
            pack(tmp_path/'parts', tmp_path, '3.12')
        return sorted((tmp_path/'parts').iterdir())
    assert len(packed(60*2**20)) == 1
    parts = packed(25_000)
    assert len(parts) > 1 and all(tool['size']([part]) <= 25_000 for part in parts)
    files = {f.name for part in parts for f in part.rglob('*') if f.is_file()}
    assert {'one.whl', 'COMMIT', inside['names'], '0.bin.webp', '2.bin.y'} <= files
    with pytest.raises(SystemExit, match='is larger than'): packed(5000)

# What it costs

def gpu_table(): return runpy.run_path(str(root/'tools/gpu_table.py'))

def test_costs_in_the_guide_are_those_of_the_record():
    "And without one, the guide says that nothing has been measured"
    tool, file = gpu_table(), root/'results/gpu.json'
    record = json.loads(file.read_text(encoding='utf-8')) if file.exists() else None
    guide = (root/'nbs/guides/several_gpus.qmd').read_text(encoding='utf-8')
    assert tool['updated'](guide, record) == guide
    nothing = tool['table'](None)
    assert sum('not measured' in line for line in nothing) == 5 and 'No GPU' in nothing[0]

def test_costs_of_a_record():
    "Parts that failed do not count, and rehearsals not at all"
    tool = gpu_table()
    fast = dict(test=0.9412, epochs=8, precision='bf16', train_seconds=14.)
    rates = dict(resnet50=dict(images_per_second=dict(ours=2000., hand=2100.)))
    record = dict(machine=dict(device='H200'), parts=dict(
        cifar94=dict(state='ok', found=fast), cifar96=dict(state='out of time', found=fast),
        throughput=dict(state='ok', found=rates)))
    text = '\n'.join(tool['table'](record))
    assert 'One H200' in text and '94.12% correct after 8 epochs, bf16 | 14.0 s | 0.01' in text
    # 1,281,167 images 90 times, 2,000 a second, 2 dollars an hour
    assert '2,000 images/s, bf16 | 16.0 hours | 32.03 dollars' in text
    assert text.count('not measured') == 3
    with pytest.raises(SystemExit): tool['table'](dict(record, quick=True))

def gpu_section(folder):
    "What the results page shows under 'On a GPU' for the records beside it"
    page = json.loads((root/'nbs/results.ipynb').read_text(encoding='utf-8'))
    cells = [''.join(c['source']) for c in page['cells'] if c['cell_type'] == 'code']
    needed = ('import json', 'def read_json', 'def table', 'def gpu_row')
    shown, inside = [], {}
    with working_directory(folder):
        for start in needed:
            [source] = [c for c in cells if start in c]
            inside['display'] = lambda *parts: shown.extend(part.data for part in parts)
            exec(source, inside)
    return '\n'.join(shown)

def test_results_page_shows_the_record_of_a_gpu(tmp_path):
    "Each part with its result or why it has none; without a record, that nothing was measured"
    for name in ('nbs', 'results', 'benchmarks'): (tmp_path/name).mkdir()
    assert 'Not measured yet' in gpu_section(tmp_path/'nbs')
    text = '94.1% in 20.0 s; the goal, 94% in 15 s, is missed'
    parts = dict(cifar94=dict(state='ok', seconds=41.3, text=text, found={}),
                 predict=dict(state='failed', seconds=2., text='a|b', found={}))
    record = dict(kind='gpu', machine=dict(device='H200'), parts=parts, commit='abc')
    (tmp_path/'results/gpu.json').write_text(json.dumps(record))
    shown = gpu_section(tmp_path/'nbs')
    assert 'On one H200' in shown and f'| cifar94 | ok | 41 | {text} |' in shown
    assert '| predict | failed | 2 | a/b |' in shown and 'Not measured' not in shown
