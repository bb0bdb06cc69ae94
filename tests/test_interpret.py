"What the pictures are made of, against other ways of computing it"
import numpy as np, pytest, torch, torch.nn.functional as F, torchvision
from torch import nn

from resnet_course.core import CourseError
from resnet_course.loaders import get_dls
from resnet_course.experiments import IdentityBlock, identity_error, compare_nets, shrink_to_zero
from resnet_course.layers import activations
from resnet_course.models import eval_mode
from resnet_course.interpret import (
    features, first_filters, grad_cam, gradient_norms, layer, layer_responses, loss_surface,
    nearest, neighbors, plot_activations, plot_filters, smoothness, stages)
from resnet_course.learner import course_learner
from resnet_course.models import create_model

nets = ['resnet8', 'plain8', 'resnet18', 'resnet50', 'alexnet_small']

@pytest.fixture(scope='module')
def dls(): return get_dls('digits', size=16, n_train=100, seed=0)

@pytest.fixture
def batch(): return torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3])

def state(model): return {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()]

@pytest.mark.parametrize('name', nets)
def test_nothing_is_changed(name, batch):
    "No look at a network leaves a hook, a gradient, another mode or another number in it"
    x, y = batch
    model = create_model(name, n_in=1).train()
    (before, modes), hooks = state(model), lambda: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    activations(model, x), grad_cam(model, x), gradient_norms(model, x, y), loss_surface(model, x, y, n=3, dims=1), plot_activations(model, x[0], 2)
    if 'alexnet' not in name: layer_responses(model, x)
    after, now = state(model)
    assert all(torch.equal(v, before[k]) for k, v in after.items()) and modes == now and hooks() == 0
    assert all(p.grad is None for p in model.parameters())

def test_error_leaves_no_hooks(batch):
    model = create_model('resnet8', n_in=1).train()
    with pytest.raises(CourseError): activations(model, batch[0].repeat(1, 3, 1, 1))
    with pytest.raises(CourseError): grad_cam(model, batch[0].repeat(1, 3, 1, 1))
    assert model.training and not any(m._forward_hooks for m in model.modules())

@pytest.mark.parametrize('name', nets)
@pytest.mark.parametrize('cls', [None, 3])
def test_grad_cam_against_autograd(name, cls, batch):
    "The weights of the channels are the gradient of the class's score, and the map has the image's size"
    x = batch[0]
    model = create_model(name, n_in=1).eval()
    where = stages(model)[-2]
    a = activations(model, x, [where])[where]
    cam, keep = grad_cam(model, x, cls, where, relu=False), {}
    h = layer(model, where).register_forward_hook(lambda m, i, o: keep.update(o=o))
    scores = model(x); h.remove()
    t = scores.argmax(1) if cls is None else torch.full((4,), cls)
    want = []
    for i in range(4):  # one image at a time
        grad, = torch.autograd.grad(scores[i, t[i]], keep['o'], retain_graph=True)
        assert (grad[torch.arange(4) != i] == 0).all()
        want.append((grad[i].mean((1, 2))[:, None, None]*a[i]).sum(0))
    want = F.interpolate(torch.stack(want)[:, None], (32, 32), mode='bilinear')[:, 0]
    torch.testing.assert_close(cam, want, rtol=1e-3, atol=1e-5)
    assert torch.equal(grad_cam(model, x, cls, where) >= 0, torch.ones(4, 32, 32, dtype=torch.bool))

@pytest.mark.parametrize('f,q,p', [(8, 30, 50), (512, 5, 700), (2, 1, 1)])
def test_nearest_is_exact(f, q, p):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(q, f)).astype(np.float32)*100, rng.normal(size=(p, f)).astype(np.float32)*100
    d, i = nearest(torch.tensor(a), torch.tensor(b), k=6, bs=7)
    want = np.sqrt(((a[:, None].astype(np.float64) - b[None])**2).sum(-1))
    assert np.allclose(d, np.sort(want)[:, :6], rtol=1e-5) and np.array_equal(i, want.argsort(1)[:, :6])

def test_small_distances_survive():
    "Two images that differ by a hair: the shortcut by matrix products loses them, the exact search does not"
    a = torch.full((1, 64), 1000.); b = a.clone(); b[0, 0] += .25
    pool = torch.cat([b, a])
    assert nearest(a, pool, 2)[0].tolist() == [[0., .25]] and nearest(a, pool, 2)[1].tolist() == [[1, 0]]
    shortcut = (a**2).sum() - 2*a@pool.T + (pool**2).sum(1)
    assert shortcut.flatten().tolist() != [.0625, 0.]

