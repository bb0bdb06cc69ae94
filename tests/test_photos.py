"Photos of any size: the same pixels as torchvision, the same batches with any number of processes"
import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np, pytest, simplejpeg, torch
from fastai.vision.augment import FlipItem, RandomResizedCrop as FastaiCrop, aug_transforms
from helpers import (
    CtrlC, bits, needs_fork, photo_learner, photos, quiet, run_command)
from hypothesis import given, settings, strategies as st
from PIL import Image
from scipy import stats
from sklearn.datasets import load_sample_images
from torchvision import transforms as T
from torchvision.transforms import v2

from resnet_course.augment import (
    HorizontalFlip, RandomCrop, RandomErasing, RandomResizedCrop, ScaleJitter, Standardize,
    covering, height_width, seeded, torch_seeded)
from resnet_course.checkpoint import Interrupted, read_checkpoint
from resnet_course.core import CourseError
from resnet_course.evaluate import evaluate
from resnet_course.images import ImageSet, plain_tensor
from resnet_course.interpret import grad_cam
from resnet_course.learner import course_learner
from resnet_course.loaders import get_dls, raw_image, split_dl, unaugmented
from resnet_course.photos import PhotoBatches, PhotoReader, fit_photo, load_size_for, read_window
from resnet_course.predict import predict_images
from resnet_course.presets import augmentations
from resnet_course.recipes import fit_recipe, recipes
from resnet_course.records import load_run
from resnet_course.runs import train_run
from resnet_course.reuse import run_learner
from resnet_course.saving import load_model

@pytest.fixture(scope='module')
def real_photos(tmp_path_factory):
    "Class folders with twelve windows each of two real photos, of many sizes, as JPEG files"
    folder, rng = tmp_path_factory.mktemp('real'), np.random.RandomState(0)
    for c, a in zip('ab', load_sample_images().images):
        (folder/c).mkdir()
        for i in range(12):
            w, h = rng.randint(150, 640), rng.randint(150, 427)
            Image.fromarray(a[:h, :w]).save(folder/c/f'{i}.jpg', quality=92)
    return folder

def batches(dl): return [(plain_tensor(x), plain_tensor(y)) for x, y in dl]

def same(a, b):
    assert len(a) == len(b) > 0
    for (xa, ya), (xb, yb) in zip(a, b):
        assert torch.equal(xa, xb) and torch.equal(ya, yb)

# evaluation

@pytest.mark.parametrize('px', [64, 224, 299])
def test_evaluation_is_torchvisions_to_the_last_digit(real_photos, px):
    dls = get_dls(real_photos, size=px, bs=4, device='cpu', stats='imagenet')
    tfm = T.Compose([T.Resize(load_size_for(px)), T.CenterCrop(px), T.PILToTensor()])
    assert load_size_for(224) == 256
    for split in range(3):
        ds = dls.loaders[split].dataset
        with ds.set_split_idx(1):
            for i, item in enumerate(ds.items[:4]):
                want = tfm(Image.open(dls.files[item]).convert('RGB'))
                assert torch.equal(plain_tensor(ds[i][0]), want)

@given(w=st.integers(1, 300), h=st.integers(1, 300), height=st.integers(4, 64),
       width=st.integers(4, 64), resize=st.sampled_from(['crop', 'squish', 'pad']))
@settings(max_examples=80, deadline=None)
def test_any_photo_fits_any_size(w, h, height, width, resize):
    im = Image.new('RGB', (w, h), 'white')
    fitted = fit_photo(im, (height, width), resize, load_size_for((height, width)))
    assert fitted.size == (width, height)
    black = (np.asarray(fitted) == 0).any()
    if resize != 'pad': assert not black
    rows, cols = covering(h, w, (height, width))
    assert rows >= height and cols >= width and (rows == height or cols == width)

# windows

def test_random_resized_crops_have_torchvisions_distribution():
    "Of positions too, which torchvision draws in a different order"
    h, w, n = 300, 700, 1500
    torch.manual_seed(0)
    ours = np.array([RandomResizedCrop(224).window(h, w) for _ in range(n)])
    torch.manual_seed(1)
    blank = torch.empty(1, h, w)
    theirs = np.array([T.RandomResizedCrop.get_params(blank, (.08, 1), (3/4, 4/3))
                       for _ in range(n)])
    for i in range(4): assert stats.ks_2samp(ours[:, i], theirs[:, i]).pvalue > 1e-4

