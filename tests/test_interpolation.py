"Bilinear, bicubic, or one of the two for each photo: read, recorded, tested and predicted alike"
import numpy as np, pytest, torch
from helpers import needs_fork, photos, quiet, run_command
from PIL import Image
from torchvision.transforms import InterpolationMode, functional as TF

from resnet_course.core import CourseError
from resnet_course.images import plain_tensor
from resnet_course.photos import PhotoReader, read_window
from resnet_course.loaders import get_dls
from resnet_course.models import create_model
from resnet_course.saving import load_model
from resnet_course.export import Prepared
from resnet_course.recipes import recipes
from resnet_course.predict import predict_images
from resnet_course.records import load_run
from resnet_course.runs import finetune_run, train_run
from resnet_course.reuse import evaluate_run, predict_run

pytestmark = pytest.mark.usefixtures('one_thread')
HOW = dict(arch='resnet8', epochs=1, bs=8, size=24, num_workers=0, precision='fp32')

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return photos(tmp_path_factory.mktemp('photos'), n=20, size=(90, 60))

@pytest.fixture(scope='module')
def trained(folder, tmp_path_factory):
    return train_run(folder, interpolation='random', setup=quiet, out=tmp_path_factory.mktemp('r'),
                     **HOW)

def expected(file, mode):
    "What torchvision makes of a photo of 90 × 60 px"
    im = TF.resize(Image.open(file), 27, InterpolationMode(mode))
    return np.asarray(TF.center_crop(im, 24)).transpose(2, 0, 1)

@pytest.mark.parametrize('how, mode', [
    ('bilinear', 'bilinear'), ('bicubic', 'bicubic'), ('random', 'bicubic')])
def test_evaluation_is_torchvisions(how, mode, folder):
    dls = get_dls(folder, size=24, interpolation=how, bs=8, num_workers=0)
    assert dls.interpolation == mode
    assert dls.cfg.get('interpolation') == (None if how == 'bilinear' else how)
    ds = dls.test.dataset
    for i in range(3):
        got = np.asarray(plain_tensor(ds[i][0]))
        assert (got == expected(dls.files[ds.items[i]], mode)).all()
    again = get_dls(**dls.cfg)
    assert again.interpolation == mode and again.split_id == dls.split_id

def test_training_draws_one_for_each_photo(folder):
    im = next(folder.rglob('*.png'))
    def window(h, w): return 5, 10, 50, 70
    both = [read_window(im, window, 24, interpolation=how) for how in ('bilinear', 'bicubic')]
    assert not torch.equal(*both)
    reader = PhotoReader(24, window=window, interpolation='bicubic', random_interpolation=True)
    seen = [reader.read_augmented(im, i, 7) for i in range(40)]
    n = [sum(torch.equal(x, o) for x in seen) for o in both]
    assert sum(n) == 40 and min(n) > 8
    assert all(torch.equal(reader.read_augmented(im, i, 7), x) for i, x in enumerate(seen))
    reader.random_interpolation = False
    assert torch.equal(reader.read_augmented(im, 0, 7), both[1])

def test_batches_have_both(folder):
    "Each training image of `random` is the one of bilinear or of bicubic, and both occur"
    def images(how):
        dls = get_dls(folder, size=24, interpolation=how, augment='resized_crop', bs=8,
                      num_workers=0, device='cpu')
        return torch.cat([plain_tensor(x) for x, _ in dls.train])
    drawn, *both = map(images, ('random', 'bilinear', 'bicubic'))
    same = [(drawn == o).flatten(1).all(1) for o in both]
    assert (same[0] ^ same[1]).all() and min(o.sum() for o in same) > 4

@needs_fork
def test_workers_draw_the_same(folder):
    def batch(n):
        dls = get_dls(folder, size=24, interpolation='random', bs=8, num_workers=n, device='cpu')
        return plain_tensor(next(iter(dls.train))[0])
    assert torch.equal(batch(0), batch(2))

