"Every mistake that is easily made when a network is tested, made here on purpose: each changes the number that `evaluate` gives"
import time, tracemalloc

import numpy as np, pytest, torch, torch.nn.functional as F
from sklearn import metrics as skm

from resnet_course.core import CourseError
from resnet_course.loaders import get_dls
from resnet_course.evaluate import Report, compare, evaluate, mcnemar, tta, wilson
from resnet_course.predict import predict_images
from resnet_course.loaders import raw_image, split_dl, unaugmented
from resnet_course.learner import course_learner
from resnet_course.models import create_model
from resnet_course.recipes import fit_recipe
from resnet_course.weights import save_weights

def plain(t): return t.as_subclass(torch.Tensor)

@pytest.fixture(scope='module')
def learn():
    "A network that is good at digits, but not perfect"
    learn = course_learner(get_dls('digits', size=8, n_train=600, seed=0), 'resnet8', precision='fp32', seed=0)
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, epochs=5)
    return learn

@pytest.fixture(scope='module')
def rep(learn): return evaluate(learn)

@pytest.fixture(scope='module')
def test_set(learn):
    "All test images as the network sees them, and their classes"
    xs, ys = zip(*split_dl(learn.dls, 'test'))
    return torch.cat([plain(x) for x in xs]), torch.cat([plain(y) for y in ys])

@pytest.fixture
def model(learn):
    "A copy, so that a mistake cannot spoil the others"
    copy = create_model(**learn.model.cfg)
    copy.load_state_dict(learn.model.state_dict())
    return copy.eval()

def accuracy(model, x, y, bs=128):
    with torch.no_grad(): return sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(bs), y.split(bs)))/len(y)

def test_done_right(model, test_set, rep):
    assert accuracy(model, *test_set) == rep.top1 > .8
    assert rep.n == len(test_set[1])

# the mistakes

def test_training_mode(model, test_set, rep):
    "No `eval()`: BatchNorm uses each test batch's own statistics, and learns from it"
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    small = [accuracy(model, *test_set, bs=bs) for bs in (2, 4)]
    assert rep.top1 not in small and small[0] != small[1]   # the answer depends on who else is in the batch
    moved = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert moved and all('running' in k or 'num_batches' in k for k in moved)

def test_flips_at_test(model, test_set, rep):
    "The training transform on the test set: a random half of the images is mirrored"
    x, y = test_set
    def flipped(seed):
        mask = torch.rand(len(x), generator=torch.Generator().manual_seed(seed)) < .5
        return accuracy(model, torch.where(mask[:, None, None, None], x.flip(-1), x), y)
    once, again = flipped(0), flipped(1)
    assert once < rep.top1 and again < rep.top1 and once != again

def test_four_of_each_hundred(rep):
    "A per-class loop over `range(4)` in batches of 100 counts 4 % of the images"
    seen = torch.cat([torch.arange(i, min(i + 4, rep.n)) for i in range(0, rep.n, 100)])
    few = Report(rep.probs[seen], rep.targets[seen], rep.vocab)
    assert few.n < rep.n/10
    assert [o['recall'] for o in few.per_class] != [o['recall'] for o in rep.per_class]
    lo, hi = zip(wilson(few.n_right(), few.n), rep.top1_ci)
    assert hi[0] - lo[0] > 2*(hi[1] - lo[1])

def test_other_image_size(model, test_set, rep):
    "Trained at one size and tested at another: global pooling hides it, so nothing fails"
    x, y = test_set
    assert accuracy(model, F.interpolate(x, scale_factor=4, mode='bilinear'), y) < rep.top1 - .1

def test_forgotten_scaling(learn, model, rep):
    "Pixels from 0 to 255 instead of normalized ones"
    x = torch.stack([torch.tensor(raw_image(learn.dls, 'test', i)) for i in range(100)])[:, None].float()
    x = F.interpolate(x, 8, mode='bilinear', antialias=True)
    assert accuracy(model, x, rep.targets[:100]) < rep.top1 - .1

def test_augmented_validation(learn, model):
    "Random crops on the images that are validated on"
    dl = learn.dls.train.new(shuffle=False, drop_last=False)
    noisy = [sum(int((model(plain(x)).argmax(1) == plain(y)).sum()) for x, y in dl) for _ in range(2)]
    right = evaluate(learn, 'train').n_right()
    assert right not in noisy and noisy[0] != noisy[1]