@pytest.mark.parametrize('crop', [RandomCrop(32, 37), RandomCrop(32, 37, central=True),
                                  RandomResizedCrop(32), ScaleJitter(32), ScaleJitter((24, 32))],
                         ids=str)
@given(h=st.integers(1, 2000), w=st.integers(1, 2000), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_windows_lie_in_the_photo(crop, h, w, seed):
    with torch_seeded(seed): top, left, height, width = crop.window(h, w)
    assert min(top, left) >= 0 and min(height, width) > 0
    assert top + height <= h*(1 + 1e-9) and left + width <= w*(1 + 1e-9)

def test_scale_jitter_equals_resizing_and_cropping(real_photos):
    "Up to the pixels at the window's border, which resizing a cropped window can't see"
    file = real_photos/'a'/'0.jpg'
    im, crop = Image.open(file), ScaleJitter(64)
    with torch_seeded(3): top, left, height, _ = crop.window(im.height, im.width)
    rows, cols = covering(im.height, im.width, round(64*im.height/height*min(im.size)/im.height))
    i, j = round(top*rows/im.height), round(left*cols/im.width)
    want = T.functional.pil_to_tensor(T.functional.resize(im, [rows, cols]))[:, i:i + 64, j:j + 64]
    with torch_seeded(3): got = read_window(file, crop.window, 64)
    assert (got.int() - want.int()).abs().float().mean() < 6

def test_alexnets_windows():
    "Of 224 px, anywhere in the central square of 256 (Krizhevsky et al. 2012, section 4.1)"
    h, w, n = 512, 1000, 1500
    crop, = augmentations('central_crop', ImageSet('x', [0], 'a', files=['x']), 224, 3, [0])
    torch.manual_seed(0)
    top, left, height, width = np.array([crop.window(h, w) for _ in range(n)]).T/2
    assert (height == 224).all() and (width == 224).all()
    for found, start in ((top, 0), (left, (w/2 - 256)/2)):
        assert set(np.round(found - start, 6)) == set(range(33))   # each of the 33 positions
        counts = np.bincount((found - start).round().astype(int))
        assert stats.chisquare(counts).pvalue > 1e-4

def test_the_decoder_leaves_out_what_resizing_would(tmp_path, monkeypatch):
    "A large photo is decoded at half its size or less, but never smaller than what is cut out"
    im = Image.effect_noise((1600, 1200), 60).convert('RGB')
    im.save(tmp_path/'x.jpg', quality=90)
    sizes, decode = [], simplejpeg.decode_jpeg
    def spy(*args, **kw):
        sizes.append(decode(*args, **kw).shape[:2])
        return decode(*args, **kw)
    monkeypatch.setattr(simplejpeg, 'decode_jpeg', spy)
    for height, side in ((1200, 150), (600, 150), (600, 300), (200, 200)):
        read_window(tmp_path/'x.jpg', lambda h, w, n=height: (0, 0, n, n), side)
    for (rows, cols), least in zip(sizes, (150, 300, 600, 1200)):
        assert least <= rows <= 1.1*least and cols == rows*4/3

def test_workers_stay_between_epochs():
    assert PhotoBatches(PhotoReader(32), 2).loader.persistent_workers

def test_the_whole_photo_is_seen(tmp_path):
    "Random crops reach the ends of a long photo, which a central square does not contain"
    for c in 'ab':
        (tmp_path/c).mkdir()
        x = np.zeros((40, 200, 3), np.uint8)
        x[:, :20], x[:, -20:] = (255, 0, 0), (0, 255, 0)
        for i in range(10): Image.fromarray(x).save(tmp_path/c/f'{i}.png')
    dls = get_dls(tmp_path, size=32, bs=8, augment='resized_crop', device='cpu')
    red = green = 0
    for _ in range(8):
        for x, _ in dls.train.new(after_batch=None):
            red += (x[:, 0] > 200).any().item()
            green += (x[:, 1] > 200).any().item()
    assert red and green

# several processes

@needs_fork
@pytest.mark.parametrize('augment', ['resized_crop+mirror', 'trivial', 'he2015',
                                     [v2.RandomResizedCrop(48), v2.ColorJitter(.4)]], ids=str)
def test_the_same_batches_with_any_number_of_processes(real_photos, augment):
    def epochs(num_workers):
        dls = get_dls(real_photos, size=48, bs=5, seed=7, augment=augment, device='cpu',
                      num_workers=num_workers)
        return batches(dls.train) + batches(dls.train) + batches(dls.valid)
    alone = epochs(0)
    same(alone, epochs(1))
    same(alone, epochs(4))
    half = len(batches(get_dls(real_photos, size=48, bs=5, device='cpu').train))
    assert not torch.equal(alone[0][0], alone[half][0])   # another epoch, other windows

@needs_fork
@pytest.mark.parametrize('num_workers', [0, 2])
def test_resuming_inside_an_epoch(real_photos, tmp_path, num_workers):
    def learner():
        dls = get_dls(real_photos, size=32, bs=4, augment='imagenet', device='cpu',
                      num_workers=num_workers)
        return quiet(course_learner(dls, 'resnet8', seed=3, precision='fp32'))
    whole, again = learner(), learner()
    fit_recipe(whole, epochs=2)
    stop, file = CtrlC(1, 1), tmp_path/'checkpoint.pt'
    with pytest.raises(Interrupted): fit_recipe(learner(), epochs=2, cbs=stop, checkpoint=file)
    assert read_checkpoint(file)['pos']['iter']
    fit_recipe(again, epochs=2, checkpoint=file, resume=True)
    assert torch.equal(bits(whole), bits(again))

@needs_fork
def test_an_unreadable_photo_is_named_by_every_process(real_photos, tmp_path):
    bad = tmp_path/'bad.jpg'
    bad.write_bytes((real_photos/'a'/'0.jpg').read_bytes()[:400])
    for workers in (0, 2):
        pool = PhotoBatches(PhotoReader(32), workers)
        with pytest.raises(CourseError, match=r'bad\.jpg') as e: list(pool.read([[(bad, 0, 1)]]))
        assert '\n' not in str(e.value)

def break_files(dls, n=1):
    "Damage the last `n` files of each split"
    files = [dls.files[i] for dl in dls.loaders for i in list(dl.dataset.items)[-n:]]
    for f in files[::2]: Path(f).write_bytes(b'no image')
    for f in files[1::2]: Path(f).unlink()
    return files

@needs_fork
@pytest.mark.parametrize('workers', [0, 2])
def test_files_that_become_unreadable(tmp_path, workers):
    "Skipped and counted with `skip_bad`, in training and in evaluation; one sentence without it"
    photos(tmp_path/'x', 12, size=(120, 100), ext='jpg')
    kw = dict(size=32, bs=6, num_workers=workers, valid_pct=.25, device='cpu')
    dls, strict = get_dls(tmp_path/'x', skip_bad=True, **kw), get_dls(tmp_path/'x', **kw)
    n = [len(dl.dataset) for dl in dls.loaders]
    assert dls.cfg['skip_bad']
    learn = quiet(course_learner(dls, 'resnet8', seed=0, precision='fp32'))
    files = break_files(dls)
    with pytest.raises(CourseError, match='cannot read the image|no such image') as e:
        for _ in range(9): list(strict.train)
    assert '\n' not in str(e.value)
    with pytest.warns(UserWarning, match='left out while reading') as said:
        for _ in range(9): fit_recipe(learn, epochs=1)   # the last batch is dropped
        reports = [evaluate(learn, s) for s in ('train', 'valid', 'test')]
    said = [str(w.message) for w in said if 'left out' in str(w.message)]
    assert len(said) == 3 and any('3 unreadable' in o for o in said)
    assert [r.n for r in reports] == [k - 1 for k in n]
    again = [evaluate(learn.model, s, dls=dls).n for s in ('train', 'valid', 'test')]
    assert again == [k - 1 for k in n] and learn.get_preds(ds_idx=1)[0].shape[0] == n[1] - 1
    for i in range(n[2] - 1): raw_image(dls, 'test', i)
    assert {str(dls.files[i]) for i in dls.train_ds.tls[0].tfms.fs[0].images.unreadable} == {
        str(f) for f in files}

@pytest.mark.parametrize('which', [0, -1])
def test_predictions_of_readable_images(tmp_path, which):
    "`get_preds` comes first, before an evaluation has found what is unreadable"
    photos(tmp_path/'x', 12, size=(120, 100), ext='jpg')
    learn = photo_learner(tmp_path/'x', valid_pct=.25, skip_bad=True)
    whole, targs = learn.get_preds()
    n = len(whole)
    Path(learn.dls.files[learn.dls.valid_ds.items[which]]).write_bytes(b'no image')
    with pytest.warns(UserWarning, match='left out while reading'): preds, found = learn.get_preds()
    kept = [i for i in range(n) if i != which % n]
    assert torch.allclose(preds, whole[kept], atol=1e-5) and torch.equal(found, targs[kept])

def test_predictions_of_unreadable_images(tmp_path):
    "Without `skip_bad`, one sentence that names the file"
    photos(tmp_path/'x', 12, size=(120, 100), ext='jpg')
    learn = photo_learner(tmp_path/'x', valid_pct=.25)
    bad = Path(learn.dls.files[learn.dls.valid_ds.items[-1]])
    bad.unlink()
    for call in (learn.get_preds, learn.validate, learn.tta, lambda: learn.predict(bad)):
        with pytest.raises(CourseError, match=bad.name) as e: call()
        assert '\n' not in str(e.value)

def test_a_disk_that_is_gone(tmp_path):
    "Not every file is skipped, and errors of the transforms are none of the files"
    photos(tmp_path/'x', 12, size=(120, 100), ext='jpg')
    dls = get_dls(tmp_path/'x', size=32, bs=6, skip_bad=True, device='cpu')
    break_files(dls, 20)
    with pytest.raises(CourseError, match='are the files still there'): list(dls.train)

@needs_fork
def test_an_epoch_that_stops_does_not_disturb_the_next(real_photos):
    kw = dict(size=32, bs=4, seed=5, augment='imagenet', device='cpu')
    dls, twin = (get_dls(real_photos, num_workers=n, **kw) for n in (2, 0))
    next(iter(dls.train))
    next(iter(twin.train))
    same(batches(dls.train), batches(twin.train))

def test_an_image_that_comes_again_is_augmented_differently(tmp_path):
    "Where rare classes are drawn more often"
    photos(tmp_path/'many', 30, (40, 30), 'a')
    photos(tmp_path/'many', 3, (40, 30), 'b')
    dls = get_dls(tmp_path/'many', size=16, bs=8, augment='imagenet', balance='sample',
                  device='cpu')
    rare = torch.cat([x[y == 1] for x, y in batches(dls.train)])
    assert len(rare) > 6 and len({x.sum().item() for x in rare}) == len(rare)

# forms and transforms

@pytest.mark.parametrize('resize', ['crop', 'squish', 'pad'])
def test_oblong_sizes_everywhere(real_photos, resize):
    "Training, evaluation, prediction and Grad-CAM"
    dls = get_dls(real_photos, size=(32, 48), resize=resize, bs=4, device='cpu')
    learn = quiet(course_learner(dls, 'resnet8', seed=0, precision='fp32'))
    fit_recipe(learn, epochs=1)
    x, _ = next(iter(dls.train))
    assert x.shape == (4, 3, 32, 48)
    assert evaluate(learn, 'test').n == len(dls.test_ds)
    assert grad_cam(learn, x).shape == (4, 32, 48)
    assert learn.predict(real_photos/'a'/'0.jpg')[0] in dls.vocab
    assert height_width(dls.size) == (32, 48) and '32×48' in repr(dls)

@pytest.mark.parametrize('size', [(32,), (32, 32, 3), (0, 32), '32', 3.5, (32, 5000), True])
def test_sizes_that_make_no_sense(real_photos, size):
    with pytest.raises(CourseError, match='size='): get_dls(real_photos, size=size, device='cpu')

def test_square_images_stay_square(tmp_path):
    with pytest.raises(CourseError, match="resize='squish'"):
        get_dls('digits', size=(8, 16), device='cpu')
    x, _ = get_dls('digits', size=(8, 16), resize='squish', device='cpu').one_batch()
    assert x.shape[-2:] == (8, 16)

own = [v2.RandomResizedCrop(40), v2.RandomHorizontalFlip()]
augments = {
    'v2': own, 'v2 compose': v2.Compose(own), 'v2 without a crop': [v2.ColorJitter(.4)],
    'fastai, items': [FastaiCrop(40), FlipItem()], 'fastai, batches': aug_transforms(),
    'ours and v2': [RandomResizedCrop(40), HorizontalFlip(), v2.TrivialAugmentWide()],
    'a function': lambda x: x.flip(-1), 'a name': 'randaugment'}

@pytest.mark.parametrize('augment', augments.values(), ids=augments)
def test_other_peoples_transforms(real_photos, augment):
    "They are applied to training images, and to no others"
    dls = get_dls(real_photos, size=40, bs=6, augment=augment, device='cpu')
    plain = get_dls(real_photos, size=40, bs=6, augment=False, device='cpu')
    for (a, _), (b, _) in zip(batches(dls.valid), batches(plain.valid)):
        # fastai resamples validation images, too
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)
    x, _ = next(iter(dls.train))
    assert x.shape == (6, 3, 40, 40) and x.dtype == torch.float32
    assert not torch.equal(plain_tensor(x), plain_tensor(next(iter(plain.train))[0]))

