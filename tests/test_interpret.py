"Views of a network and the papers' experiments, checked against other ways of computing them"
import numpy as np, pytest, torch, torch.nn.functional as F, torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resnet_course.core import CourseError
from resnet_course.loaders import get_dls
from resnet_course.torch_loaders import as_dls
from resnet_course.models import create_model
from resnet_course.learner import course_learner
from resnet_course.interpret import (
    GradientNorms, first_filters, get_activations, get_features, get_layer, grad_cam,
    gradient_norms, layer_responses, loss_surface, nearest, neighbors, occlusion_test,
    plot_activations, plot_filters, smoothness, stage_names)
from resnet_course.experiments import (
    IdentityBlock, batches_to_target, compare_nets, four_layers, identity_error, shrink_to_zero)

nets = ['resnet8', 'plain8', 'resnet18', 'resnet50', 'alexnet_small']

@pytest.fixture(scope='module')
def dls(): return get_dls('digits', size=16, n_train=100, seed=0)

@pytest.fixture
def batch():
    gen = torch.Generator().manual_seed(0)
    return torch.randn(4, 1, 32, 32, generator=gen), torch.tensor([0, 1, 2, 3])

def weights(model): return {k: v.clone() for k, v in model.state_dict().items()}

def modes(model): return [m.training for m in model.modules()]

def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

@pytest.mark.parametrize('name', nets)
def test_nothing_is_changed(name, batch):
    "No function leaves a hook, a gradient, another mode or another number in a network"
    x, y = batch
    model = create_model(name, n_in=1).train()
    before, modes_before = weights(model), modes(model)
    get_activations(model, x)
    occlusion_test(model, x, grad_cam(model, x))
    gradient_norms(model, x, y)
    loss_surface(model, x, y, n=3, dims=1)
    plot_activations(model, x[0], 2)
    if 'alexnet' not in name: layer_responses(model, x)
    after = weights(model)
    assert all(torch.equal(v, before[k]) for k, v in after.items())
    assert modes(model) == modes_before and n_hooks(model) == 0
    assert all(p.grad is None for p in model.parameters())

def test_error_leaves_no_hooks(batch):
    model = create_model('resnet8', n_in=1).train()
    color = batch[0].repeat(1, 3, 1, 1)
    with pytest.raises(CourseError): get_activations(model, color)
    with pytest.raises(CourseError): grad_cam(model, color)
    with pytest.raises(CourseError): get_activations(model, batch[0], ['layer1', 'layr2'])
    with pytest.raises(CourseError): layer_responses(model, color)
    assert model.training and n_hooks(model) == 0

def test_torchscript_has_no_layers_to_look_into(batch):
    x, y = batch
    model = torch.jit.trace(create_model('resnet8', n_in=1).eval(), x)
    for use in (lambda: get_activations(model, x, ['layer1']), lambda: grad_cam(model, x),
                lambda: layer_responses(model, x), lambda: first_filters(model),
                lambda: gradient_norms(model, x, y)):
        with pytest.raises(CourseError, match='TorchScript hides the layers'): use()

@pytest.mark.parametrize('name', nets)
@pytest.mark.parametrize('cls', [None, 3])
def test_grad_cam_against_autograd(name, cls, batch):
    "Channels are weighted by the mean gradient of the class's score; maps have the image's size"
    x = batch[0]
    model = create_model(name, n_in=1).eval()
    layer = stage_names(model)[-2]
    a = get_activations(model, x, [layer])[layer]
    cam, kept = grad_cam(model, x, cls, layer, relu=False), {}
    hook = get_layer(model, layer).register_forward_hook(lambda m, i, o: kept.update(o=o))
    scores = model(x)
    hook.remove()
    targets = scores.argmax(1) if cls is None else torch.full((4,), cls)
    want = []
    for i in range(4):  # one image at a time
        grad, = torch.autograd.grad(scores[i, targets[i]], kept['o'], retain_graph=True)
        assert (grad[torch.arange(4) != i] == 0).all()
        want.append((grad[i].mean((1, 2))[:, None, None]*a[i]).sum(0))
    want = F.interpolate(torch.stack(want)[:, None], (32, 32), mode='bilinear')[:, 0]
    torch.testing.assert_close(cam, want, rtol=1e-3, atol=1e-5)
    positive = grad_cam(model, x, cls, layer)
    assert positive.shape == (4, 32, 32) and (positive >= 0).all()

@pytest.mark.parametrize('f,q,p', [(8, 30, 50), (512, 5, 700), (2, 1, 1)])
def test_nearest_is_exact(f, q, p):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(q, f)).astype(np.float32)*100
    b = rng.normal(size=(p, f)).astype(np.float32)*100
    dist, idx = nearest(torch.tensor(a), torch.tensor(b), k=6, bs=7)
    want = np.sqrt(((a[:, None].astype(np.float64) - b[None])**2).sum(-1))
    assert np.allclose(dist, np.sort(want)[:, :6], rtol=1e-5)
    assert np.array_equal(idx, want.argsort(1)[:, :6])

