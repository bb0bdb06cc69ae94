"PyTorch's own loaders do what fastai's do, or are refused"
import os, sys

import pytest, torch
from fastai.vision.all import ClassificationInterpretation, DataLoaders, load_learner, plt
from faults import Faults
from helpers import fastai_learner, photos, quiet
from torch.utils.data import (BatchSampler, DataLoader, Dataset, SequentialSampler, Subset,
                              TensorDataset, WeightedRandomSampler)
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from resnet_course import torch_loaders
from resnet_course.core import CourseError
from resnet_course.datasets import open_image_set
from resnet_course.loaders import get_dls
from resnet_course.torch_loaders import as_dls
from resnet_course.learner import course_learner
from resnet_course.evaluate import evaluate

faults = Faults()

# What is refused

@faults.error('a PyTorch loader without class names', 'vocab=')
def _(folder):
    ds = TensorDataset(torch.zeros(8, 3, 16, 16), torch.zeros(8, dtype=torch.long))
    as_dls(DataLoader(ds, 4), DataLoader(ds, 4))

@faults.error('a list instead of a loader', 'give a DataLoader')
def _(folder): as_dls([1], [2], vocab='ab')

@pytest.mark.parametrize('fault', faults, ids=lambda fault: fault.title)
def test_input_gets_an_error(fault, tmp_path): fault.check(tmp_path)

def test_batch_sampler_is_refused():
    ds = TensorDataset(torch.zeros(8, 1, 8, 8), torch.arange(8)%2)
    ds.classes = ['a', 'b']
    batches = BatchSampler(SequentialSampler(ds), 4, drop_last=False)
    with pytest.raises(CourseError, match='batch_sampler'):
        as_dls(DataLoader(ds, batch_sampler=batches), DataLoader(ds, 4))

# What works

STATS = [0.5]*3, [0.25]*3

@pytest.fixture
def folder(tmp_path):
    "Class folders of photos"
    return photos(tmp_path/'photos', 20, (44, 36), ['bee', 'cat', 'dog'])

@pytest.fixture
def subsets(folder):
    "The even and the odd images of a folder, for torchvision"
    ds = ImageFolder(folder, T.Compose([T.Resize((24, 24)), T.ToTensor(), T.Normalize(*STATS)]))
    return Subset(ds, range(0, 60, 2)), Subset(ds, range(1, 60, 2))

def test_an_exported_learner_leaves_the_dataset_behind(tmp_path):
    "Whoever gets the file needs the network and its class names, not the photos"
    ds = TensorDataset(torch.rand(64, 3, 64, 64), torch.arange(64)%2)   # 3 MB
    ds.classes = ['bee', 'cat']
    dls = as_dls(DataLoader(ds, 8, shuffle=True), DataLoader(ds, 8), device='cpu')
    learn = quiet(course_learner(dls, 'resnet8', path=tmp_path))
    learn.export('learner.pkl')
    assert (tmp_path/'learner.pkl').stat().st_size < 1_000_000
    assert len(dls.train_ds) == 64 and dls.train.one_batch()[0].shape == (8, 3, 64, 64)
    x = torch.rand(3, 64, 64)
    expected = learn.predict(x)[2]
    again = load_learner(tmp_path/'learner.pkl')
    with again.no_bar(): torch.testing.assert_close(again.predict(x)[2], expected)

@pytest.mark.filterwarnings('ignore')
def test_fastai_does_everything_with_pytorch_loaders(folder, subsets, tmp_path):
    train, valid = subsets
    loaders = DataLoader(train, 8, shuffle=True), DataLoader(valid, 8), DataLoader(valid, 8)
    dls = as_dls(*loaders, stats=STATS, device='cpu')
    assert list(dls.vocab) == ['bee', 'cat', 'dog'] and dls.size == 24
    learn = fastai_learner(dls, tmp_path)
    learn.fit(1)
    learn.show_results()
    learn.lr_find(num_it=4, show_plot=False)
    image = folder/'cat'/'1.png'
    want = learn.predict(image)[2]
    learn.export('t.pkl')
    got = load_learner(tmp_path/'t.pkl').predict(image)[2]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-8)
    interp = ClassificationInterpretation.from_learner(learn, dl=dls.test)
    assert interp.confusion_matrix().sum() == 30
    plt.close('all')

def test_samplers_are_kept(subsets):
    train, valid = subsets
    sampler = WeightedRandomSampler([1.] + [0.]*29, 24)   # only the first image, 24 times
    dls = as_dls(DataLoader(train, 8, sampler=sampler), DataLoader(valid, 8), device='cpu')
    assert {int(y) for _, yb in dls.train for y in yb} == {0}
    with pytest.raises(CourseError, match='no test set'): dls.test

