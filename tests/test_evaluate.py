"Common mistakes in testing a network, made on purpose; each one changes the result of `evaluate`"

import numpy as np, pytest, torch, torch.nn.functional as F
from helpers import fastai_learner, photos
from sklearn import metrics as skm
from sklearn.calibration import calibration_curve
from torch import nn

from resnet_course.core import CourseError
from resnet_course.images import plain_tensor
from resnet_course.loaders import get_dls, raw_image, split_dl, with_borders
from resnet_course.models import create_model
from resnet_course.saving import save_weights
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe
from resnet_course.evaluate import Report, compare, evaluate, mcnemar, tta, wilson

@pytest.fixture(scope='module')
def learn():
    "A network that is good at digits, but not perfect"
    dls = get_dls('digits', size=8, n_train=600, seed=0)
    learn = course_learner(dls, 'resnet8', precision='fp32', seed=0)
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, epochs=5)
    return learn

@pytest.fixture(scope='module')
def rep(learn): return evaluate(learn)

@pytest.fixture(scope='module')
def test_set(learn):
    "All test images as the network sees them, and their classes"
    batches = list(split_dl(learn.dls, 'test'))
    x = torch.cat([plain_tensor(xb) for xb, _ in batches])
    return x, torch.cat([plain_tensor(yb) for _, yb in batches])

@pytest.fixture
def model(learn):
    "A copy, so that a mistake doesn't affect the other tests"
    copy = create_model(**learn.model.cfg)
    copy.load_state_dict(learn.model.state_dict())
    return copy.eval()

def state(model): return {k: v.clone() for k, v in model.state_dict().items()}

def moved(model, before):
    return [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]

def n_right(model, x, y): return int((model(x).argmax(1) == y).sum())

def accuracy(model, x, y, bs=128):
    with torch.no_grad():
        return sum(n_right(model, xb, yb) for xb, yb in zip(x.split(bs), y.split(bs)))/len(y)

def test_without_mistakes(model, test_set, rep):
    assert accuracy(model, *test_set) == rep.top1 > .8
    assert rep.n == len(test_set[1])

# the mistakes

def test_training_mode(model, test_set, rep):
    "Without `eval()`, BatchNorm normalizes with the statistics of each test batch, and learns them"
    before = state(model)
    model.train()
    small = [accuracy(model, *test_set, bs=bs) for bs in (2, 4)]
    # the answer depends on the other images in the batch
    assert rep.top1 not in small and small[0] != small[1]
    changed = moved(model, before)
    assert changed and all('running' in k or 'num_batches' in k for k in changed)

def test_flips_at_test_time(model, test_set, rep):
    "With the training transform on the test set, a random half of the images is mirrored"
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
    few_low, few_high = wilson(few.n_right(), few.n)
    low, high = rep.top1_ci
    assert few_high - few_low > 2*(high - low)

def test_other_image_size(model, test_set, rep):
    "With global pooling, a network that is tested at a size it wasn't trained at doesn't fail"
    x, y = test_set
    assert accuracy(model, F.interpolate(x, scale_factor=4, mode='bilinear'), y) < rep.top1 - .1

def test_forgotten_scaling(learn, model, rep):
    "Pixels from 0 to 255 instead of normalized ones"
    x = [torch.tensor(raw_image(learn.dls, 'test', i)) for i in range(100)]
    x = F.interpolate(torch.stack(x)[:, None].float(), 8, mode='bilinear', antialias=True)
    assert accuracy(model, x, rep.targets[:100]) < rep.top1 - .1

def test_augmented_validation(learn, model):
    "Random crops of the images that are validated on"
    dl = learn.dls.train.new(shuffle=False, drop_last=False)
    def noisy(): return sum(n_right(model, plain_tensor(x), plain_tensor(y)) for x, y in dl)
    once, again = noisy(), noisy()
    right = evaluate(learn, 'train').n_right()
    assert right not in (once, again) and once != again

def test_dropped_last_batch(learn, rep):
    dl = split_dl(learn.dls, 'test').new(drop_last=True, bs=128)
    assert sum(len(y) for _, y in dl) < rep.n

