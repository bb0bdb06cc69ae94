"Other people's loaders, functions and callbacks on a course learner: right, or one sentence"
import functools
from dataclasses import replace

import numpy as np, pytest, timm, torch, torchvision
from fastai.callback.training import GradientClip
from fastai.callback.tracker import SaveModelCallback
from fastai.data.block import CategoryBlock, DataBlock
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock, ImageDataLoaders
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

from resnet_course.core import CourseError
from resnet_course.evaluate import evaluate
from resnet_course.export import OnnxModel, export_model
from resnet_course.interpret import grad_cam
from resnet_course.learner import course_learner
from resnet_course.loaders import get_dls
from resnet_course.lr_find import find_lr
from resnet_course.models import create_model
from resnet_course.predict import predict_images
from resnet_course.freeze import freeze_report, snapshot
from resnet_course.recipes import fit_recipe, get_recipe
from resnet_course.records import save_run
from resnet_course.reuse import evaluate_run, run_learner
from resnet_course.weights import load_weights
from resnet_course.saving import load_model, save_weights

torch.manual_seed(0)
X, Y = torch.randn(64, 3, 32, 32), torch.randint(0, 4, (64,))

class Items(Dataset):
    classes = list('abcd')
    def __init__(self, item): self.item = item
    def __len__(self): return 64
    def __getitem__(self, i): return self.item(i)

def loaders(item, **kwargs): return [DataLoader(Items(item), 16, **kwargs) for _ in range(2)]

def pair(i): return X[i], int(Y[i])

def fit(*args, **kwargs):
    learn = course_learner(*args, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return learn

@pytest.mark.parametrize('item', [
    pair, lambda i: dict(image=X[i], label=int(Y[i])),
    lambda i: dict(pixel_values=X[i], labels=Y[i]), lambda i: dict(img=X[i], fine_label=Y[i], id=i),
    lambda i: (X[i], int(Y[i]), i),
    lambda i: dict(inputs=X[i], label_ids=int(Y[i])), lambda i: dict(data=X[i], class_id=int(Y[i])),
    lambda i: (X[i], torch.eye(4)[Y[i]]), lambda i: (X[i], np.eye(4)[Y[i]]),
    lambda i: (X[i], torch.eye(4)[Y[i]].bool())])
def test_items(item):
    "Every kind of item gives the same images and classes"
    learn = fit(loaders(item), 'resnet8')
    xs, ys = zip(*[(x, y) for x, y in learn.dls.valid])
    assert torch.equal(torch.cat(xs).cpu(), X) and torch.equal(torch.cat(ys).cpu(), Y)
    assert list(learn.dls.vocab) == list('abcd')

def test_collate_of_dicts():
    "A loader's own collate_fn gets the kind of items that the dataset has"
    seen = []
    def collate(items):
        seen.append(items[0])
        return default_collate(items)
    fit(loaders(lambda i: dict(image=X[i], label=int(Y[i])), collate_fn=collate), 'resnet8')
    assert set(seen[0]) == {'image', 'label'}

@pytest.mark.parametrize('item,says', [
    (lambda i: dict(photo=X[i], label=1), "call the image 'image'"),
    (lambda i: (X[i], torch.full((4,), .25)), 'one-hot vector'),
    (lambda i: (X[i], 'a'), "number or a one-hot vector, got 'a'"),
    (lambda i: (X[i], None), 'got None'), (lambda i: (X[i],), 'return .image, class.'),
    (lambda i: (X[i], 4), 'class 4, but only names for 0 to 3'),
    (lambda i: (X[i], -1), 'class -1'),
    (lambda i: (X[i].byte(), 1), 'which no network accepts: add ToDtype')])
def test_items_that_are_refused(item, says):
    with pytest.raises(CourseError, match=says): fit(loaders(item), 'resnet8')

@pytest.mark.parametrize('dls', [lambda: loaders(pair)[:1], lambda: loaders(pair)[0]])
def test_one_loader(dls):
    with pytest.raises(CourseError, match='one loader is not enough'): course_learner(dls())

def test_loader_without_images():
    empty = DataLoader(torch.utils.data.Subset(Items(pair), []), 16)
    with pytest.raises(CourseError, match='has no images'):
        course_learner([loaders(pair)[0], empty])

@pytest.mark.parametrize('arch', [
    torchvision.models.resnet18, functools.partial(timm.create_model, 'resnet10t')])
def test_function_as_arch(arch):
    learn = fit(loaders(pair), arch)
    assert learn.get_preds()[0].shape == (64, 4)

def test_function_that_takes_no_classes():
    def make(): return create_model('resnet8', 4)
    with pytest.raises(CourseError, match='pass the network'): course_learner(loaders(pair), make)

def test_number_of_outputs():
    with pytest.raises(CourseError, match='has 3 outputs, but the data have 4 classes'):
        course_learner(loaders(pair), create_model('resnet8', 3))
    with pytest.warns(UserWarning, match='6 of its scores are never correct'):
        course_learner(loaders(pair), create_model('resnet8', 10))

def test_gray_loaders_of_fastai(tmp_path):
    "The network is created for the channels that the images have"
    for i in range(24):
        (tmp_path/'ab'[i%2]).mkdir(exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 255, (32, 32), np.uint8)
        Image.fromarray(noise).save(tmp_path/'ab'[i%2]/f'{i}.png')
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_y=lambda o: o.parent.name,
                      get_items=lambda p: sorted(p.rglob('*.png')))
    learn = fit(block.dataloaders(tmp_path, bs=8, num_workers=0), 'resnet8')
    assert learn.model.conv1.in_channels == 1

