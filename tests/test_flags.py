"Settings of a recipe by name: checked, recorded, resumed, for whole runs and for every stage"
import json, os, sys, warnings
from importlib.util import find_spec
from unittest import mock

import pytest
import torch
from fastai.callback.core import Callback
from helpers import bits, digits_learner, quiet, run_command

from resnet_course.core import CourseError
from resnet_course.callbacks import log_callback
from resnet_course.checkpoint import Interrupted
from resnet_course.recipes import change_recipe, fit_recipe, get_recipe, tunable
from resnet_course.finetune import change_plan, get_plan, run_stages
from resnet_course.records import load_run
from resnet_course.runs import finetune_run, learner_from_checkpoint, train_run

pytestmark = pytest.mark.usefixtures('one_thread')
DIGITS = ['--data', 'digits', '--n-train', 64, '--bs', 16]
# flag → its value, and what the record says
FLAGS = {'--mixup': (0.2, dict(mixup=0.2)), '--cutmix': (1, dict(cutmix=1.)),
         '--ema': (0.5, dict(ema=0.5)), '--label-smoothing': (0.1, dict(label_smoothing=0.1)),
         '--early-stop': (1, dict(early_stop=dict(patience=1))), '--clip': (1, dict(clip=1.)),
         '--accumulate': (2, dict(accumulate=2))}

def record(folder): return load_run(next(folder.glob('*/run.json')))

def test_there_is_a_flag_for_each_setting():
    assert {flag[2:].replace('-', '_') for flag in FLAGS} == set(tunable)

@pytest.mark.parametrize('flag', FLAGS)
def test_train(flag, tmp_path):
    value, kept = FLAGS[flag]
    args = [*DIGITS, '--arch', 'resnet8', '--epochs', 2, '--out', tmp_path]
    assert run_command('train', *args, flag, value) == 0
    assert record(tmp_path)['recipe']['changed'] == kept

def test_finetune_with_all(tmp_path):
    "Every stage of a plan has them, `--early-stop` as its patience"
    flags = [o for flag, (value, _) in FLAGS.items() for o in (flag, value)]
    assert run_command('finetune', *DIGITS, '--weights', 'resnet20-fashion_mnist', '--plan', 'head',
                       '--epochs', 2, '--out', tmp_path, *flags) == 0
    want = {}
    for _, kept in FLAGS.values(): want |= kept
    want.pop('early_stop')
    assert record(tmp_path)['recipe']['changed'] == want
    stages = json.loads(next(tmp_path.glob('*/stages/stages.json')).read_text())['plan']['stages']
    assert [s['patience'] for s in stages] == [1]
    assert stages[0]['recipe'] == dict(want, name='one_cycle')

@pytest.mark.parametrize('flag, value', [
    ('--mixup', -1), ('--ema', 1), ('--label-smoothing', 1.5), ('--clip', 'nan')])
@pytest.mark.parametrize('command', ['train', 'finetune'])
def test_impossible(command, flag, value, tmp_path, capfd):
    "One sentence, and no folder"
    assert run_command(command, '--data', 'digits', '--out', tmp_path/'runs', '--weights',
                       'resnet20-fashion_mnist', flag, value) == 1
    err = capfd.readouterr().err
    assert err.startswith(f"error: {flag[2:].replace('-', '_')}={float(value)}: give")
    assert not (tmp_path/'runs').exists()

def learner(**kwargs): return digits_learner(n_train=96, **kwargs)

@pytest.mark.parametrize('settings', [
    dict(mixup=0.2), dict(cutmix=1.), dict(mixup=0.2, cutmix=1.), dict(ema=0.5), dict(clip=0.1),
    dict(label_smoothing=0.1), dict(early_stop=9), dict(mixup=0.2, ema=0.5, accumulate=2)])
def test_resumes_to_the_bit_from_the_folder_alone(settings, tmp_path):
    r = change_recipe('cosine', **settings)
    whole = learner()
    fit_recipe(whole, r, 3)
    with pytest.raises(Interrupted): fit_recipe(learner(), r, 3, checkpoint=tmp_path, cbs=Stop())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')   # about `Stop`
        again, how = learner_from_checkpoint(tmp_path)
    fit_recipe(quiet(again), **how)
    assert torch.equal(bits(again), bits(whole))

class Stop(Callback):
    "Press Ctrl-C in the second epoch"
    order = 200
    def after_batch(self):
        import signal
        if self.training and (self.epoch, self.iter) == (1, 3): signal.raise_signal(signal.SIGINT)

def test_zero_switches_a_recipes_own_off():
    assert get_recipe('fast_cifar').label_smoothing and get_recipe('keras_resnet18').early_stop
    assert change_recipe('fast_cifar', label_smoothing=0).label_smoothing == 0
    assert change_recipe('fast_cifar') is get_recipe('fast_cifar')

