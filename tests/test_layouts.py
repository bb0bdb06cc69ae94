"Weights in the layouts of torchvision, timm and transformers load strictly there"
import json

import numpy as np, pytest, torch, torchvision
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_images

from resnet_course.core import CourseError
from resnet_course.models import create_model
from resnet_course.photos import fit_photo
from resnet_course.weights import load_weights
from resnet_course.saving import save_weights

META = dict(vocab=['cat', 'dog', 'owl'], size=64, side=72, stats=[[.5]*3, [.25]*3], accuracy=.9)

def network(name, **kwargs):
    torch.manual_seed(0)
    net = create_model(name, 3, **kwargs).eval()
    for m in net.modules():   # statistics that tell one BatchNorm from another
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(std=.1)
            m.running_var.uniform_(.5, 1.5)
    return net

def scores(net, n_in=3):
    torch.manual_seed(1)
    with torch.no_grad(): return net(torch.randn(2, n_in, 64, 64))

@pytest.mark.parametrize('name', ['resnet18', 'resnet50', 'resnext50_32x4d', 'alexnet_tv'])
def test_torchvision(name, tmp_path):
    net = network(name)
    file = save_weights(net, tmp_path/'tv', layout='torchvision', **META)
    theirs = torchvision.models.get_model(name.removesuffix('_tv'), num_classes=3).eval()
    theirs.load_state_dict(load_file(file))
    torch.testing.assert_close(scores(net), scores(theirs))

@pytest.mark.parametrize('name,kwargs', [
    ('resnet18', {}), ('resnet34', dict(n_in=1)), ('resnet50', dict(stem='deep')),
    ('wide_resnet50_2', {}), ('resnext50_32x4d', {})])
def test_timm(name, kwargs, tmp_path):
    timm = pytest.importorskip('timm', reason='timm is not installed')
    net = network(name, **kwargs)
    file = save_weights(net, tmp_path/'timm', layout='timm', **META)
    theirs = timm.create_model(f'local-dir:{file.parent}', pretrained=True).eval()
    n_in = kwargs.get('n_in', 3)
    torch.testing.assert_close(scores(net, n_in), scores(theirs, n_in))
    assert theirs.pretrained_cfg['mean'] == [.5]*n_in
    assert list(theirs.pretrained_cfg['input_size']) == [n_in, 64, 64]
    theirs.load_state_dict(load_file(file), strict=True)

@pytest.mark.parametrize('name,kwargs', [
    ('resnet18', {}), ('resnet34', dict(n_in=1)), ('resnet50', {}),
    ('resnet50', dict(variant='v1')), ('resnet18', dict(nf=16))])