def test_small_distances_survive():
    "Small distances, which the formula with a matrix product loses, are exact"
    a = torch.full((1, 64), 1000.)
    b = a.clone()
    b[0, 0] += .25
    pool = torch.cat([b, a])
    dist, idx = nearest(a, pool, 2)
    assert dist.tolist() == [[0., .25]] and idx.tolist() == [[1, 0]]
    shortcut = (a**2).sum() - 2*a@pool.T + (pool**2).sum(1)
    assert shortcut.flatten().tolist() != [.0625, 0.]

def test_neighbors_of_the_same_class(dls):
    "If all images have one class, so do all neighbors"
    learn = course_learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(256, 10)), precision='fp32')
    found = neighbors(learn, k=3)
    assert found.idx.shape == (len(dls.test_ds), 3) and 0 < found.same <= 1
    pixels, y = get_features(learn, 'test')
    assert pixels.shape[1] == 256 and y.tolist() == [int(b) for _, b in dls.test_ds]
    found.pool_y[:] = 1
    found.query_y[:] = 1
    assert found.same == 1

def neighbors_in(x):
    "Find three neighbors of each image in `x`"
    ds = TensorDataset(x, torch.arange(len(x))%2)
    ds.classes = ['a', 'b']
    dls = as_dls(DataLoader(ds, 8, shuffle=True), DataLoader(ds, 8))
    return neighbors(course_learner(dls, 'resnet8', seed=0), 3, 'valid', 'valid')

def test_neighbors_of_duplicates():
    "An image is not its own neighbor, and its duplicate is its nearest"
    found = neighbors_in(torch.randn(12, 1, 28, 28).repeat(2, 1, 1, 1))
    distance = (found.idx - torch.arange(24)[:, None]).abs()
    assert found.idx.shape == (24, 3)
    assert (distance > 0).all() and (distance == 12).any(1).all()

def test_neighbors_when_all_images_are_equal():
    "The search finds the image itself for a few images only; all get three other neighbors"
    found = neighbors_in(torch.randn(1, 1, 28, 28).repeat(24, 1, 1, 1))
    assert found.idx.shape == found.dist.shape == (24, 3)
    assert (found.idx != torch.arange(24)[:, None]).all() and (found.dist == 0).all()

def test_features_of_torchvision(dls):
    model = torchvision.models.resnet18(weights=None, num_classes=10)
    fs, _ = get_features(model, 'valid', get_dls('digits', n_train=50, seed=0, n_in=3))
    assert fs.shape[1] == 512
    assert stage_names(model) == ['maxpool', 'layer1', 'layer2', 'layer3', 'layer4']
    alexnet = torchvision.models.alexnet(weights=None)
    assert stage_names(alexnet) == [f'features.{i}' for i in (1, 4, 7, 9, 11)]

def test_features_are_not_augmented():
    augmented = get_dls('digits', size=16, n_train=100, augment='crop+mirror', seed=0)
    plain = get_dls('digits', size=16, n_train=100, augment=False, seed=0)
    model = create_model('resnet8', n_in=1)
    assert torch.equal(get_features(model, 'train', augmented)[0],
                       get_features(model, 'train', plain)[0])

def test_inplace_relu_does_not_change_activations():
    "torchvision's AlexNet overwrites its convolutions' outputs"
    model = torchvision.models.alexnet(weights=None).eval()
    x = torch.randn(1, 3, 64, 64)
    got = get_activations(model, x, ['features.0'])['features.0']
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
    norm = float(model.layer2[0].conv1.weight.grad.norm())
    assert rows['layer2.0.conv1'] == pytest.approx(norm, rel=1e-5)

def test_gradient_norms_are_those_of_training(batch):
    "Whatever mode the network is in"
    model = create_model('resnet8', n_in=1)
    train = gradient_norms(model.train(), *batch)
    assert gradient_norms(model.eval(), *batch) == train

def test_features_leave_no_hooks(dls):
    model = create_model('resnet8', n_in=1)
    for x, _ in (get_features(model, dls=dls), get_features(model, 'valid', dls)):
        assert len(x) and n_hooks(model) == 0
    model.conv1.register_forward_hook(lambda *args: 1/0)
    with pytest.raises(ZeroDivisionError): get_features(model, dls=dls)
    assert n_hooks(model) == 1   # only the one that failed

