"ONNX files that prepare images themselves: they predict what `predict` does"
import re
from pathlib import Path

import numpy as np, pytest, torch
from PIL import Image

from helpers import quiet, run_command
from resnet_course.core import CourseError
from resnet_course.evaluate import evaluate
from resnet_course.export import OnnxModel, export_model, image_meta
from resnet_course.learner import course_learner
from resnet_course.loaders import get_dls
from resnet_course.models import create_model
from resnet_course.predict import predict_images
from resnet_course.runs import train_run
from resnet_course.reuse import compare_runs, evaluate_run, run_learner
from resnet_course.saving import load_model, save_weights

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
pytestmark = pytest.mark.usefixtures('one_thread')

STATS = dict(n3=[[.4, .5, .6], [.2, .25, .3]], n1=[[.4], [.2]])
# what `save_run` writes for photos, oblong ones included, and for small images
KINDS = dict(
    crop=dict(size=32, side=36, resize='crop'),
    bicubic=dict(size=32, side=36, resize='crop', interpolation='bicubic'),
    squish=dict(size=(32, 40), resize='squish'),
    pad=dict(size=(40, 32), resize='pad'), exact=dict(size=32, side=32, crop=True),
    small=dict(size=32, side=8, crop=False), shrunk=dict(size=28, side=32, crop=False))

def network(n_in=3, folder=None, **meta):
    torch.manual_seed(0)
    net = create_model('resnet8', 2, n_in)
    net(torch.randn(16, n_in, 32, 32))   # moves the BatchNorm statistics
    path = save_weights(net, folder/'w.safetensors', vocab=['a', 'b'], stats=STATS[f'n{n_in}'],
                        **meta)
    return load_model(path)