@pytest.mark.parametrize('augment', [[v2.RandomHorizontalFlip()], 'trivial', 'randaugment'],
                         ids=str)
def test_other_peoples_transforms_on_small_images(augment):
    dls = get_dls('fashion_mnist_mini', n_train=256, bs=64, n_in=3, augment=augment, device='cpu')
    assert next(iter(dls.train))[0].shape == (64, 3, 28, 28)

@pytest.mark.parametrize('augment, words', [
    ([v2.RandomResizedCrop(32)], 'crop to the'),
    ([v2.ToDtype(torch.float32, scale=True)], 'leave out transforms that convert'),
    ([T.ToTensor()], 'fail on a byte image'),
    ([3], 'not a transform'), (['crop'], 'not a transform'),
    ([RandomCrop(40), ScaleJitter(40)], 'two crops')], ids=str)
def test_transforms_that_cannot_be_used(real_photos, augment, words):
    with pytest.raises(CourseError, match=words):
        get_dls(real_photos, size=40, augment=augment, device='cpu')

def test_photos_in_memory_have_the_same_windows(tmp_path):
    "And nearly the same pixels; evaluation reads the files, so its pixels are the same"
    a = Image.fromarray(load_sample_images().images[0]).resize((1500, 1000))
    for c in 'ab':
        (tmp_path/c).mkdir()
        for i in range(5): a.rotate(3*i).save(tmp_path/c/f'{i}.jpg')
    kw = dict(size=48, bs=4, augment='resized_crop', seed=1, device='cpu')
    kept, read = get_dls(tmp_path, **kw), get_dls(tmp_path, in_memory=False, **kw)
    for augment in (False, [v2.RandomResizedCrop(48)]):   # which read whole photos
        plain = get_dls(tmp_path, **dict(kw, augment=augment, in_memory=True))
        assert next(iter(plain.train))[0].shape == (4, 3, 48, 48)
    tfm = kept.train_ds.tls[0].tfms.fs[0]
    assert len(tfm.kept) == len(kept.train_ds) and tfm.kept[0].pixels.shape[0] == 96
    for (x, _), (y, _) in zip(batches(kept.train), batches(read.train)):
        assert (x - y).abs().mean() < .15
    same(batches(kept.valid), batches(read.valid))
    same(batches(split_dl(kept, 'test')), batches(split_dl(read, 'test')))

