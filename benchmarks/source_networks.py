"""The networks that the four write-ups trained, measured to the end.

    python benchmarks/source_networks.py --list
    python benchmarks/source_networks.py --only resnet18 resnet18_source [--quick]
    python benchmarks/source_networks.py --collect runs/source_networks other/runs

The first lists the commands and how long they take. The second runs entries of `networks` one
after another; an interrupted one continues from its checkpoint when it is started again, and a
finished one is not repeated. `--quick` trains for one epoch on few images, to see that everything
works: such runs are never collected. The third writes finished runs, from this script or from
`resnet-course train`, to results/source_networks.json: command, commit, machine, versions, every
epoch, and the test result with its interval and a row per class. Runs that the record has
already stay in it.
"""
import argparse, json, shlex, subprocess, sys
from pathlib import Path

from fastai.callback.core import Callback

from resnet_course.core import write_json
from resnet_course.loaders import get_dls
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe
from resnet_course.evaluate import evaluate
from resnet_course.records import list_runs, new_run_dir, save_run
from resnet_course.runs import learner_from_checkpoint, mean_ci

root = Path(__file__).resolve().parent.parent

# `options`, for `create_model`, are only for networks that `resnet-course train` cannot name
networks = dict(
    resnet18=dict(
        what='ResNet-18, a recipe for few epochs', hours=1.5, seeds=[42], data='cifar10',
        arch='resnet18', recipe='one_cycle_sgd', epochs=22, lr=0.2, bs=128, label_smoothing=0.1,
        augment='crop+mirror+cutout'),
    resnet18_source=dict(
        what="ResNet-18, the PyTorch write-up's recipe", hours=1.5, seeds=[42], data='cifar10',
        arch='resnet18', recipe='pytorch_resnet34', epochs=22, bs=128, augment='mirror'),
    resnet20=dict(
        what="ResNet-20, the paper's recipe", hours=1.7, seeds=[42], data='cifar10',
        arch='resnet20', recipe='he2015_cifar', epochs=182, bs=128),
    resnet32=dict(
        what="ResNet-32, the paper's recipe", hours=2.8, seeds=[42], data='cifar10',
        arch='resnet32', recipe='he2015_cifar', epochs=182, bs=128),
    alexnet_small=dict(
        what='AlexNet for 28 px', hours=0.4, seeds=[0, 1, 2], data='fashion_mnist',
        arch='alexnet_small', recipe='one_cycle_sgd', epochs=20, lr=0.05, bs=128),
    alexnet_227=dict(
        what='AlexNet for 227 px, as the write-up ran it', hours=1.2, seeds=[0],
        data='fashion_mnist', size=227, valid_pct=0.2, augment=False, arch='alexnet_1gpu',
        options=dict(norm=False, init='torch'), recipe='alexnet_adam', epochs=1, bs=32),
    alexnet_227_paper=dict(
        what='the same, started and normalized as in the AlexNet paper', hours=1.2, seeds=[0],
        data='fashion_mnist', size=227, valid_pct=0.2, augment=False, arch='alexnet_1gpu',
        options=dict(norm=True, init='paper'), recipe='alexnet_adam', epochs=1, bs=32))
image_args = 'size', 'valid_pct', 'augment'
few = dict(n_train=256, n_valid=256)

# Running

def command(name, seed, out, quick=False):
    "The command that trains `name` with one seed, as a list"
    n = networks[name]
    if 'options' in n:
        script = ['python', 'benchmarks/source_networks.py', '--only', name, '--seeds', str(seed)]
        return script + (['--quick'] if quick else [])
    args = ['resnet-course', 'train']
    for key in ('data', 'arch', 'recipe', 'epochs', 'lr', 'bs', 'label_smoothing', 'augment'):
        value = 1 if quick and key == 'epochs' else n.get(key)
        if value is not None: args += [f"--{key.replace('_', '-')}", str(value)]
    if quick: args += ['--n-train', str(few['n_train'])]
    return [*args, '--seed', str(seed), '--out', str(out)]

def folder(name, seed, work, quick):
    "Where the runs of `name` with one seed are"
    return work/f"{name}-{seed}{'-quick' if quick else ''}"

def start(out):
    "The checkpoint of an interrupted run in `out`; None if there is none"
    return next(iter(sorted(out.glob('*/checkpoint.pt'))), None)

class FirstLosses(Callback):
    "Keeps the loss of each of the first batches: where a bad start shows"
    order = 90
    def __init__(self, n=200): self.n, self.losses = n, []
    def after_batch(self):
        if self.training and len(self.losses) < self.n:
            self.losses.append(float(self.loss))
    def state_dict(self): return dict(losses=self.losses)
    def load_state_dict(self, s): self.losses = s['losses']