def test_dropped_last_batch(learn, rep):
    dl = split_dl(learn.dls, 'test').new(drop_last=True, bs=128)
    assert sum(len(y) for _, y in dl) < rep.n

def test_padded_to_whole_batches(rep):
    "Images counted twice, as where several processes share a test set that does not divide evenly"
    i = torch.cat([torch.arange(rep.n), rep.worst(8) if torch.is_tensor(rep.worst(8)) else torch.tensor(rep.worst(8))])
    assert Report(rep.probs[i], rep.targets[i], rep.vocab).top1 != rep.top1

def test_classes_in_another_order(rep):
    "Folders read in another order than in training: '10' sorts before '2'"
    order = torch.tensor([0, 1, 9, 2, 3, 4, 5, 6, 7, 8])
    assert Report(rep.probs, order[rep.targets], rep.vocab).top1 < rep.top1 - .3

def test_sum_is_no_mean(learn, rep):
    "A running sum of batch losses depends on the batch size"
    sums = [sum(float(l.mean()) for l in rep.losses.split(bs)) for bs in (50, 100)]
    assert abs(sums[0] - sums[1]) > .1*sums[1] and abs(sums[1] - rep.loss) > .01

def test_mean_of_batch_means(rep):
    "A short last batch weighs as much as a full one"
    means = [float((p.argmax(1) == t).float().mean()) for p, t in zip(rep.probs.split(100), rep.targets.split(100))]
    assert rep.n % 100 and sum(means)/len(means) != rep.top1

def test_dropout_on():
    "`F.dropout` without `training=`, or dropout modules left in training mode"
    learn = course_learner(get_dls('digits', size=8, n_train=200, seed=0), 'alexnet_small', precision='fp32', seed=0)
    first = evaluate(learn, 'valid')
    assert torch.equal(first.probs, evaluate(learn, 'valid').probs)
    learn.model.train()
    xb, _ = split_dl(learn.dls, 'valid').one_batch()
    with torch.no_grad(): assert not torch.equal(learn.model(xb), learn.model(xb))

def test_best_of_many_on_the_test_set():
    "The best of twenty equally good models, chosen on the test set, looks better than it is"
    gen = torch.Generator().manual_seed(0)
    tops = [float((torch.rand(500, generator=gen) < .9).float().mean()) for _ in range(20)]
    assert max(tops) > .9 + .013   # one standard error

# that `evaluate` does none of them

def test_leaves_no_trace(learn):
    before, modes = {k: v.clone() for k, v in learn.model.state_dict().items()}, [m.training for m in learn.model.modules()]
    cbs = [type(c) for c in learn.cbs]
    a, b = evaluate(learn, 'train'), evaluate(learn.model, 'train', dls=learn.dls)
    torch.testing.assert_close(a.probs, b.probs, rtol=0, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())
    assert sorted(map(str, cbs)) == sorted(str(type(c)) for c in learn.cbs)

@pytest.mark.parametrize('bs', [1, 7, 64, 1000])
def test_batch_size_does_not_matter(model, learn, rep, bs):
    dls = get_dls(**{**learn.dls.cfg, 'bs': bs})
    if bs == 1: dls.test.dataset  # one image at a time is the hardest case for BatchNorm
    torch.testing.assert_close(evaluate(model, dls=dls).probs, rep.probs, rtol=0, atol=1e-4)

def test_one_pass_for_all_views(learn):
    seen = []
    hook = learn.model.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    rep = evaluate(learn)
    rep.confusion, rep.per_class, rep.most_confused(), rep.worst(), rep.calibration(), str(rep), rep._repr_html_(), rep.to_dict()
    rep.plot_confusion(), rep.plot_reliability()
    hook.remove()
    assert sum(seen) == rep.n == len(learn.dls.test_ds)

def test_weights_in_a_file(learn, rep, tmp_path):
    f = save_weights(learn.model, tmp_path/'m.safetensors')
    torch.testing.assert_close(evaluate(f, dls=learn.dls).probs, rep.probs, rtol=0, atol=1e-5)

# the numbers