def image(h, w, n_in):
    rng = np.random.default_rng(h)
    low = rng.integers(0, 256, (h//8 + 2, w//8 + 2, 3), np.uint8)   # not only noise
    im = Image.fromarray(low).resize((w, h), Image.BICUBIC)
    return im if n_in == 3 else im.convert('L')

def as_input(im, layout):
    x = np.asarray(im)
    if x.ndim == 2: x = x[..., None]
    return (x if layout == 'NHWC' else np.moveaxis(x, -1, 0))[None]

@pytest.mark.parametrize('kind,n_in,layout', [
    ('crop', 3, 'NHWC'), ('bicubic', 3, 'NHWC'), ('squish', 3, 'NCHW'), ('pad', 1, 'NHWC'),
    ('small', 1, 'NCHW'), ('shrunk', 3, 'NHWC')])
def test_any_size(kind, n_in, layout, tmp_path):
    "Bytes of any size, straight into onnxruntime or to `predict`: the probabilities are the same"
    net = network(n_in, tmp_path, **KINDS[kind])
    res = export_model(net, tmp_path/'w.onnx', preprocess='resize', layout=layout)
    assert res.difference < 1e-4 and 'of any size' in str(res)
    onnx = OnnxModel(tmp_path/'w.onnx')
    ims = [image(*size, n_in) for size in [(32, 32), (90, 120), (200, 60), (20, 31)]]
    wants = predict_images(net, ims, precision='fp32')
    for im, want, pred in zip(ims, wants, predict_images(onnx, ims)):
        scores, = onnx.session.run(None, {'images': as_input(im, layout)})
        probs = torch.tensor(scores).softmax(1)[0].tolist()
        for got in (dict(zip(['a', 'b'], probs)), dict(zip(pred.classes, pred.probs))):
            # Pillow may round once more, by the order of rows and columns
            for c, p in zip(want.classes, want.probs): assert abs(got[c] - p) < .01

@pytest.mark.parametrize('kind', ['exact', 'small'])
def test_predict_takes_prepared_images(kind, tmp_path):
    net, ims = network(3, tmp_path, **KINDS[kind]), [image(90, 120, 3), image(50, 40, 3)]
    export_model(net, tmp_path/'w.onnx', preprocess='normalize')
    onnx = OnnxModel(tmp_path/'w.onnx')
    for a, b in zip(predict_images(net, ims, precision='fp32'), predict_images(onnx, ims)):
        p, q = (dict(zip(o.classes, o.probs)) for o in (a, b))
        assert b.error is None and abs(p['a'] - q['a']) < 1e-5

def test_normalization_is_exact(tmp_path):
    net = network(3, tmp_path, **KINDS['crop'])
    res = export_model(net, tmp_path/'w.onnx', preprocess='normalize', layout='NCHW')
    assert res.size == (3, 32, 32) and 'as bytes' in str(res)
    x = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    mean, std = torch.tensor(STATS['n3'])[..., None, None]
    with torch.no_grad(): want = net((x/255 - mean)/std)
    onnx = OnnxModel(tmp_path/'w.onnx')
    assert (onnx(x) - want).abs().max() < 1e-5
    assert str(onnx) == 'resnet8 as ONNX, for byte images, NCHW, of its size'
    with pytest.raises(CourseError, match='give it bytes'): onnx(torch.randn(1, 3, 32, 32))

@pytest.mark.parametrize('kind,how,layout', [
    ('crop', 'resize', 'NHWC'), ('pad', 'resize', 'NCHW'), ('exact', 'normalize', 'NHWC')])
def test_torch_export_prepares_images(kind, how, layout, tmp_path):
    "A program of torch.export takes bytes, too: batches of any length, with 'resize' of any size"
    net = network(3, tmp_path, **KINDS[kind])
    res = export_model(net, tmp_path/'w.pt2', preprocess=how, layout=layout)
    assert res.difference < 1e-4 and 'as bytes' in str(res)
    program = torch.export.load(tmp_path/'w.pt2').module()
    sizes = [(32, 32), (90, 120), (20, 31)] if how == 'resize' else [(32, 32)]
    ims = [image(*size, 3) for size in sizes]
    for im, want in zip(ims, predict_images(net, ims, precision='fp32')):
        x = torch.tensor(as_input(im, layout))
        with torch.no_grad(): scores = program(torch.cat([x]*3))
        probs = dict(zip(['a', 'b'], scores.softmax(1)[0].tolist()))
        assert len(scores) == 3
        for c, p in zip(want.classes, want.probs): assert abs(probs[c] - p) < .01

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "A network for digits, and one for photos of several sizes, with their loaders"
    d = tmp_path_factory.mktemp('photos')
    for i in range(24):
        (d/'ab'[i%2]).mkdir(exist_ok=True)
        image(40 + 5*i, 90 - 2*i, 3).save(d/'ab'[i%2]/f'{i}.png')
    return dict(digits=get_dls('digits', bs=32, n_train=64, seed=0, device='cpu'),
                photos=get_dls(d, bs=8, size=32, seed=0, device='cpu'))

def saved(dls, path):
    torch.manual_seed(0)
    net = course_learner(dls, 'resnet8').model
    for _ in range(3): net(dls.one_batch()[0])
    return save_weights(net, path, **image_meta(dls))

@pytest.mark.parametrize('data,how', [
    ('digits', None), ('digits', 'normalize'), ('photos', 'normalize'), ('photos', 'resize')])
def test_evaluate_takes_them(data, how, runs, tmp_path):
    dls, path = runs[data], saved(runs[data], tmp_path/'w.safetensors')
    export_model(load_model(path), tmp_path/'w.onnx', preprocess=how)
    want = evaluate(path, 'valid', dls=dls)
    got = evaluate(tmp_path/'w.onnx', 'valid', dls=dls)
    assert got.n == want.n > 0 and torch.equal(got.targets, want.targets)
    assert (got.probs - want.probs).abs().max() < (.02 if how == 'resize' else 1e-4)

def test_commands_take_them(tmp_path, capsys):
    dls = get_dls('digits', bs=32, n_train=64, seed=0, device='cpu')
    path, out = saved(dls, tmp_path/'w.safetensors'), tmp_path/'w.onnx'
    assert run_command('export', path, '--preprocess', 'resize', '--layout', 'NCHW', '-o', out) == 0
    assert 'images of any size' in capsys.readouterr().out
    assert run_command('evaluate', out, '--data', 'digits') == 0
    said = capsys.readouterr().out
    report, _ = evaluate_run(path, 'digits')
    assert 'resnet8 as ONNX, for byte images, NCHW, of any size' in said
    assert f'{report.n:,} images' in said
    image(20, 30, 3).save(tmp_path/'im.png')
    assert run_command('predict', tmp_path/'im.png', '--model', out) == 0
    assert 'resnet8 as ONNX' in capsys.readouterr().err
    assert compare_runs(path, out, 'digits').agreement > .99
    assert run_command('evaluate', out) == 1
    assert 'which images to test on' in capsys.readouterr().err
    assert run_command('evaluate', out, '--data', 'digits', '--tta') == 1
    assert 'several views need the network' in capsys.readouterr().err
    with pytest.raises(CourseError, match='no network to train'): run_learner(out, 'digits')

def test_int8(tmp_path, capsys):
    "Little is lost, and it is said how much; the file is evaluated, and knows what it is"
    rec, _ = train_run('digits', 'resnet8', epochs=8, bs=32, out=tmp_path, setup=quiet)
    args = ['export', rec['path'], '--int8', '--preprocess', 'normalize']
    assert run_command(*args) == 0
    out = capsys.readouterr().out
    res = re.search(r'MB instead of .* MB\ntest accuracy (.*)% instead of (.*)% on', out)
    file = Path(rec['path'])/'model.int8.onnx'
    assert abs(float(res[1]) - float(res[2])) < 2 and 'calibrated on' in out
    assert 2*file.stat().st_size < (Path(rec['path'])/'model.safetensors').stat().st_size
    assert run_command('evaluate', file, '--data', 'digits') == 0
    out = capsys.readouterr().out
    assert 'resnet8 as int8 ONNX, for byte images, NHWC, of its size' in out
    assert f'{float(res[1]):.2f}% of' in out

@pytest.mark.parametrize('args,says', [
    (['--data', 'digits'], 'is for --int8'), (['--int8', '--size', 32], 'leave out --size'),
    (['--int8'], 'which images to test on')])
def test_impossible_int8(args, says, tmp_path, capsys):
    path = saved(get_dls('digits', bs=32, n_train=64, seed=0, device='cpu'), tmp_path/'w')
    assert run_command('export', path, *args) == 1
    assert says in capsys.readouterr().err
    assert not list(tmp_path.glob('*.onnx'))
