"float16 ends with an error where no scale helps"
import pytest
from fastai.callback.core import Callback
from helpers import digits_learner

from resnet_course.core import CourseError
from resnet_course.precision import AutoPrecision

class Overflow(Callback):
    "Make a gradient infinite before it is unscaled"
    order = AutoPrecision.order - 1
    def before_step(self):
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        grads[0].fill_(float('inf'))

def test_every_step_overflows():
    learn = digits_learner(precision='fp16')
    with pytest.raises(CourseError, match='^40 steps in a row overflowed'):
        learn.fit(20, 0.01, cbs=Overflow())
