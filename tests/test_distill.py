"Knowledge distillation: the loss is the formula's, and the teacher stays as it is"
import copy, shutil, warnings
from dataclasses import replace

import pytest, torch
from fastai.callback.core import Callback
from torch import nn
from torch.nn.functional import cross_entropy

from helpers import CtrlC, quiet, run_command
from resnet_course.checkpoint import Interrupted
from resnet_course.core import CourseError
from resnet_course.learner import course_learner
from resnet_course.loaders import get_dls
from resnet_course.models import create_model
from resnet_course.recipes import fit_recipe, get_recipe
from resnet_course.download import checksum
from resnet_course.records import load_run
from resnet_course.runs import learner_from_checkpoint, train_run
from resnet_course.saving import load_model, save_weights

pytestmark = pytest.mark.usefixtures('one_thread')

def small(width=4, n_out=10, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, width, 4, stride=4), nn.BatchNorm2d(width), nn.ReLU(),
                         nn.Dropout(.5), nn.Flatten(), nn.Linear(width*64, n_out))

def learner(precision='fp32', **kwargs):
    dls = get_dls('digits', bs=32, n_train=96, seed=0, device='cpu', augment=False)
    return quiet(course_learner(dls, small(), seed=1, precision=precision, **kwargs))

class See(Callback):
    "Note what goes into the loss, and the loss"
    order = 6
    def before_fit(self): self.seen = []
    def after_loss(self):
        if not self.training: return
        self.seen.append((self.xb[0], self.y, self.pred.detach(), self.loss.item()))

def formula(theirs, ours, hard, w, t):
    "Hinton et al. 2015, section 2, in float64"
    p, q = ((o.double()/t).softmax(1) for o in (theirs, ours))
    return (1 - w)*hard.double() + w*t*t*(p*(p.log() - q.log())).sum(1).mean()

@pytest.mark.parametrize('precision,tol', [('fp32', 1e-5), ('bf16', .05), ('fp16', .01)])
@pytest.mark.parametrize('smooth', [0., .1])
def test_loss(precision, tol, smooth):
    "Under every precision, with smoothed labels or not; the teacher in evaluation mode"
    r = replace(get_recipe('step'), label_smoothing=smooth, teacher_weight=.7, temperature=2.)
    teacher, see = small(8, seed=5).train(), See()
    before = copy.deepcopy(teacher.state_dict())
    fit_recipe(learner(precision), r, 2, cbs=see, teacher=teacher)
    assert len(see.seen) == 6
    teacher.eval()
    for x, y, pred, loss in see.seen:
        hard = cross_entropy(pred, y, label_smoothing=smooth)
        with torch.no_grad(): want = formula(teacher(x), pred, hard, .7, 2.)
        assert abs(loss - want) < tol*want
    for k, v in teacher.state_dict().items(): assert torch.equal(v, before[k])
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())

def test_modes_come_back():
    teacher = small(seed=5).train()
    fit_recipe(learner(), 'step', 1, teacher=teacher)
    assert all(m.training for m in teacher.modules())

def test_no_weight_is_no_teacher():
    "With weight 0, training is what it is without a teacher"
    ends = []
    for teacher in (None, small(8)):
        learn = learner()
        fit_recipe(learn, replace(get_recipe('step'), teacher_weight=0.), 2, teacher=teacher)
        ends.append([p.detach() for p in learn.model.parameters()])
    for a, b in zip(*ends): torch.testing.assert_close(a, b, rtol=0, atol=1e-7)

def test_student_comes_to_agree_with_its_teacher():
    teacher, apart = small(8, seed=5).eval(), []
    for t in (None, teacher):
        learn = learner()
        fit_recipe(learn, replace(get_recipe('one_cycle'), teacher_weight=1.), 8, teacher=t)
        x = learn.dls.one_batch()[0]
        learn.model.eval()
        with torch.no_grad(): a, b = learn.model(x).softmax(1), teacher(x).softmax(1)
        apart.append((a - b).abs().mean())
    assert apart[1] < .5*apart[0]