def test_early_stopping_stops():
    learn = learner()
    fit_recipe(learn, change_recipe('step', early_stop=1), 20, lr=1e-7)
    assert len(learn.history.rows) < 20

@pytest.mark.parametrize('ema, warns', [(0.9998, True), (0.9, False)])
def test_an_average_of_too_few_steps_warns(ema, warns):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        fit_recipe(learner(), change_recipe('step', ema=ema), 5)
    assert any('initial weights' in str(w.message) for w in seen) == warns

def test_mixup_and_cutmix_take_turns():
    class Seen(Callback):
        order = 60
        shares = ()
        def after_batch(self):
            if self.training: self.shares += (len(self.mix_up_or_cut_mix.lam),)
    learn, seen = learner(), Seen()
    fit_recipe(learn, change_recipe('step', mixup=0.2, cutmix=1.), 4, cbs=seen)
    assert set(seen.shares) == {1, 16}

def test_features_cannot_be_cut_and_pasted():
    learn = learner()
    stages = change_plan([*get_plan('head', epochs=1)], cutmix=1.)
    stages[0].cache = 1
    with pytest.raises(CourseError, match='CutMix need images'): run_stages(learn, stages)

# TensorBoard and Weights & Biases

def test_a_missing_package_is_one_sentence(tmp_path, capfd):
    with mock.patch('resnet_course.callbacks.find_spec', lambda name: None):
        for command in ('train', 'finetune'):
            for kind in ('tensorboard', 'wandb'):
                assert run_command(command, *DIGITS, '--log', kind, '--out', tmp_path/'runs',
                                   '--weights', 'resnet20-fashion_mnist') == 1
                err = capfd.readouterr().err.splitlines()[-1]
                assert err.endswith(f'not installed: pip install {kind}')
    assert not (tmp_path/'runs').exists()
    assert run_command('train', '--log', 'tensorbord', '--out', tmp_path/'runs') == 1
    assert "did you mean 'tensorboard'" in capfd.readouterr().err

def scalars(folder):
    "Names of the numbers in TensorBoard's files, and how many of each"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder)).Reload()
    return {name: len(events.Scalars(name)) for name in events.Tags()['scalars']}

needs_tensorboard = pytest.mark.skipif(not find_spec('tensorboard'), reason='needs tensorboard')

@needs_tensorboard
@pytest.mark.parametrize('recipe', [
    'one_cycle', 'step', 'keras_resnet18', 'torchvision2021',
    pytest.param('rsb_a3', marks=pytest.mark.skipif(not find_spec('timm'), reason='needs timm'))])
def test_tensorboard(recipe, tmp_path):
    assert run_command('train', *DIGITS, '--arch', 'resnet8', '--epochs', 2, '--out', tmp_path,
                       '--log', 'tensorboard', '--recipe', recipe) == 0
    found = scalars(next(tmp_path.glob('*/tensorboard')))
    assert found['valid_loss'] == found['accuracy'] == 2 and found['train_loss'] >= 8
    assert any(name.startswith('lr') for name in found)

@needs_tensorboard
def test_tensorboard_changes_nothing_and_resumes(tmp_path):
    whole = learner()
    fit_recipe(whole, 'cosine', 3)
    with pytest.raises(Interrupted):
        fit_recipe(learner(), 'cosine', 3, checkpoint=tmp_path,
                   cbs=[Stop(), *log_callback('tensorboard', tmp_path)])
    with pytest.warns(match='also trained with Stop:'):
        again, how = learner_from_checkpoint(tmp_path)
    fit_recipe(quiet(again), **how)
    assert torch.equal(bits(again), bits(whole))
    assert scalars(tmp_path/'tensorboard')['valid_loss'] == 3

@needs_tensorboard
def test_each_stage_has_its_own_logs(tmp_path):
    rec, _, _ = finetune_run('digits', 'resnet20-fashion_mnist', 'staged', epochs=1, bs=16,
                             n_train=64, out=tmp_path, log='tensorboard', setup=quiet)
    logs = next(tmp_path.glob('*/tensorboard'))
    assert {o.name for o in logs.iterdir()} == {'head', 'last stage', 'last two stages'}
    assert scalars(logs/'head')['valid_loss'] == 1

@pytest.mark.skipif(not find_spec('wandb'), reason='needs wandb')
def test_wandb_offline(tmp_path):
    with mock.patch.dict(os.environ, WANDB_MODE='offline', WANDB_SILENT='true'):
        train_run('digits', 'resnet8', epochs=1, bs=16, n_train=64, out=tmp_path, log='wandb',
                  setup=quiet)
    run = next(tmp_path.glob('*/run.json')).parent
    assert list((run/'wandb').glob('offline-run-*'))
    assert sys.modules['wandb'].run is None   # finished
