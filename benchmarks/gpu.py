#!/usr/bin/env python3
"""Everything this course claims about GPUs, checked and measured by one command in ten minutes.

    python benchmarks/gpu.py [--minutes 9] [--parts parity precision …] [--out results/gpu.json]
    python benchmarks/gpu.py --device cpu --quick --out quick.json     # a rehearsal without a GPU

Each part runs in a process of its own with a limit on its time, the most important first. A part
that fails, or does not finish, is reported and passed over; what it had found until then is kept.
At the end there is a table, and the record is written after every part. Only an NVIDIA GPU writes
to `results/gpu.json` unless asked; rehearsals go to `gpu-rehearsal.json` in the current folder.
The exit status is 1 if any part failed.

parity: scores, loss and gradients of ten networks, against float64 on the CPU.
precision: float16 with an overflow, bfloat16, float32 with TF32 and without.
training: freezing, averaged weights, lr_find, resuming bit for bit, equal runs bit for bit.
cifar94: ResNet-18 on CIFAR-10 to 94% (the goal: 15 s of training).
throughput: images per second and memory, against loops by hand, with our network and timm's.
compile: torch.compile without CUDA graphs and with them.
photos: JPEG files to training batches, against what ResNet-50 takes.
predict: 10,000 photos through ResNet-50.
processes: two processes on one device, through gloo.
cifar96: as far towards 96% as the time allows (the goal: 2 minutes of training).
"""

import argparse, json, multiprocessing, os, shutil, signal, subprocess, sys, tempfile, time
import traceback, warnings
from pathlib import Path
from statistics import median

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root))
warnings.filterwarnings('ignore')

import numpy as np
import torch, torch.nn.functional as F
from fastai.callback.core import Callback, CancelFitException
from fastai.data.core import DataLoaders
from PIL import Image
from torch import nn

from resnet_course.core import CourseError, use_device, write_json
from resnet_course.callbacks import EMA
from resnet_course.checkpoint import Interrupted
from resnet_course.evaluate import evaluate, tta
from resnet_course.freeze import freeze_report, snapshot
from resnet_course.learner import course_learner, why_not_compile
from resnet_course.loaders import get_dls
from resnet_course.lr_find import find_lr
from resnet_course.models import create_model
from resnet_course.precision import AutoPrecision, backend_flags, layout_for
from resnet_course.predict import predict_images
from resnet_course.recipes import change_recipe, fit_recipe
from resnet_course.records import list_runs, source_commit, versions

# Small things that several parts use


def on_gpu():
    return torch.device(o.device).type == 'cuda'


def wait():
    "Until the device has done what it was asked for"
    if on_gpu():
        torch.cuda.synchronize()


def quiet(learn):
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


def small_dls(**kwargs):
    "The digits that come with scikit-learn, on the device"
    return get_dls('digits', bs=16 if o.quick else 32, n_train=64 if o.quick else None,
        device=o.device, **kwargs)


def small_learner(arch='resnet8', precision='fp32', **kwargs):
    return quiet(course_learner(small_dls(seed=0), arch, seed=0, precision=precision, **kwargs))


def bits(learn):
    return torch.cat([t.double().flatten().cpu() for t in learn.model.state_dict().values()])


def relative(a, b):
    return float((a.double().cpu() - b.double().cpu()).norm() / b.double().cpu().norm())


class Same:
    "A loader that gives one batch of random images `n` times: it costs nothing"

    def __init__(self, bs, size, c, n):
        self.bs, self.n, self.size = bs, n, size
        self.x = torch.randn(bs, 3, size, size, device=o.device)
        self.y = torch.randint(c, (bs,), device=o.device)
        self.dataset = range(n * bs)

    def __len__(self):
        return self.n

    def to(self, device):
        return self

    def __iter__(self):
        return ((self.x, self.y) for _ in range(self.n))


# Correct?

