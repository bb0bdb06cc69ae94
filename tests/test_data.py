"What fastai does with the course's loaders, on every kind of set; sets that are not on this machine are skipped"
import hashlib, random, shutil, warnings

import matplotlib; matplotlib.use('Agg')
import numpy as np, pytest, torch
from fastai.callback.mixup import CutMix, MixUp
from fastai.distributed import DistributedDL
from fastai.vision.all import (ClassificationInterpretation, DataLoaders, Flatten, Learner, PILImage, accuracy, load_learner, nn, plt)
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset, WeightedRandomSampler
from torchvision import datasets as tv, transforms as T

from resnet_course.core import CourseError
from resnet_course.torch_loaders import as_dls
from resnet_course.loaders import get_dls
from resnet_course.datasets import open_image_set, dataset_path
from resnet_course.evaluate import evaluate, tta
from resnet_course.learner import course_learner

warnings.filterwarnings('ignore')

def net(dls): return nn.Sequential(nn.Conv2d(dls.n_in, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), Flatten(), nn.Linear(8, dls.c))

def learner(dls, path, **kw):
    learn = Learner(dls, net(dls), metrics=accuracy, path=path, **kw)
    learn.remove_cb(learn.progress) if hasattr(learn, 'progress') else None
    learn.logger = lambda *a: None
    return learn

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    d = tmp_path_factory.mktemp('photos')
    for c in ('bee', 'cat', 'dog'):
        for i in range(20):
            (d/c).mkdir(exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (36, 44, 3), dtype=np.uint8)).save(d/c/f'{i}.png')
    return d

KINDS = dict(gray=dict(n_train=300), digits=dict(name_or_path='digits'), as_rgb=dict(n_train=300, n_in=3), enlarged=dict(n_train=200, size=40),
             photos=dict(size=24, bs=8), from_files=dict(size=24, bs=8, in_memory=False, num_workers=0), photos_as_grey=dict(size=24, bs=8, n_in=1),
             cifar10=dict(name_or_path='cifar10', n_train=300, valid_pct=0.01), fashion_mnist=dict(name_or_path='fashion_mnist', n_train=300, valid_pct=0.01))

@pytest.mark.parametrize('kind', KINDS)
def test_everything_of_fastai(kind, photos, tmp_path):
    kw = dict(KINDS[kind])
    if 'photos' in kind or 'files' in kind: kw['name_or_path'] = photos
    name = kw.get('name_or_path', 'digits')
    if isinstance(name, str) and not dataset_path(name): pytest.skip(f'{name} is not on this machine')
    dls = get_dls(device='cpu', **kw)
    xb, yb = dls.one_batch()
    assert xb.shape[1:] == (dls.n_in, dls.size, dls.size) and xb.dtype == torch.float32 and abs(xb.mean()) < 0.6
    assert dls.train.new(shuffle=False).one_batch()[0].shape == xb.shape
    dls.show_batch(max_n=4); dls.test.show_batch(max_n=4)
    learn = learner(dls, tmp_path)
    learn.fit(1)
    assert len(learn.validate()) == 2
    probs, targets = learn.get_preds(dl=dls.test)
    assert probs.shape == (len(dls.test_ds), dls.c) and len(set(targets.tolist())) == dls.c
    f = tmp_path/'x.png'
    im = Image.fromarray(np.random.default_rng(9).integers(0, 256, (50, 40, 3), dtype=np.uint8)); im.save(f)
    got = [learn.predict(o)[2] for o in (f, str(f), f.read_bytes(), im, PILImage.create(f), np.array(im), torch.from_numpy(np.array(im)).permute(2, 0, 1))]
    for g in got[1:]: assert torch.allclose(g, got[0], atol=1e-6)
    assert torch.allclose(learn.get_preds(dl=dls.test_dl([f, im]))[0], torch.stack(got[:2]), atol=1e-6)
    learn.show_results(max_n=4)
    assert learn.lr_find(num_it=8, show_plot=False).valley > 0
    for dl in (None, dls.test)[:1 if len(dls.test_ds) > 5000 else 2]:
        interp = ClassificationInterpretation.from_learner(learn, dl=dl)
        assert interp.confusion_matrix().sum() == len(dl or dls.valid.items) if dl is None else len(dl.dataset)
    interp.plot_confusion_matrix(); interp.plot_top_losses(4); interp.most_confused(); interp.print_classification_report()
    want = learn.predict(f)[2]
    learn.export('x.pkl')
    assert (tmp_path/'x.pkl').stat().st_size < 400_000
    assert torch.allclose(load_learner(tmp_path/'x.pkl').predict(f)[2], want, atol=1e-6)
    assert len(learn.dls.train_ds) == len(dls.train_ds)
    plt.close('all')