@pytest.mark.parametrize('kind', ['gray', 'palette', 'rgba', 'turned', 'cmyk', 'png16'])
def test_kinds_of_files(tmp_path, kind):
    "What is no plain JPEG takes the other way, to the same picture"
    im = Image.fromarray(load_sample_images().images[0]).resize((120, 80))
    file = tmp_path/'a.png'
    if kind == 'gray': im.convert('L').save(file)
    elif kind == 'palette': im.convert('P').save(file)
    elif kind == 'rgba': im.convert('RGBA').save(file)
    elif kind == 'png16':
        deep = np.asarray(im.convert('L')).astype(np.uint16)*257
        Image.fromarray(deep).save(file)
    else:
        file, exif = tmp_path/'a.jpg', Image.Exif()
        if kind == 'turned':
            exif[274] = 8
            im.transpose(Image.Transpose.ROTATE_270).save(file, exif=exif, quality=95)
        else: im.convert('CMYK').save(file, quality=95)
    n_in = 1 if kind in ('gray', 'png16') else 3
    def whole(h, w): return 0, 0, h, w
    want = im.convert('L' if n_in == 1 else 'RGB').resize((60, 40), Image.Resampling.BILINEAR)
    want = torch.from_numpy(np.array(want)).view(40, 60, n_in).permute(2, 0, 1).int()
    for o in (file, file.read_bytes(), io.BytesIO(file.read_bytes())):
        got = read_window(o, whole, (40, 60), n_in).int()
        assert got.shape == (n_in, 40, 60)
        assert (got - want).abs().float().mean() < (12 if kind in ('palette', 'cmyk') else 4)

