"Image files are classified the way the network was trained and tested"
import numpy as np
import pytest
import torch
from helpers import photos
from PIL import Image

from resnet_course.core import CourseError
from resnet_course.loaders import get_dls
from resnet_course.models import create_model, eval_mode
from resnet_course.saving import load_model, save_weights
from resnet_course.learner import course_learner
from resnet_course.predict import find_images, predict_images
from resnet_course.records import save_run

def noise(path, size=32, seed=0):
    "Write a random RGB image"
    path.parent.mkdir(parents=True, exist_ok=True)
    im = np.random.RandomState(seed).randint(256, size=(size, size, 3), dtype=np.uint8)
    Image.fromarray(im).save(path)
    return path

def saved_run(learn, folder):
    "Train for an epoch and save; returns the weights file"
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 0.1)
    save_run(learn, folder)
    return folder/'model.safetensors'

def check_first_probs(learn, weights, files):
    "Compare with the learner's own test loader, one file at a time"
    x = torch.cat([learn.dls.test_dl([f]).one_batch()[0] for f in files])
    with torch.no_grad(), eval_mode(learn) as model: want = model(x).softmax(1).max(1).values
    preds = predict_images(load_model(weights), files, precision='fp32')
    got = torch.tensor([p.probs[0] for p in preds])
    assert got == pytest.approx(want, abs=1e-5)

@pytest.mark.parametrize('size', [8, 24, 28, 40])
def test_files_are_prepared_as_in_training(tmp_path, size):
    dls = get_dls('fashion_mnist_mini', bs=32, n_train=256, size=size, device='cpu')
    learn = course_learner(dls, 'resnet8', seed=0, precision='fp32')
    weights, files = saved_run(learn, tmp_path), []
    for i in range(12):
        files.append(tmp_path/f'{i}.png')
        Image.fromarray(dls.test_ds[i][0].numpy()[0]).save(files[-1])
    check_first_probs(learn, weights, files)

@pytest.mark.parametrize('size', [32, (24, 40)])
@pytest.mark.parametrize('resize', ['crop', 'squish', 'pad'])
def test_photos_are_prepared_as_in_training(tmp_path, size, resize):
    "Whatever the shape of the network's view, and whatever happens to the rest of a photo"
    photos(tmp_path/'photos', 8, (60, 50))
    dls = get_dls(tmp_path/'photos', bs=4, size=size, resize=resize, num_workers=0, device='cpu')
    learn = course_learner(dls, 'resnet8', seed=0, precision='fp32')
    weights = saved_run(learn, tmp_path/'run')
    check_first_probs(learn, weights, find_images([tmp_path/'photos']))

def test_weights_without_metadata(tmp_path):
    learn = course_learner(get_dls('digits', n_train=32, device='cpu'), 'resnet8')
    f = save_weights(learn.model, tmp_path/'w.safetensors')
    with pytest.raises(CourseError, match='without vocab, size, stats'):
        list(predict_images(load_model(f), []))

def test_order_and_errors_over_several_batches(tmp_path):
    "Every file has its own prediction, whichever files can't be read and wherever a batch ends"
    files = [noise(tmp_path/f'{i:02}.png', seed=i) for i in range(10)]
    for i in (0, 3, 4, 5, 9): files[i].write_bytes(b'not an image')
    model = create_model('resnet8', n_out=2)
    model.meta = dict(vocab=['a', 'b'], size=32, stats=([.5]*3, [.25]*3))
    alone = [p for f in files for p in predict_images(model, [f], precision='fp32')]
    assert [bool(p.error) for p in alone] == [i in (0, 3, 4, 5, 9) for i in range(10)]
    for bs in (2, 3, 64):
        preds = list(predict_images(model, files, bs=bs, precision='fp32'))
        assert [p.file for p in preds] == [str(f) for f in files]
        assert [(p.error, p.classes) for p in preds] == [(p.error, p.classes) for p in alone]
        for p, q in zip(preds, alone): assert p.probs == pytest.approx(q.probs, abs=1e-5)

def test_model_in_training_mode(tmp_path):
    "It predicts in eval mode; its BatchNorm doesn't move, and it stays in training mode"
    files = [noise(tmp_path/f'{i}.png', seed=i) for i in range(4)]
    model = create_model('resnet8', n_out=2)
    model.meta = dict(vocab=['a', 'b'], size=32, stats=([.5]*3, [.25]*3))
    want, before = list(predict_images(model.eval(), files)), model.bn1.running_mean.clone()
    assert list(predict_images(model.train(), files)) == want
    assert torch.equal(model.bn1.running_mean, before)
    assert all(m.training for m in model.modules())

def test_hidden_files_are_not_images(tmp_path):
    for i in range(3): noise(tmp_path/'a'/f'{i}.png')
    (tmp_path/'a'/'._0.png').write_bytes(b'AppleDouble')
    assert [f.name for f in find_images([tmp_path])] == ['0.png', '1.png', '2.png']

def test_files_that_are_named_are_taken(tmp_path):
    "Whatever their name, and in the order given"
    odd, image = tmp_path/'photo.dat', noise(tmp_path/'a.png')
    odd.write_bytes(image.read_bytes())
    assert find_images([str(odd), image]) == [odd, image]
    with pytest.raises(CourseError, match='no such file'): find_images([tmp_path/'missing.png'])

def test_anything_that_holds_an_image(tmp_path):
    "A path, its name, bytes, an open file, and what was read: the same probabilities"
    model = create_model('resnet8')
    model.meta = dict(vocab=list('abcdefghij'), size=32, side=37, resize='crop', crop=True,
                      stats=([.5]*3, [.2]*3))
    file = noise(tmp_path/'x.png', 50)
    im = Image.open(file)
    array = np.array(im)
    with open(file, 'rb') as f:
        kinds = [file, str(file), file.read_bytes(), f, im, array,
                 torch.from_numpy(array).permute(2, 0, 1), array/255]
        preds = list(predict_images(model, kinds, precision='fp32'))
    assert [p.error for p in preds] == [None]*len(kinds)
    first = preds[0]
    for p in preds: assert p.classes == first.classes and p.probs == pytest.approx(first.probs)
    assert [p.file for p in preds[:4]] == [str(file), str(file), '<bytes>', str(file)]