@pytest.mark.parametrize('name', ['fashion_mnist_mini', 'digits', 'fashion_mnist', 'cifar10'])
def test_splits_share_no_picture(name):
    if not dataset_path(name): pytest.skip(f'{name} is not on this machine')
    dls = get_dls(name, device='cpu')
    x = dls.train_ds.tls[0].tfms.fs[0].images.x
    sums = [[hashlib.md5(x[i].numpy().tobytes()).digest() for i in dl.items] for dl in dls.loaders]
    sets = [set(s) for s in sums]
    shared = len(sets[0] & sets[1]) + len(sets[0] & sets[2]) + len(sets[1] & sets[2])
    ids = [set(dl.items) for dl in dls.loaders]
    assert not (ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2])
    assert shared <= dict(fashion_mnist=10).get(name, 0), f'{shared} pictures are in two splits'

def first(**kw): return [b[0] for b in get_dls(device='cpu', **kw).train]
def same(a, b): return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))

def test_seeds(photos):
    kw = dict(n_train=400, augment='crop+alternate+cutout+erase+rotate', seed=3)
    a = first(**kw)
    torch.manual_seed(99); random.seed(99); np.random.seed(99)
    assert same(first(**kw), a)
    assert not same(first(**{**kw, 'seed': 4}), a)
    assert not same(first(n_train=400, seed=None), first(n_train=400, seed=None))

def test_workers_change_nothing(photos):
    kw = dict(name_or_path=photos, size=24, bs=8, augment='imagenet', stats='imagenet')
    a = first(**kw)
    assert same(first(**kw, in_memory=False, num_workers=0), a)
    assert same(first(**kw, in_memory=False, num_workers=2), a)

def test_two_epochs_differ_and_validation_does_not():
    dls = get_dls(n_train=300, device='cpu')
    assert not same([b[0] for b in dls.train], [b[0] for b in dls.train])
    assert same([b[0] for b in dls.valid], [b[0] for b in dls.valid])

def test_alternating_mirror_over_epochs():
    "Without shuffling, an image and its mirror image take turns"
    dls = get_dls(n_train=200, bs=50, augment='alternate', device='cpu')
    dl = dls.train.new(shuffle=False)
    def epoch():
        x = torch.cat([x for x, _ in dl])
        for _ in dls.valid: pass   # as in training, between two epochs: it must not take a turn
        return x
    a, b, c = epoch(), epoch(), epoch()
    assert torch.equal(a.flip(-1), b) and torch.equal(a, c)
    plain = torch.cat([x for x, _ in get_dls(n_train=200, bs=50, augment=False, device='cpu').train.new(shuffle=False)])
    turned = (a != plain).flatten(1).any(1).float().mean()
    assert 0.3 < turned < 0.7

def test_processes_share_the_epoch(monkeypatch):
    monkeypatch.setattr(DistributedDL, '_broadcast', lambda self, t, rank: t)
    monkeypatch.setenv('WORLD_SIZE', '2')
    seen = []
    for rank in (0, 1):
        dl = DistributedDL(get_dls('digits', bs=32, augment=False, device='cpu').train, rank=rank, world_size=2)
        seen.append([im.numpy().tobytes() for x, _ in dl for im in torch.Tensor(x)])
    assert len(seen[0]) == len(seen[1]) == len(set(seen[0])) and len(set(seen[0]) & set(seen[1])) <= 1

@pytest.mark.parametrize('cb', [MixUp, CutMix])
def test_mixup_and_cutmix(cb, tmp_path):
    learn = learner(get_dls(n_train=300, device='cpu'), tmp_path, cbs=cb(1.))
    learn.fit(1)
    assert np.isfinite(learn.recorder.values[-1]).all()

def test_small_sets_have_batches(tmp_path):
    for n in (20, 127, 129):
        dls = get_dls(n_train=n, device='cpu')
        assert len(dls.train) >= 1 and sum(len(b[0]) for b in dls.train) >= min(n, 128)

def test_no_validation(tmp_path):
    dls = get_dls(n_train=200, valid_pct=0, device='cpu')
    assert len(dls.valid_ds) == 0
    learner(dls, tmp_path).fit(1)

def test_ten_crops(photos, tmp_path):
    dls = get_dls(photos, size=24, bs=8, device='cpu')
    learn = learner(dls, tmp_path)
    learn.fit(1)
    report = tta(learn, kind='ten_crop')
    probs, y = report.probs, report.targets
    assert torch.allclose(probs.sum(1), torch.ones(len(y)), atol=1e-5)
    plain, y2 = learn.get_preds(dl=dls.test)
    assert torch.equal(y, y2.as_subclass(torch.Tensor)) and not torch.allclose(probs, plain, atol=1e-4) and (probs - plain).abs().mean() < 0.1