nets = (
    'resnet20',
    'resnet18',
    'resnet50',
    'alexnet',
    'fast_resnet',
    'alexnet_small',
    'resnet164',
    'resnext50_32x4d',
    'plain20',
    'wide_resnet50_2',
)


def outcome(name, size, device, dtype):
    "Scores, loss and gradient of a network that starts from the same weights everywhere"
    torch.manual_seed(0)
    net = create_model(name, n_out=10)
    for m in net.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    x, y = torch.randn(8, 3, size, size), torch.randint(10, (8,))
    net = net.to(device, dtype, memory_format=layout_for(device)).train()
    scores = net(x.to(device, dtype).contiguous(memory_format=layout_for(device)))
    loss = F.cross_entropy(scores, y.to(device))
    loss.backward()
    return scores.detach(), loss.detach(), torch.cat([p.grad.flatten() for p in net.parameters()])


def parity(found):
    "Float32 on the device is as close to float64 as float32 on the CPU is, within a factor of ten"
    for name in nets[:3] if o.quick else nets:
        size = (
            67
            if name == 'alexnet'
            else 32
            if o.quick or name.endswith(('20', '164', 'net', 'small'))
            else 64
        )
        with backend_flags('fp32'):
            want = outcome(name, size, 'cpu', torch.float64)
            rows = [
                [relative(a, b) for a, b in zip(outcome(name, size, d, torch.float32), want)]
                for d in ('cpu', o.device)
            ]
        ok = all(d <= max(10 * c, 1e-5) for c, d in zip(*rows))
        found[name] = dict(
            ok=ok,
            **{
                f'{what}_error': dict(cpu=c, device=d)
                for what, c, d in zip(('scores', 'loss', 'gradient'), *rows)
            },
        )
    wrong = [k for k, v in found.items() if not v['ok']]
    return f'{len(found) - len(wrong)} of {len(found)} networks agree' + f'; not {wrong}' * bool(
        wrong
    ), not wrong


class Overflow(Callback):
    "One gradient of the second batch is infinite before it is unscaled"

    order = AutoPrecision.order - 1

    def before_step(self):
        if self.epoch == 0 and self.iter == 1:
            next(self.model.parameters()).grad.fill_(float('inf'))


def precision(found):
    for name in ('fp32', *(['tf32'] if on_gpu() else []), 'bf16', 'fp16'):
        learn = small_learner(precision=name)
        learn.fit(2, 0.05, cbs=[Overflow()] if name == 'fp16' else [])
        rows, cb = learn.history.rows, learn.precision
        found[name] = dict(
            losses=[r['train_loss'] for r in rows],
            accuracy=rows[-1]['accuracy'],
            skipped=cb.n_skipped,
            scale=cb.scaler and cb.scaler.get_scale(),
        )
    a = torch.randn(64, 64, 32, 32, device=o.device)
    conv = nn.Conv2d(64, 64, 3, bias=False).to(o.device)
    want = F.conv2d(a.double().cpu(), conv.weight.double().cpu())
    for name in ('fp32', 'tf32'):
        with backend_flags(name), torch.no_grad():
            found[f'error of a convolution, {name}'] = relative(conv(a), want)
    names = [k for k in found if isinstance(found[k], dict)]
    finite = all(
        np.isfinite(found[k]['losses']).all() and found[k]['losses'][1] < found[k]['losses'][0]
        for k in names
    )
    # the scaler starts at 2**16, and halves for each step that it skips
    backs_off = found['fp16']['skipped'] >= 1 and found['fp16']['scale'] < 2**16
    ok = finite and backs_off and found['error of a convolution, fp32'] < 1e-5
    return (
        f"{', '.join(names)} train; float16 skipped {found['fp16']['skipped']} steps and goes on "
        f"at the scale {found['fp16']['scale']:g}; "
        f"a convolution is wrong by {found['error of a convolution, fp32']:.0e} in fp32, "
        f"{found['error of a convolution, tf32']:.0e} in tf32",
        ok,
    )