def fit_silently(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(*args, **kwargs)

def test_gradient_norms_are_unscaled():
    "float16's loss scale does not appear in the norms"
    def norm(precision):
        dls = get_dls('digits', bs=32, n_train=64, device='cpu')
        learn = course_learner(dls, 'resnet8', seed=0, precision=precision)
        cb = GradientNorms(every=1)
        fit_silently(learn, 1, 1e-6, cbs=cb)
        return cb.norms['fc'][0]
    assert norm('fp16') == pytest.approx(norm('fp32'), rel=0.1)

def test_gradient_norms_of_layers_that_start_late():
    dls = get_dls('digits', bs=16, n_train=64, device='cpu')
    learn, cb = course_learner(dls, 'resnet8', seed=0), GradientNorms(every=1)
    learn.freeze()
    fit_silently(learn, 1, 0.1, cbs=cb)
    n = len(cb.plot().lines)
    learn.unfreeze()
    fit_silently(learn, 1, 0.1, cbs=cb)
    assert n < len(cb.plot().lines) == len(cb.norms)
    assert all(len(v) == len(cb.batches) for v in cb.norms.values())

def test_loss_surface_ignores_the_scale_of_weights(batch):
    "Multiplying a convolution before BatchNorm changes neither the network nor its loss surface"
    x, y = batch
    a = create_model('resnet8', n_in=1)
    b = create_model(**a.cfg)
    b.load_state_dict(a.state_dict())
    with torch.no_grad():
        for m in b.modules():
            if isinstance(m, nn.Conv2d): m.weight *= 10
    losses = [loss_surface(m, x, y, n=5, dims=1)[1] for m in (a, b)]
    torch.testing.assert_close(*losses, rtol=2e-2, atol=2e-2)

def test_smoothness():
    assert abs(smoothness(torch.randn(2000, 1, 5, 5)) + 1/24) < .02
    grid = (torch.arange(25)%2*2. - 1).view(1, 1, 5, 5)
    assert smoothness(grid) < -.5

def test_filters_of_color_images():
    assert len(plot_filters(create_model('alexnet_tv')).axes) == 64
    assert first_filters(create_model('alexnet_tv')).shape == (64, 3, 11, 11)

def test_occlusion_covers_the_right_pixels():
    "A network that reads one pixel is affected only if that pixel is covered"
    class OnePixel(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))
        def forward(self, x): return torch.stack([x[:, 0, 2, 3], -x[:, 0, 2, 3]], 1)*self.w
    maps = torch.zeros(3, 4, 5)
    maps[:, 2, 3] = 1
    res = occlusion_test(OnePixel(), torch.full((3, 1, 4, 5), 2.), maps, share=.05)
    whole = float(torch.tensor([2., -2.]).softmax(0)[0])
    assert res['whole'] == res['dark'] == pytest.approx(whole) and res['bright'] == .5

def test_shortcuts_make_the_identity_easy():
    for seed in range(3):
        _, residual = shrink_to_zero(True, seed=seed)
        _, plain = shrink_to_zero(False, seed=seed)
        assert residual[-1] == 0 and plain[-1] == 1
    assert identity_error(IdentityBlock(4, False), torch.randn(2, 4, 8, 8).relu()) > .3

def test_compare_nets_treats_all_alike(dls):
    "The same network under two labels has the same curves"
    nets = dict(one='resnet8', two=dict(arch='resnet8'), three='plain8')
    result = compare_nets(nets, dls, epochs=2)
    def curve(net): return [(r['train'], r['valid']) for r in result.rows if r['net'] == net]
    assert curve('one') == curve('two') and len(curve('one')) == 2 and curve('three') != []
    assert result.final()['one'][0] == curve('one')[-1][0]

def test_compare_nets_seeds_functions_too(dls):
    "A function creates its network with the given seed, whatever was drawn before"
    def make(): return create_model('resnet8', n_in=1, nf=4)
    result = compare_nets(dict(one=make, two=make), dls, epochs=1)
    one, two = result.rows
    assert one | dict(net='') == two | dict(net='')

def test_learning_rates_that_fail_are_reported(dls):
    "A learning rate that ends in an error does not end the experiment, and the result names it"
    nets = dict(relu=lambda: four_layers('relu', n_in=1, nf=4))
    found = batches_to_target(nets, dls, lrs=(1e30, .01), max_batches=4, every=2)['relu']
    assert found.rate == .01 and found.error is None and found.batches
    assert list(found.failed) == [1e30] and 'loss' in found.failed[1e30]

def test_slower_learning_rates_end_early():
    "Once a learning rate has reached the target, others get no more batches than that"
    dls = get_dls('digits', size=8, bs=32, n_train=200, augment=False, seed=0)
    counts = []
    def make():
        net, i = four_layers('relu', n_in=1, nf=8), len(counts)
        counts.append(0)
        def count(m, args): counts[i] += m.training
        net.register_forward_pre_hook(count)
        return net
    found = batches_to_target(dict(relu=make), dls, .7, lrs=(.03, 0.), max_batches=60, every=2)
    reached = found['relu'].reached
    assert found['relu'].rate == .03 and reached < 60
    assert counts == [reached, reached]