@pytest.mark.parametrize('changed', [
    dict(mixup=.2), dict(ema=.5), dict(accumulate=2), dict(clip=.1), dict(bce=True, cutmix=1.)])
def test_with_other_settings(changed):
    learn = learner()
    fit_recipe(learn, replace(get_recipe('step'), **changed), 2, teacher=small(8))
    assert all(p.isfinite().all() for p in learn.model.parameters())

def test_record():
    learn = learner()
    fit_recipe(learn, 'step', 1, teacher=create_model('resnet8', n_in=1))
    assert learn.recipe['teacher'] == dict(network='resnet8', weight=.9, temperature=4.)
    fit_recipe(learn, 'step', 1)
    assert 'teacher' not in learn.recipe

def test_resume(tmp_path):
    "An interrupted run resumes with its teacher, bit for bit, and not without it"
    teacher = small(8)
    whole = learner()
    fit_recipe(whole, 'step', 3, teacher=teacher)
    again = learner()
    with pytest.raises(Interrupted):
        fit_recipe(again, 'step', 3, teacher=teacher, checkpoint=tmp_path, cbs=CtrlC(1, 1))
    with pytest.raises(CourseError, match='teacher=None'):
        fit_recipe(learner(), 'step', 3, checkpoint=tmp_path, resume=True)
    again = learner()
    fit_recipe(again, 'step', 3, teacher=teacher, checkpoint=tmp_path, resume=True)
    for a, b in zip(whole.model.parameters(), again.model.parameters()): assert torch.equal(a, b)

@pytest.mark.parametrize('changed,says', [
    (dict(teacher_weight=2.), 'teacher_weight=2'), (dict(temperature=0.), 'temperature=0')])
def test_settings(changed, says):
    with pytest.raises(CourseError, match=says):
        fit_recipe(learner(), replace(get_recipe('step'), **changed), 1, teacher=small())

def test_teacher_for_something_else(tmp_path):
    learn = learner()
    with pytest.raises(CourseError, match='its own teacher'):
        fit_recipe(learn, 'step', 1, teacher=learn.model)
    with pytest.raises(CourseError, match='7 outputs'):
        fit_recipe(learn, 'step', 1, teacher=small(n_out=7))
    def saved(**meta):
        own = dict(vocab=list(map(str, learn.dls.vocab)), size=32, stats=learn.dls.stats)
        net = create_model('resnet8', 10, n_in=1)
        return load_model(save_weights(net, tmp_path/'w.safetensors', **(own | meta)))
    fit_recipe(learn, 'step', 1, teacher=saved())
    with pytest.raises(CourseError, match='other classes'):
        fit_recipe(learn, 'step', 1, teacher=saved(vocab=list('abcdefghij')))
    with pytest.raises(CourseError, match='a different normalization'):
        fit_recipe(learn, 'step', 1, teacher=saved(stats=[[.9], [.9]]))

# Whole runs

FEW = dict(data='digits', arch='resnet8', epochs=2, bs=16, n_train=64, precision='fp32')

@pytest.fixture(scope='module')
def teachers_run(tmp_path_factory):
    "The folder of a finished run"
    rec, _ = train_run(**FEW, out=tmp_path_factory.mktemp('teacher'), setup=quiet)
    return rec['path']

def end(run):
    "The weights at the end of a run"
    sd = load_model(f'{run}/model.safetensors').state_dict()
    return torch.cat([t.double().flatten() for t in sd.values()])

def entry(run):
    file = f'{run}/model.safetensors'
    return dict(network='resnet8', file=file, sha256=checksum(file), weight=.9, temperature=4.)

