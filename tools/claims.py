#!/usr/bin/env python3
"""Repeat the lessons' experiments with other seeds, and fail where a sentence does not hold.

    python tools/claims.py                     every claim, three seeds that no lesson uses
    python tools/claims.py --only 04 06.2      the claims of a lesson, or single ones
    python tools/claims.py --seeds 101         other seeds
    python tools/claims.py --list              the claims, and how often each has to hold

Writes results/claims.json, unless only some claims or other seeds were asked for. The code that
runs is the lessons' own: `lesson` executes the cells that define the names it is given. A sentence
that has no counterpart in its lesson any more fails, too; rewording it does not matter.
"""
import argparse, ast, contextlib, copy, fnmatch, io, random, re, sys, time
from dataclasses import dataclass
from datetime import date
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import matplotlib
matplotlib.use('agg')
import numpy as np
import torch
from execnb.nbio import read_nb

from resnet_course.all import (
    course_learner, create_model, evaluate, fit_recipe, get_dls, grad_cam, load_model)
from resnet_course.core import write_json
from resnet_course.interpret import gradient_norms, occlusion_test
from resnet_course.records import machine, source_commit, versions

root = Path(__file__).parents[1]
SEEDS = 11, 12, 13   # the lessons use 0 to 4

@dataclass
class Claim:
    "A sentence of a lesson, and the experiment that has to bear it out"
    id: str
    sentence: str   # from a markdown cell of the lesson, in its words or nearly so
    f: object   # function of the seed: whether the sentence holds, and what was seen
    share: float   # of the seeds that have to agree

claims = []

def claim(lesson, sentence, share=1.):
    "Register a function of the seed as the experiment for `sentence`"
    def register(f):
        n = sum(c.id.startswith(f'{lesson}.') for c in claims) + 1
        claims.append(Claim(f'{lesson}.{n}', sentence, f, share))
        return f
    return register

@lru_cache(None)
def notebook(lesson):
    path, = (root/'nbs/lessons').glob(f'{lesson}_*.ipynb')
    return read_nb(path)

def bound(node):
    "The names that a statement defines"
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)): return {node.name}
    if not isinstance(node, ast.Assign): return set()
    return {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}

@lru_cache(None)
def lesson(number, *names):
    "The namespace of a lesson after the first cells that define `names`, and all its imports"
    space, missing = {}, set(names)
    for cell in notebook(number).cells:
        source = ''.join(cell.source)
        if cell.cell_type != 'code' or re.search(r'^#\| *(slow|download|cuda)', source): continue
        body = ast.parse(source).body
        imports = [n for n in body if isinstance(n, (ast.Import, ast.ImportFrom))]
        here = set().union(*map(bound, body)) & missing
        for part in body if here else imports:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(ast.Module([part], []), f'<lesson {number}>', 'exec'), space)
        missing -= here
    if missing: raise LookupError(f'lesson {number} does not define {", ".join(sorted(missing))}')
    public = {k: v for k, v in space.items() if not k.startswith('__')}
    return SimpleNamespace(**public, space=space)

def words(text): return re.findall(r"[\w'%±¼]+", text.lower())

def likeness(sentence, text):
    "Share of the words of `sentence` that `text` has, too, in the same order"
    a, b = words(sentence), words(text)
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return sum(m.size for m in blocks)/len(a)

def in_lesson(c):
    "Does the claim's lesson have a paragraph that says this, if not word for word?"
    prose = [''.join(o.source) for o in notebook(c.id[:2]).cells if o.cell_type == 'markdown']
    paragraphs = [part for text in prose for part in text.split('\n\n')]
    return max(likeness(c.sentence, part) for part in paragraphs) >= 0.6

def percent(x): return f'{100*x:.1f}%'
def gap(learn): return evaluate(learn, 'train').top1 - evaluate(learn, 'valid').top1

def trained(dls, arch, seed, **kwargs):
    "A learner, trained by a recipe"
    learn = course_learner(dls, arch, seed=seed)
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, **kwargs)
    return learn

# 1. Train a classifier

@lru_cache(2)
def clothes_learner(seed):
    return trained(get_dls('fashion_mnist_mini', seed=1), 'resnet8', seed, epochs=3)