def test_neighbors_of_perfect_features(dls):
    "Features that name the class have neighbors of the same class only"
    learn = course_learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(256, 10)), precision='fp32')
    found = neighbors(learn, k=3)
    assert found.idx.shape == (len(dls.test_ds), 3) and 0 < found.same <= 1
    pix, y = features(learn, 'test')
    assert pix.shape[1] == 256 and y.tolist() == [int(b) for _, b in dls.test_ds]
    found.pool_y[:] = 1; found.query_y[:] = 1
    assert found.same == 1

def test_features_of_torchvision(dls):
    model = torchvision.models.resnet18(weights=None, num_classes=10)
    fs, _ = features(model, 'valid', get_dls('digits', n_train=50, seed=0, n_in=3))
    assert fs.shape[1] == 512 and stages(model) == ['maxpool', 'layer1', 'layer2', 'layer3', 'layer4']
    assert stages(torchvision.models.alexnet(weights=None)) == ['features.1', 'features.4', 'features.7', 'features.9', 'features.11']

def test_inplace_relu_does_not_spoil_activations(batch):
    "torchvision's AlexNet overwrites its convolutions' outputs"
    model = torchvision.models.alexnet(weights=None).eval()
    x = torch.randn(1, 3, 64, 64)
    got = activations(model, x, ['features.0'])['features.0']
    torch.testing.assert_close(got, model.features[0](x))
    assert (got < 0).any()

@pytest.mark.parametrize('gamma', [1., .25])
def test_responses_are_gammas(gamma):
    "After BatchNorm with the batch's own statistics, the standard deviation is γ"
    bn = nn.BatchNorm2d(3, momentum=None)
    nn.init.constant_(bn.weight, gamma)
    x = torch.randn(32, 3, 6, 6)*7 + 2
    bn(x)
    assert layer_responses(nn.Sequential(bn), x)[0][1] == pytest.approx(gamma, rel=.02)

def test_responses_leave_shortcuts_out():
    model = create_model('resnet18', n_in=1)
    names = [n for n, _ in layer_responses(model, torch.randn(2, 1, 32, 32))]
    assert len(names) == 17 and not any('downsample' in n for n in names)

def test_gradient_norms_by_hand(batch):
    x, y = batch
    model = create_model('resnet8', n_in=1).train()
    rows = dict(gradient_norms(model, x, y))
    F.cross_entropy(model(x), y).backward()
    assert rows['layer2.0.conv1'] == pytest.approx(float(model.layer2[0].conv1.weight.grad.norm()), rel=1e-5)

def test_loss_surface_ignores_the_scale_of_weights(batch):
    "A convolution before BatchNorm may be multiplied by anything: the net is the same, and so must its picture be"
    x, y = batch
    a = create_model('resnet8', n_in=1)
    b = create_model(**a.cfg); b.load_state_dict(a.state_dict())
    with torch.no_grad():
        for m in b.modules():
            if isinstance(m, nn.Conv2d): m.weight *= 10
    one, other = (loss_surface(m, x, y, n=5, dims=1)[1] for m in (a, b))
    torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)

def test_smoothness():
    assert abs(smoothness(torch.randn(2000, 1, 5, 5)) + 1/24) < .02
    grid = (torch.arange(25)%2*2. - 1).view(1, 1, 5, 5)
    assert smoothness(grid) < -.5

def test_filters_of_color_images(): assert len(plot_filters(create_model('alexnet_tv')).axes) == 64

def test_shortcuts_make_the_identity_easy():
    for seed in range(3):
        with_, without = shrink_to_zero(True, seed=seed)[1], shrink_to_zero(False, seed=seed)[1]
        assert with_[-1] == 0 and without[-1] == 1
    assert identity_error(IdentityBlock(4, False), torch.randn(2, 4, 8, 8).relu()) > .3

def test_race_treats_all_alike(dls):
    "The same net under two labels takes the same course; other labels, other courses"
    res = compare_nets(dict(one='resnet8', two=dict(arch='resnet8'), three='plain8'), dls, epochs=2)
    curve = lambda n: [(r['train'], r['valid']) for r in res.rows if r['net'] == n]
    assert curve('one') == curve('two') and len(curve('one')) == 2 and curve('three') != []
    assert res.final()['one'][0] == curve('one')[-1][0]
