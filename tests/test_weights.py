"""Checkpoints in every state: what must load does, what must not is refused and leaves no trace"""
import hashlib, json, os, pathlib, urllib.error

import pytest, torch, torchvision
from safetensors.torch import save_file
from resnet_course.core import CourseError
from resnet_course.models import create_model
from resnet_course.weights import (
    load_model, load_weights, read_weights, save_weights, torchvision_file)
from checkpoints import cases

def state(m): return {k: v.clone() for k, v in m.state_dict().items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def test_enough_cases(): assert len(cases) >= 40

@pytest.mark.parametrize('case', cases, ids=lambda c: c.title)
def test_case(case, tmp_path):
    torch.manual_seed(0)
    net, sd = create_model(**case.model), state(create_model('resnet8'))
    before = state(net)
    source = case.make(tmp_path, sd)
    if case.loads:
        report = load_weights(net, source, **case.args)
        assert case.says in str(report)
        assert not same(state(net), before)
        done = {*report.matched, *report.adapted}
        assert all(torch.equal(before[k], v) for k, v in net.state_dict().items() if k not in done)
        assert {*report.matched, *report.adapted, *report.missing, *report.skipped} >= {*before}
        return
    with pytest.raises(CourseError) as e: load_weights(net, source, **case.args)
    assert case.says in str(e.value)
    assert '\n' not in str(e.value) and len(str(e.value)) < 700
    assert same(state(net), before), 'the model was changed'
    assert not (tmp_path/'owned').exists(), 'code from the file was run'

@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may read everything')
def test_no_permission(tmp_path):
    p = save_weights(create_model('resnet8'), tmp_path/'w')
    p.chmod(0)
    with pytest.raises(CourseError, match='cannot be read'): load_weights(create_model('resnet8'), p)

def test_no_permission_even_as_root(tmp_path, monkeypatch):
    p = save_weights(create_model('resnet8'), tmp_path/'w')
    def no(*a, **k): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr('builtins.open', no)
    with pytest.raises(CourseError, match='cannot be read .Permission denied'): read_weights(p)

def test_answers_survive_the_names(tmp_path):
    "Not only is it loaded: the net answers as the one that was saved"
    a, b = create_model('resnet20').eval(), create_model('resnet20').eval()
    torch.save({'state_dict': {'module.' + k.replace('fc.', 'linear.'): v for k, v in a.state_dict().items()}}, tmp_path/'w.th')
    load_weights(b, tmp_path/'w.th')
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad(): assert torch.equal(a(x), b(x))

def test_wrapped_model():
    "A model inside DataParallel takes the plain file, and the other way round"
    a, b = create_model('resnet8'), torch.nn.DataParallel(create_model('resnet8'))
    load_weights(b, a.state_dict())
    assert same(state(a), state(b.module))
    load_weights(a, b.state_dict())

# load_model builds what the file says: files that lie

def lying(path, change, sd=None):
    meta = dict(cfg=create_model('resnet8').cfg)
    change(meta)
    save_file(sd or create_model('resnet8').state_dict(), path, metadata=dict(resnet_course=json.dumps(meta)))
    return path

@pytest.mark.parametrize('change, says', [
    (lambda m: m.pop('cfg'), 'no configuration in it'),
    (lambda m: m.update(cfg=[1, 2]), 'no configuration in it'),
    (lambda m: m.update(cfg={}), 'makes no model'),
    (lambda m: m['cfg'].update(name='resnet9'), 'unknown model'),
    (lambda m: m['cfg'].update(name=['resnet8']), 'unknown model'),
    (lambda m: m['cfg'].update(name='resnet14'), 'not those of its configuration'),
    (lambda m: m['cfg'].update(n_out=10**12), 'not those of its configuration'),
    (lambda m: m['cfg'].update(n_out='10'), 'positive whole number'),
    (lambda m: m['cfg'].update(n_in=-3), 'positive whole number'),
    (lambda m: m['cfg'].update(nf=1.5), 'makes no model'),
    (lambda m: m['cfg'].update(evil='x'), 'has no option'),
    (lambda m: m['cfg'].update(stem=3), 'makes no model'),
], ids=str)
def test_lying_files(tmp_path, change, says):
    with pytest.raises(CourseError, match=says): load_model(lying(tmp_path/'w.safetensors', change))

def test_nan_in_own_file(tmp_path):
    net = create_model('resnet8')
    net.fc.bias.data[0] = float('nan')
    with pytest.raises(CourseError, match='NaN'): load_model(save_weights(net, tmp_path/'w'))

def test_save_refuses(tmp_path):
    net = create_model('resnet8')
    with pytest.raises(CourseError, match='saved as .safetensors'): save_weights(net, tmp_path/'w.pth')
    with pytest.raises(CourseError, match='JSON'): save_weights(net, tmp_path/'w', x=torch.ones(1))
    assert not list(tmp_path.iterdir())

def test_round_trip_is_exact(tmp_path):
    net = create_model('resnet20', n_in=1, act='elu', variant='v2').to(memory_format=torch.channels_last)
    net(torch.randn(4, 1, 28, 28))   # moves BatchNorm's statistics
    back = load_model(save_weights(net, tmp_path/'deep'/'er'/'w', size=28, vocab=['a', 'b']))
    assert same(state(net), state(back)) and back.cfg == net.cfg and back.meta['vocab'] == ['a', 'b']
    assert not back.training
    assert {'torch', 'resnet_course'} <= back.meta['versions'].keys()

# torchvision's weights

def hub(tmp_path, monkeypatch): monkeypatch.setenv('TORCH_HOME', str(tmp_path)); return tmp_path/'hub'/'checkpoints'

def test_offline_names_the_file(tmp_path, monkeypatch):
    folder = hub(tmp_path, monkeypatch)
    def offline(*a, **k): raise urllib.error.URLError('no network')
    monkeypatch.setattr(torch.hub, 'download_url_to_file', offline)
    with pytest.raises(CourseError) as e: load_weights(create_model('resnet18', 1000), 'torchvision')
    assert 'resnet18-f37072fd.pth' in str(e.value) and str(folder/'resnet18-f37072fd.pth') in str(e.value)
    assert '\n' not in str(e.value)

def test_hash_is_checked(tmp_path, monkeypatch):
    folder = hub(tmp_path, monkeypatch)
    folder.mkdir(parents=True)
    torch.save(create_model('resnet18', 1000).state_dict(), folder/'resnet18-f37072fd.pth')
    with pytest.raises(CourseError, match='damaged'): load_weights(create_model('resnet18'), 'torchvision')

def test_from_the_cache(tmp_path, monkeypatch):
    "With the right file in the cache, by every name that it has, into a net with other classes"
    folder, theirs = hub(tmp_path, monkeypatch), torchvision.models.resnet18()
    folder.mkdir(parents=True)
    torch.save(theirs.state_dict(), folder/'resnet18-f37072fd.pth')
    class Sum:
        def hexdigest(self): return 'f37072fd' + '0'*56
    monkeypatch.setattr(hashlib, 'sha256', lambda b: Sum())
    for name in ('torchvision', 'IMAGENET1K_V1', 'ResNet18_Weights.IMAGENET1K_V1'):
        net = create_model('resnet18', 10)
        report = load_weights(net, name)
        assert len(report.matched) == 120 and torch.equal(net.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)

@pytest.mark.parametrize('model, name, says', [
    (dict(name='resnet18'), 'IMAGENET1K_V2', 'unknown weights for resnet18'),
    (dict(name='resnet20'), 'torchvision', 'torchvision has no weights for resnet20'),
    (dict(name='alexnet'), 'torchvision', 'torchvision has no weights for alexnet;'),
    (dict(name='plain18'), 'torchvision', 'torchvision has no weights for plain18'),
])
def test_not_torchvisions(model, name, says):
    with pytest.raises(CourseError, match=says): load_weights(create_model(**model), name)

# He et al.'s own ResNet-50

he = pathlib.Path.home()/'.fastai/data/weights/resnet50-imagenet-v1.pth'
@pytest.mark.skipif(not he.exists(), reason=f"He et al.'s ResNet-50 is not in fastai's data folder: weights/{he.name}")
def test_he_resnet50():
    "The paper's own weights see a palace, a cat, coffee and a tripod; in a v1.5 net they are less sure"
    skimage_data = pytest.importorskip('skimage.data')
    from PIL import Image
    from sklearn.datasets import load_sample_image
    meta = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    photos = dict(palace=load_sample_image('china.jpg'), espresso=skimage_data.coffee(), tripod=skimage_data.camera())
    photos['Egyptian cat'] = skimage_data.cat()
    xb = torch.stack([meta.transforms()(Image.fromarray(o).convert('RGB')) for o in photos.values()])
    sure = {}
    for v in ('v1', 'v1.5'):
        net = create_model('resnet50', 1000, variant=v)
        report = load_weights(net, he, variant='v1' if v == 'v1' else None)
        assert len(report.matched) == 320
        with torch.no_grad(): p, i = net.eval()(xb).softmax(1).max(1)
        if v == 'v1': assert [meta.meta['categories'][j] for j in i] == list(photos)
        sure[v] = p.mean()
    assert sure['v1'] > .8 and sure['v1'] > sure['v1.5']
    with pytest.raises(CourseError, match="variant='v1'"): load_weights(net, he, variant='v1')
