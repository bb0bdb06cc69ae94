#!/usr/bin/env python3
"""Rebuild the embedded Fashion-MNIST subset, bit for bit.

    python tools/build_fashion_mnist_mini.py [--source DIR] [--out DIR]

DIR holds the publisher's four idx files, gzipped or not: Debian's `dataset-fashion-mnist` puts
them in /usr/share/datasets/fashion-mnist, torchvision and fastai in FashionMNIST/raw. 1,000
training and 200 test images of each class are drawn with a fixed seed from the official
training and test sets respectively, and keep the official order. The result is four idx files
again, compressed with xz.
"""
import argparse, gzip, hashlib, lzma
from pathlib import Path

import numpy as np

raw_sha256 = {  # of the publisher's files, uncompressed
    'train-images-idx3-ubyte': 'c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888',
    'train-labels-idx1-ubyte': 'bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9',
    't10k-images-idx3-ubyte': '5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b',
    't10k-labels-idx1-ubyte': '0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34'}
seed = 2017   # the year in which the dataset was published
n_per_class = {'train': 1000, 't10k': 200}

def read_raw(folder, name):
    "The bytes of one published file, verified"
    found = [*sorted(folder.rglob(name)), *sorted(folder.rglob(f'{name}.gz'))]
    if not found: raise SystemExit(f'{name} is not in {folder}')
    data = found[0].read_bytes()
    if found[0].suffix == '.gz': data = gzip.decompress(data)
    if hashlib.sha256(data).hexdigest() != raw_sha256[name]:
        raise SystemExit(f'{found[0]} is not the published file')
    return data

def draw(labels, n, rng):
    "`n` indices of each class, in order"
    drawn = [rng.permutation(np.flatnonzero(labels == c))[:n] for c in range(10)]
    return np.sort(np.concatenate(drawn))

def idx_bytes(a):
    "`a` in the idx format: two zero bytes, type (8: unsigned byte), number of axes, sizes, data"
    head = bytes([0, 0, 8, a.ndim]) + np.array(a.shape, '>i4').tobytes()
    return head + a.astype(np.uint8).tobytes()

def build(source, out):
    "Write the four files of the subset to `out`; return their sha256, uncompressed"
    # NumPy's compatibility policy freezes the stream of RandomState; that of Generator may change
    rng, sums = np.random.RandomState(seed), {}
    out.mkdir(parents=True, exist_ok=True)
    for part, n in n_per_class.items():
        images = read_raw(source, f'{part}-images-idx3-ubyte')
        labels = read_raw(source, f'{part}-labels-idx1-ubyte')
        images = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.frombuffer(labels, np.uint8, offset=8)
        keep = draw(labels, n, rng)
        for kind, a in (('images-idx3', images[keep]), ('labels-idx1', labels[keep])):
            name, data = f'{part}-{kind}-ubyte', idx_bytes(a)
            (out/f'{name}.xz').write_bytes(lzma.compress(data, preset=9))
            sums[name] = hashlib.sha256(data).hexdigest()
    return sums

if __name__ == '__main__':
    debian = Path('/usr/share/datasets/fashion-mnist')
    home = Path('~/.fastai/data/FashionMNIST/raw').expanduser()
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--source', type=Path, default=debian if debian.is_dir() else home)
    p.add_argument('--out', type=Path,
                   default=Path(__file__).parents[1]/'resnet_course/assets/fashion_mnist_mini')
    a = p.parse_args()
    for name, sha256 in build(a.source, a.out).items(): print(sha256, name)
