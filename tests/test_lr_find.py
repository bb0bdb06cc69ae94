"The learning rate range test changes nothing, and nothing ends it early"
import torch
from fastai.callback.tracker import EarlyStoppingCallback
from helpers import bits, digits_learner, noise_learner

from resnet_course.lr_find import find_lr

def test_early_stopping_on_a_small_set():
    learn = digits_learner(cbs=EarlyStoppingCallback(patience=1))
    before = bits(learn)
    assert len(find_lr(learn, num_it=20).lrs) == 20 and torch.equal(bits(learn), before)

def test_generator_of_a_pytorch_loader_is_restored():
    learn = noise_learner()
    rng = learn.dls.train.sampler.generator
    before = rng.get_state()
    find_lr(learn, num_it=8)
    assert torch.equal(learn.dls.train.sampler.generator.get_state(), before)

def test_no_gradients_are_left():
    learn = digits_learner()
    find_lr(learn, num_it=8)
    assert all(p.grad is None for p in learn.model.parameters())