def test_padding_to_whole_batches(rep):
    "Images counted twice, as when several processes share a test set that doesn't divide evenly"
    i = torch.cat([torch.arange(rep.n), torch.tensor(rep.worst(8))])
    assert Report(rep.probs[i], rep.targets[i], rep.vocab).top1 != rep.top1

def test_different_order_of_classes(rep):
    "Folders read in a different order than in training: '10' sorts before '2'"
    order = torch.tensor([0, 1, 9, 2, 3, 4, 5, 6, 7, 8])
    assert Report(rep.probs, order[rep.targets], rep.vocab).top1 < rep.top1 - .3

def test_sum_is_not_mean(rep):
    "A running sum of batch losses depends on the batch size"
    sums = [sum(float(l.mean()) for l in rep.losses.split(bs)) for bs in (50, 100)]
    assert abs(sums[0] - sums[1]) > .1*sums[1] and abs(sums[1] - rep.loss) > .01

def test_mean_of_batch_means(rep):
    "A short last batch counts as much as a full one"
    means = [float((p == t).float().mean())
             for p, t in zip(rep.preds.split(100), rep.targets.split(100))]
    assert rep.n % 100 and sum(means)/len(means) != rep.top1

def test_dropout_on():
    "`F.dropout` without `training=`, or dropout modules left in training mode"
    dls = get_dls('digits', size=8, n_train=200, seed=0)
    learn = course_learner(dls, 'alexnet_small', precision='fp32', seed=0)
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

# `evaluate` makes none of them

def test_leaves_no_trace(learn):
    before, cbs = state(learn.model), [type(cb) for cb in learn.cbs]
    a, b = evaluate(learn, 'train'), evaluate(learn.model, 'train', dls=learn.dls)
    torch.testing.assert_close(a.probs, b.probs, rtol=0, atol=1e-5)
    assert not moved(learn.model, before)
    assert sorted(map(str, cbs)) == sorted(str(type(cb)) for cb in learn.cbs)

def test_bare_model_in_training_mode(learn, model):
    "It is evaluated in eval mode, and then every layer is back in its own mode"
    want, before = evaluate(model, dls=learn.dls), state(model)
    model.train()
    model.bn1.eval()
    modes = [m.training for m in model.modules()]
    got = evaluate(model, dls=learn.dls)
    assert got.loss == want.loss and torch.equal(got.probs, want.probs)
    assert not moved(model, before)
    assert [m.training for m in model.modules()] == modes