class Stop(Callback):
    "Ask for an end, as Ctrl-C does"

    order = 200

    def after_batch(self):
        if self.training and (self.epoch, self.iter) == (1, 1):
            signal.raise_signal(signal.SIGINT)


def fit_two(folder, cbs=(), resume=False, **kwargs):
    learn = small_learner(deterministic=True, **kwargs)
    fit_recipe(learn, 'one_cycle', epochs=2, checkpoint=folder, resume=resume, cbs=list(cbs))
    return learn


def training(found):
    learn = small_learner()
    learn.freeze_to(-1)
    before = snapshot(learn)
    learn.fit(1, 0.05)
    found['frozen stays'] = bool(freeze_report(learn, before).ok)
    learn = small_learner()
    raw = bits(learn)
    learn.fit(1, 0.05, cbs=EMA(0.9))
    found['EMA is finite, and moved'] = bool(
        bits(learn).isfinite().all() and not torch.equal(raw, bits(learn))
    )
    before, curve = bits(learn), find_lr(learn, num_it=20 if o.quick else 60)
    found['lr_find'] = dict(lr=curve.lr, changed_nothing=torch.equal(before, bits(learn)))
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        for arch in ('resnet8',) if o.quick else ('resnet8', 'fast_resnet', 'alexnet_small'):
            whole = bits(fit_two(tmp / f'{arch}a', arch=arch))
            found[f'{arch}: equal runs, equal bits'] = torch.equal(
                whole, bits(fit_two(tmp / f'{arch}b', arch=arch))
            )
            try:
                fit_two(tmp / f'{arch}c', [Stop()], arch=arch)
            except Interrupted:
                pass
            again = bits(fit_two(tmp / f'{arch}c', resume=True, arch=arch))
            found[f'{arch}: resumed bit for bit'] = torch.equal(whole, again)
    wrong = [
        k for k, v in found.items() if v is False or v == dict(lr=curve.lr, changed_nothing=False)
    ]
    return (
        f'not so: {wrong}' if wrong else 'freezing, EMA, lr_find, resuming and repeating hold',
        not wrong,
    )


# Fast?


def race(epochs, augment, seed):
    "ResNet-18 with the small stem on CIFAR-10, all training images, tested once"
    dls = get_dls(
        'cifar10',
        bs=128 if o.quick else 512,
        n_train=640 if o.quick else None,
        valid_pct=0,
        augment=augment,
        seed=seed,
        device=o.device,
    )
    arch = 'resnet8' if o.quick else 'resnet18'
    if not o.quick and seed == 0:  # cuDNN looks for its algorithms, once a process
        quiet(course_learner(dls, arch, seed=seed)).fit(1, 1e-5, cbs=Timed(30))
    learn = quiet(course_learner(dls, arch, seed=seed))
    fit_recipe(learn, change_recipe('one_cycle_sgd', label_smoothing=0.1), epochs=epochs)
    rows = learn.history.rows
    return dict(
        seed=seed,
        epochs=len(rows),
        train_seconds=sum(r['train_seconds'] for r in rows),
        first_epoch_seconds=rows[0]['train_seconds'],
        precision=learn.precision.resolved,
        test=evaluate(learn).top1,
        test_flips=tta(learn).top1,
    )


def time_to(found, target, seconds, epochs, augment):
    "Up to three races, with a seed each, as many as the time allows: their medians count"
    began, rounds = time.perf_counter(), []
    for seed in range(3):
        start = time.perf_counter()
        rounds.append(race(1 if o.quick else epochs, augment, seed))
        medians = {
            k: median(r[k] for r in rounds) for k in ('train_seconds', 'test', 'test_flips')
        }
        met = medians['test'] >= target and medians['train_seconds'] <= seconds
        found.update(
            medians,
            rounds=rounds,
            epochs=rounds[0]['epochs'],
            precision=rounds[0]['precision'],
            goal=target,
            goal_seconds=seconds,
            met=bool(met),
        )
        o.save()
        now = time.perf_counter()
        if o.quick or now - began + 1.2 * (now - start) > o.limit:
            break
    return (
        f"{found['test']:.2%} ({found['test_flips']:.2%} with flips) in "
        f"{found['train_seconds']:.1f} s, {found['epochs']} epochs, medians of {len(rounds)}; the "
        f"goal, {target:.0%} in {seconds} s, is {'met' if found['met'] else 'missed'}",
        True,
    )