def train_here(name, seed, out, quick):
    "Train a network with options that the command line does not have"
    n, checkpoint, first = networks[name], start(out), FirstLosses()
    if checkpoint: learn, how = learner_from_checkpoint(checkpoint)
    else:
        images = {k: n[k] for k in image_args if k in n} | (few if quick else {})
        learn = course_learner(get_dls(n['data'], bs=n['bs'], seed=seed, **images), n['arch'],
                               seed=seed, model_kwargs=n['options'])
        checkpoint = new_run_dir(f"{n['data']}-{name}", out)/'checkpoint.pt'
        how = dict(recipe=n['recipe'], epochs=1 if quick else n['epochs'], checkpoint=checkpoint)
    with learn.no_bar(): fit_recipe(learn, cbs=first, **how)
    # testing takes longer than a quick run
    report = evaluate(learn, 'valid' if quick else 'test')
    save_run(learn, checkpoint.parent, [report], first_losses=first.losses,
             command=shlex.join(command(name, seed, out, quick)))
    checkpoint.unlink(missing_ok=True)

def run(name, seed, work, quick):
    "Train `name` with one seed, unless it is done"
    out = folder(name, seed, work, quick)
    if any(out.glob('*/run.json')): return print(f'{name}, seed {seed}: done, in {out}')
    print(f'{name}, seed {seed}', flush=True)
    if 'options' in networks[name]: return train_here(name, seed, out, quick)
    args = command(name, seed, out, quick)
    checkpoint = start(out)
    if checkpoint: args = ['resnet-course', 'train', '--resume', str(checkpoint.parent)]
    subprocess.run([sys.executable, '-m', 'resnet_course', *args[1:]], check=True)

# Collecting

def matches(rec, n):
    "Is `rec` the record of a complete run of the entry `n`?"
    model, data, recipe = rec['model'], rec['data'], rec['recipe'] or {}
    wanted = [(data.get('name_or_path'), n['data']), (model.get('name'), n['arch']),
              (recipe.get('name'), n['recipe']), (recipe.get('epochs'), n['epochs']),
              (len(rec['history']), n['epochs']), (data.get('bs'), n['bs']),
              (data.get('size'), n.get('size')), (data.get('n_train'), None),
              (data.get('augment'), n.get('augment', True))]
    wanted += [(model.get(k), v) for k, v in n.get('options', {}).items()]
    if n.get('lr'): wanted.append((recipe.get('lr'), n['lr']))
    return bool(rec.get('test')) and all(got == want for got, want in wanted)

def row(name, rec):
    "What the record of a run keeps"
    kept = ('data', 'model', 'recipe', 'seed', 'precision', 'n_params', 'images', 'split_id',
            'train_seconds', 'history', 'test', 'machine', 'versions', 'finished', 'command',
            'first_losses')
    commit = (rec.get('versions') or {}).get('commit')
    return dict(name=name, what=networks[name]['what'], commit=commit,
                **{k: rec[k] for k in kept if k in rec})

def collect(folders, file):
    "Write all complete runs in `folders` to `file`, beside those that it has already"
    old = json.loads(file.read_text(encoding='utf-8'))['runs'] if file.is_file() else []
    runs = {(r['name'], r['seed']): r for r in old}
    for rec in [rec for path in folders for rec in list_runs(path)]:
        name = next((k for k, n in networks.items() if matches(rec, n)), None)
        if name: runs[name, rec['seed']] = row(name, rec)
        print(f"{rec['path']}: {name or 'none of the complete runs, left out'}")
    order = list(networks)
    rows = sorted(runs.values(), key=lambda r: (order.index(r['name']), r['seed']))
    done = {name: [r for r in rows if r['name'] == name] for name in networks}
    summary = {name: dict(what=networks[name]['what'], seeds=[r['seed'] for r in rs],
                          test=mean_ci([r['test']['top1'] for r in rs]),
                          train_seconds=mean_ci([r['train_seconds'] for r in rs]))
               for name, rs in done.items() if rs}
    missing = [name for name in networks if name not in summary]
    write_json(dict(schema=1, kind='source_networks', networks=summary, not_measured=missing,
                    runs=rows), file)
    for name, s in summary.items(): print(f"{name}: {s['test']['mean']:.2%}, seeds {s['seeds']}")
    print(f"not measured yet: {', '.join(missing) or 'nothing'}\n{file}")

def show(seeds, work, quick):
    "Print every command, and how long it takes"
    for name, n in networks.items():
        hours = 'a minute' if quick else f"{n['hours']:g} hours"
        print(f"{name}: {n['what']}; about {hours} per seed on two idle cores")
        for seed in seeds or n['seeds']:
            out = folder(name, seed, work, quick)
            print('  ' + shlex.join(command(name, seed, out, quick)))

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--list', action='store_true')
    p.add_argument('--only', nargs='+', default=[], choices=list(networks), help='run these')
    p.add_argument('--seeds', type=int, nargs='+', help="default: each entry's own")
    p.add_argument('--quick', action='store_true', help='one epoch on few images; no record')
    p.add_argument('--collect', type=Path, nargs='+', metavar='FOLDER', help='folders of runs')
    p.add_argument('--work', type=Path, default=Path('runs/source_networks'),
                   help='folder of the runs that this script starts')
    p.add_argument('--out', type=Path, default=root/'results/source_networks.json')
    a = p.parse_args()
    if a.list: return show(a.seeds, a.work, a.quick)
    for name in a.only:
        for seed in a.seeds or networks[name]['seeds']: run(name, seed, a.work, a.quick)
    if a.collect: collect(a.collect, a.out)
    if not (a.only or a.collect): p.error('choose --list, --only or --collect')

if __name__ == '__main__': main()