def test_few_photos_need_no_processes(real_photos):
    dls = get_dls(photos(real_photos.parent/'few', 6, (40, 30)), size=16, bs=4, device='cpu')
    assert [dl.workers for dl in dls.loaders] == [0, 0, 0]
    assert dls.train.new(num_workers=3).workers == 3

# Other sizes for tests, and repeated augmentation

SIZES = dict(size=32, test_size=48, load_size=51)

def test_tests_at_another_size(real_photos, tmp_path):
    "FixRes: everything but training sees `test_size`, and the record says so"
    rec, report = train_run(real_photos, 'resnet8', epochs=1, bs=4, out=tmp_path, precision='fp32',
                            setup=quiet, augment='imagenet', **SIZES)
    assert {k: rec['data'][k] for k in SIZES} == SIZES
    run = Path(rec['path'])
    meta = load_model(run/'model.safetensors').meta
    assert (meta['size'], meta['side']) == (48, 51)
    learn, _ = run_learner(run)
    assert evaluate(learn).losses.tolist() == report.losses.tolist()
    dls = get_dls(**rec['data'])
    assert [dl.one_batch()[0].shape[-1] for dl in dls.loaders] == [32, 48, 48]
    with unaugmented(dls.train): assert dls.train.one_batch()[0].shape[-1] == 48
    tfm = T.Compose([T.Resize(51), T.CenterCrop(48), T.PILToTensor()])
    ds = dls.test_ds
    files = [dls.files[i] for i in ds.items]
    assert all(torch.equal(plain_tensor(ds[i][0]), tfm(Image.open(f).convert('RGB')))
               for i, f in enumerate(files))
    # the same probabilities from files, and the same sizes with the weights alone
    probs = torch.stack([torch.tensor(sorted_probs(p))
                         for p in predict_images(load_model(run/'model.safetensors'), files,
                                                 precision='fp32')])
    torch.testing.assert_close(probs, report.probs, atol=1e-5, rtol=0)
    alone, _ = run_learner(run/'model.safetensors', real_photos)
    assert (alone.dls.size, alone.dls.load_size, alone.dls.resize) == (48, 51, 'crop')
    xb = learn.dls.test.one_batch()[0]
    assert grad_cam(learn, xb).shape[-2:] == xb.shape[-2:] == (48, 48)

