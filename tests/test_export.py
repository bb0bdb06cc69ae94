"An exported file computes the same scores as the network, or is not kept"
import sys

import pytest, torch, torch.nn.functional as F
from helpers import noise, run_command
from sklearn.datasets import load_sample_images

from resnet_course.core import CourseError
from resnet_course.export import OnnxModel, export_model
from resnet_course.models import create_model
from resnet_course.predict import predict_images
from resnet_course.saving import load_model, save_weights

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

@pytest.mark.parametrize('kw, size', [
    (dict(name='resnet8', variant='v2'), 32), (dict(name='resnet50', nf=8, variant='v1'), 48),
    (dict(name='plain8', n_in=1, act='tanh'), 28), (dict(name='alexnet_small'), 40)], ids=str)
def test_parity(tmp_path, kw, size):
    net = create_model(**kw)
    net(torch.randn(16, net.n_in, size, size))  # moves the BatchNorm statistics
    before, mode = {k: v.clone() for k, v in net.state_dict().items()}, net.training
    xb = torch.randn(5, net.n_in, size, size)
    res = export_model(net, tmp_path/'a.onnx', images=xb)
    assert res.difference < 1e-4 and net.training == mode
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    net.eval()
    with torch.no_grad():
        for n in (1, 2, 5):
            assert (OnnxModel(tmp_path/'a.onnx')(xb[:n]) - net(xb[:n])).abs().max() < 1e-4

@pytest.mark.parametrize('name, size', [('resnet18', 224), ('alexnet', 227), ('resnet20', 32)])
def test_photos(tmp_path, name, size):
    "The course's main networks agree on photographs"
    photos = [torch.tensor(im[:400, 100:500]) for im in load_sample_images().images]
    xb = torch.stack(photos).permute(0, 3, 1, 2).float()/255
    xb = F.interpolate(xb, size=(size, size), mode='bilinear', antialias=True)
    xb = (xb - xb.mean((0, 2, 3), keepdim=True))/xb.std((0, 2, 3), keepdim=True)
    net = create_model(name, 10, **(dict(init='kaiming') if name == 'alexnet' else {}))
    net(xb.repeat(2, 1, 1, 1))
    res = export_model(net, tmp_path/'a.onnx', images=xb)
    assert res.difference < 1e-4
    with torch.no_grad():
        assert (OnnxModel(tmp_path/'a.onnx')(xb) - net.eval()(xb)).abs().max() < 1e-4

def test_the_file_knows_its_classes(tmp_path):
    net = create_model('resnet8', 2)
    net = load_model(save_weights(net, tmp_path/'w', size=20, vocab=['cat', 'dog']))
    assert export_model(net, tmp_path/'a.onnx').size == (3, 20, 20)
    meta = OnnxModel(tmp_path/'a.onnx').meta
    assert meta['vocab'] == ['cat', 'dog'] and meta['size'] == 20 and meta['cfg'] == net.cfg

@pytest.mark.parametrize('name, size, suffix', [
    ('resnet8', (24, 40), '.onnx'), ('alexnet_small', (64, 32), '.onnx'),
    ('resnet18', (160, 224), '.onnx'), ('plain8', (33, 57), '.onnx'),
    ('resnet8', (24, 40), '.pt2')])
def test_oblong(tmp_path, name, size, suffix):
    "Height and width in this order, as saved with the weights or as asked for"
    net = create_model(name, 2)
    xb = torch.randn(4, net.n_in, *size)
    net(xb)
    path = save_weights(net, tmp_path/'w', size=size, side=size, vocab=['a', 'b'],
                        stats=[[.5]*net.n_in, [.5]*net.n_in])
    res = export_model(load_model(path), tmp_path/f'a{suffix}')
    assert res.size == (net.n_in, *size) and res.difference < 1e-4
    if suffix == '.pt2': return
    onnx = OnnxModel(tmp_path/'a.onnx')
    with torch.no_grad(): assert (onnx(xb) - net.eval()(xb)).abs().max() < 1e-4
    assert list(onnx.meta['size']) == list(size)
    im = noise((120, 90))
    a, b = (next(iter(predict_images(m, [im], precision='fp32'))) for m in (onnx, load_model(path)))
    assert a.error is None and a.classes == b.classes and abs(a.probs[0] - b.probs[0]) < 1e-4

def test_oblong_on_the_command_line(tmp_path, capsys):
    path = save_weights(create_model('resnet8', 2), tmp_path/'w', vocab=['a', 'b'])
    assert run_command('export', path, '--size', '24x40', '--out', tmp_path/'a.onnx') == 0
    assert '24×40' in capsys.readouterr().out
    assert run_command('export', path, '--size', '24x', '--out', tmp_path/'b.onnx') == 2
    assert not (tmp_path/'b.onnx').exists()

def test_without_the_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(CourseError, match='pip install onnx onnxruntime onnxscript'):
        export_model(create_model('resnet8'), tmp_path/'a.onnx', 32)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('score', [0., float('nan')])
def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch, score):
    monkeypatch.setattr(OnnxModel, '__call__', lambda self, x: torch.full((len(x), 10), score))
    with pytest.raises(CourseError, match='not written'):
        export_model(create_model('resnet8'), tmp_path/'a.onnx', 32)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('size,says', [(0, 'one pixel'), (-3, 'one pixel'), (4, 'too small')])
def test_impossible_size(tmp_path, capsys, size, says):
    "One line, and no file"
    f = save_weights(create_model('alexnet_tv', n_out=2, n_in=3), tmp_path/'w.safetensors')
    assert run_command('export', f, '--size', size, '--out', tmp_path/'w.onnx') != 0
    err = capsys.readouterr().err
    assert 'Traceback' not in err and says in err and not (tmp_path/'w.onnx').exists()