@pytest.mark.parametrize('seed', range(5))
def test_equal_to_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    c = int(rng.integers(2, 12))
    probs, y = rng.dirichlet(np.ones(c), 400).astype(np.float32), rng.integers(0, c, 400)
    probs /= probs.sum(1, keepdims=True)
    rep, labels, pred = Report(probs, y, range(c)), list(range(c)), probs.argmax(1)
    p, r, _, s = skm.precision_recall_fscore_support(y, pred, labels=labels, zero_division=0)
    assert rep.top1 == skm.accuracy_score(y, pred)
    if c > 5: assert rep.top5 == pytest.approx(skm.top_k_accuracy_score(y, probs, k=5, labels=labels))
    assert np.array_equal(rep.confusion, skm.confusion_matrix(y, pred, labels=labels))
    for k, v in dict(precision=p, recall=r, support=s).items(): assert [o[k] for o in rep.per_class] == pytest.approx(list(v))
    assert rep.loss == pytest.approx(skm.log_loss(y, probs, labels=labels), rel=1e-5)

def test_calibration_by_scikit_learn():
    from sklearn.calibration import calibration_curve
    rng = np.random.default_rng(0)
    p = rng.uniform(.5, 1, 1000)
    y = (rng.uniform(size=1000) > p).astype(int)   # class 0 has probability p
    rows = Report(np.stack([p, 1 - p], 1), y, 'ab').calibration(10)
    acc, conf = calibration_curve(y == 0, p, n_bins=10)
    assert [o['accuracy'] for o in rows] == pytest.approx(acc, abs=.02) and [o['confidence'] for o in rows] == pytest.approx(conf, abs=.02)

def test_class_never_seen_and_never_said():
    rep = Report([[.8, .2, 0], [.7, .3, 0]], [0, 1], 'abc')
    assert rep.per_class[2] == dict(name='c', precision=0., recall=0., support=0)
    assert rep.per_class[1]['precision'] == 0.

def test_mcnemar_by_simulation():
    gen = np.random.default_rng(0)
    b = gen.binomial(30, .5, 20_000)
    assert mcnemar(9, 21) == pytest.approx(np.mean(np.minimum(b, 30 - b) <= 9), abs=.01)

def test_compare_is_paired():
    "Nine more right answers of a thousand: beyond doubt where nothing else differs, chance where much does"
    def rep(right): return Report(np.where(np.asarray(right)[:, None], [.9, .1], [.1, .9]), np.zeros(len(right), int), 'ab')
    base = np.arange(1000) < 900
    more = base.copy(); more[900:909] = True
    other = np.roll(base, 300); other[:9] = True
    assert compare(rep(base), rep(more)).p < .01 and compare(rep(base), rep(more)).diff_ci[0] > 0
    assert compare(rep(base), rep(other)).p > .05 and compare(rep(base), rep(other)).diff_ci[0] < 0

def test_thousand_classes_in_little_memory():
    "The confusion matrix of 50,000 images and 1,000 classes; classes × classes × images would be 50 GB"
    rep = Report(torch.eye(1000), torch.arange(1000), range(1000))
    rep.targets = torch.arange(50_000)%1000
    rep.__dict__['preds'] = (rep.targets*7)%1000
    start = time.perf_counter()
    assert rep.confusion.sum() == 50_000 and rep.confusion.numel()*rep.confusion.element_size() <= 8_000_000
    assert len(rep.per_class) == 1000 and time.perf_counter() - start < 10

def test_flips_are_reported_apart(learn, rep):
    flip = tta(learn)
    assert flip.split == 'test, flip' and flip.n == rep.n and not torch.equal(flip.probs, rep.probs)
    assert tta(learn, kind='ten_crop').split == 'test, ten_crop'

def test_bad_input(learn):
    for bad, words in ((lambda: evaluate(learn, 'tset'), 'test'), (lambda: evaluate(learn.model), 'on which images'), (lambda: tta(learn, kind='nine'), 'ten_crop'),
                       (lambda: Report([[.5, .5]], [0, 1], 'ab'), '1 predictions for 2'), (lambda: Report([[float('nan')]*2], [0], 'ab'), 'NaN'),
                       (lambda: Report([[.5, .5]], [2], 'ab'), 'class')):
        with pytest.raises(CourseError, match=words): bad()
