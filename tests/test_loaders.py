"Splits and loaders: small sets, wrong arguments, and what is recorded to repeat them"
from pathlib import Path

import numpy as np, pytest, torch
from faults import Faults, load, pictures
from PIL import Image

from resnet_course.images import ImageSet
from resnet_course.splits import split_id
from resnet_course.loaders import get_dls

faults = Faults()

# Few images

@faults.error('one image a class', 'no training images of')
def _(folder): load(pictures(folder, 1))

@faults.works('two images a class', 4)
def _(folder): return load(pictures(folder, 2))

@faults.works('three images a class', 6)
def _(folder): return load(pictures(folder, 3))

@faults.works('fewer images than a batch', 16)
def _(folder): return load(pictures(folder), bs=512)

# Wrong arguments

def wrong(title, says, **kwargs):
    "An argument of `get_dls` that is refused"
    @faults.error(title, says)
    def _(folder): get_dls(**kwargs)

wrong('bs=0', 'at least one image', bs=0)
wrong("bs='64'", 'give a whole number', bs='64')
wrong('size=0', 'give pixels', size=0)
wrong('size=100_000', 'give pixels', size=100_000)
wrong('valid_pct=10 (per cent)', '0.1 for 10%', valid_pct=10)
wrong('valid_pct=-0.1', 'give a fraction', valid_pct=-0.1)
wrong('n_train=3 of ten classes', 'larger n_train', n_train=3)
wrong('n_train=0', 'give a number', n_train=0)
wrong('n_in=4', '1 channel (gray) or 3', n_in=4)
wrong('stats of two channels', 'one or three means', stats=([0, 0], [1, 1]))
wrong('a standard deviation of 0', 'above 0', stats=([0.5], [0.]))
wrong('a misspelled augmentation', "did you mean 'mirror'", augment='miror')
wrong('fancy PCA on gray images', 'needs color', augment='alexnet')

@faults.error('no images to predict', 'no images to predict')
def _(folder): get_dls().test_dl([])

@pytest.mark.parametrize('fault', faults, ids=lambda fault: fault.title)
def test_input_gets_an_error_or_works(fault, tmp_path): fault.check(tmp_path)

# What is recorded

def id_of(*files):
    "The `split_id` of two image files"
    images = ImageSet('x', [0, 1], ['a', 'b'], files=[Path(f) for f in files])
    return split_id(images, ([0], [1], []))

def test_split_id_of_names_that_are_not_utf8():
    assert id_of('caf\udce9.jpg', 'b.png') != id_of('a.png', 'b.png')

def test_split_id_does_not_depend_on_the_folder():
    assert id_of('photos/a.png', 'photos/b.png') == id_of('a.png', 'b.png')

def test_seed_that_was_drawn_is_kept():
    dls = get_dls('digits', seed=None, device='cpu')
    again = get_dls(**dls.cfg, device='cpu')
    other = get_dls('digits', device='cpu')
    assert isinstance(dls.cfg['seed'], int)
    assert again.split_id == dls.split_id != other.split_id
    assert torch.equal(dls.train.one_batch()[0], again.train.one_batch()[0])

def test_constant_channel(tmp_path):
    "Its standard deviation is replaced by 1"
    for c in 'ab':
        (tmp_path/c).mkdir()
        for i in range(8):
            im = np.full((16, 16, 3), 200, np.uint8)
            im[..., 0] = np.random.RandomState(i).randint(256, size=(16, 16))
            Image.fromarray(im).save(tmp_path/c/f'{c}{i}.png')
    dls = get_dls(tmp_path, bs=4, size=16, augment=False, device='cpu')
    assert dls.stats[1][1:] == [1., 1.]
    assert dls.train.one_batch()[0][:, 1:].abs().max() < 1e-3