def test_the_run_is_recorded_tested_and_predicted_so(trained, folder):
    rec, report = trained
    assert load_run(rec['path'])['data']['interpolation'] == 'random'
    net = load_model(rec['path'] + '/model.safetensors')
    assert net.meta['interpolation'] == 'bicubic'
    again, _ = evaluate_run(rec['path'])
    assert torch.equal(again.probs, report.probs)
    dls = get_dls(**rec['data'])
    files = [dls.files[i] for i in dls.test.dataset.items]
    for probs, p in zip(report.probs, predict_images(net, files, k=2, precision='fp32')):
        found = dict(zip(p.classes, p.probs))
        np.testing.assert_allclose([found['a'], found['b']], probs, atol=1e-6)
    # a file of weights knows it, too; on request, it is tested in another way
    weights = rec['path'] + '/model.safetensors'
    as_trained, other = (evaluate_run(weights, folder, interpolation=how)[0]
                         for how in (None, 'bilinear'))
    assert not torch.equal(as_trained.probs, other.probs)

def test_on_the_command_line(folder, tmp_path, capfd):
    args = ['--data', folder, '--arch', 'resnet8', '--epochs', 1, '--bs', 8, '--size', 24,
            '--workers', 0, '--out', tmp_path]
    assert run_command('train', *args, '--interpolation', 'bicubic', '--drop-path', 0.1) == 0
    [run] = tmp_path.glob('*-001')
    rec = load_run(run)
    assert rec['data']['interpolation'] == 'bicubic' and rec['model']['drop_path'] == 0.1
    capfd.readouterr()
    assert run_command('evaluate', run, '--interpolation', 'bilinear', '--load-size', 30) == 0
    assert run_command('train', *args, '--interpolation', 'cubic') == 1
    assert 'interpolation' in capfd.readouterr().err
    path, net, found = predict_run([folder/'a'], run)
    assert net.meta['interpolation'] == 'bicubic' and len(list(found)) == 20

@pytest.mark.parametrize('drop_path, recorded', [(0.2, 0.2), (None, None)])
def test_fine_tuning_with_stochastic_depth(drop_path, recorded, tmp_path):
    rec, *_ = finetune_run('digits', 'resnet20-fashion_mnist', 'all', epochs=1, n_train=32, bs=16,
                           drop_path=drop_path, out=tmp_path, setup=quiet)
    assert rec['model'].get('drop_path') == recorded

def test_dropped_branches_are_not_cached(tmp_path):
    (tmp_path/'p.yaml').write_text('- {name: head, freeze_to: -1, epochs: 1, lr: .01, cache: 1}\n')
    with pytest.raises(CourseError, match='cache: .*StochasticDepth'):
        finetune_run('digits', 'resnet20-fashion_mnist', str(tmp_path/'p.yaml'), n_train=32, bs=16,
                     drop_path=.2, out=tmp_path, setup=quiet)

def test_impossible(folder):
    with pytest.raises(CourseError, match='interpolation'): get_dls(folder, interpolation='nearest')
    with pytest.raises(CourseError, match='is for photos'):
        get_dls('digits', interpolation='bicubic')
    with pytest.raises(CourseError, match='drop_path'):
        train_run('digits', 'alexnet', drop_path=.1, n_train=32, setup=quiet)

@pytest.mark.parametrize('mode', ['bilinear', 'bicubic'])
def test_onnx_files_resize_alike(mode, folder):
    "What `export --preprocess resize` computes is what Pillow computes, but for one more rounding"
    meta = dict(vocab=['a', 'b'], size=24, side=27, resize='crop', interpolation=mode,
                stats=[[.5]*3, [.2]*3])
    fit = Prepared(create_model('resnet8', 2), meta, 'resize', 'NCHW').fit
    for f in list(folder.rglob('*.png'))[:3]:
        x = torch.from_numpy(np.array(Image.open(f)).transpose(2, 0, 1))
        assert np.abs(fit(x[None])[0].numpy() - expected(f, mode)).max() <= 1

def test_rsb_a3_says_it():
    assert recipes['rsb_a3'].loaders['interpolation'] == 'random'