def test_run_with_a_teacher(teachers_run, tmp_path):
    "A folder, its file and the network in it teach alike, and differently from no teacher"
    ends = []
    for teacher in (None, teachers_run, f'{teachers_run}/model.safetensors',
                    load_model(f'{teachers_run}/model.safetensors')):
        rec, _ = train_run(**FEW, teacher=teacher, out=tmp_path, setup=quiet)
        ends.append(load_run(rec['path'])['recipe'].get('teacher'))
        ends.append(end(rec['path']))
    assert ends[0] is None and ends[2] == ends[4] == entry(teachers_run)
    assert ends[6] == dict(network='resnet8', weight=.9, temperature=4.)
    assert not torch.equal(ends[1], ends[3])
    assert torch.equal(ends[3], ends[5]) and torch.equal(ends[3], ends[7])

def test_command(teachers_run, tmp_path, capsys):
    args = ['--data', 'digits', '--arch', 'resnet8', '--epochs', 1, '--bs', 16, '--n-train', 64]
    assert run_command('train', *args, '--teacher', teachers_run, '--out', tmp_path) == 0
    assert f'its teacher is resnet8 from {teachers_run}' in capsys.readouterr().out
    assert load_run(next(tmp_path.iterdir()))['recipe']['teacher'] == entry(teachers_run)

def cut_run(teacher, out):
    "A run that is interrupted in its second epoch; its folder"
    with pytest.raises(Interrupted):
        train_run(**FEW, teacher=teacher, out=out,
                  setup=lambda learn: quiet(learn).add_cb(CtrlC(1, 1)))
    return next(out.iterdir())

def test_run_resumes(teachers_run, tmp_path):
    "To the bit, from the folder alone; also where the teacher has moved, but with no other teacher"
    whole, _ = train_run(**FEW, teacher=teachers_run, out=tmp_path/'whole', setup=quiet)
    own = tmp_path/'own'
    shutil.copytree(teachers_run, own)
    run = cut_run(own, tmp_path/'cut')
    own.rename(tmp_path/'moved')
    with pytest.raises(CourseError, match='own/model.safetensors: no such file'):
        train_run(resume=run)
    save_weights(create_model('resnet8', n_in=1), tmp_path/'w')
    with pytest.raises(CourseError, match='w.safetensors: not the teacher'):
        train_run(resume=run, teacher=tmp_path/'w.safetensors')
    rec, _ = train_run(resume=run, teacher=tmp_path/'moved', setup=quiet)
    assert torch.equal(end(whole['path']), end(rec['path']))
    assert load_run(run)['recipe']['teacher']['sha256'] == entry(teachers_run)['sha256']

def test_teacher_in_no_file(tmp_path):
    run = cut_run(create_model('resnet8', n_in=1), tmp_path)
    with pytest.raises(CourseError, match='has no file'): learner_from_checkpoint(run)

@pytest.mark.parametrize('data,says', [
    (dict(data='fashion_mnist_mini'), 'other classes'), (dict(size=64), 'a different size')])
def test_run_with_a_teacher_for_something_else(data, says, teachers_run, tmp_path):
    "One sentence; other classes leave no folder"
    how = dict(FEW, epochs=1, out=tmp_path, setup=quiet, teacher=teachers_run, **data)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        with pytest.raises((CourseError, UserWarning), match=says): train_run(**how)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('net,says', [
    (lambda: create_model('resnet8', 7, n_in=1), '7 outputs'),
    (lambda: create_model('resnet8'), 'create it with n_in=1'),
    (lambda: create_model('alexnet', n_in=1), 'smallest size that works')])
def test_teacher_that_cannot_teach(net, says, tmp_path):
    with pytest.raises(CourseError, match=says):
        train_run(**FEW, teacher=net(), out=tmp_path, setup=quiet)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('name,says', [
    ('nothing', 'a run.s folder, or a file'), ('w.onnx', 'a run.s folder, or a file')])
def test_teacher_that_is_none(name, says, tmp_path):
    with pytest.raises(CourseError, match=says): train_run(**FEW, teacher=name, out=tmp_path)

def test_teacher_that_has_seen_the_test_images(teachers_run, tmp_path):
    "A fold's test images are training images of other runs"
    with pytest.warns(UserWarning, match='a different split of these images'):
        train_run(**FEW, teacher=teachers_run, fold=(1, 3), out=tmp_path, setup=quiet)