def test_wrapped_model_in_training_mode(learn, model):
    "A BatchNorm outside of the attribute `model` doesn't move either"
    class Wrapper(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.bn = model, nn.BatchNorm2d(1)
        def forward(self, x): return self.model(self.bn(x))
    net = Wrapper(model)
    want, before = evaluate(net.eval(), dls=learn.dls), state(net)
    assert evaluate(net.train(), dls=learn.dls).loss == want.loss
    assert not moved(net, before)

def test_mode_after_an_error(learn, model):
    class Fails(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.net = model
        def forward(self, x): raise RuntimeError('out of memory')
    net = Fails(model).train()
    with pytest.raises(RuntimeError): evaluate(net, dls=learn.dls)
    assert all(m.training for m in net.modules())

@pytest.mark.parametrize('bs', [1, 7, 64, 1000])   # one image is the hardest case for BatchNorm
def test_batch_size_does_not_matter(model, learn, rep, bs):
    dls = get_dls(**{**learn.dls.cfg, 'bs': bs})
    torch.testing.assert_close(evaluate(model, dls=dls).probs, rep.probs, rtol=0, atol=1e-4)

def test_one_pass_for_all_metrics(learn):
    seen = []
    hook = learn.model.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    rep = evaluate(learn)
    rep.confusion, rep.per_class, rep.most_confused(), rep.worst(), rep.calibration()
    str(rep), rep._repr_html_(), rep.to_dict(), rep.plot_confusion(), rep.plot_reliability()
    hook.remove()
    assert sum(seen) == rep.n == len(learn.dls.test_ds)

@pytest.mark.parametrize('k, shown, grid', [(1, 1, 1), (4, 4, 4), (8, 8, 12)])
def test_worst_mistakes_are_shown(learn, rep, k, shown, grid):
    "An image with its true and predicted class, and empty axes at the end of the last row"
    axs = rep.plot_worst(learn.dls, k).axes
    assert [len(ax.images) for ax in axs] == [1]*shown + [0]*(grid - shown)
    i = rep.worst(1)[0]
    title = f'{rep.vocab[rep.targets[i]]}\n→ {rep.vocab[rep.preds[i]]} {rep.probs[i].max():.0%}'
    assert axs[0].get_title() == title
    assert np.array_equal(axs[0].images[0].get_array(), raw_image(learn.dls, 'test', i))

def test_weights_in_a_file(learn, rep, tmp_path):
    f = save_weights(learn.model, tmp_path/'m.safetensors')
    torch.testing.assert_close(evaluate(f, dls=learn.dls).probs, rep.probs, rtol=0, atol=1e-5)

def test_precision_is_restored(learn):
    own = learn.precision
    evaluate(learn, precision='bf16')
    assert learn.precision is own
    with pytest.raises(CourseError, match='precision'): evaluate(learn, precision='fp15')
    assert learn.precision is own

# the numbers

@pytest.mark.parametrize('seed', range(5))
def test_equal_to_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    c = int(rng.integers(2, 12))
    probs, y = rng.dirichlet(np.ones(c), 400).astype(np.float32), rng.integers(0, c, 400)
    probs /= probs.sum(1, keepdims=True)
    rep, labels, pred = Report(probs, y, range(c)), list(range(c)), probs.argmax(1)
    p, r, _, n = skm.precision_recall_fscore_support(y, pred, labels=labels, zero_division=0)
    assert rep.top1 == skm.accuracy_score(y, pred)
    if c > 5:
        top5 = skm.top_k_accuracy_score(y, probs, k=5, labels=labels)
        assert rep.top5 == pytest.approx(top5)
    assert np.array_equal(rep.confusion, skm.confusion_matrix(y, pred, labels=labels))
    for k, v in dict(precision=p, recall=r, support=n).items():
        assert [o[k] for o in rep.per_class] == pytest.approx(list(v), rel=1e-12)
    assert rep.loss == pytest.approx(skm.log_loss(y, probs, labels=labels), rel=1e-5)

@pytest.mark.parametrize('seed', range(3))
def test_per_class_by_counting(seed):
    "Confusion matrix, precision, recall and support by their definitions, for 30 classes"
    c, gen = 30, torch.Generator().manual_seed(seed)
    y, pred = torch.randint(c, (2, 1000), generator=gen)
    y[y == 7], pred[pred == 11] = 8, 12   # a class without images, and one that is never predicted
    rep = Report(F.one_hot(pred, c), y, range(c))
    for i, row in enumerate(rep.per_class):
        n, n_pred = int((y == i).sum()), int((pred == i).sum())
        right = int(((y == i) & (pred == i)).sum())
        want = dict(name=str(i), precision=right/n_pred if n_pred else 0.,
                    recall=right/n if n else 0., support=n)
        assert row == want and [type(v) for v in row.values()] == [str, float, float, int]
        assert rep.confusion[i].tolist() == [int(((y == i) & (pred == j)).sum()) for j in range(c)]

@pytest.mark.parametrize('k, n', [(0, 7), (7, 7), (1, 2), (90, 100), (1873, 2000), (9, 50_000)])
def test_wilson_by_its_formula(k, n):
    "Wilson (1927); 1.96 is the normal distribution's 97.5 % quantile, rounded"
    z, p = 1.959963984540054, k/n
    middle = (p + z*z/(2*n))/(1 + z*z/n)
    half = z*(p*(1 - p)/n + z*z/(4*n*n))**.5/(1 + z*z/n)
    assert wilson(k, n) == pytest.approx((middle - half, middle + half), abs=1e-12)
    assert [type(o) for o in wilson(k, n)] == [float, float]   # for JSON

def test_calibration_by_scikit_learn():
    rng = np.random.default_rng(0)
    p = rng.uniform(.5, 1, 1000)
    y = (rng.uniform(size=1000) > p).astype(int)   # class 0 has probability p
    rows = Report(np.stack([p, 1 - p], 1), y, 'ab').calibration(10)
    acc, conf = calibration_curve(y == 0, p, n_bins=10)
    assert [o['accuracy'] for o in rows] == pytest.approx(acc, abs=.02)
    assert [o['confidence'] for o in rows] == pytest.approx(conf, abs=.02)

@pytest.mark.parametrize('conf, low, high', [(.5, .25, .5), (.51, .5, .75), (.75, .5, .75),
                                             (.76, .75, 1.), (1., .75, 1.)])
def test_edges_of_calibration_bins(conf, low, high):
    "A confidence on an edge belongs to the lower bin; any other to the bin that it is in"
    row, = Report([[conf, 1 - conf]], [0], 'ab').calibration(4)
    assert (row['low'], row['high'], row['n'], row['accuracy']) == (low, high, 1, 1.)
    assert row['low'] < row['confidence'] <= row['high']

def test_classes_without_images_or_predictions():
    rep = Report([[.8, .2, 0], [.7, .3, 0]], [0, 1], 'abc')
    assert rep.per_class[2] == dict(name='c', precision=0., recall=0., support=0)
    assert rep.per_class[1]['precision'] == 0.

def test_mcnemar_by_simulation():
    gen = np.random.default_rng(0)
    b = gen.binomial(30, .5, 20_000)
    assert mcnemar(9, 21) == pytest.approx(np.mean(np.minimum(b, 30 - b) <= 9), abs=.01)

def test_compare_is_paired():
    "Nine more right of a thousand: significant if nothing else differs, not if much does"
    def report(right):
        probs = np.where(np.asarray(right)[:, None], [.9, .1], [.1, .9])
        return Report(probs, np.zeros(len(right), int), 'ab')
    base = np.arange(1000) < 900
    more = base.copy()
    more[900:909] = True
    other = np.roll(base, 300)
    other[:9] = True
    similar, different = (compare(report(base), report(o)) for o in (more, other))
    assert similar.p < .01 and similar.diff_ci[0] > 0
    assert different.p > .05 and different.diff_ci[0] < 0

def test_compare_at_a_fixed_seed():
    "The bootstrap is reproducible"
    a = Report([[.9, .1]]*30 + [[.1, .9]]*10, [0]*40, 'ab')
    b = Report([[.9, .1]]*20 + [[.1, .9]]*5 + [[.9, .1]]*15, [0]*40, 'ab')
    got = compare(a, b)
    assert (got.only_first, got.only_second, got.diff, got.agreement) == (5, 10, .125, .625)
    counts = np.random.default_rng(0).multinomial(40, [5/40, 10/40, 1 - 15/40], 2000)
    assert got.diff_ci == tuple(np.percentile((counts[:, 1] - counts[:, 0])/40, [2.5, 97.5]))
    assert list(got.to_dict()) == ['names', 'n', 'top1', 'diff', 'diff_ci', 'only_first',
                                   'only_second', 'agreement', 'p']

def test_thousand_classes_in_little_memory():
    "50,000 images and 1,000 classes; classes × classes × images would be 50 GB"
    rep = Report(torch.eye(1000), torch.arange(1000), range(1000))
    rep.targets = torch.arange(50_000)%1000
    rep.__dict__['preds'] = (rep.targets*7)%1000
    assert rep.confusion.sum() == 50_000
    assert rep.confusion.numel()*rep.confusion.element_size() <= 8_000_000
    assert len(rep.per_class) == 1000

# test-time augmentation, and bad input

def test_tta_has_a_name_of_its_own(learn, rep):
    flip = tta(learn)
    assert flip.split == 'test, flip' and flip.n == rep.n
    assert not torch.equal(flip.probs, rep.probs)
    assert tta(learn, kind='ten_crop').split == 'test, ten_crop'

def test_flips_of_a_folder_that_forbids_them(tmp_path):
    "As for the named sets: the file dataset.json says it"
    photos(tmp_path/'x', 12)
    text = '{"classes": {"a": "a", "b": "b"}, "flip": false}'
    (tmp_path/'x/dataset.json').write_text(text)
    learn = course_learner(get_dls(tmp_path/'x', bs=8, device='cpu'), 'resnet8', precision='fp32')
    with learn.no_bar(), pytest.warns(UserWarning, match='mirrored image'): tta(learn, 'valid')

def test_ten_crops_of_photos(tmp_path):
    "Ten crops are taken before the center crop"
    photos(tmp_path, 6, (48, 40))
    dls = get_dls(tmp_path, bs=4, size=32, valid_pct=.25, num_workers=0, device='cpu')
    model = create_model('resnet8', n_out=2).eval()
    x = torch.cat([plain_tensor(xb) for xb, _ in with_borders(split_dl(dls, 'valid'))])
    n = x.shape[-1]
    assert n == dls.load_size > 32
    end, middle = n - 32, round((n - 32)/2)
    corners = [(0, 0), (0, end), (end, 0), (end, end), (middle, middle)]
    crops = [o[..., i:i + 32, j:j + 32] for o in (x, x.flip(-1)) for i, j in corners]
    with torch.no_grad(): want = torch.stack([model(o).softmax(1) for o in crops]).mean(0)
    got = tta(model, 'valid', 'ten_crop', dls=dls)
    torch.testing.assert_close(got.probs, want, rtol=0, atol=1e-5)

def test_ten_crops_of_a_fastai_learner_differ_little_from_one(tmp_path):
    dls = get_dls(photos(tmp_path/'photos', 20, (44, 36), 'abc'), size=24, bs=8, device='cpu')
    learn = fastai_learner(dls, tmp_path)
    learn.fit(1)
    report = tta(learn, kind='ten_crop')
    probs, targets = map(plain_tensor, learn.get_preds(dl=dls.test))
    assert torch.allclose(report.probs.sum(1), torch.ones(len(targets)), atol=1e-5)
    assert torch.equal(report.targets, targets)
    assert not torch.allclose(report.probs, probs, atol=1e-4)
    assert (report.probs - probs).abs().mean() < 0.1

def test_empty_split():
    dls = get_dls('digits', n_train=64, valid_pct=0, device='cpu')
    learn = course_learner(dls, 'resnet8')
    with pytest.raises(CourseError, match='valid split is empty'): evaluate(learn, 'valid')

@pytest.mark.parametrize('call, words', [
    (lambda learn: evaluate(learn, 'tset'), 'test'),
    (lambda learn: evaluate(learn.model), 'needs loaders'),
    (lambda learn: tta(learn.model), 'needs loaders'),
    (lambda learn: tta(learn, kind='nine'), 'ten_crop'),
    (lambda learn: Report([[.5, .5]], [0, 1], 'ab'), '1 predictions for 2'),
    (lambda learn: Report([.5, .5], [0, 1], 'ab'), 'do not fit 2 classes'),
    (lambda learn: Report([[float('nan')]*2], [0], 'ab'), 'NaN'),
    (lambda learn: Report([[.5, .5]], [2], 'ab'), 'class')])
def test_bad_input(learn, call, words):
    with pytest.raises(CourseError, match=words): call(learn)

# Metrics for rare classes

def noisy(n=400, c=3, seed=0, sharp=1.):
    "A report of a network that is often right, on classes of different sizes"
    rng = np.random.default_rng(seed)
    y = rng.choice(c, n, p=np.arange(1, c + 1)/np.arange(1, c + 1).sum())
    logits = rng.normal(size=(n, c)) + sharp*np.eye(c)[y]
    return Report(torch.tensor(logits).softmax(1), y, [f'class {i}' for i in range(c)])

@pytest.mark.parametrize('c', [2, 3, 7])
def test_metrics_are_scikit_learns(c):
    rep = noisy(c=c, seed=c)
    y, p, probs = rep.targets.numpy(), rep.preds.numpy(), rep.probs.double().numpy()
    macro, rows = rep.macro_metrics(), rep.class_metrics()
    assert macro['balanced_accuracy'] == pytest.approx(skm.balanced_accuracy_score(y, p))
    assert macro['f1'] == pytest.approx(skm.f1_score(y, p, average='macro'))
    each = skm.f1_score(y, p, average=None)
    for k, row in enumerate(rows):
        assert row['sensitivity'] == row['recall'] == skm.recall_score(y == k, p == k)
        assert row['specificity'] == pytest.approx(skm.recall_score(y != k, p != k))
        assert row['f1'] == pytest.approx(each[k])
        assert row['roc_auc'] == pytest.approx(skm.roc_auc_score(y == k, probs[:, k]), abs=1e-12)
    areas = [row['roc_auc'] for row in rows]
    assert macro['roc_auc'] == pytest.approx(np.mean(areas))
    assert macro['specificity'] == pytest.approx(np.mean([row['specificity'] for row in rows]))

def test_areas_count_ties_half():
    scores = np.array([.5, .5, .2, .8, .5, .2])
    rep = Report(np.stack([1 - scores, scores], 1), [0, 1, 0, 1, 1, 0], ['a', 'b'])
    want = skm.roc_auc_score(rep.targets, scores)
    assert rep.class_metrics()[1]['roc_auc'] == pytest.approx(want)

def drawn_again(rep, metric, n_boot=600):
    "95% interval of a metric by drawing the images again, one by one"
    rng, n = np.random.default_rng(1), rep.n
    values = []
    for _ in range(n_boot):
        i = rng.integers(n, size=n)
        values.append(metric(Report(rep.probs[i], rep.targets[i], rep.vocab)))
    return np.percentile(values, [2.5, 97.5])

@pytest.mark.parametrize('name', ['balanced_accuracy', 'f1', 'specificity', 'roc_auc'])
def test_macro_intervals_are_those_of_drawing_images_again(name):
    rep = noisy(n=300)
    def value(r):
        y, p = r.targets.numpy(), r.preds.numpy()
        if name == 'balanced_accuracy': return skm.balanced_accuracy_score(y, p)
        if name == 'f1': return skm.f1_score(y, p, average='macro')
        if name == 'roc_auc':
            return np.mean([skm.roc_auc_score(y == k, r.probs[:, k]) for k in range(3)])
        return np.mean([skm.recall_score(y != k, p != k) for k in range(3)])
    low, high = rep.macro_metrics()[f'{name}_ci']
    want = drawn_again(rep, value)
    assert (low, high) == pytest.approx(want, abs=0.15*(want[1] - want[0]))

@pytest.mark.parametrize('name', ['sensitivity', 'specificity', 'f1', 'roc_auc'])
def test_intervals_of_a_class_hold_the_truth(name):
    "In about 19 of 20 tests with as many images"
    big = noisy(n=200_000, sharp=1.5, seed=99)
    truth, hits = big.class_metrics()[0][name], 0
    for seed in range(200):
        low, high = noisy(n=150, sharp=1.5, seed=seed).class_metrics()[0][f'{name}_ci']
        hits += low <= truth <= high
    assert 180 <= hits   # 190 expected, standard deviation 3

def test_what_is_undefined_is_none_and_json():
    import json
    rep = Report([[.9, .1, 0], [.2, .8, 0], [.7, .3, 0]], [0, 1, 0], ['a', 'b', 'none'])
    row = rep.class_metrics()[2]
    assert [row[k] for k in ('sensitivity', 'precision', 'f1', 'roc_auc')] == [None]*4
    assert rep.class_metrics()[0]['roc_auc'] == 1 and rep.class_metrics()[0]['f1_ci'][1] == 1
    macro = rep.macro_metrics()
    assert macro['balanced_accuracy'] == 1 and macro['balanced_accuracy_ci'] == [None, None]
    text = json.dumps(rep.to_dict(), allow_nan=False)
    assert 'DeLong' in text and 'Wilson' in text and 'bootstrap' in text
    one = Report([[1.]], [0], ['only'])
    json.dumps(one.to_dict(), allow_nan=False)
    assert one.metrics_table()[-1][-1] == '1'

def test_intervals_of_a_thousand_classes():
    rep = noisy(n=5000, c=1000, sharp=6.)
    assert len(rep.metrics_table()) == 23 and rep.to_dict()['macro']['f1_ci'][0] > 0
