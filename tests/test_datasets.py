"Data sets by name: what does not exist, is incomplete, damaged, or not what was published"
import pickle

import numpy as np, pytest
from faults import Faults, load, pictures, write

from resnet_course.core import CourseError
from resnet_course.loaders import get_dls

faults = Faults()

@faults.error('a misspelled set', "did you mean 'fashion_mnist")
def _(folder): load('fashion_minst')

@faults.error('a name that is no set and no folder', 'unknown data set')
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