@pytest.fixture
def digits_loader():
    "A loader of 200 digits"
    pool = open_image_set('digits')
    ds = TensorDataset(pool.x[:200]/255, pool.y[:200])
    ds.classes = pool.vocab
    return DataLoader(ds, 50)

def test_course_learner_takes_pytorch_loaders(digits_loader, tmp_path):
    for loaders in ([digits_loader]*3, DataLoaders(digits_loader, digits_loader)):
        learn = quiet(course_learner(loaders, 'resnet20', path=tmp_path))
        learn.fit(1, 0.01)
        assert learn.get_preds()[0].shape == (200, 10)

def test_evaluate_takes_pytorch_loaders(digits_loader):
    report = evaluate(course_learner([digits_loader]*3, 'resnet20'), 'test')
    assert report.n == 200 and list(report.vocab) == digits_loader.dataset.classes

class Where(torch.utils.data.Dataset):
    "Images of the process that reads them"
    bad = None
    def __init__(self): self.classes, self.targets = ['a', 'b'], [0, 1]*20
    def __len__(self): return 40
    def __getitem__(self, i):
        if i == self.bad: raise CourseError('number 7 is damaged')
        return torch.full((1, 8, 8), float(os.getpid())), i%2

@pytest.mark.skipif(sys.platform != 'linux', reason='fastai has no such processes elsewhere')
@pytest.mark.parametrize('persistent', [False, True])
def test_processes_of_the_loader_read_the_images(persistent):
    "Two of them, as asked; they are started anew in each epoch, or not, as asked"
    ds = Where()
    loader = DataLoader(ds, 4, num_workers=2, persistent_workers=persistent, shuffle=True)
    dls = as_dls(loader, DataLoader(ds, 4), device='cpu')
    epochs = [{int(v) for xb, _ in dls.train for v in xb[:, 0, 0, 0]} for _ in range(2)]
    assert all(len(pids) == 2 and os.getpid() not in pids for pids in epochs)
    assert (epochs[0] == epochs[1]) == persistent
    assert {int(v) for xb, _ in dls.valid for v in xb[:, 0, 0, 0]} == {os.getpid()}

def test_processes_give_the_same_batches(subsets):
    "In the same order, of the same types, and all of them"
    train, valid = subsets
    def batches(n):
        torch.manual_seed(0)
        dls = as_dls(DataLoader(train, 8, shuffle=True, num_workers=n),
                     DataLoader(valid, 8, num_workers=n), device='cpu')
        return [*dls.train, *dls.valid, *dls.train.new(shuffle=False, drop_last=False)]
    for a, b in zip(batches(0), batches(2), strict=True):
        assert [type(o) for o in a] == [type(o) for o in b]
        assert all(torch.equal(p, q) for p, q in zip(a, b))

def test_errors_of_the_processes_arrive():
    ds = Where()
    ds.bad = 7
    dls = as_dls(DataLoader(ds, 4, num_workers=1), DataLoader(ds, 4), device='cpu')
    with pytest.raises(CourseError, match='number 7 is damaged'): list(dls.train)

def test_batches_for_a_gpu_are_pinned_and_sent_without_waiting(monkeypatch):
    "For a GPU that is not here: what would be sent, and how"
    sent = []
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda o: o.clone())
    monkeypatch.setattr(torch_loaders, 'to_device', lambda b, *a, **kw: sent.append((a, kw)) or b)
    ds = Where()
    dls = as_dls(DataLoader(ds, 4), DataLoader(ds, 4), device='cpu')
    dls.train.device = torch.device('cuda')
    n = len(list(dls.train.create_batches(range(8))))
    assert sent == n*[((torch.device('cuda'),), dict(non_blocking=True))] and n == 2

def test_loaders_that_do_not_fit():
    "Channels last, an index first, and a list of fastai's own loaders: one sentence each"
    class Items(Dataset):
        classes = list('ab')
        def __init__(self, item): self.item = item
        def __len__(self): return 8
        def __getitem__(self, i): return self.item(i)
    def learner(item): return course_learner([DataLoader(Items(item), 4)]*2, 'resnet8')
    with pytest.raises(CourseError, match='with the channels last'):
        learner(lambda i: (torch.rand(16, 12, 3), 0))
    with pytest.raises(CourseError, match='begin with 0, but the image must come first'):
        learner(lambda i: (i, torch.rand(3, 16, 16), 0))
    dls = get_dls('digits', bs=32, n_train=64)
    with pytest.raises(CourseError, match=r'combine them, as in DataLoaders\(train, valid\)'):
        course_learner([dls.train, dls.valid], 'resnet8')