def test_tensorboard(tmp_path):
    pytest.importorskip('tensorboard', reason='tensorboard is not installed')
    from fastai.callback.tensorboard import TensorBoardCallback
    cb = TensorBoardCallback(tmp_path, trace_model=False, projector=False)
    fit(get_dls('digits', bs=32, n_train=64, seed=0), 'resnet8', cbs=cb)
    assert list(tmp_path.iterdir())

def test_hypers_are_numbers():
    learn = course_learner(get_dls('digits', bs=32, n_train=64, seed=0), 'resnet8')
    learn.create_opt()
    assert all(v is not None for group in learn.opt.hypers for v in group.values())
    learn.opt.set_hypers(lr=.5, mom=.1)
    assert learn.opt.hypers[0]['lr'] == .5 and learn.opt.opt.param_groups[0]['momentum'] == .1

@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
def test_clipping_does_not_depend_on_precision(precision):
    "fastai's GradientClip sees gradients without the scale of float16"
    learn = course_learner(get_dls('digits', bs=32, n_train=64, seed=0), 'resnet8', seed=0,
                           precision=precision, cbs=GradientClip(.1))
    before = learn.model.fc.weight.detach().clone()
    with learn.no_bar(), learn.no_logging(): learn.fit(2, .1)
    assert (learn.model.fc.weight - before).abs().max() > 1e-4

def test_save_with_optimizer(tmp_path):
    learn = fit(get_dls('digits', bs=32, n_train=64, seed=0), 'resnet8', path=tmp_path,
                cbs=SaveModelCallback(with_opt=True))
    net = create_model('resnet8', n_in=1)
    assert len(load_weights(net, tmp_path/'models'/'model.pth').matched) == 44
    assert torch.equal(net.fc.weight, learn.model.fc.weight.cpu())

ANY = ['mobilenet_v3_small', 'squeezenet1_1', 'timm/vit_tiny_patch16_224']

@pytest.mark.parametrize('name', ANY)
def test_any_network(name, tmp_path):
    "It trains, finds rates, is evaluated, looked into and exported"
    if name == 'timm/vit_tiny_patch16_224':
        net = timm.create_model('vit_tiny_patch16_224', num_classes=10, img_size=32, patch_size=8)
    else: net = torchvision.models.get_model(name, num_classes=10)
    dls = get_dls('digits', size=32, bs=32, n_train=64, n_in=3, seed=0)
    learn = course_learner(dls, net, precision='fp32')
    with learn.no_bar(), learn.no_logging():
        find_lr(learn, num_it=10)
        learn.fine_tune(1, 1e-3)
    assert evaluate(learn).n > 0
    assert grad_cam(learn, dls.one_batch()[0][:2]).shape == (2, 32, 32)
    assert export_model(net, tmp_path/'w.onnx', 32).difference < 1e-4

@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "A network that knows its classes, an image, and its file"
    torch.manual_seed(0)
    d = tmp_path_factory.mktemp('saved')
    meta = dict(vocab=['a', 'b'], size=32, side=32, stats=[[.5]*3, [.5]*3], crop=True)
    net = load_model(save_weights(create_model('resnet8', 2), d/'w.safetensors', **meta))
    im = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    im.save(d/'im.png')
    return net, im, d/'im.png'

def test_predict_images_of_any_kind(saved):
    net, im, path = saved
    want, = predict_images(net, [path])
    tensor = torch.tensor(np.array(im)).movedim(2, 0)
    kinds = [im, np.asarray(im), path.read_bytes(), str(path), tensor]
    for o in kinds:
        got, = predict_images(net, [o])
        assert (got.classes, got.probs, got.error) == (want.classes, want.probs, None)
    for o in (im, path, str(path)):   # one image instead of several
        got, = predict_images(net, o)
        assert got.probs == want.probs
    assert next(predict_images(net, [im])).file == '<Image>'

def test_predict_with_onnx(saved, tmp_path):
    net, im, path = saved
    export_model(net, tmp_path/'w.onnx')
    want, = predict_images(net, [path], precision='fp32')
    got, = predict_images(OnnxModel(tmp_path/'w.onnx'), [im])
    assert got.classes == want.classes
    np.testing.assert_allclose(got.probs, want.probs, atol=1e-5)
    with pytest.raises(CourseError, match='with OnnxModel'): load_model(tmp_path/'w.onnx')

