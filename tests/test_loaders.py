from pathlib import Path

import numpy as np, torch
from PIL import Image

from resnet_course.images import ImageSet
from resnet_course.loaders import get_dls, split_id

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