@claim('01', 'Usually it gives one or two answers for nearly everything', share=0.6)
def _(seed):
    learn = course_learner(get_dls('fashion_mnist_mini', seed=1), 'resnet8', seed=seed)
    two = evaluate(learn, 'valid').preds.bincount(minlength=10).sort().values[-2:].sum().item()/1000
    return two > 0.8, f'two answers for {percent(two)}'

@claim('01', 'More than half of them.')
def _(seed):
    c = evaluate(clothes_learner(seed), 'valid').confusion
    tops = c[[0, 2, 4, 6]][:, [0, 2, 4, 6]]
    share = (tops.sum() - tops.diag().sum())/(c.sum() - c.diag().sum())
    return share > 0.5, percent(float(share))

@claim('01', 'What has changed is the gap.')
def _(seed):
    few = get_dls('fashion_mnist_mini', seed=1, n_train=1000)
    less, more = gap(clothes_learner(seed)), gap(trained(few, 'resnet8', seed, epochs=30))
    return more > less, f'gap {percent(less)} with 9,000 images, {percent(more)} with 1,000'

# 3. AlexNet

@claim('03', 'with 0.1 the outputs grow until a softmax over them is an overconfident guess, and '
             'with 0.01 they shrink to almost nothing')
def _(seed):
    spreads = lesson('03', 'spreads').spreads
    torch.manual_seed(seed)
    with torch.no_grad(): small, large = spreads(0.01)[-1], spreads(0.1)[-1]
    return small < 0.01 and large > 1000, f'{small:.1g} and {large:.1g} after eight layers'

@claim('03', 'In the paper\'s setup the signal neither explodes nor vanishes: it ends near 1.')
def _(seed):
    torch.manual_seed(seed)
    with torch.no_grad(): s = lesson('03', 'spreads').spreads(0.01, pixels=70, bias=1)[-1]
    return 1/3 < s < 3, f'{s:.2f}'

@lru_cache(2)
def epochs_needed(act, seed):
    "Epochs to 25% training error at the better of two rates; 7 if neither gets there"
    ns = lesson('03', 'dls', 'xs', 'four_layers', 'epochs_to')
    return min(ns.epochs_to(getattr(torch.nn, act), lr, seed=seed) or 7 for lr in (0.1, 0.3))

@claim('03', 'ReLU is nowhere near six times as fast as tanh, and not even twice.')
def _(seed):
    relu, tanh = epochs_needed('ReLU', seed), epochs_needed('Tanh', seed)
    return tanh < 2*relu, f'{relu} epochs with ReLU, {tanh} with tanh'

@claim('03', "The sigmoid, whose output is never centered and whose slope is at most ¼, doesn't "
             'get there.')
def _(seed):
    ns = lesson('03', 'dls', 'xs', 'four_layers', 'epochs_to')
    n = ns.epochs_to(torch.nn.Sigmoid, 0.3, seed=seed)
    return n is None, f'{n} epochs'

@lru_cache(None)
def ablation(name, seed):
    "Validation error of a variant of the small AlexNet"
    ns = small_alexnet()
    return ns.error_of(ns.makers[name], seed, lr=0.03)

@lru_cache(None)
def small_alexnet():
    "Lesson 3's ablation without its runs"
    ns = lesson('03', 'dls', 'xs', 'tiny', 'xv')
    parts = {'full': {}, 'no LRN': dict(norm=False), 'tanh': dict(act='tanh')}
    makers = {k: (lambda o=o: ns.tiny(**o)) for k, o in parts.items()}
    ns.makers = makers | {'lesson 2': ns.from_lesson_2}
    return ns

@claim('03', 'Tanh is *better* than ReLU, and the little network of lesson 2 beats the full '
             'AlexNet.')
def _(seed):
    full, tanh, two = (ablation(k, seed) for k in ('full', 'tanh', 'lesson 2'))
    return max(tanh, two) < full, (f'errors: full {percent(full)}, tanh {percent(tanh)}, '
                                   f'lesson 2 {percent(two)}')

# 4. Degradation

@lru_cache(None)
def depth(name, seed):
    "Training error every five epochs, and the validation error"
    return lesson('04', 'dls', 'error', 'train').train(name, seed)

