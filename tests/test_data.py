"What fastai does with the course's loaders; datasets that are not on this machine are skipped"
import hashlib, random

import matplotlib
matplotlib.use('Agg')
import numpy as np, pytest, torch
from fastai.callback.mixup import CutMix, MixUp
from fastai.distributed import DistributedDL
from fastai.vision.all import ClassificationInterpretation, PILImage, load_learner, plt
from helpers import fastai_learner, noise, photos

from resnet_course.datasets import dataset_path
from resnet_course.loaders import get_dls

pytestmark = pytest.mark.filterwarnings('ignore')

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Class folders of photos"
    return photos(tmp_path_factory.mktemp('photos'), 20, (44, 36), ['bee', 'cat', 'dog'])

def skip_missing(name):
    "Skip a test if this dataset is not on this machine"
    if not dataset_path(name): pytest.skip(f'{name} is not on this machine')

# Every kind of dataset

photo_args = dict(name_or_path='photos', size=24, bs=8)

# arguments of `get_dls`
kinds = dict(
    gray=dict(n_train=300),
    digits=dict(name_or_path='digits'),
    as_rgb=dict(n_train=300, n_in=3),
    enlarged=dict(n_train=200, size=40),
    photos=photo_args,
    from_files=dict(photo_args, in_memory=False, num_workers=0),
    photos_as_gray=dict(photo_args, n_in=1),
    cifar10=dict(name_or_path='cifar10', n_train=300, valid_pct=0.01),
    fashion_mnist=dict(name_or_path='fashion_mnist', n_train=300, valid_pct=0.01))

@pytest.fixture(scope='module', params=kinds)
def dls(request, folder):
    "Loaders of one kind"
    kwargs = dict(kinds[request.param])
    name = kwargs.pop('name_or_path', 'fashion_mnist_mini')
    if name == 'photos': return get_dls(folder, device='cpu', **kwargs)
    skip_missing(name)
    return get_dls(name, device='cpu', **kwargs)

@pytest.fixture(scope='module')
def learn(dls, tmp_path_factory):
    "A learner of fastai's own, trained for an epoch"
    learn = fastai_learner(dls, tmp_path_factory.mktemp('learner'))
    learn.fit(1)
    return learn

@pytest.fixture
def image(): return noise((40, 50), np.random.RandomState(9))

@pytest.fixture
def image_file(image, tmp_path):
    image.save(tmp_path/'x.png')
    return tmp_path/'x.png'

@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')

def test_batches_have_one_shape_and_are_normalized(dls):
    xb, _ = dls.one_batch()
    assert xb.shape[1:] == (dls.n_in, dls.size, dls.size)
    assert xb.dtype == torch.float32 and abs(xb.mean()) < 0.6
    assert dls.train.new(shuffle=False).one_batch()[0].shape == xb.shape

def test_batches_and_results_are_shown(dls, learn):
    dls.show_batch(max_n=4)
    dls.test.show_batch(max_n=4)
    learn.show_results(max_n=4)

def test_learner_validates_and_predicts_the_test_set(dls, learn):
    assert len(learn.validate()) == 2
    probs, targets = learn.get_preds(dl=dls.test)
    assert probs.shape == (len(dls.test_ds), dls.c)
    assert len(set(targets.tolist())) == dls.c

def test_an_image_in_any_form_gets_the_same_prediction(dls, learn, image, image_file):
    pixels = np.array(image)
    forms = [image_file, str(image_file), image_file.read_bytes(), image,
             PILImage.create(image_file), pixels, torch.from_numpy(pixels).permute(2, 0, 1)]
    probs = [learn.predict(o)[2] for o in forms]
    for p in probs[1:]: torch.testing.assert_close(p, probs[0], rtol=1e-5, atol=1e-6)
    both, _ = learn.get_preds(dl=dls.test_dl([image_file, image]))
    torch.testing.assert_close(both, torch.stack(probs[:2]), rtol=1e-5, atol=1e-6)

def test_lr_find_suggests_a_rate(learn):
    assert learn.lr_find(num_it=8, show_plot=False).valley > 0

@pytest.mark.parametrize('split', ['valid', 'test'])
def test_fastai_interprets_each_image_once(dls, learn, split):
    dl = getattr(dls, split)
    n = len(dl.dataset)
    # fastai's default are the validation images
    chosen = None if split == 'valid' else dl
    interp = ClassificationInterpretation.from_learner(learn, dl=chosen)
    assert interp.confusion_matrix().sum() == n
    interp.plot_confusion_matrix()
    interp.plot_top_losses(4)
    interp.most_confused()
    interp.print_classification_report()

