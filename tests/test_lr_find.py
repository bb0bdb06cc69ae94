"The learning rate range test with callbacks that would stop it"
import torch
from fastai.callback.tracker import EarlyStoppingCallback
from helpers import bits, digits_learner

from resnet_course.lr_find import find_lr

def test_early_stopping_on_a_small_set():
    learn = digits_learner(cbs=EarlyStoppingCallback(patience=1))
    before = bits(learn)
    assert len(find_lr(learn, num_it=20).lrs) == 20 and torch.equal(bits(learn), before)