@claim('04', 'The 20 plain layers end with hardly any of the 500 training images wrong.', 2/3)
def _(seed):
    e = depth('plain20', seed)[0][-1]
    return e < 0.05, percent(e)

@claim('04', 'they are worse **on the images they are trained on**, and after the last division of '
             'the learning rate their error hardly falls anymore')
def _(seed):
    curve = depth('plain56', seed)[0]
    shallow = depth('plain20', seed)[0][-1]
    holds = curve[-1] > shallow + 0.1 and abs(curve[-1] - curve[-2]) < 0.05
    before, after = map(percent, curve[-2:])
    return holds, f'{before} and then {after}; 20 layers {percent(shallow)}'

@claim('04', 'With shortcuts, the same 56 layers with the same number of parameters and the same '
             'training fit their images.')
def _(seed):
    e = depth('resnet56', seed)[0][-1]
    return e < 0.1, percent(e)

@claim('04', 'a hundred times or more as large as those of the last ones. In the residual network '
             'of the same depth, the layers are much closer to each other.')
def _(seed):
    ns, ratio = lesson('04', 'dls', 'xb'), {}
    for name in ('plain44', 'resnet44'):
        torch.manual_seed(seed)
        norms = gradient_norms(create_model(name, n_in=1), ns.xb, ns.yb)
        v = [o for n, o in norms if 'conv' in n]
        ratio[name] = v[0]/v[-1]
    return (ratio['plain44'] >= 100 and ratio['resnet44'] < ratio['plain44']/5,
            f'plain {ratio["plain44"]:.0f}, residual {ratio["resnet44"]:.0f}')

@claim('04', 'With a shortcut the error is small *before the first step*, and practically zero '
             'after training.')
def _(seed):
    copies = lesson('04', 'branch', 'Copy', 'learn_to_copy').learn_to_copy
    ends = [copies(n, True, seed=seed) for n in (1, 2, 4)]
    start, end = (max(o) for o in zip(*ends))
    return start < 0.15 and end < 0.001, f'at most {start:.3f}, then {end:.5f}'

@claim('04', 'Without one, a single unit learns to copy badly, and four units are no better than '
             'the network that always answers 0.5.')
def _(seed):
    copies = lesson('04', 'branch', 'Copy', 'learn_to_copy').learn_to_copy
    one, four = (copies(n, False, seed=seed)[1] for n in (1, 4))
    return one > 0.01 and four > 0.078, f'one unit {one:.3f}, four {four:.3f}; 1/12 is 0.083'

# 5. The residual block

@claim('05', 'the shape of the distribution does not change, and γ and β can set any mean and '
             'standard deviation')
def _(seed):
    torch.manual_seed(seed)
    bn, x = torch.nn.BatchNorm1d(1), torch.rand(10_000, 1)**4
    bn.weight.data[:], bn.bias.data[:] = 3, 5
    y = bn(x)
    below = [(o < o.mean()).float().mean().item() for o in (x, y)]
    holds = abs(below[0] - below[1]) < 1e-3 and abs(y.mean() - 5) < 0.01 and abs(y.std() - 3) < 0.01
    return bool(holds), f'below the mean {percent(below[0])} and {percent(below[1])}'

# 6. Training recipes

def digits_accuracy(seed, lr):
    ns = lesson('06', 'dls')
    return ns.last_accuracy(ns.run(lr=lr, seed=seed))

@claim('06', 'from 0.1 to 1, a factor of ten, the accuracy changes by a few images at most')
def _(seed):
    a, b = digits_accuracy(seed, 0.1), digits_accuracy(seed, 1.)
    return abs(a - b) < 0.04, f'{percent(a)} and {percent(b)} of 180 images'

@claim('06', 'A rate that is too large makes the weights diverge.')
def _(seed):
    slow, good, fast = (digits_accuracy(seed, lr) for lr in (1e-4, 0.1, 10))
    return max(slow, fast) < good - 0.3, f'{percent(slow)}, {percent(good)}, {percent(fast)}'

@claim('06', 'at the first dotted line the solid curve drops sharply')
def _(seed):
    ns = lesson('06', 'dls', 'EpochLoss')
    raw = ns.EpochLoss()
    learn = ns.run('step', lr=1., epochs=8, seed=seed, cbs=raw)
    m, smooth = raw.means, [r['train_loss'] for r in learn.history.rows]
    holds = m[4] < 0.75*m[3] and m[4]/m[3] < smooth[4]/smooth[3]
    return bool(holds), f'{m[3]:.3f} → {m[4]:.3f}; the average {smooth[3]:.3f} → {smooth[4]:.3f}'