def test_exported_learner_is_small_and_predicts_the_same(dls, learn, image_file):
    want = learn.predict(image_file)[2]
    learn.export('x.pkl')
    file = learn.path/'x.pkl'
    assert file.stat().st_size < 400_000
    got = load_learner(file).predict(image_file)[2]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert len(learn.dls.train_ds) == len(dls.train_ds)

# Splits and epochs

# Fashion-MNIST has some images twice
max_shared = dict(fashion_mnist=10)

@pytest.mark.parametrize('name', ['fashion_mnist_mini', 'digits', 'fashion_mnist', 'cifar10'])
def test_splits_share_no_image(name):
    skip_missing(name)
    dls = get_dls(name, device='cpu')
    x = dls.train_ds.tls[0].tfms.fs[0].images.x
    def hash_of(i): return hashlib.md5(x[i].numpy().tobytes()).digest()
    a, b, c = (set(dl.items) for dl in dls.loaders)
    assert not (a & b or a & c or b & c)
    a, b, c = ({hash_of(i) for i in idxs} for idxs in (a, b, c))
    n_shared = len(a & b) + len(a & c) + len(b & c)
    assert n_shared <= max_shared.get(name, 0)

def epoch(*args, **kwargs):
    "The batches of images in the first epoch of new loaders"
    return [xb for xb, _ in get_dls(*args, device='cpu', **kwargs).train]

def same(a, b): return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))

def test_seed_alone_sets_the_images_of_an_epoch():
    kwargs = dict(n_train=400, augment='crop+alternate+cutout+erase+rotate')
    a = epoch(seed=3, **kwargs)
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    assert same(epoch(seed=3, **kwargs), a)
    assert not same(epoch(seed=4, **kwargs), a)
    assert not same(epoch(n_train=400, seed=None), epoch(n_train=400, seed=None))

def test_workers_change_nothing(folder):
    kwargs = dict(size=24, bs=8, augment='imagenet', stats='imagenet')
    a = epoch(folder, **kwargs)
    for n in (0, 2): assert same(epoch(folder, in_memory=False, num_workers=n, **kwargs), a)

def test_two_epochs_differ_and_validation_does_not():
    dls = get_dls(n_train=300, device='cpu')
    train, again = ([xb for xb, _ in dls.train] for _ in range(2))
    valid, again_valid = ([xb for xb, _ in dls.valid] for _ in range(2))
    assert not same(train, again) and same(valid, again_valid)

def test_an_image_and_its_mirror_image_alternate():
    "Seen without shuffling"
    def unshuffled(augment):
        return get_dls(n_train=200, bs=50, augment=augment, device='cpu')
    dls = unshuffled('alternate')
    dl = dls.train.new(shuffle=False)
    def next_epoch():
        x = torch.cat([xb for xb, _ in dl])
        for _ in dls.valid: pass   # as in training, between two epochs: it must not take a turn
        return x
    a, b, c = (next_epoch() for _ in range(3))
    assert torch.equal(a.flip(-1), b) and torch.equal(a, c)
    plain = torch.cat([xb for xb, _ in unshuffled(False).train.new(shuffle=False)])
    mirrored = (a != plain).flatten(1).any(1).float().mean()
    assert 0.3 < mirrored < 0.7

def test_processes_share_the_epoch(monkeypatch):
    monkeypatch.setattr(DistributedDL, '_broadcast', lambda self, t, rank: t)
    monkeypatch.setenv('WORLD_SIZE', '2')
    def images_of(rank):
        dls = get_dls('digits', bs=32, augment=False, device='cpu')
        dl = DistributedDL(dls.train, rank=rank, world_size=2)
        return [im.numpy().tobytes() for xb, _ in dl for im in torch.Tensor(xb)]
    a, b = images_of(0), images_of(1)
    assert len(a) == len(b) == len(set(a))
    assert len(set(a) & set(b)) <= 1

@pytest.mark.parametrize('cb', [MixUp, CutMix])
def test_mixed_images_give_finite_losses(cb, tmp_path):
    learn = fastai_learner(get_dls(n_train=300, device='cpu'), tmp_path, cbs=cb(1.))
    learn.fit(1)
    assert np.isfinite(learn.recorder.values[-1]).all()

@pytest.mark.parametrize('n', [20, 127, 129])
def test_small_sets_have_batches(n):
    train = get_dls(n_train=n, device='cpu').train
    assert len(train) >= 1 and sum(len(xb) for xb, _ in train) >= min(n, 128)

def test_training_works_without_validation_images(tmp_path):
    dls = get_dls(n_train=200, valid_pct=0, device='cpu')
    assert len(dls.valid_ds) == 0
    fastai_learner(dls, tmp_path).fit(1)
