"What `course_learner` adds to fastai's learner; `test_fastai.py` has what stays the same"
import random

import pytest
import torch
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from fastai.optimizer import SGD
from fastai.torch_core import params
from torch import nn

from resnet_course.core import CourseError
from resnet_course.loaders import get_dls
from resnet_course.learner import CourseLearner, course_learner

pytestmark = pytest.mark.usefixtures('one_thread')

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                         nn.Dropout(0.1), nn.Linear(8*8*8, 10))

def loaders(): return get_dls('digits', bs=16, n_train=96, augment=False, seed=0, device='cpu')

def course(path, cbs, precision='fp32', **kwargs):
    return course_learner(loaders(), net(), precision=precision, opt_func=SGD, splitter=params,
                          cbs=cbs, path=path, **kwargs)

def test_no_bar_restores_our_own_bar(tmp_path):
    learn = course(tmp_path, [])
    kind = type(learn.progress)
    with learn.no_bar(): assert not hasattr(learn, 'progress')
    assert type(learn.progress) is kind and kind is not ProgressCallback
    learn.remove_cb(ProgressCallback)
    with learn.no_bar(): pass
    assert not hasattr(learn, 'progress')

def test_arguments_of_the_network_override_those_of_the_data():
    learn = course_learner(loaders(), 'resnet8', model_kwargs=dict(n_in=1, stem='cifar'))
    assert learn.model.conv1.in_channels == 1
    with pytest.warns(UserWarning, match='12 outputs, but the data have 10 classes'):
        learn = course_learner(loaders(), 'resnet8', model_kwargs=dict(n_out=12))
    assert learn.model.fc.out_features == 12
    with pytest.raises(CourseError, match='9 outputs, but the data have 10 classes'):
        course_learner(loaders(), 'resnet8', model_kwargs=dict(n_out=9))

def test_it_is_a_fastai_learner(tmp_path):
    "Its `freeze`, `unfreeze` and `freeze_to` include BatchNorm"
    learn = course_learner(loaders(), 'resnet8', seed=0, path=tmp_path)
    assert isinstance(learn, Learner) and type(learn) is CourseLearner
    learn.freeze()
    assert learn.frozen.n_frozen == 4
    learn.unfreeze()
    assert learn.frozen.n_frozen == 0 and all(p.requires_grad for p in learn.model.parameters())
    with pytest.raises(CourseError, match='5 parameter groups'): learn.freeze_to(-9)

def test_seed_of_the_learner_sets_the_order():
    "It replaces the loaders' own seed"
    def order(seed): return course_learner(loaders(), 'resnet8', seed=seed).dls.train.get_idxs()
    assert order(1) == order(1) != order(2)
    dls = loaders()
    dls.train.rng = random.Random(1)
    assert order(1) == dls.train.get_idxs()
