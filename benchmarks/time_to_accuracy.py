"""Time to an accuracy on a laptop's processor: `fast_resnet` and `fast_cifar`, several seeds.

    python benchmarks/time_to_accuracy.py [--goals cifar90 fashion93 ...] [--seeds 0 1 2]

A goal is a network, a number of epochs, and the accuracy to reach. Training uses all training
images: the recipe was chosen before, on validation images held out of training. The clock runs
during training, augmentation included, but not during the test, which happens once, at the end.
The record has two test accuracies: for the images alone, and averaged with their mirror images.
"""
import argparse, json, time
from pathlib import Path

from resnet_course.core import write_json
from resnet_course.loaders import get_dls
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe
from resnet_course.evaluate import evaluate, tta
from resnet_course.records import machine, versions
from resnet_course.runs import mean_ci

goals = dict(
    fashion93=dict(data='fashion_mnist', target=.93, minutes=4, arch='fast_resnet', epochs=6,
                   augment='fast'),
    cifar90=dict(data='cifar10', target=.90, minutes=4, arch='fast_resnet', epochs=7,
                 augment='fast'),
    cifar94=dict(data='cifar10', target=.94, minutes=15, arch='fast_resnet64', epochs=15,
                 augment='fast'),
    cifar95=dict(data='cifar10', target=.95, minutes=40, arch='fast_resnet96', epochs=21,
                 augment='fast_cutout'))

def run(name, seed, bs):
    "Train once, test once"
    goal = goals[name]
    dls = get_dls(goal['data'], bs=bs, valid_pct=0, augment=goal['augment'], seed=seed)
    learn = course_learner(dls, goal['arch'], seed=seed)
    start = time.time()
    with learn.no_bar(): fit_recipe(learn, 'fast_cifar', goal['epochs'])
    seconds = sum(r['train_seconds'] for r in learn.history.rows)
    once, both = evaluate(learn), tta(learn)
    print(f'{name} seed {seed}: {both.top1:.2%} with flips ({once.top1:.2%} without) '
          f"in {seconds:.0f} s; the goal is {goal['target']:.0%} in {goal['minutes']*60} s",
          flush=True)
    return dict(goal=name, seed=seed, **goal, bs=bs, n_train=len(dls.train_ds), n_test=once.n,
                precision=learn.precision.resolved, train_seconds=seconds,
                wall_seconds=time.time() - start, test=once.top1, test_flips=both.top1,
                history=learn.history.rows, recipe=learn.recipe)

def is_current(r, name):
    "Is `r` a run for the goal `name` with its present augmentation?"
    return r['goal'] == name and r.get('augment', 'fast') == goals[name]['augment']

def summarize(runs):
    "One row per goal: means over seeds"
    rows = []
    for name, goal in goals.items():
        rs = [r for r in runs if is_current(r, name)]
        if not rs: continue
        means = {k: mean_ci([r[k] for r in rs]) for k in ('test_flips', 'test', 'train_seconds')}
        rows.append(dict(goal=name, **goal, **means))
    return rows

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--goals', nargs='+', default=list(goals), choices=list(goals))
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--bs', type=int, default=512)
    p.add_argument('--out', type=Path,
                   default=Path(__file__).resolve().parent.parent/'results/time_to_accuracy.json')
    a = p.parse_args()
    runs = json.loads(a.out.read_text(encoding='utf-8'))['runs'] if a.out.is_file() else []
    for name in a.goals:
        for seed in a.seeds:
            new = run(name, seed, a.bs)
            # runs with another augmentation stay in the record
            runs = [r for r in runs if not (is_current(r, name) and r['seed'] == seed)]
            runs.append(new)
            write_json(dict(schema=1, kind='time_to_accuracy', machine=machine(),
                            versions=versions(), goals=summarize(runs), runs=runs), a.out)

if __name__ == '__main__': main()
