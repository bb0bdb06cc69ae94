"Every public function, called with arguments of the wrong type: it works, or says what it wants"
import importlib, inspect, shutil, warnings
from pathlib import Path

import pytest
from helpers import digits_learner, noise, noise_loaders, quiet, time_limit
from fastai.torch_core import params
from matplotlib import pyplot as plt
from torch import nn

from resnet_course import all as course
from resnet_course.core import CourseError
from resnet_course.evaluate import evaluate
from resnet_course.models import create_model

wrong = [None, 'x', '', 1.5, float('nan'), 2**70, -1, True, [], {}, b'', object()]

def outcome(f, *args, **kwargs):
    "What is wrong with what a call does, or ''"
    try:
        with time_limit(60), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            res = f(*args, **kwargs)
            if inspect.isgenerator(res): list(res)
    except CourseError as e: return 'two lines' if '\n' in str(e) else ''
    except Exception as e:
        at = inspect.trace()[-1]
        where = f'{at.filename[-24:]}:{at.lineno}'
        return f'{type(e).__name__}: {e}'.split('\n')[0][:120] + f' [{where}]'
    finally: plt.close('all')
    return ''

# The functions for notebooks: every parameter, with every wrong value, in calls that are right

class Things:
    "What the functions get in place of the argument that is wrong"
    settings = dict(data='digits', arch='resnet8', epochs=1, n_train=48, bs=16)

    def __init__(self, tmp):
        self.tmp = tmp
        self.learn = digits_learner(n_train=48)
        self.dls, self.net = self.learn.dls, self.learn.model
        self.image = tmp/'x.png'
        noise().save(self.image)
        self.report = course.evaluate(self.learn, name='a')
        self.rec, _ = course.train_run(out=tmp/'runs', setup=quiet, **self.settings)
        self.file = f"{self.rec['path']}/model.safetensors"
        self.rows = self.rec['history']
        self.xb = self.dls.valid.one_batch()[0][:2]
        self.found = course.neighbors(self.learn, k=2)
        self.nets = course.compare_nets(['resnet8'], self.dls, epochs=1)

    def learner(self): return digits_learner(n_train=48)
    def stages(self): return [course.Stage('head', -1, 1, .01)]
    def model(self): return course.load_model(self.file)

# Name → the other arguments; functions are called for each test
valid = dict(
    list_datasets=dict(), list_recipes=dict(), list_models=dict(),
    open_image_set=dict(name_or_path='digits'), get_dls=dict(name_or_path='digits', n_train=48),
    make_splits=dict(images=lambda t: course.open_image_set('digits')),
    split_dl=dict(dls=lambda t: t.dls, split='test'),
    as_dls=dict(train=lambda t: noise_loaders()[0], valid=lambda t: noise_loaders()[1]),
    create_model=dict(name='resnet8'), group_names=dict(model=lambda t: t.net),
    load_model=dict(path=lambda t: t.file),
    load_weights=dict(model=lambda t: t.net, source=lambda t: t.file),
    save_weights=dict(model=lambda t: t.net, path=lambda t: t.tmp/'w'),
    model_summary=dict(model=lambda t: t.net, size=8),
    export_model=dict(model=Things.model, path=lambda t: t.tmp/'w.pt2'),
    freeze_report=dict(learn=Things.learner, before=lambda t: course.snapshot(t.learn)),
    freeze_to=dict(learn=Things.learner, n=-1), snapshot=dict(learn=lambda t: t.learn),
    course_learner=dict(dls=lambda t: t.dls, arch='resnet8'),
    class_weights=dict(dls=lambda t: t.dls), change_recipe=dict(recipe='one_cycle'),
    Recipe=dict(name='mine', source='me', lr=.1, bs=16, epochs=1),
    fit_recipe=dict(learn=Things.learner, epochs=1), find_lr=dict(learn=Things.learner, num_it=6),
    compare=dict(a=lambda t: t.report, b=lambda t: t.report, n_boot=100),
    evaluate=dict(learn=lambda t: t.learn), tta=dict(learn=lambda t: t.learn),
    predict_images=dict(model=Things.model, files=lambda t: [t.image]),
    grad_cam=dict(learn=lambda t: t.learn, xb=lambda t: t.xb),
    neighbors=dict(learn=lambda t: t.learn, k=2),
    plot_activations=dict(learn=lambda t: t.learn, x=lambda t: t.xb[0]),
    plot_cam=dict(learn=lambda t: t.learn, which=range(2)),
    plot_filters=dict(learn=lambda t: t.learn),
    plot_neighbors=dict(found=lambda t: t.found, which=[0]),
    compare_nets=dict(nets=['resnet8'], dls=lambda t: t.dls, epochs=1),
    plot_nets=dict(result=lambda t: t.nets),
    Stage=dict(name='head', freeze_to=-1, epochs=1, lr=.1),
    finetune_learner=dict(data='digits', weights='resnet20-fashion_mnist', n_train=48),
    run_stages=dict(learn=Things.learner, stages=Things.stages),
    list_runs=dict(root=lambda t: t.tmp/'runs'), load_run=dict(path=lambda t: t.rec['path']),
    plot_history=dict(rows=lambda t: t.rows),
    train_run=dict(Things.settings, out=lambda t: t.tmp/'more', setup=lambda t: quiet),
    kfold_run=dict(Things.settings, k=2, out=lambda t: t.tmp/'folds', setup=lambda t: quiet),
    check=dict(id='1.1', answer=1), hint_for=dict(id='1.1', answer=1),
    list_exercises=dict(lesson=1))

