"""Which of AlexNet's ideas carried the weight? One is taken away at a time.

    python benchmarks/alexnet_ablation.py [--seeds 0 1 2] [--arms "tanh instead of ReLU" ...]

`alexnet_small` with two groups, on Fashion-MNIST: the whole network, and the same without one of
ReLU, response normalization, overlapping pooling, dropout, augmentation, groups, or a layer in
the middle. A network without an idea may need another learning rate, so each arm first tries
three, with a seed of its own, on validation images; then it trains with the best, once per seed,
each seed with its own training and validation images. The test images are used once per run, and
choose nothing. One run takes two to three minutes on two idle cores. An interrupted study
continues where it stopped. Writes results/alexnet_ablation.json: all runs, and for each arm the
mean difference from the whole network with the same seed. `--quick` trains for one epoch on few
images, to see that everything works, and writes alexnet_ablation_quick.json instead.
"""
import argparse, json
from pathlib import Path

from resnet_course.core import write_json
from resnet_course.loaders import get_dls
from resnet_course.evaluate import evaluate
from resnet_course.experiments import compare_nets
from resnet_course.records import machine, versions
from resnet_course.runs import mean_ci

root = Path(__file__).resolve().parent.parent
whole = 'all ideas'
# arm → options of the network, and whether training images are shifted and mirrored
arms = {
    whole: (dict(), True),
    'tanh instead of ReLU': (dict(act='tanh'), True),
    'no response normalization': (dict(norm=False), True),
    'pools that do not overlap': (dict(overlap=False), True),
    'no dropout': (dict(dropout=0.), True),
    'no augmentation': (dict(), False),
    'one group instead of two': (dict(groups=1), True),
    'without the third convolution': (dict(omit=3), True),
    'without the fourth convolution': (dict(omit=4), True),
    'without the fifth convolution': (dict(omit=5), True)}
sweep_seed = 100   # chooses the rates; its images are not those of any other seed

def run(arm, seed, lr, a, test):
    "Train once; the errors of the last epoch on training and validation images, and on test images"
    options, augmented = arms[arm]
    dls = get_dls('fashion_mnist', bs=a.bs, n_train=a.n_train, n_valid=a.n_valid, seed=seed,
                  augment='crop+mirror' if augmented else False)
    net = dict(dict(arch='alexnet_small', groups=2), **options)
    result = compare_nets({arm: net}, dls, a.epochs, lr, [seed], precision='auto')
    learn, last = result.learns[arm], result.rows[-1]
    row = dict(arm=arm, seed=seed, lr=lr, train=1 - last['train'], valid=1 - last['valid'],
               n_params=sum(p.numel() for p in learn.model.parameters()),
               precision=learn.precision.resolved,
               train_seconds=sum(r['train_seconds'] for r in learn.history.rows))
    if test: row.update(test=evaluate(learn).top1)
    shown = ', '.join(f'{k} {row[k]:.2%}' for k in ('train', 'valid', 'test') if k in row)
    print(f"{arm}, seed {seed}, rate {lr:g}: {shown}, {row['train_seconds']:.0f} s", flush=True)
    return row

def best_rate(arm, sweep, lrs):
    "The rate with the highest validation accuracy; a diverged network is not the best"
    tried = {r['lr']: r['valid'] for r in sweep if r['arm'] == arm}
    return max(lrs, key=tried.get)

def summarize(runs):
    "One row per arm: accuracies, and the difference in test accuracy, as means over seeds"
    base = {r['seed']: r['test'] for r in runs if r['arm'] == whole}
    rows = []
    for arm in arms:
        mine = [r for r in runs if r['arm'] == arm]
        if not mine: continue
        means = {k: mean_ci([r[k] for r in mine]) for k in ('train', 'valid', 'test')}
        diffs = [r['test'] - base[r['seed']] for r in mine if r['seed'] in base]
        rows.append(dict(arm=arm, lr=mine[0]['lr'], n_params=mine[0]['n_params'], **means,
                         change=mean_ci(diffs) if diffs else None))
    return rows

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--arms', nargs='+', default=list(arms), choices=list(arms), metavar='ARM',
                   help=f'run only these, of: {"; ".join(arms)}')
    p.add_argument('--lrs', type=float, nargs='+', default=[0.02, 0.05, 0.1])
    p.add_argument('--epochs', type=int, default=10)
    p.add_argument('--n-train', type=int, default=12_000)
    p.add_argument('--n-valid', type=int, default=5_000)
    p.add_argument('--bs', type=int, default=128)
    p.add_argument('--quick', action='store_true', help='one epoch, 256 images, one rate')
    p.add_argument('--out', type=Path)
    a = p.parse_args()
    if a.quick: a.epochs, a.n_train, a.n_valid, a.lrs = 1, 256, 256, a.lrs[:1]
    out = a.out or (Path('alexnet_ablation_quick.json') if a.quick
                    else root/'results/alexnet_ablation.json')
    config = {k: getattr(a, k) for k in ('lrs', 'epochs', 'n_train', 'n_valid', 'bs')}
    old = json.loads(out.read_text(encoding='utf-8')) if out.is_file() else {}
    if old and old['config'] != config:
        raise SystemExit(f'{out} holds other settings: choose another --out')
    sweep, runs = old.get('sweep', []), old.get('runs', [])

    def save():
        seeds = ' '.join(map(str, sorted({r['seed'] for r in runs} | set(a.seeds))))
        write_json(dict(schema=1, kind='alexnet_ablation', config=config, sweep=sweep, runs=runs,
                        summary_by_arm=summarize(runs), machine=machine(), versions=versions(),
                        command=f'python benchmarks/alexnet_ablation.py --seeds {seeds}'), out)
    for arm in a.arms:
        for lr in a.lrs:
            if any((r['arm'], r['lr']) == (arm, lr) for r in sweep): continue
            sweep.append(run(arm, sweep_seed, lr, a, test=False))
            save()
    for seed in a.seeds:
        for arm in a.arms:
            if any((r['arm'], r['seed']) == (arm, seed) for r in runs): continue
            runs.append(run(arm, seed, best_rate(arm, sweep, a.lrs), a, test=True))
            save()
    print(f'{out}: {len(runs)} runs')

if __name__ == '__main__': main()
