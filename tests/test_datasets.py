"Data sets by name: what does not exist, is incomplete, damaged, or not what was published"
import hashlib, pickle, shutil
from dataclasses import replace

import numpy as np, pytest, torch
from faults import Faults, load, pictures, write
from PIL import Image

from resnet_course.core import CourseError
from resnet_course.datasets import dataset_path, datasets, get_dataset, open_image_set
from resnet_course.loaders import get_dls

faults = Faults()

# What is refused

@faults.error('a misspelled set', "did you mean 'fashion_mnist")
def _(folder): load('fashion_minst')

@faults.error('a name that is no set and no folder', 'unknown dataset')
def _(folder): load('my_photos')

def idx_bytes(array):
    "An array of bytes in the format of MNIST's files"
    shape = np.array(array.shape, '>i4').tobytes()
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()

@faults.error('Fashion-MNIST cut short', 'is truncated')
def _(folder):
    images, labels = np.zeros((20, 28, 28), np.uint8), np.arange(20, dtype=np.uint8)%10
    raw = folder/'FashionMNIST'/'raw'
    for part in ('train', 't10k'):
        write(raw/f'{part}-images-idx3-ubyte', idx_bytes(images)[:-5])
        write(raw/f'{part}-labels-idx1-ubyte', idx_bytes(labels)[:-5])
    load('fashion_mnist', size=None, root=folder)

@faults.error('CIFAR-10 binary cut short', 'truncated')
def _(folder):
    raw = folder/'cifar-10-batches-bin'
    for i in range(1, 6): write(raw/f'data_batch_{i}.bin', bytes(3073))
    write(raw/'test_batch.bin', bytes(99))
    load('cifar10', root=folder)

def load_cifar10(folder, batch):
    "CIFAR-10 with this object in each of its files for Python"
    raw = folder/'cifar-10-batches-py'
    for i in range(1, 6): write(raw/f'data_batch_{i}', pickle.dumps(batch, protocol=2))
    write(raw/'test_batch', b'')
    load('cifar10', root=folder)

@faults.error('CIFAR-10 with a pickle that runs code', 'not the published file')
def _(folder): load_cifar10(folder, print)

@faults.error('CIFAR-10 with a pickle of something else', 'not the published file')
def _(folder): load_cifar10(folder, [1])

@faults.error('ImageNet that is not there', 'train and val')
def _(folder): load('imagenet', root=folder)

@faults.error('ImageNet with two classes', 'has 2 class folders')
def _(folder):
    for split in ('train', 'val'): pictures(folder/'imagenet'/split)
    load('imagenet', root=folder)

@pytest.mark.parametrize('fault', faults, ids=lambda fault: fault.title)
def test_input_gets_an_error_or_works(fault, tmp_path): fault.check(tmp_path)

def test_incomplete_set(tmp_path):
    folder = tmp_path/'cifar-10-batches-py'
    folder.mkdir()
    for name in ('data_batch_5', 'test_batch'): (folder/name).write_bytes(b'')
    with pytest.raises(CourseError, match='is incomplete: remove it'):
        get_dls('cifar10', root=tmp_path)

# What is read

def test_cifar10_is_the_same_in_both_formats(tmp_path):
    if not dataset_path('cifar10'): pytest.skip('cifar10 is not on this machine')
    binary = open_image_set('cifar10')
    names = [f'data_batch_{i}' for i in range(1, 6)] + ['test_batch']
    for k, name in enumerate(names):
        part = slice(10_000*k, 10_000*k + 10_000)
        batch = {b'data': binary.x[part].reshape(10_000, -1).numpy(),
                 b'labels': binary.y[part].tolist()}
        write(tmp_path/'cifar-10-batches-py'/name, pickle.dumps(batch, protocol=2))
    python = open_image_set('cifar10', root=tmp_path)
    assert torch.equal(python.x, binary.x) and torch.equal(python.y, binary.y)
    shutil.rmtree(tmp_path/'cifar-10-batches-py')   # 180 MB, and pytest keeps folders

def test_cifar100_is_the_same_in_both_formats(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (200, 3072), dtype=np.uint8)
    fine, names = np.arange(200, dtype=np.uint8)%100, [f'n{i:02d}' for i in range(100)]
    coarse = fine//5
    batch = {b'data': images, b'fine_labels': fine.tolist(), b'coarse_labels': coarse.tolist()}
    rows = np.concatenate([coarse[:, None], fine[:, None], images], 1)
    python, binary = tmp_path/'a'/'cifar-100-python', tmp_path/'b'/'cifar-100-binary'
    for part in ('train', 'test'):
        write(python/part, pickle.dumps(batch, protocol=2))
        write(binary/f'{part}.bin', rows.tobytes())
    meta = {b'fine_label_names': [n.encode() for n in names]}
    write(python/'meta', pickle.dumps(meta, protocol=2))
    write(binary/'fine_label_names.txt', '\n'.join(names) + '\n')
    a, b = (open_image_set('cifar100', root=tmp_path/root) for root in 'ab')
    assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)
    assert a.vocab == b.vocab == names and a.y[101] == 1

IMAGENETTE = ['n01440764', 'n02102040', 'n02979186', 'n03000684', 'n03028079', 'n03394916',
              'n03417042', 'n03425413', 'n03445777', 'n03888257']

def test_imagenette_has_names_and_is_tested_on_its_val_folder(tmp_path):
    for split in ('train', 'val'):
        for k, c in enumerate(IMAGENETTE):
            folder = tmp_path/'imagenette2-160'/split/c
            folder.mkdir(parents=True)
            for i in range(5):
                im = Image.new('RGB', (30, 20), (20*k + i,)*3)
                im.save(folder/f'{c}_{i}.JPEG')
    dls = get_dls('imagenette_160', size=16, bs=8, root=tmp_path, device='cpu')
    assert list(dls.vocab)[:2] == ['tench', 'English springer']
    assert [len(dl.dataset) for dl in dls.loaders] == [45, 5, 50]
    assert dls.stats[0] == [0.485, 0.456, 0.406]
    files = dls.test_ds.tls[0].tfms.fs[0].images.files
    assert {files[i].parent.parent.name for i in dls.test.items} == {'val'}

def test_unpacked_files_must_be_the_published_ones(tmp_path, monkeypatch):
    "An archive with the right checksum is there already, but a file in it has another one"
    folder = tmp_path/'src'/'cifar-100-python'
    folder.mkdir(parents=True)
    for name in ('train', 'test', 'meta'): (folder/name).write_bytes(b'')
    archive = shutil.make_archive(tmp_path/'archives'/'set', 'gztar', tmp_path/'src')
    with open(archive, 'rb') as f: data = f.read()
    urls = {'http://127.0.0.1:9/set.tar.gz': (len(data), hashlib.md5(data).hexdigest())}
    info = replace(datasets['cifar100'], urls=urls, sums={'meta': '0'*32})
    monkeypatch.setitem(datasets, 'cifar100', info)
    with pytest.raises(CourseError, match='meta is not the published file'):
        get_dataset('cifar100', tmp_path, progress=False)