def test_transformers(name, kwargs, tmp_path):
    transformers = pytest.importorskip('transformers', reason='transformers is not installed')
    net = network(name, **kwargs)
    file = save_weights(net, tmp_path/'hf', layout='huggingface', **META)
    theirs, info = transformers.ResNetForImageClassification.from_pretrained(
        file.parent, output_loading_info=True)
    assert not any(info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    n_in = kwargs.get('n_in', 3)
    out = scores(theirs.eval(), n_in).logits
    torch.testing.assert_close(scores(net, n_in), out)
    assert theirs.config.id2label == {0: 'cat', 1: 'dog', 2: 'owl'}
    back = create_model(name, 3, **kwargs).eval()
    report = load_weights(back, file)
    assert not report.missing and not report.skipped
    assert torch.equal(scores(back, n_in), scores(net, n_in))

def test_preparation_of_transformers(tmp_path):
    "The image processor prepares as the weights were trained"
    transformers = pytest.importorskip('transformers', reason='transformers is not installed')
    file = save_weights(network('resnet18'), tmp_path/'hf', layout='huggingface', **META)
    prepare = transformers.BitImageProcessor.from_pretrained(file.parent)
    x = prepare(np.full((80, 100, 3), 255, np.uint8), return_tensors='pt')['pixel_values']
    assert x.shape == (1, 3, 64, 64) and torch.allclose(x, torch.full_like(x, 2.))

def as_trained(im, **meta):
    "A photo as our own evaluation prepares it, in the normalization of `META`"
    x = torch.tensor(np.asarray(fit_photo(im, meta['size'], meta['resize'], meta['side'])))
    mean, std = (torch.tensor(o)[:, None, None] for o in META['stats'])
    return (x.movedim(2, 0)/255 - mean)/std

PHOTO = Image.fromarray(load_sample_images().images[0])
PREPARED = [dict(size=(64, 96), resize='crop', side=(73, 110)),
            dict(size=(64, 96), resize='squish', side=(73, 110)),
            dict(size=64, resize='squish', side=73), dict(size=64, resize='crop', side=70)]

@pytest.mark.parametrize('meta', PREPARED, ids=str)
def test_photos_are_prepared_as_in_training(meta, tmp_path):
    "By timm and by transformers, whatever their size; or the layout is refused"
    timm, net = pytest.importorskip('timm'), network('resnet18')
    file = save_weights(net, tmp_path/'timm', layout='timm', **dict(META, **meta))
    theirs = timm.create_model(f'local-dir:{file.parent}', pretrained=True)
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    # timm rounds oblong sizes down, which shifts the image by part of a pixel
    assert (prepare(PHOTO) - as_trained(PHOTO, **meta)).abs().mean() < .1
    assert 'fitted by' in (file.parent/'README.md').read_text()
    transformers = pytest.importorskip('transformers')
    if meta['resize'] == 'crop' and isinstance(meta['size'], tuple):
        with pytest.raises(CourseError, match='save it with layout='):
            save_weights(net, tmp_path/'hf', layout='huggingface', **dict(META, **meta))
        return
    file = save_weights(net, tmp_path/'hf', layout='huggingface', **dict(META, **meta))
    prepare = transformers.BitImageProcessor.from_pretrained(file.parent)
    x = prepare(PHOTO, return_tensors='pt')['pixel_values'][0]
    assert (x - as_trained(PHOTO, **meta)).abs().mean() < .05

@pytest.mark.parametrize('layout', ['torchvision', 'timm', 'huggingface'])
def test_card(layout, tmp_path):
    "The card says how to load, and what the network takes"
    file = save_weights(network('resnet18'), tmp_path/'w', layout=layout, **META)
    card = (file.parent/'README.md').read_text()
    library = dict(huggingface='transformers').get(layout, layout)
    assert f'library_name: {library}' in card and 'cat, dog, owl' in card
    assert '64×64 px' in card and 'accuracy: 0.9' in card and 'import' in card
    for f in file.parent.glob('*.json'): json.loads(f.read_text())

@pytest.mark.parametrize('layout,name,kwargs,says', [
    ('timm', 'resnet20', {}, 'timm has no resnet20'),
    ('timm', 'resnet50', dict(variant='v1'), "with variant='v1'"),
    ('torchvision', 'resnet18', dict(stem='cifar'), "with stem='cifar'"),
    ('torchvision', 'resnet18', dict(n_in=1), 'with n_in=1'),
    ('torchvision', 'resnet18', dict(act='gelu'), "with act='gelu'"),
    ('huggingface', 'resnext50_32x4d', {}, 'transformers has no resnext50'),
    ('huggingface', 'alexnet_tv', {}, 'transformers has no alexnet'),
    ('keras', 'resnet18', {}, 'unknown layout')])
def test_refused(layout, name, kwargs, says, tmp_path):
    "A network that the library does not have is refused before anything is written"
    with pytest.raises(CourseError, match=says):
        save_weights(create_model(name, 3, **kwargs), tmp_path/'w', layout=layout)
    assert not (tmp_path/'w').exists()

def test_networks_of_torchvision(tmp_path):
    "torchvision's own network can be saved for timm, too"
    timm = pytest.importorskip('timm', reason='timm is not installed')
    net = torchvision.models.resnet18(num_classes=3).eval()
    file = save_weights(net, tmp_path/'w.safetensors', layout='timm', **META)
    assert file.name == 'w.safetensors' and (tmp_path/'w.md').exists()
    theirs = timm.create_model('resnet18', num_classes=3).eval()
    theirs.load_state_dict(load_file(file))
    torch.testing.assert_close(scores(net), scores(theirs))