def cifar94(found):
    return time_to(found, 0.94, 15, 8, 'crop+mirror+cutout')


def cifar96(found):
    first = (o.so_far.get('cifar94') or {}).get('found', {})
    each = first['train_seconds'] / first['epochs'] if first else 3.0
    return time_to(
        found, 0.96, 120, max(8, min(60, int(min(115, 0.6 * o.limit) / each))), 'crop+mirror+cutout'
    )


class Timed(Callback):
    "Clocks `rounds` times `n` batches after a warm-up, and ends training"

    order = 2000

    def __init__(self, n, warm=0, rounds=1):
        self.n, self.warm, self.rounds = n, warm, rounds
        self.count, self.took = 0, []

    def before_fit(self):
        self.start = time.perf_counter()

    def after_batch(self):
        if not self.training:
            return
        self.count += 1
        timed = self.count - self.warm
        if timed < 0 or timed % self.n:
            return
        wait()
        now = time.perf_counter()
        if timed:
            self.took.append(now - self.start)
        if timed == self.rounds * self.n:
            raise CancelFitException
        self.start = now


def clock(dl, net, n, warm, rounds=1, **kwargs):
    "Images per second of a `course_learner`, a figure for each round"
    dls = DataLoaders(dl, Same(1, dl.size, 2, 0))
    dls.device, dls.size, timed = torch.device(o.device), dl.size, Timed(n, warm, rounds)
    learn = quiet(course_learner(dls, net, metrics=[], loss_func=nn.CrossEntropyLoss(), **kwargs))
    learn.fit(1, 0.01, cbs=timed)
    return [n * dl.bs / seconds for seconds in timed.took]


def summary(rates):
    "The rounds, and their median"
    return dict(rounds=[round(r, 1) for r in rates], images_per_second=round(median(rates), 1))


def by_hand(dl, net, n, warm):
    "Images per second of the loop that people write who know how"
    net = net.to(o.device, memory_format=torch.channels_last).train()
    opt = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=on_gpu())
    half = torch.autocast(torch.device(o.device).type, torch.bfloat16)
    with backend_flags('tf32', benchmark=True):
        for i, (x, y) in enumerate(dl):
            if i == warm:
                wait()
                start = time.perf_counter()
            with half:
                scores = net(x.contiguous(memory_format=torch.channels_last))
            F.cross_entropy(scores.float(), y).backward()
            opt.step()
            opt.zero_grad(set_to_none=True)
            if i + 1 == warm + n:
                break
        wait()
    return n * dl.bs / (time.perf_counter() - start)


def peak(f):
    "What `f` returns, and the most memory that it took, GB"
    if not on_gpu():
        return f(), None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return f(), torch.cuda.max_memory_allocated() / 1e9


def timm_net(name):
    import timm

    return timm.create_model(name, num_classes=1000)


sizes = dict(
    resnet18=(512, 32, 10, dict(stem='cifar')),
    resnet50=(256, 224, 1000, {}),
    alexnet_tv=(512, 224, 1000, {}),
)


def ways_of(name):
    "Name → a function that measures a way to train the network"
    bs, size, c, kwargs = sizes[name]
    if o.quick:
        bs, size = 4, min(size, 64)
    n, warm = (2, 1) if o.quick else (30, 12)
    dl = Same(bs, size, c, n + warm + 1)

    def ours():
        return create_model(name, n_out=c, **kwargs)

    res = dict(
        ours=lambda: clock(dl, ours(), n, warm, precision='bf16')[0],
        hand=lambda: by_hand(dl, ours(), n, warm),
    )
    if name == 'resnet50':
        res['timm'] = lambda: by_hand(dl, timm_net('resnet50'), n, warm)
    return res