def test_cifar_python_and_binary_are_the_same(tmp_path):
    if not dataset_path('cifar10'): pytest.skip('cifar10 is not on this machine')
    import pickle
    binary = open_image_set('cifar10')
    d = tmp_path/'cifar-10-batches-py'
    d.mkdir()
    for k, n in enumerate([f'data_batch_{i}' for i in range(1, 6)] + ['test_batch']):
        i = slice(10_000*k, 10_000*k + 10_000)
        batch = {b'data': binary.x[i].reshape(10_000, -1).numpy(), b'labels': binary.y[i].tolist()}
        (d/n).write_bytes(pickle.dumps(batch, protocol=2))
    python = open_image_set('cifar10', root=tmp_path)
    assert torch.equal(python.x, binary.x) and torch.equal(python.y, binary.y)
    shutil.rmtree(d)

def test_cifar100_both_versions(tmp_path):
    import pickle
    x, fine, names = np.random.default_rng(0).integers(0, 256, (200, 3072), dtype=np.uint8), np.arange(200)%100, [f'n{i:02d}' for i in range(100)]
    py, binary = tmp_path/'a'/'cifar-100-python', tmp_path/'b'/'cifar-100-binary'
    py.mkdir(parents=True); binary.mkdir(parents=True)
    for n in ('train', 'test'):
        (py/n).write_bytes(pickle.dumps({b'data': x, b'fine_labels': fine.tolist(), b'coarse_labels': (fine//5).tolist()}, protocol=2))
        (binary/f'{n}.bin').write_bytes(np.concatenate([(fine//5)[:, None], fine[:, None], x], 1).astype(np.uint8).tobytes())
    (py/'meta').write_bytes(pickle.dumps({b'fine_label_names': [n.encode() for n in names]}, protocol=2))
    (binary/'fine_label_names.txt').write_text('\n'.join(names) + '\n')
    a, b = (open_image_set('cifar100', root=tmp_path/r) for r in 'ab')
    assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and a.vocab == b.vocab == names and a.y[101] == 1

def test_imagenette_folder(tmp_path):
    for s in ('train', 'val'):
        for k, w in enumerate('n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257'.split()):
            d = tmp_path/'imagenette2-160'/s/w
            d.mkdir(parents=True)
            for i in range(5): Image.fromarray(np.full((20, 30, 3), 20*k + i, np.uint8)).save(d/f'{w}_{i}.JPEG')
    dls = get_dls('imagenette_160', size=16, bs=8, root=tmp_path, device='cpu')
    assert list(dls.vocab)[:2] == ['tench', 'English springer'] and [len(d.dataset) for d in dls.loaders] == [45, 5, 50]
    assert dls.stats[0] == [0.485, 0.456, 0.406]
    assert {p.parent.parent.name for p in (dls.test_ds.tls[0].tfms.fs[0].images.files[i] for i in dls.test.items)} == {'val'}

def test_plain_pytorch_loaders(photos, tmp_path):
    stats = [0.5]*3, [0.25]*3
    tfm = T.Compose([T.Resize((24, 24)), T.ToTensor(), T.Normalize(*stats)])
    ds = tv.ImageFolder(photos, tfm)
    train, valid = Subset(ds, range(0, 60, 2)), Subset(ds, range(1, 60, 2))
    dls = as_dls(DataLoader(train, 8, shuffle=True), DataLoader(valid, 8), DataLoader(valid, 8), stats=stats, device='cpu')
    assert list(dls.vocab) == ['bee', 'cat', 'dog'] and dls.size == 24
    learn = learner(dls, tmp_path)
    learn.fit(1); learn.show_results(); learn.lr_find(num_it=4, show_plot=False)
    f = photos/'cat'/'1.png'
    want = learn.predict(f)[2]
    learn.export('t.pkl')
    assert torch.allclose(load_learner(tmp_path/'t.pkl').predict(f)[2], want)
    assert ClassificationInterpretation.from_learner(learn, dl=dls.test).confusion_matrix().sum() == 30
    heavy = DataLoader(train, 8, sampler=WeightedRandomSampler([1.] + [0.]*29, 24))
    assert {int(y) for _, yb in as_dls(heavy, DataLoader(valid, 8), device='cpu').train for y in yb} == {0}
    with pytest.raises(CourseError, match='no test set'): as_dls(heavy, DataLoader(valid, 8), device='cpu').test
    plt.close('all')

def test_course_learner_takes_pytorch_loaders(tmp_path):
    pool = open_image_set('digits')
    ds = TensorDataset(pool.x[:200]/255, pool.y[:200])
    ds.classes = pool.vocab
    for loaders in ([DataLoader(ds, 50)]*3, DataLoaders(*[DataLoader(ds, 50)]*2)):
        learn = course_learner(loaders, 'resnet20', path=tmp_path)
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 0.01)
        assert learn.get_preds()[0].shape == (200, 10)
    report = evaluate(course_learner([DataLoader(ds, 50)]*3, 'resnet20'), 'test')
    assert report.n == 200 and list(report.vocab if hasattr(report, 'vocab') else pool.vocab) == pool.vocab
