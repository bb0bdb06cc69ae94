#!/usr/bin/env python3
"""What `benchmarks/gpu.py` needs on a GPU machine without a network, in parts of a limited size.

Such a machine has PyTorch, torchvision, timm, accelerate, scikit-learn and so on, but not fastai.

1. Here, with a network and with CIFAR-10 in fastai's data folder (torchvision's binary version):

       python tools/gpu_bundle.py pack              # for Python 3.12 on Linux; writes .gpu/part1 …

   `.gpu` is ignored by git. A part is under 60 MiB, and under 64 MiB together with the files that
   git tracks.
2. Copy the repository and the parts to the machine, at once or one by one. There, in
   the repository, for each part:

       python tools/gpu_bundle.py unpack .gpu/part1 --to /tmp/gpu

   That installs the wheels into /tmp/gpu/site, with `pip install --no-index`, and the images;
   the checksums of their publisher are compared.
3. Then, there, with ten minutes on the clock:

       export PYTHONPATH=$PWD:/tmp/gpu/site FASTAI_HOME=/tmp/gpu PYTHONUNBUFFERED=1
       python benchmarks/gpu.py --minutes 9 --out gpu.json

   and bring `gpu.json` back to `results/gpu.json`. `--parts` runs what a first try has left out.

The rehearsal needs no GPU: a new environment with the machine's packages, `pack --python 3.11` (the
version of that environment), steps 2 and 3 with `--device cpu --quick`.
"""

import argparse, hashlib, os, shutil, subprocess, sys
from pathlib import Path

import numpy as np
from PIL import Image

root = Path(__file__).resolve().parents[1]
# what the machine lacks; with --no-deps, because it has the rest. fastprogress imports fasthtml,
# fastai imports requests, which older versions of huggingface_hub have brought along, but not all
wheels = (
    'fastai>=2.8.7,<2.9',
    'fastcore',
    'fasttransform',
    'fastprogress',
    'fastdownload',
    'plum-dispatch<2.10',
    'beartype',
    'python-fasthtml',
    'starlette',
    'itsdangerous',
    'python-multipart',
    'requests',
    'urllib3',
    'charset-normalizer',
    'idna',
    'certifi',
    'simplejpeg',
)
# CIFAR-10's binary version, with its publisher's checksums. `resnet_course.datasets` has them too,
# but cannot be imported before this is unpacked
batches = {
    'data_batch_1.bin': '5dd7e06a14cb22eb9f671a540d1b7c25',
    'data_batch_2.bin': '5ea93a67294ea407fff1d09f752e9692',
    'data_batch_3.bin': '942cd6a4bcdd0dd3c604fbe906cb4421',
    'data_batch_4.bin': 'ae636b3ba5c66a11e91e8cb52e771fcb',
    'data_batch_5.bin': '53f37980c15c3d472c316c40844f3f0d',
    'test_batch.bin': '803d5f7f4d78ea53de84dbe85f74fb6d',
}
folder, names = 'cifar-10-batches-bin', 'batches.meta.txt'
# of a part with the files of git, and of the part itself
limit, reserve, most = 64 * 2**20, 2**20, 60 * 2**20


def md5(data):
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def to_picture(data):
    "10,000 images as one picture of 3,200×3,200 px, and their classes"
    rows = np.frombuffer(data, np.uint8).reshape(-1, 3073)
    x = rows[:, 1:].reshape(100, 100, 3, 32, 32).transpose(0, 3, 1, 4, 2)
    return Image.fromarray(x.reshape(3200, 3200, 3)), rows[:, 0].tobytes()


def from_picture(im, classes):
    "The bytes of a batch again"
    x = np.asarray(im.convert('RGB')).reshape(100, 32, 100, 32, 3).transpose(0, 2, 4, 1, 3)
    y = np.frombuffer(classes, np.uint8)[:, None]
    return np.concatenate([y, x.reshape(len(y), -1)], 1).tobytes()


def download(python, to):
    "The wheels, for Python `python` on Linux, or for this machine if that is its version"
    cmd = [
        sys.executable,
        '-m',
        'pip',
        'download',
        '-q',
        '--no-deps',
        '--only-binary=:all:',
        '-d',
        to,
    ]
    cmd += ['--python-version', python, '--implementation', 'cp']
    for glibc in ('2_28', '2_27', '2_17'):
        cmd += ['--platform', f'manylinux_{glibc}_x86_64']
    subprocess.run([*cmd, '--platform', 'manylinux2014_x86_64', *wheels], check=True)


