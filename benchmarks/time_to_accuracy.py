"""How long a laptop's processor takes to an accuracy: `fast_resnet` and `fast_cifar`, several seeds, one record

    python benchmarks/time_to_accuracy.py [--goals cifar90 fashion93 ...] [--seeds 0 1 2]

Each goal is a network, a number of epochs and what they are to reach. All training images are trained on: the recipe was
chosen on validation images kept out of training, before. The clock runs while training does, augmentation included; not while the test
set is looked at, which happens once, at the end, each image as it is and mirrored (both accuracies are in the record).
"""
import argparse, json, time
from pathlib import Path

from resnet_course.loaders import get_dls
from resnet_course.evaluate import evaluate, tta
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe
from resnet_course.runs import machine, mean_ci, versions
from resnet_course.core import write_json

goals = dict(
    fashion93=dict(data='fashion_mnist', target=.93, minutes=4, arch='fast_resnet', epochs=6, augment='fast'),
    cifar90=dict(data='cifar10', target=.90, minutes=4, arch='fast_resnet', epochs=7, augment='fast'),
    cifar94=dict(data='cifar10', target=.94, minutes=15, arch='fast_resnet64', epochs=15, augment='fast'),
    cifar95=dict(data='cifar10', target=.95, minutes=40, arch='fast_resnet96', epochs=21, augment='fast_cutout'))

def run(name, seed, bs):
    "Train once, test once"
    g = goals[name]
    dls = get_dls(g['data'], bs=bs, valid_pct=0, augment=g['augment'], seed=seed)
    learn = course_learner(dls, g['arch'], seed=seed)
    start = time.time()
    with learn.no_bar(): fit_recipe(learn, 'fast_cifar', g['epochs'])
    seconds = sum(r['train_seconds'] for r in learn.history.rows)
    once, both = evaluate(learn), tta(learn)
    row = dict(goal=name, seed=seed, **g, bs=bs, n_train=len(dls.train_ds), n_test=once.n, precision=learn.precision.resolved, train_seconds=seconds,
               wall_seconds=time.time() - start, test=once.top1, test_flips=both.top1, history=learn.history.rows, recipe=learn.recipe)
    print(f"{name} seed {seed}: {both.top1:.2%} with flips ({once.top1:.2%} without) in {seconds:.0f} s; the goal is {g['target']:.0%} in {g['minutes']*60} s", flush=True)
    return row

def _is(r, name):
    "Is `r` a run for the goal `name` as it is trained now? Runs with another augmentation stay in the record"
    return r['goal'] == name and r.get('augment', 'fast') == goals[name]['augment']

def summary(runs):
    "A row a goal: means over seeds"
    for name in goals:
        if rs := [r for r in runs if _is(r, name)]:
            yield dict(goal=name, **goals[name], **{k: mean_ci([r[k] for r in rs]) for k in ('test_flips', 'test', 'train_seconds')})

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--goals', nargs='+', default=list(goals), choices=list(goals))
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--bs', type=int, default=512)
    p.add_argument('--out', type=Path, default=Path(__file__).resolve().parent.parent/'results'/'time_to_accuracy.json')
    a = p.parse_args()
    runs = json.loads(a.out.read_text(encoding='utf-8'))['runs'] if a.out.is_file() else []
    for name in a.goals:
        for seed in a.seeds:
            runs = [r for r in runs if not (_is(r, name) and r['seed'] == seed)] + [run(name, seed, a.bs)]
            write_json(dict(schema=1, kind='time_to_accuracy', machine=machine(), versions=versions(), goals=list(summary(runs)), runs=runs), a.out)

if __name__ == '__main__': main()