def throughput(found):
    "The ways take turns; the median of three rounds counts"
    for name in sizes:
        rows = found[name] = dict(rounds={}, peak_gb={})
        for _ in range(1 if o.quick else 3):
            for way, measure in ways_of(name).items():
                try:
                    rate, gb = peak(measure)
                except ImportError as e:
                    rows[f'{way} missing'] = str(e)
                    continue
                rows['rounds'].setdefault(way, []).append(round(rate, 1))
                rows['peak_gb'][way] = gb
            rows['images_per_second'] = {k: median(v) for k, v in rows['rounds'].items()}
            o.save()
        best = rows['images_per_second']
        rows |= {
            f'ours_over_{k}': round(best['ours'] / v, 3) for k, v in best.items() if k != 'ours'
        }
    return '; '.join(
        f"{k}: ours {v['images_per_second']['ours']:,.0f}/s, {v['ours_over_hand']:.2f} of by hand"
        for k, v in found.items()
    ), True


def compiled(found):
    lacks = why_not_compile(o.device)
    if lacks:
        found['lacks'] = lacks  # what would be measured is the uncompiled network
        return lacks, o.quick
    name, n, warm = 'resnet18', 2 if o.quick else 40, 1 if o.quick else 20
    rounds = 1 if o.quick else 3
    dl = Same(*((4, 32) if o.quick else (512, 32)), 10, rounds * n + warm + 1)
    for mode in (False, 'default', 'reduce-overhead'):
        if o.quick and mode == 'reduce-overhead':
            continue
        net = create_model(
            'resnet8' if o.quick else name, **({} if o.quick else dict(stem='cifar'))
        )
        start = time.perf_counter()
        rates = clock(dl, net, n, warm, rounds, precision='bf16', compile=mode)
        found[str(mode or 'not compiled')] = dict(
            summary(rates), seconds=round(time.perf_counter() - start, 1)
        )
        o.save()
    return ', '.join(f"{k} {v['images_per_second']:,.0f}/s" for k, v in found.items()), True


def write_photos(folder, n):
    "JPEG files of 500×375 px in two class folders"
    rng = np.random.RandomState(0)
    for i in range(n):
        low = Image.fromarray(rng.randint(256, size=(12, 16, 3), dtype=np.uint8))
        x = (
            np.asarray(low.resize((500, 375), Image.Resampling.BICUBIC))
            + rng.randn(375, 500, 1) * 4
        )
        file = folder / 'ab'[i % 2] / f'{i}.jpg'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(file, quality=90)
    return sorted(folder.rglob('*.jpg'))


def read_epoch(dl):
    "Images per second of an epoch"
    start = time.perf_counter()
    done = sum(len(xb) for xb, _ in dl)
    wait()
    return done / (time.perf_counter() - start)


def photos(found):
    with tempfile.TemporaryDirectory() as tmp:
        n = 24 if o.quick else 2000
        write_photos(Path(tmp), n)
        dls = get_dls(
            tmp,
            8 if o.quick else 128,
            size=224,
            augment='imagenet',
            in_memory=False,
            device=o.device,
            num_workers=1 if o.quick else None,
        )
        read_epoch(dls.train)  # the processes start
        rates = [read_epoch(dls.train) for _ in range(1 if o.quick else 3)]
        found.update(summary(rates), workers=dls.train.workers, cores=os.cpu_count())
    fed = (o.so_far.get('throughput') or {}).get('found', {}).get('resnet50', {})
    eats = fed.get('images_per_second', {}).get('ours')
    if eats:
        found['share_of_what_resnet50_takes'] = round(found['images_per_second'] / eats, 3)
    share = f", {found['share_of_what_resnet50_takes']:.2f} of what ResNet-50 takes" if eats else ''
    return (
        f"{found['images_per_second']:,.0f} photos/s with {found['workers']} processes{share}",
        True,
    )