def test_run_of_ones_own_network(saved, tmp_path):
    "Its record and weights are evaluated, predicted with and exported, given the network"
    def own():
        return nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(),
                             nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    learn = course_learner(get_dls('digits', bs=32, n_train=64, seed=0), own(), precision='fp32')
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, epochs=1)
    rec = save_run(learn, tmp_path, [evaluate(learn)])
    report, _ = evaluate_run(tmp_path, model=own())
    assert report.top1 == rec['test']['top1']
    assert run_learner(tmp_path, model=own())[0].model[0].in_channels == 1
    net = load_model(tmp_path/'model.safetensors', model=own())
    want, = predict_images(net, [saved[1]], precision='fp32')
    export_model(net, tmp_path/'w.onnx', preprocess='normalize')
    got, = predict_images(OnnxModel(tmp_path/'w.onnx'), [saved[1]])
    assert got.classes == want.classes
    np.testing.assert_allclose(got.probs, want.probs, atol=1e-5)
    for f in (lambda: evaluate_run(tmp_path), lambda: load_model(tmp_path/'model.safetensors')):
        with pytest.raises(CourseError, match='pass the network that it belongs to'): f()
    with pytest.raises(CourseError, match='do not match'):
        evaluate_run(tmp_path, model=create_model('resnet8', n_in=1))

def test_averaged_weights_with_frozen_groups():
    learn = course_learner(get_dls('digits', bs=32, n_train=64, seed=0), 'resnet8', seed=0)
    before = snapshot(learn)
    with learn.no_bar(), learn.no_logging():
        fit_recipe(learn, replace(get_recipe('step'), swa=.5), 4, freeze_to=-1)
    report = freeze_report(learn, before)
    assert report.ok, str(report)
    assert {r['name'] for r in report.rows if r['changed']} == {'head'}

# Images of several sizes

def photos_of(folder, shapes):
    "Two classes of images of these shapes in turn"
    for i in range(24):
        (folder/'ab'[i%2]).mkdir(exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 255, shapes[i//2%len(shapes)], np.uint8)
        Image.fromarray(noise).save(folder/'ab'[i%2]/f'{i}.png')
    return folder

def unequal_fastai(folder, num_workers=0):
    photos_of(folder, [(32, 32, 3), (40, 36, 3)])
    return ImageDataLoaders.from_folder(folder, valid_pct=.5, bs=8, num_workers=num_workers, seed=0)

def unequal_torch(folder, **kwargs):
    to_tensor = torchvision.transforms.ToTensor()
    ds = torchvision.datasets.ImageFolder(photos_of(folder, [(32, 32, 3), (40, 36, 3)]), to_tensor)
    return [DataLoader(ds, 8, **kwargs) for _ in range(2)]

def own_collate(b): return default_collate(b)

UNEQUAL = dict(
    fastai=unequal_fastai, workers=lambda d: unequal_fastai(d, 1), torch=unequal_torch,
    collate=lambda d: unequal_torch(d, collate_fn=own_collate),
    torch_workers=lambda d: unequal_torch(d, num_workers=1))

def pooled(n=2): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, n))

@pytest.mark.parametrize('make', UNEQUAL.values(), ids=list(UNEQUAL))
def test_images_of_several_sizes(make, tmp_path):
    "One sentence with the shapes and the remedy, wherever a batch is made first"
    dls = make(tmp_path)
    says = 'differ in size .3×(32×32|40×36) and 3×(32×32|40×36).: .*Resize'
    learn = course_learner(dls, pooled(), precision='fp32')
    calls = [lambda: learn.fit(1), learn.validate, lambda: find_lr(learn), learn.get_preds,
             lambda: evaluate(learn, 'valid'), lambda: evaluate(pooled(), 'valid', dls=learn.dls)]
    if not isinstance(dls, list): calls.append(lambda: course_learner(dls, 'resnet8'))
    with learn.no_bar(), learn.no_logging():
        for call in calls:
            with pytest.raises(CourseError, match=says) as e: call()
            assert '\n' not in str(e.value)

def test_images_with_several_channels(tmp_path):
    data = [torch.zeros(3 - 2*(i%2), 32, 32) for i in range(64)]
    learn = course_learner(loaders(lambda i: (data[i], int(Y[i]))), pooled(4), precision='fp32')
    with pytest.raises(CourseError, match='differ in channels .*Grayscale'): learn.fit(1)

def test_a_network_that_stacks(tmp_path):
    "Tensors of several sizes inside of a network are its own error"
    class Stacks(nn.Linear):
        def collate(self, x): return torch.stack([x, x[1:]])
        def forward(self, x): return self.collate(x)
    learn = course_learner(loaders(pair), Stacks(2, 2), precision='fp32', loss_func=nn.MSELoss())
    with learn.no_bar(), learn.no_logging(), pytest.raises(RuntimeError, match='stack expects'):
        learn.fit(1)
