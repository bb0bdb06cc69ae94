"""Train the resnet20 that the package ships, on all of Fashion-MNIST, and record the run.

    python benchmarks/pretrain_fashion.py

Writes resnet_course/assets/resnet20-fashion_mnist.safetensors and results/pretrain_fashion.json. Needs Fashion-MNIST in
fastai's data folder. The test set is looked at once, at the end.
"""
import argparse
from pathlib import Path

from resnet_course.data import get_dls
from resnet_course.evaluate import evaluate
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe
from resnet_course.runs import run_record, write_json
from resnet_course.weights import load_model, save_weights

root = Path(__file__).resolve().parent.parent
p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('--epochs', type=int, default=6)
p.add_argument('--seed', type=int, default=0)
p.add_argument('--weights', type=Path, default=root/'resnet_course/assets/resnet20-fashion_mnist.safetensors')
p.add_argument('--results', type=Path, default=root/'results/pretrain_fashion.json')
a = p.parse_args()

dls = get_dls('fashion_mnist', seed=a.seed)
learn = course_learner(dls, 'resnet20', seed=a.seed)
with learn.no_bar(): fit_recipe(learn, 'one_cycle', a.epochs)
report = evaluate(learn)
rec = run_record(learn, [report], command=f'python benchmarks/pretrain_fashion.py --epochs {a.epochs} --seed {a.seed}')
save_weights(learn.model, a.weights, vocab=list(map(str, dls.vocab)), size=dls.size, stats=dls.stats, data='fashion_mnist',
             test_top1=report.top1, test_top1_ci=report.top1_ci)
# what was shipped is what was measured
again = evaluate(course_learner(dls, load_model(a.weights)))
assert again.top1 == report.top1, (again.top1, report.top1)
write_json(rec, a.results)
print(report)