@claim('06', 'all but a few of the 180 digits are right')
def _(seed):
    learn = lesson('06', 'dls').run('step', lr=1., epochs=8, seed=seed)
    a = learn.history.rows[-1]['accuracy']
    return a > 0.97, percent(a)

@claim('06', 'From each of these pairs someone could have announced a better recipe.')
def _(seed):
    ns = recipes_lesson()
    a = ns.accuracies(ns.recipe, seeds=range(10*seed, 10*seed + 3))
    far = max(a) - min(a)
    return far > 1, f'three runs of one recipe: {", ".join(f"{o:.1f}" for o in a)}'

@lru_cache(None)
def recipes_lesson():
    "Lesson 6's clothes and its baseline, without its runs"
    ns = lesson('06', 'dls', 'clothes')
    ns.recipe = ns.Recipe('one cycle', 'lesson 6', lr=.1, bs=50, epochs=4,
                          shape=lesson('06', 'pct').one_cycle())
    return ns

@claim('06', '± 2 standard errors contain the truth only about 82 times in a hundred')
def _(seed):
    x = np.random.default_rng(seed).standard_normal((20_000, 3))
    share = (abs(x.mean(1)) < 2*x.std(1, ddof=1)/3**.5).mean()
    return 0.8 < share < 0.84, percent(share)

@claim('06', 'Nothing was learned, and yet the number rose by several points')
def _(seed):
    rng = np.random.default_rng(seed)
    best = np.mean([max(rng.binomial(180, .9, size=40))/180 for _ in range(2000)])
    return 0.92 < best < 0.97, percent(best)

# 8. Staged fine-tuning

@lru_cache(1)
def pretrained_with(seed):
    "Lesson 8's network, pretrained with another seed"
    learn = course_learner(plan_lesson().clothes, 'resnet8', seed=seed)
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, epochs=3)
    return learn.model.eval()

def transfer(seed):
    "Lesson 8 with a pretrained network and an order of the digits from another seed"
    ns = plan_lesson()
    ns.space['start'] = pretrained_with(seed)
    # otherwise the order depends on how many epochs ran before, in this claim or in another
    ns.space['digits'].train.rng = random.Random(seed)
    return ns

@lru_cache(None)
def plan_lesson():
    "Lesson 8's functions"
    return lesson('08', 'clothes', 'pretrained', 'start', 'with_new_head', 'count', 'freeze',
                  'is_frozen', 'shape', 'x', 'train_head', 'worth', 'head_first', 'ways', 'drift')

@claim('08', 'About what random guessing gets')
def _(seed):
    ns = transfer(seed)
    a = ns.accuracy(ns.space['start'])
    return 0.02 < a < 0.25, percent(a)

@claim('08', 'Our body is well ahead of their mean')
def _(seed):
    ns = transfer(seed)
    ours = ns.worth(ns.space['start'])
    mean = np.mean([ns.worth(ns.fresh('resnet8', 10*seed + i)) for i in range(5)])
    return ours > mean + 0.03, f'{percent(ours)} against a mean of {percent(mean)}'

@claim('08', 'It is ahead of its random controls, but not far from ours')
def _(seed):
    ns = transfer(seed)
    ours, better = ns.worth(ns.space['start']), ns.worth(load_model('resnet20-fashion_mnist'))
    mean = np.mean([ns.worth(ns.fresh('resnet20', 10*seed + i)) for i in range(3)])
    return (better > mean and abs(better - ours) < 0.1,
            f'{percent(better)}; controls {percent(mean)}; ours {percent(ours)}')

@claim('08', 'Here each stage improves on the head by much more than that')
def _(seed):
    ns = transfer(seed)
    head = ns.head_first(seed)
    base, last, two = (ns.accuracy(o) for o in (head, ns.then(head, -2), ns.then(head, -3)))
    return min(last, two) > base + 0.01, f'{percent(base)}, {percent(last)}, {percent(two)}'