def sorted_probs(p): return [q for _, q in sorted(zip(p.classes, p.probs))]

def test_sizes_for_tests_on_the_command_line(real_photos, tmp_path, capfd):
    args = ['--data', real_photos, '--arch', 'resnet8', '--bs', 4, '--epochs', 1, '--size', '32x40',
            '--test-size', '48x56', '--load-size', 60, '--repeats', 2, '--out', tmp_path]
    assert run_command('train', *args) == 0
    assert 'training on 32×40 px, everything else on 48×56 px' in capfd.readouterr().out
    run = tmp_path/f'{real_photos.name}-resnet8-001'
    assert load_run(run)['data']['repeats'] == 2
    assert run_command('evaluate', run) == run_command('evaluate', run, '--ten-crop') == 0
    assert run_command('predict', real_photos/'a', '--model', run) == 0
    if find_spec('onnxruntime'):
        assert run_command('export', run) == 0
        assert '3×48×56 images' in capfd.readouterr().out
    with pytest.raises(CourseError, match='test_size is for photos'):
        get_dls('digits', test_size=32)
    with pytest.raises(CourseError, match='smaller than what is cropped'):
        get_dls(real_photos, size=32, load_size=(40, 31))
    with pytest.raises(CourseError, match='repeats'): get_dls(real_photos, repeats=0)