def test_all_functions_are_here():
    assert {*valid, 'CourseError'} == {*course.__all__}

@pytest.fixture(scope='module')
def things(tmp_path_factory): return Things(tmp_path_factory.mktemp('arguments'))

def call(name, things, /, **changes):
    "Call a function with some arguments changed; returns what went wrong, or ''"
    made = {k: v(things) if inspect.isfunction(v) else v for k, v in valid[name].items()}
    return outcome(getattr(course, name), **made | changes)

def parameters(name):
    "The parameters of a function that can be given by name, and their defaults"
    kinds = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    found = inspect.signature(getattr(course, name)).parameters.values()
    return {p.name: p.default for p in found if p.kind not in kinds}

@pytest.mark.parametrize('name', valid)
def test_valid(name, things): assert call(name, things) == ''

@pytest.mark.parametrize('name', valid)
def test_wrong_types(name, things, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)   # 'x' may be a fine name for a folder
    failed = []
    for parameter, default in parameters(name).items():
        for value in wrong:
            if value is default: continue   # the same call as in `test_valid`
            said = call(name, things, **{parameter: value})
            if said: failed.append(f'{name}({parameter}={value!r}): {said}')
    shutil.rmtree(tmp_path, ignore_errors=True)
    assert not failed, '\n' + '\n'.join(failed)

# The functions of all modules: they have the check, and it stands before anything else

# Checks, what passes anything on, decorators, and what is called for each of a million images. The
# arguments of the commands are text, which typer reads; `core` has nothing else that people call
unchecked = {
    'images': {'plain_tensor', 'white_of'}, 'checkpoint': {'get_random_state'},
    'callbacks': {'check_cbs'},
    'distributed': {'connect', 'broadcast_object', 'gather_objects', 'any_rank'},
    'exercises': {'exercise', 'accepts', 'rejects'}, 'models': {'check_outputs'},
    'predict': {'with_progress'}, 'listing': {'is_hidden', 'why_not_image', 'split_of'},
    'augment': {'height_width', 'scaled', 'covering', 'torch_seeded', 'seeded'}}
others = {'__init__', '__main__', '_modidx', 'all', 'cli', 'core', 'showdoc'}
modules = sorted({p.stem for p in Path(course.__file__).parent.glob('*.py')} - others)

def public_functions():
    "Every public function with parameters, except for those that are not checked"
    for m in modules:
        module = importlib.import_module(f'resnet_course.{m}')
        for name in module.__all__:
            f = getattr(module, name)
            if not inspect.isfunction(f) or name in unchecked.get(m, ()): continue
            if inspect.signature(f).parameters: yield pytest.param(f, id=f'{m}.{name}')


@pytest.mark.parametrize('f', list(public_functions()))
def test_every_function_is_checked(f):
    "An object of no known type is refused by name, unless the parameter takes anything"
    assert hasattr(f, '__wrapped__'), 'decorate it with @check_args'
    nothing, found = object(), inspect.signature(f).parameters
    required = [n for n, p in found.items()
                if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    typed = [n for n in required if found[n].annotation not in (object, inspect.Parameter.empty)]
    if typed: assert 'give' in refusal(f, **dict.fromkeys(required, nothing))

def refusal(f, **kwargs):
    "The message of the `CourseError` that a call ends with"
    with pytest.raises(CourseError) as e: f(**kwargs)
    return str(e.value)

# What went wrong before

def test_a_model_that_returns_a_tuple(things):
    "Training and evaluation say what is missing"
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = create_model('resnet8', n_in=1)
        def forward(self, x): return self.net(x), None
    learn = quiet(course.course_learner(things.dls, Two(), splitter=params))
    for f in (course.fit_recipe, evaluate): assert 'returns a tuple' in refusal(f, learn=learn)
    assert 'returns a tuple' in refusal(evaluate, learn=Two(), dls=things.dls)

@pytest.mark.parametrize('change', [dict(num_workers=2**70), dict(num_workers=10**6),
                                    dict(bs=2**70), dict(size=2**70), dict(n_train=2**70)], ids=str)
def test_numbers_that_no_machine_has(change):
    assert outcome(course.get_dls, 'digits', **change) == ''
    refusal(course.get_dls, name_or_path='digits', **change)
