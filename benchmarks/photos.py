#!/usr/bin/env python3
"""Photos from files: this course's loaders and predictions, and what people would write instead.

    python benchmarks/photos.py [--parts decode train predict list finetune] [--rounds 5]

Photos are JPEG files of 500×375 and of 2,000×1,500 pixels, cut from the two that come with
scikit-learn. Everything runs on the CPU, with two threads or two processes that read. The
pipelines take turns for several rounds, and the median of each counts; the record has all rounds.

decode: milliseconds for one photo, in one thread.
train: images per second of training batches at 224 px, with a random resized crop and a flip.
predict: images per second that ResNet-50 classifies at 224 px; random weights, which take as long.
list: a million files, hard links to a thousand: seconds and memory until the loaders are there, and
the memory after each of 24 epochs that draw their order and end after thirty batches. With
--million 50000, also what a million would take at that rate, marked as extrapolated.
finetune: seconds from files to a trained network, and its test accuracy, for photos of flowers in
fastai's data folder: fine_tune of this course, fastai's fine_tune, and the loop of PyTorch's
transfer-learning tutorial. Same files, networks, initial weights, epochs and cores; three seeds,
and in each the three take turns. ResNet-50 starts from He et al.'s weights in fastai's data folder,
ResNet-18 from torchvision's in PyTorch's cache; from random weights, the same for all, where these
are missing, and the record says so. About an hour and a half on two idle cores; a seed is written
when it is complete, and an interrupted study continues with the next.

--quick uses few photos and one round, to see that everything works, and writes no record.
"""
import argparse, io, json, os, resource, shutil, subprocess, sys, tempfile, time
from pathlib import Path
from statistics import median

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root))
p = argparse.ArgumentParser(description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter)
parts = ['decode', 'train', 'predict', 'list', 'finetune']
p.add_argument('--parts', nargs='+', default=parts, choices=parts)
p.add_argument('--rounds', type=int, default=5)
p.add_argument('--photos', type=int, default=400, help='files of 500 px; a tenth of 2,000 px')
p.add_argument('--million', type=int, default=1_000_000, help='files of the part `list`')
p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='of `finetune`')
p.add_argument('--epochs', type=int, default=3, help='of `finetune`, after one of the head')
p.add_argument('--quick', action='store_true')
p.add_argument('--out', type=Path, help='[default: results/photos.json; none with --quick]')
p.add_argument('--listing', type=Path, help=argparse.SUPPRESS)
a = p.parse_args()
sizes = dict(train=600, valid=200, test=500)
px, bs = 224, 32
if a.quick:
    a.rounds, a.photos, a.million, a.seeds, a.epochs = 1, 40, 1000, [0], 1
    sizes, px, bs = dict(train=20, valid=10, test=10), 64, 5
elif not a.out: a.out = root/'results/photos.json'

import numpy as np, torch
from fastai.vision.all import (
    Adam, CrossEntropyLossFlat, Flip, ImageDataLoaders, Learner, Normalize, RandomResizedCrop,
    accuracy, get_image_files, imagenet_stats)
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.models import ResNet18_Weights

from resnet_course import images
from resnet_course.core import write_json
from resnet_course.datasets import data_home
from resnet_course.loaders import get_dls
from resnet_course.models import create_model
from resnet_course.weights import load_weights
from resnet_course.learner import course_learner
from resnet_course.evaluate import evaluate
from resnet_course.predict import predict_images
from resnet_course.records import machine, versions
from resnet_course.runs import mean_ci

torch.set_num_threads(2)
mean, std = imagenet_stats

def write_photos(folder, width, height, n):
    "JPEG files in two class folders: windows of the sample photos, with a little noise"
    rng = np.random.RandomState(0)
    sources = [Image.fromarray(o) for o in load_sample_images().images]
    for i in range(n):
        im = sources[i%2]
        w = int(im.width*rng.uniform(.5, .85))
        h = w*height//width
        left, top = rng.randint(im.width - w), rng.randint(im.height - h)
        im = im.resize((width, height), Image.Resampling.BICUBIC, (left, top, left + w, top + h))
        x = np.asarray(im) + rng.randn(height, width, 1)*4
        file = folder/'ab'[i%2]/f'{i}.jpg'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(file, quality=90)
    return folder

def alternate(pipelines):
    "Name → the results of all rounds; the pipelines take turns"
    rounds = {name: [] for name in pipelines}
    for i in range(a.rounds):
        for name, measure in pipelines.items(): rounds[name].append(measure())
        latest = ', '.join(f'{name} {v[-1]:.1f}' for name, v in rounds.items())
        print(f'round {i + 1} of {a.rounds}: {latest}', flush=True)
    return rounds

def summary(rounds, digits=1):
    "Medians and all rounds"
    return {name: dict(median=round(median(v), digits), rounds=[round(o, digits) for o in v])
            for name, v in rounds.items()}

