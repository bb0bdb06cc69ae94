"""Clothes to digits and back: how well a small network transfers to another domain.

    python benchmarks/transfer_small.py --seeds 0 1 2

Three directions: the package's resnet20 (trained on Fashion-MNIST) fine-tuned on scikit-learn's
digits scaled to 32 px; the same on inverted digits (dark on bright); and a resnet20 trained
here on digits, fine-tuned on Fashion-MNIST. For each, the staged plan, the head alone,
everything at once, and training from scratch, with few training images. Runs offline; writes
results/transfer_small.json.
"""
import argparse, time
from pathlib import Path

from fastai.data.all import Transform
from fastai.torch_core import TensorImage

from resnet_course.core import write_json
from resnet_course.loaders import get_dls
from resnet_course.weight_files import read_weights
from resnet_course.weights import load_weights
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe
from resnet_course.evaluate import evaluate
from resnet_course.finetune import Stage, run_stages
from resnet_course.records import machine, versions
from resnet_course.runs import stage_means

root = Path(__file__).resolve().parent.parent
p = argparse.ArgumentParser(description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
p.add_argument('--n-train', type=int, default=240, help='training images of the new task')
p.add_argument('--epochs', type=int, default=6, help='epochs of each stage')
p.add_argument('--lr', type=float, default=0.02,
               help='learning rate of the head; the later stages use a tenth of it')
p.add_argument('--results', type=Path, default=root/'results/transfer_small.json')
a = p.parse_args()

def digits(n_train=a.n_train): return get_dls('digits', bs=32, valid_pct=0.3, n_train=n_train)

clothes, clothes_meta = read_weights('resnet20-fashion_mnist')
teacher = course_learner(digits(n_train=None), 'resnet20', seed=0)
with teacher.no_bar(): fit_recipe(teacher, 'one_cycle', 12)
teacher_top1 = evaluate(teacher).top1
print(f'the teacher for digits: {teacher_top1:.2%} of its test images are correct')

class Invert(Transform):
    "Dark strokes on a bright background"
    order = 50  # after scaling to 0…1, before normalization
    def encodes(self, x:TensorImage): return 1 - x

def inverted(dls):
    for dl in (dls.train, dls.valid, dls.test): dl.after_batch.add(Invert())
    return dls

fashion = get_dls('fashion_mnist_mini', bs=32, n_train=a.n_train)
ways = {'clothes → digits': (clothes, digits()),
        'clothes → inverted digits': (clothes, inverted(digits())),
        'digits → clothes': (teacher.model.state_dict(), fashion)}
e, lr = a.epochs, a.lr
arms = {
    'staged': [Stage('head', -1, e, lr),
               Stage('layer3 + head', -2, e, lr/10, start_from='head'),
               Stage('layer2 + layer3 + head', -3, e, lr/10, start_from='head')],
    'head only, as long': [Stage('head', -1, 3*e, lr)],
    "all at once, at the head's rate": [Stage('all', 0, 2*e, lr)],
    'fine_tune, best epoch': [Stage('head', -1, 1, lr),
                              Stage('all', 0, 2*e, slice(lr/200, lr/2))],
    'from scratch': [Stage('all', 0, 2*e, lr)]}

def run(way, arm, seed):
    "The result of one plan with one seed"
    (weights, dls), start = ways[way], time.perf_counter()
    learn = course_learner(dls, 'resnet20', seed=seed)
    body = {k: v for k, v in weights.items() if not k.startswith('fc.')}
    if arm != 'from scratch': load_weights(learn.model, body)
    with learn.no_bar(), learn.no_logging(): res = run_stages(learn, arms[arm])
    print(f'\n{way}, seed {seed}, {arm}\n{res}', flush=True)
    return dict(way=way, arm=arm, seed=seed, wall_seconds=time.perf_counter() - start,
                **res.to_dict())

def sizes(dls): return [len(dl.dataset) for dl in (dls.train, dls.valid, dls.test)]

runs = [run(way, arm, seed) for way in ways for seed in a.seeds for arm in arms]
seeds = ' '.join(map(str, a.seeds))
write_json(dict(
    what='fine-tuning a small network to another domain, from few images',
    config={k: v for k, v in vars(a).items() if k not in ('seeds', 'results')}, seeds=a.seeds,
    images={way: sizes(dls) for way, (_, dls) in ways.items()},
    teachers=dict(clothes=clothes_meta, digits=dict(test_top1=teacher_top1)), runs=runs,
    summary={way: stage_means([r for r in runs if r['way'] == way]) for way in ways},
    machine=machine(fashion.device), versions=versions(),
    command=f'python benchmarks/transfer_small.py --seeds {seeds}'), a.results)