def tracked():
    "Bytes of the files that git tracks, which travel with every part"
    out = subprocess.run(
        ['git', 'ls-files', '-z'], cwd=root, capture_output=True, check=True
    ).stdout
    return sum((root / os.fsdecode(f)).stat().st_size for f in out.split(b'\0') if f)


def pack(dest, data, python):
    "Write the parts"
    shutil.rmtree(dest, ignore_errors=True)
    room, part, parts = min(most, limit - reserve - tracked()), [], []
    new = dest / 'new'
    download(python, new / 'wheels')
    commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=root, capture_output=True, text=True)
    (new / 'COMMIT').write_text(commit.stdout)
    for name in batches:
        raw = (data / folder / name).read_bytes()
        if md5(raw) != batches[name]:
            sys.exit(f'{data / folder / name} is not the published file')
        im, classes = to_picture(raw)
        im.save(new / f'{name}.webp', lossless=True, quality=50, method=2)
        (new / f'{name}.y').write_bytes(classes)
        packed = (new / f'{name}.webp').stat().st_size
        print(f'{name}: {len(raw) / 2**20:.0f} MiB as {packed / 2**20:.1f}')
    shutil.copy(data / folder / names, new)
    groups = [[new / 'wheels', new / 'COMMIT', new / names]]
    groups += [[new / f'{n}.webp', new / f'{n}.y'] for n in batches]
    for group in groups:
        if part and size(part + group) > room:
            part = []
        if not part:
            parts.append(part)
        part += group
    for i, part in enumerate(parts, 1):
        if size(part) > room:
            sys.exit(f'part {i} is larger than {room / 2**20:.0f} MiB')
        (dest / f'part{i}').mkdir()
        print(f'{dest}/part{i}: {size(part) / 2**20:.1f} MiB, of {room / 2**20:.1f} MiB')
        for f in part:
            f.rename(dest / f'part{i}' / f.name)
    new.rmdir()


def size(paths):
    files = [f for p in paths for f in (p.rglob('*') if p.is_dir() else [p]) if f.is_file()]
    return sum(f.stat().st_size for f in files)


def unpack(part, to):
    "Install the wheels of a part, and write its images"
    data = to / 'data' / folder
    data.mkdir(parents=True, exist_ok=True)
    if (part / 'wheels').is_dir():
        files = sorted((part / 'wheels').glob('*.whl'))
        subprocess.run(
            [
                sys.executable,
                '-m',
                'pip',
                'install',
                '-q',
                '--no-index',
                '--no-deps',
                '--upgrade',
                '--no-cache-dir',
                '--target',
                to / 'site',
                *files,
            ],
            check=True,
        )
        shutil.copy(part / 'COMMIT', root)
        shutil.copy(part / names, data)
        print(f'{len(files)} wheels in {to / "site"}')
    for f in sorted(part.glob('*.webp')):
        raw = from_picture(Image.open(f), f.with_suffix('.y').read_bytes())
        if md5(raw) != batches[f.stem]:
            sys.exit(f'{f} is damaged')
        (data / f.stem).write_bytes(raw)
        print(data / f.stem)


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sub = p.add_subparsers(required=True, dest='what')
    q = sub.add_parser('pack', help='write the parts')
    q.add_argument('--python', default='3.12', help='its version on the machine')
    q.add_argument('--dest', type=Path, default=root / '.gpu')
    q.add_argument(
        '--data',
        type=Path,
        default=Path(os.environ.get('FASTAI_HOME', '~/.fastai')).expanduser() / 'data',
        help="the folder that holds cifar-10-batches-bin",
    )
    q = sub.add_parser('unpack', help='install a part')
    q.add_argument('parts', type=Path, nargs='+')
    q.add_argument('--to', type=Path, required=True)
    a = p.parse_args()
    if a.what == 'pack':
        return pack(a.dest, a.data, a.python)
    for part in a.parts:
        unpack(part, a.to)


if __name__ == '__main__':
    main()