def predict(found):
    with tempfile.TemporaryDirectory() as tmp:
        files = write_photos(Path(tmp), 8 if o.quick else 500)
        files *= 1 if o.quick else 20
        net = create_model('resnet50', n_out=1000).to(o.device).eval()
        stats = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        net.meta = dict(vocab=list(map(str, range(1000))), size=224, side=256, stats=stats)
        rates, right = [], True
        for _ in range(1 if o.quick else 3):
            start = time.perf_counter()
            n = sum(p.error is None for p in predict_images(net, files, bs=64 if o.quick else 256))
            rates.append(n / (time.perf_counter() - start))
            right = right and n == len(files)
            found.update(summary(rates), images=n)
            o.save()
    rate = found['images_per_second']
    return f'{n:,} photos in {n / rate:.1f} s, {rate:,.0f}/s, median of {len(rates)}', right


def processes(found):
    with tempfile.TemporaryDirectory() as tmp:
        cmd = [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node',
            '2',
            '-m',
            'resnet_course.cli',
            'train',
            '--data',
            'digits',
            '--arch',
            'resnet8',
            '--epochs',
            '2',
            '--bs',
            '32',
            '--out',
            f'{tmp}/runs',
            '--device',
            torch.device(o.device).type,
        ]
        if o.quick:
            cmd += ['--n-train', '64']
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), OMP_NUM_THREADS='1')
        env.pop('RESNET_COURSE_DEVICE', None)
        p = subprocess.Popen(
            cmd, cwd=tmp, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            said = p.communicate(timeout=max(4, o.limit - 8))[1]
        except subprocess.TimeoutExpired:
            p.terminate()  # torchrun ends its processes, which have sessions of their own
            p.communicate()
            raise
        if p.returncode:
            raise CourseError(said[-1500:])
        (rec,) = list_runs(f'{tmp}/runs')
    found.update(
        processes=rec['processes'], test=rec['test']['top1'], train_seconds=rec['train_seconds']
    )
    return f"{rec['processes']} processes, test accuracy {rec['test']['top1']:.1%}", rec[
        'processes'
    ] == 2


# name → function, most minutes, of a run of nine
parts = dict(
    parity=(parity, 1.2),
    precision=(precision, 1.0),
    training=(training, 1.0),
    cifar94=(cifar94, 1.2),
    throughput=(throughput, 1.8),
    compile=(compiled, 1.2),
    photos=(photos, 0.6),
    predict=(predict, 0.6),
    processes=(processes, 1.2),
    cifar96=(cifar96, 3.0),
)

# Each part in a process of its own


class Options:
    "What a part needs to know; in its own process also how to keep what it has found so far"

    device = 'cpu'
    quick, limit, so_far = False, 60.0, {}

    def save(self):
        pass


o = Options()


def child(name, asked, file):
    "Run a part, and write what it found"
    os.setsid() if hasattr(os, 'setsid') else None
    vars(o).update(asked)
    use_device(o.device)
    torch.set_num_threads(max(1, min(8, (os.cpu_count() or 2) // 2)))
    found, res = {}, dict(state='out of time')

    def save(**more):
        write_json(dict(res, found=found, **more), file)

    o.save, start = save, time.perf_counter()
    try:
        text, ok = parts[name][0](found)
        res.update(state='ok' if ok else 'wrong', text=text)
    except Exception as e:
        traceback.print_exc()
        res.update(
            state='failed',
            text=f'{type(e).__name__}: {e}'[:300],
            trace=traceback.format_exc()[-3000:],
        )
    save(seconds=round(time.perf_counter() - start, 1))
    sys.stdout.flush()
    os._exit(0)  # what is left behind, such as processes that read photos, goes with the group


def run_part(name, limit, options):
    "The result of a part, which is stopped after `limit` seconds"
    context = multiprocessing.get_context('fork' if sys.platform == 'linux' else 'spawn')
    with tempfile.TemporaryDirectory() as tmp:
        file, start = Path(tmp) / 'part.json', time.perf_counter()
        p = context.Process(target=child, args=(name, dict(options, limit=limit), file))
        p.start()
        p.join(limit)
        late = p.is_alive()
        try:
            os.killpg(p.pid, signal.SIGKILL)
        except (OSError, AttributeError):
            p.kill()
        p.join()
        res = json.loads(file.read_text()) if file.is_file() else dict(state='failed', found={})
    if late:
        res |= dict(state='out of time', text=f'stopped after {limit:.0f} s')
    elif 'text' not in res:
        res |= dict(state='failed', text=f'the process ended with status {p.exitcode}')
    return res | dict(seconds=round(time.perf_counter() - start, 1))


def describe(found):
    "The device, its driver, and this machine"
    d = torch.device(o.device)
    if d.type == 'cuda':
        p = torch.cuda.get_device_properties(d)
        found.update(
            device=p.name,
            memory_gb=round(p.total_memory / 1e9, 1),
            capability=f'{p.major}.{p.minor}',
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
        )
        smi = shutil.which('nvidia-smi')
        ask = [smi, '--query-gpu=driver_version', '--format=csv,noheader']
        if smi:
            found['driver'] = subprocess.run(ask, capture_output=True, text=True).stdout.split(
                '\n'
            )[0]
    else:
        found['device'] = d.type
    found.update(cores=os.cpu_count(), python=sys.version.split()[0], versions=versions())
    return found['device'], True


parts['machine'] = describe, 0.5


def commit():
    "The commit that ran, from git, or from the file that the bundle brings where there is no git"
    file = root / 'COMMIT'
    return source_commit() or (file.read_text().strip() if file.is_file() else None)


def table(res):
    "The parts, for people"
    lines = [
        f"{res['machine'].get('device')}, torch {res['machine'].get('versions', {}).get('torch')}, "
        f"commit {str(res['commit'])[:10]}"
    ]
    return '\n'.join(
        lines
        + [
            f"{k:11} {v['state']:11} {v['seconds']:6.1f} s  {v['text']}"
            for k, v in res['parts'].items()
        ]
    )


def main():
    names = [k for k in parts if k != 'machine']
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('--minutes', type=float, default=9)
    p.add_argument('--device', default='cuda')
    p.add_argument(
        '--quick', action='store_true', help='a rehearsal: a few batches of each, on any device'
    )
    p.add_argument('--parts', nargs='+', default=names, choices=names)
    p.add_argument('--out', type=Path)
    a = p.parse_args()
    is_record = torch.device(a.device).type == 'cuda' and not a.quick
    out = a.out or (root / 'results/gpu.json' if is_record else Path('gpu-rehearsal.json'))
    if not is_record and out.resolve() == root / 'results/gpu.json':
        p.error(
            'results/gpu.json is for an NVIDIA GPU without --quick: choose another file with --out'
        )
    end = time.monotonic() + 60 * a.minutes
    options = dict(device=a.device, quick=a.quick)
    about = run_part('machine', 30, options)
    if about['state'] != 'ok':
        print(f"{a.device}: {about['text']}")
        sys.exit(1)
    res = dict(
        schema=1,
        kind='gpu',
        rehearsal=not is_record,
        quick=a.quick,
        commit=commit(),
        machine=about['found'],
        started=time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
        parts={},
    )
    for name in a.parts:
        limit = min(60 * parts[name][1] * max(1, a.minutes / 9), end - time.monotonic() - 2)
        if limit < 5:
            row = dict(state='left out', seconds=0.0, text='no time left', found={})
        else:
            row = run_part(name, limit, dict(options, so_far=res['parts']))
        res['parts'][name] = row
        print(f"{name}: {row['state']}, {row['seconds']} s: {row['text']}", flush=True)
        write_json(res, out)
    print(f'\n{table(res)}\n{out}')
    sys.exit(any(v['state'] in ('failed', 'wrong') for v in res['parts'].values()))


if __name__ == '__main__':
    main()
