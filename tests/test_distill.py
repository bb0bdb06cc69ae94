"Knowledge distillation: the loss is the formula's, and the teacher stays as it is"
import copy
from dataclasses import replace

import pytest, torch
from fastai.callback.core import Callback
from torch import nn
from torch.nn.functional import cross_entropy

from helpers import CtrlC, quiet
from resnet_course.checkpoint import Interrupted
from resnet_course.core import CourseError
from resnet_course.learner import course_learner
from resnet_course.loaders import get_dls
from resnet_course.models import create_model
from resnet_course.recipes import fit_recipe, get_recipe
from resnet_course.saving import load_model
from resnet_course.saving import save_weights

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
    with pytest.raises(CourseError, match='another normalization'):
        fit_recipe(learn, 'step', 1, teacher=saved(stats=[[.9], [.9]]))