# decoding

def milliseconds(decode, data):
    "Milliseconds of one processor for one photo"
    start = time.process_time()
    for b in data: decode(b)
    return 1000*(time.process_time() - start)/len(data)

def with_pillow(b): return Image.open(io.BytesIO(b)).convert('RGB')

def with_torchvision(b):
    return decode_jpeg(torch.frombuffer(bytearray(b), dtype=torch.uint8), ImageReadMode.RGB)

def with_pillow_at_half_size(b):
    im = Image.open(io.BytesIO(b))
    im.draft('RGB', (im.width//2, im.height//2))
    return im.convert('RGB')

def decoders():
    found = dict(Pillow=with_pillow, torchvision=with_torchvision)
    try:
        import simplejpeg
        found['simplejpeg'] = simplejpeg.decode_jpeg
    except ImportError: pass
    return dict(found, **{'Pillow, half size': with_pillow_at_half_size})

def decode(folder):
    torch.set_num_threads(1)
    data = [f.read_bytes() for f in sorted(folder.rglob('*.jpg'))[:60]]
    rounds = alternate({name: lambda f=f: milliseconds(f, data) for name, f in decoders().items()})
    torch.set_num_threads(2)
    return summary(rounds, 2)

# training batches

def rate(dl, n):
    "Images per second over `n` images, after two batches"
    done = start = 0
    while True:
        for i, (xb, _) in enumerate(dl):
            if start: done += len(xb)
            elif i == 1: start = time.perf_counter()
            if done >= n: return done/(time.perf_counter() - start)

def torchvision_dl(folder):
    tfm = T.Compose([T.RandomResizedCrop(224), T.RandomHorizontalFlip(), T.ToTensor(),
                     T.Normalize(mean, std)])
    return DataLoader(ImageFolder(folder, tfm), 64, shuffle=True, drop_last=True, num_workers=2,
                      persistent_workers=True)

def fastai_dl(folder):
    return ImageDataLoaders.from_folder(
        folder, valid_pct=.02, bs=64, num_workers=2, device='cpu',
        item_tfms=RandomResizedCrop(224, min_scale=.08),
        batch_tfms=[Flip(), Normalize.from_stats(mean, std)]).train

def train(folder):
    n = sum(1 for _ in folder.rglob('*.jpg'))
    loaders = dict(ours=get_dls(folder, 64, size=224, valid_pct=.02, augment='imagenet',
                                num_workers=2, in_memory=False, device='cpu').train,
                   torchvision=torchvision_dl(folder), fastai=fastai_dl(folder))
    rounds = alternate({name: lambda dl=dl: rate(dl, 2*n) for name, dl in loaders.items()})
    res = summary(rounds)
    for other in ('torchvision', 'fastai'):
        pairs = zip(rounds['ours'], rounds[other])
        res[f'times {other}'] = round(median(o/t for o, t in pairs), 2)
    return res

# prediction

class Files(Dataset):
    "What a hand-written loop reads"
    tfm = T.Compose([T.Resize(256), T.CenterCrop(224), T.ToTensor(), T.Normalize(mean, std)])
    def __init__(self, files): self.files = files
    def __len__(self): return len(self.files)
    def __getitem__(self, i): return self.tfm(Image.open(self.files[i]).convert('RGB'))

def by_hand(model, files, fast):
    "A loop as people write it; the fast one in bfloat16, channels-last, one process that reads"
    dl, half = DataLoader(Files(files), 64, num_workers=int(fast)), torch.bfloat16
    start = time.perf_counter()
    with torch.inference_mode(), torch.autocast('cpu', half, enabled=fast):
        for x in dl:
            if fast: x = x.contiguous(memory_format=torch.channels_last)
            model(x).float().softmax(1)
    return len(files)/(time.perf_counter() - start)

def ours(model, files):
    start = time.perf_counter()
    assert len(list(predict_images(model, files))) == len(files)
    return len(files)/(time.perf_counter() - start)

def predict(folder):
    files = sorted(folder.rglob('*.jpg'))[:192]
    model = create_model('resnet50', n_out=1000).eval()
    fast = create_model('resnet50', n_out=1000).eval().to(memory_format=torch.channels_last)
    model.meta = dict(vocab=list(map(str, range(1000))), size=224, side=256, stats=(mean, std))
    rounds = alternate({'ours': lambda: ours(model, files),
                        'bfloat16 by hand': lambda: by_hand(fast, files, True),
                        'float32 by hand': lambda: by_hand(model, files, False)})
    res = summary(rounds)
    for other in ('bfloat16 by hand', 'float32 by hand'):
        pairs = zip(rounds['ours'], rounds[other])
        res[f'times {other}'] = round(median(o/t for o, t in pairs), 2)
    return res

# a million files

def list_million(tmp):
    "In a process of its own, so that its memory can be read"
    sources = sorted(write_photos(tmp/'sources', 500, 375, min(1000, a.million//10)).rglob('*.jpg'))
    start = time.perf_counter()
    for c in range(100):
        d = tmp/'million'/f'{c:03}'
        d.mkdir(parents=True)
        for i in range(a.million//100): os.link(sources[(100*i + c)%len(sources)], d/f'{i}.jpg')
    linking = round(time.perf_counter() - start, 1)
    out = subprocess.run([sys.executable, __file__, '--listing', tmp/'million'], check=True,
                         capture_output=True, text=True).stdout
    res = dict(json.loads(out.splitlines()[-1]), seconds_to_link=linking)
    n = res['files']
    res['files_per_second'] = round(n/res['seconds'])
    if n < 1_000_000:   # part of the time and memory does not grow with the number of files
        res['extrapolated_to_a_million'] = dict(
            seconds=round(res['seconds']*1e6/n),
            gb=round(res['gb_before'] + (res['gb'] - res['gb_before'])*1e6/n, 1))
    return res

def time_listing(folder):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    # of a million files, 64 are checked; of fewer, too, so that the time can be extrapolated
    find = images._find_bad
    images._find_bad = lambda files, seconds, **kwargs: find(files, 0, **kwargs)
    dls = get_dls(folder, 64, size=224, device='cpu', num_workers=2)
    res = dict(files=sum(len(dl.dataset) for dl in dls.loaders),
               seconds=round(time.perf_counter() - start, 1))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss   # KiB
    res |= dict(gb=round(after/1e6, 2), gb_before=round(before/1e6, 2), gb_after_epochs=[])
    for _ in range(24):
        for _ in zip(range(30), dls.train): pass
        res['gb_after_epochs'].append(round(gigabytes_in_use(), 3))
    print(json.dumps(res))

def gigabytes_in_use():
    "Memory of this process and of those that read photos, with shared pages counted once (Linux)"
    children = Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()
    texts = [Path(f'/proc/{pid}/smaps_rollup').read_text() for pid in ['self', *children]]
    pss = [int(line.split()[1]) for text in texts for line in text.splitlines()
           if line.startswith('Pss:')]
    return sum(pss)/1e6   # KiB

# fine-tuning, from files to a tested network

def split_flowers(folder):
    "Photos of flowers in folders train, valid and test, equally many per class"
    source, rng = data_home()/'flowers', np.random.RandomState(0)
    classes = sorted(d.name for d in source.iterdir() if d.is_dir())
    for c in classes:
        files = iter(rng.permutation(sorted(map(str, (source/c).glob('*.jpg')))))
        for split, n in sizes.items():
            (folder/split/c).mkdir(parents=True)
            for _ in range(n//len(classes)): shutil.copy(next(files), folder/split/c)
    return folder

def start_of(arch):
    "The file of the initial weights, or None"
    if arch == 'resnet50': f = data_home()/'weights/resnet50-imagenet-v1.pth'
    else:
        name = ResNet18_Weights.IMAGENET1K_V1.url.rpartition('/')[2]
        f = Path(torch.hub.get_dir())/'checkpoints'/name
    return f if f.is_file() else None

def new_network(arch, seed):
    "The same network for all: He et al.'s, with a new head"
    torch.manual_seed(seed)
    variant = dict(variant='v1') if arch == 'resnet50' else {}
    net = create_model(arch, n_out=5, stem='imagenet', **variant)
    if start_of(arch): load_weights(net, start_of(arch), **variant)
    return net

def tune_ours(folder, net, seed):
    dls = get_dls(folder, bs, size=px, augment='imagenet', stats='imagenet', seed=seed,
                  num_workers=2, device='cpu')
    learn = course_learner(dls, net, seed=seed, opt_func=Adam)
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(a.epochs)
    return lambda: evaluate(learn).top1

def three_groups(net):
    "As fastai splits a ResNet"
    early = [net.conv1, net.bn1, net.layer1, net.layer2]
    parts = early, [net.layer3, net.layer4], [net.fc]
    return [[p for m in ms for p in m.parameters()] for ms in parts]

def tune_fastai(folder, net, seed):
    torch.manual_seed(seed)
    dls = ImageDataLoaders.from_folder(
        folder, train='train', valid='valid', bs=bs, num_workers=2, device='cpu', seed=seed,
        item_tfms=RandomResizedCrop(px, min_scale=.08),
        batch_tfms=[Flip(), Normalize.from_stats(mean, std)])
    learn = Learner(dls, net, CrossEntropyLossFlat(), metrics=accuracy, splitter=three_groups)
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(a.epochs)
    def test():
        dl = dls.test_dl(get_image_files(folder/'test'), with_labels=True)
        with learn.no_bar(): return float(learn.validate(dl=dl)[1])
    return test

def torch_loader(folder, train):
    "As in PyTorch's tutorial"
    first = [T.RandomResizedCrop(px), T.RandomHorizontalFlip()] if train else [
        T.Resize(px*256//224), T.CenterCrop(px)]
    tfm = T.Compose([*first, T.ToTensor(), T.Normalize(mean, std)])
    return DataLoader(ImageFolder(folder, tfm), bs, shuffle=train, num_workers=2)

@torch.no_grad()
def torch_accuracy(net, dl):
    net.eval()
    right = sum(int((net(x).argmax(1) == y).sum()) for x, y in dl)
    return right/len(dl.dataset)

def tune_torch(folder, net, seed):
    "Its loop and optimizer; the rate is 0.001 for batches of 4 there"
    torch.manual_seed(seed)
    train, valid = (torch_loader(folder/s, s == 'train') for s in ('train', 'valid'))
    opt = torch.optim.SGD(net.parameters(), lr=0.001*bs/4, momentum=0.9)
    sched = torch.optim.lr_scheduler.StepLR(opt, step_size=7, gamma=0.1)
    for _ in range(1 + a.epochs):
        net.train()
        for x, y in train:
            opt.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            opt.step()
        sched.step()
        torch_accuracy(net, valid)
    return lambda: torch_accuracy(net, torch_loader(folder/'test', False))

ways = dict(ours=tune_ours, fastai=tune_fastai, PyTorch=tune_torch)

def finetune(folder, res, save):
    "For each network and seed: seconds and test accuracy of each way; complete seeds stay in `res`"
    for arch in ('resnet18', 'resnet50'):
        f = start_of(arch)
        setting = dict(start=f.name if f else 'random weights', px=px, bs=bs, images=sizes,
                       epochs=[1, a.epochs])
        was = res.get(arch, {})
        same = all(was.get(k) == v for k, v in setting.items())
        runs = was['runs'] if same else {way: [] for way in ways}
        for seed in a.seeds:
            if any(r['seed'] == seed for r in runs['ours']): continue
            # the ways take turns, so that the machine was the same for all
            done = {way: tuned(arch, way, folder, seed) for way in ways}
            for way, run in done.items(): runs[way].append(run)
            res[arch] = dict(setting, runs=runs)
            if len(runs['ours']) > 1: res[arch].update(compared(runs))   # an interval needs two
            save()

def tuned(arch, way, folder, seed):
    "Fine-tune once: the seconds that training took, and the accuracy on the test photos"
    net, start = new_network(arch, seed), time.perf_counter()
    test = ways[way](folder, net, seed)
    seconds = time.perf_counter() - start
    run = dict(seed=seed, seconds=round(seconds, 1), top1=test(), commit=versions().get('commit'))
    print(arch, way, run['seed'], run['seconds'], run['top1'], flush=True)
    return run

def compared(runs):
    "Mean accuracies, and the differences and ratios to ours, in pairs by seed"
    def pairs(other, key): return [(o[key], t[key]) for o, t in zip(runs['ours'], runs[other])]
    others = [way for way in runs if way != 'ours']
    return dict(
        top1={way: mean_ci([o['top1'] for o in rows]) for way, rows in runs.items()},
        gain={way: mean_ci([o - t for o, t in pairs(way, 'top1')]) for way in others},
        **{f'times {way}': round(median(t/o for o, t in pairs(way, 'seconds')), 2)
           for way in others})

def main():
    if a.listing: return time_listing(a.listing)
    res = json.loads(a.out.read_text()) if a.out and a.out.is_file() else {}
    made = dict(machine=machine('cpu'), versions=versions(), rounds=a.rounds,
                finished=time.strftime('%Y-%m-%d', time.gmtime()))
    res.setdefault('made', {}).update(dict.fromkeys(a.parts, made))   # parts run at other times
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        small, large = tmp/'500', tmp/'2000'
        if {'decode', 'train', 'predict'} & set(a.parts): write_photos(small, 500, 375, a.photos)
        if {'decode', 'train'} & set(a.parts):
            write_photos(large, 2000, 1500, max(140, a.photos//10))
        for part, f in dict(decode=decode, train=train, predict=predict).items():
            if part not in a.parts: continue
            for px, folder in {'500 px': small, '2000 px': large}.items():
                if part == 'predict' and folder is large: continue
                print(f'{part}, {px}', flush=True)
                res.setdefault(part, {})[px] = f(folder)
        if 'list' in a.parts: res['list'] = list_million(tmp)
        if 'finetune' in a.parts:
            finetune(split_flowers(tmp/'flowers'), res.setdefault('finetune', {}),
                     lambda: a.out and write_json(res, a.out))
    if a.out: write_json(res, a.out)
    print(json.dumps(res, indent=1))

if __name__ == '__main__': main()