@lru_cache(2)
def ends(seed, epochs):
    "Accuracy of each way of training"
    ns = transfer(seed)
    return {k: ns.accuracy(net) for k, net in ns.ways(seed, epochs).items()}

def said(d): return ', '.join(f'{k} {percent(v)}' for k, v in d.items())

@claim('08', 'Training everything at once at the high rate ends ahead of it.')
def _(seed):
    a = ends(seed, 40)
    return a['all_at_once'] > a['plan'], said(a)

@claim('08', '*Even a network without any pretraining catches up with the plan*')
def _(seed):
    a = ends(seed, 40)
    return a['from_scratch'] > a['plan'] - 0.01, said(a)

@claim('08', 'given enough epochs, and with most seeds it passes the plan', 2/3)
def _(seed):
    a = ends(seed, 40)
    return a['from_scratch'] > a['plan'], said(a)

@claim('08', 'From 5 to 20 epochs everything gains; from 20 to 40, hardly anything does')
def _(seed):
    a, b, c = (ends(seed, e) for e in (5, 20, 40))
    return (all(b[k] > a[k] and abs(c[k] - b[k]) < 0.04 for k in a),
            '; '.join(f'{k} {" ".join(percent(o[k]) for o in (a, b, c))}' for k in a))

@claim('08', 'Not a single weight moved. The running statistics did, within five batches.')
def _(seed):
    ns = transfer(seed)
    free, frozen = ns.drift(torch.nn.Module.train), ns.drift(ns.train_mode)
    return free > 0.02 and frozen == 0, f'{percent(free)}, and {percent(frozen)} in evaluation mode'

@claim('08', 'The body has seen the first one, with its labels.')
def _(seed):
    ns = plan_lesson()
    few = get_dls('fashion_mnist_mini', n_train=250, bs=50, size=16, augment=False, device='cpu')
    net = trained(few, 'resnet8', seed, epochs=25).model
    classes, sets = [0, 2, 4, 6], []
    for dl in (ns.split_dl(few, 'train'), few.valid):
        xs, ys = ns.tensors(dl)
        keep = torch.isin(ys, torch.tensor(classes))
        numbers = torch.searchsorted(torch.tensor(classes), ys[keep])
        sets.append((ns.features(net, xs[keep]), numbers))
    (f, y), (f_new, y_new) = sets
    half = len(y)//2
    head = ns.train_head(f[:half], y[:half], 4)
    leaky, honest = ns.hits(head, f[half:], y[half:]), ns.hits(head, f_new, y_new)
    return leaky > honest + 0.1, f'{percent(leaky)} on seen images, {percent(honest)} on others'

# 9. Reading a network

@lru_cache(1)
def reading(seed):
    "Lesson 9's images, and a network from this seed with its copy from before training"
    ns = lesson('09', 'dls', 'tensors', 'xt', 'outputs', 'features_of', 'nearest_six')
    learn = course_learner(ns.dls, 'resnet8', seed=seed)
    blank = copy.deepcopy(learn.model).eval()
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, epochs=3)
    return ns, learn.model.eval(), blank

def neighbors(seed, shift=0):
    "Fraction of neighbors of the same class: trained, blank, pixels"
    ns, model, blank = reading(seed)
    moved, res = torch.roll(ns.xt, shift, dims=3), {}
    for name, net in dict(trained=model, blank=blank).items():
        res[name] = ns.features_of(net, moved), ns.features_of(net, ns.xs)
    res['pixels'] = moved.flatten(1), ns.xs.flatten(1)
    return {k: ns.same_class(ns.nearest_six(*v)) for k, v in res.items()}

@claim('09', 'the trained network\'s neighbors are of the same class far more often')
def _(seed):
    a = neighbors(seed)
    return a['trained'] > a['blank'] + 0.1, said(a)

@claim('09', 'the trained network\'s features lose little')
def _(seed):
    a, b = neighbors(seed), neighbors(seed, 3)
    lost = a['trained'] - b['trained']
    return lost < 0.06 and b['trained'] > b['pixels'], f'unmoved: {said(a)}; moved: {said(b)}'

@claim('09', 'covering what the network\'s own map of *this* image marks costs more than covering '
             'what any of the controls marks')