@needs_fork
@pytest.mark.parametrize('balance', [None, 'sample'])
def test_repeated_augmentation(real_photos, balance):
    "Each image comes three times in a row, augmented differently, in an epoch of the same length"
    def loaders(repeats=3, num_workers=0):
        return get_dls(real_photos, size=32, bs=6, seed=3, augment='imagenet', device='cpu',
                       num_workers=num_workers, repeats=repeats, balance=balance)
    dls = loaders()
    order = dls.train.get_idxs()
    assert len(order) == len(dls.train_ds) == len(loaders(1).train.get_idxs())
    assert all(len({*order[i:i + 3]}) == 1 for i in range(0, len(order) - 2, 3))
    assert order != dls.train.get_idxs()
    if not balance: assert len({*order}) == -(-len(order)//3)
    alone = batches(loaders().train)
    same(alone, batches(loaders(num_workers=2).train))
    x, y = alone[0]
    assert y[0] == y[1] == y[2] and not any(torch.equal(x[i], x[i + 1]) for i in range(5))

def test_resuming_repeated_augmentation(real_photos, tmp_path):
    def learner():
        dls = get_dls(real_photos, size=32, bs=4, augment='imagenet', device='cpu', repeats=3)
        return quiet(course_learner(dls, 'resnet8', seed=3, precision='fp32'))
    whole, again = learner(), learner()
    fit_recipe(whole, epochs=2)
    file = tmp_path/'checkpoint.pt'
    with pytest.raises(Interrupted):
        fit_recipe(learner(), epochs=2, cbs=CtrlC(1, 1), checkpoint=file)
    fit_recipe(again, epochs=2, checkpoint=file, resume=True)
    assert torch.equal(bits(whole), bits(again))

# Published augmentation

def test_erased_rectangles_have_torchvisions_distribution():
    x, n = torch.ones(1, 40, 70), 4000
    torch.manual_seed(0)
    theirs = np.array([T.RandomErasing.get_params(x, (.02, .33), (.3, 3.3), [0])[:4]
                       for _ in range(n)])
    erase = RandomErasing(p=1.)
    erase.gen = torch.Generator().manual_seed(1)
    ours = torch.stack(erase.draw(x.expand(n, 1, 40, 70)), 1).numpy()
    for i in range(4): assert stats.ks_2samp(ours[:, i], theirs[:, i]).pvalue > 1e-3
    rare = augmentations('torchvision2021', get_dls_images(), 32, 3, np.arange(4))[-1]
    rare.gen = torch.Generator().manual_seed(2)
    erased = (rare.apply(torch.ones(n, 3, 32, 32), *rare.draw(torch.ones(n, 3, 32, 32))) == 0)
    assert 0.085 < erased.flatten(1).any(1).float().mean() < 0.115
    assert rare.order > Standardize.order   # 0 is the mean of the normalized images

def get_dls_images(): return get_dls('digits').train_ds.tls[1].tfms.fs[0].images

@pytest.mark.skipif(not find_spec('timm'), reason='needs timm')
@pytest.mark.parametrize('config', ['rand-m6-mstd0.5-inc1', 'rand-m9-n3-mstd0.5'])
def test_timms_randaugment(real_photos, config):
    "What timm's own training transforms contain does the same to a photo"
    from timm.data.auto_augment import RandAugment
    from timm.data.transforms_factory import transforms_imagenet_train
    tfms = transforms_imagenet_train(160, auto_augment=config, interpolation='random').transforms
    theirs, = [t for t in tfms if isinstance(t, RandAugment)]
    ours = augmentations(f'resized_crop+{config}', get_dls_images(), 160, 3, np.arange(4))[-1]
    im = Image.open(real_photos/'a'/'0.jpg').resize((160, 160))
    x = T.functional.pil_to_tensor(im)
    for seed in range(40):
        with seeded(seed): want = T.functional.pil_to_tensor(theirs(im))
        assert torch.equal(ours.one(x, seed), want)
    with pytest.raises(CourseError, match='is not a timm configuration'):
        get_dls(real_photos, size=32, augment='rand-quux9')

@needs_fork
@pytest.mark.parametrize('name', ['rsb_a3', 'torchvision2021'])
def test_loaders_as_published(real_photos, name):
    "Small, but with the published proportions; workers make the same batches"
    if name == 'rsb_a3': pytest.importorskip('timm')
    how = dict(recipes[name].loaders)
    assert (how['size'], how['test_size']) == (160 if name == 'rsb_a3' else 176, 224)
    how |= dict(size=32, test_size=48, load_size=51)
    def epoch(workers):
        return batches(get_dls(real_photos, bs=5, device='cpu', num_workers=workers, **how).train)
    same(epoch(0), epoch(2))
    assert epoch(0)[0][0].shape[-1] == 32