def _(seed):
    ns, model, blank = reading(seed)
    own = grad_cam(model, ns.xt)
    maps = dict(own=own, blank=grad_cam(blank, ns.xt), other=own.roll(1, 0),
                random=torch.rand_like(own), ink=ns.xt[:, 0])
    left = {k: occlusion_test(model, ns.xt, m)['bright'] for k, m in maps.items()}
    return min(left, key=left.get) == 'own', ', '.join(f'{k} {v:.2f}' for k, v in left.items())

@claim('09', 'those of the residual network stay within one or two orders of magnitude')
def _(seed):
    ns = lesson('09', 'dls', 'tensors', 'xt')
    torch.manual_seed(seed)
    g = {n: [o for _, o in gradient_norms(create_model(n, n_in=1), ns.xt[:64], ns.yt[:64])]
         for n in ('plain56', 'resnet56')}
    plain, wide = g['plain56'][0]/g['plain56'][-1], max(g['resnet56'])/min(g['resnet56'])
    return plain > 100 and wide < 100, f'plain: first/last {plain:.0f}; residual: range {wide:.0f}'

# 10. More data

@claim('10', 'with both axes logarithmic, the points scatter around the fitted line')
def _(seed):
    ns = lesson('10', 'pixels', 'dls')
    order = torch.randperm(len(ns.xt), generator=torch.Generator().manual_seed(seed))
    sizes = [140, 562, 2250, 9000]
    found = [ns.yt[order[:n]][torch.cdist(ns.xv, ns.xt[order[:n]]).argmin(1)] for n in sizes]
    errors = [(o != ns.yv).float().mean().item() for o in found]
    line = np.polyfit(np.log(sizes), np.log(errors), 1)
    off = np.abs(np.polyval(line, np.log(sizes)) - np.log(errors)).max()
    return line[0] < -0.05 and off < 0.15, f'slope {line[0]:.2f}, largest deviation {percent(off)}'

def try_claim(c, seeds):
    "The claim's row in the record"
    start, seen, held = time.perf_counter(), {}, {}
    for seed in seeds:
        holds, seen[str(seed)] = c.f(seed)
        held[str(seed)] = bool(holds)
    in_text = in_lesson(c)
    ok = in_text and sum(held.values()) >= c.share*len(held)
    return dict(id=c.id, sentence=c.sentence, ok=ok, in_text=in_text, share=c.share, held=held,
                seen=seen, seconds=round(time.perf_counter() - start, 1))

def say(row):
    "Print a row of the record"
    print(f'{"✓" if row["ok"] else "✗"} {row["id"]} {row["sentence"]} ({row["seconds"]:.0f} s)')
    if not row['in_text']: print('    the lesson no longer says this')
    for seed, text in row['seen'].items():
        no = '' if row['held'][seed] else 'does NOT hold: '
        print(f'    seed {seed}: {no}{text}', flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--only', nargs='+', default=['*'], help='lessons or claims, such as 04 or 06.2')
    p.add_argument('--seeds', nargs='+', type=int, default=SEEDS)
    p.add_argument('--list', action='store_true')
    p.add_argument('--out', type=Path, help='where to write the record')
    a = p.parse_args()
    chosen = [c for c in claims
              if any(fnmatch.fnmatch(c.id, o) or c.id[:2] == o for o in a.only)]
    if not chosen: sys.exit(f'no claim is called {" ".join(a.only)}: see --list')
    if a.list:
        for c in chosen: print(f'{c.id:5} {c.share:4.0%}  {c.sentence}')
        return
    rows = []
    for c in chosen:
        rows.append(try_claim(c, a.seeds))
        say(rows[-1])
    failed = [r['id'] for r in rows if not r['ok']]
    print(f'{len(rows) - len(failed)} of {len(rows)} claims hold in '
          f'{sum(r["seconds"] for r in rows)/60:.0f} minutes')
    complete = len(chosen) == len(claims) and tuple(a.seeds) == SEEDS
    out = a.out or (root/'results/claims.json' if complete else None)
    if out:
        write_json(dict(date=str(date.today()), commit=source_commit(), versions=versions(),
                        machine=machine(), seeds=list(a.seeds), claims=rows), out)
    if failed: sys.exit(f'failed: {" ".join(failed)}')

if __name__ == '__main__': main()
