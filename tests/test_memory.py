"Memory that runs out, wherever it does: one sentence with the remedy, and nothing is lost"
import errno, gc, multiprocessing, os, signal, sys, weakref

import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from helpers import CtrlC, digits_learner, quiet, run_command
from torch import nn

from resnet_course import runs
from resnet_course.checkpoint import Interrupted, read_checkpoint
from resnet_course.core import CourseError, OutOfMemoryError, memory_advice
from resnet_course.evaluate import evaluate, tta
from resnet_course.finetune import Stage, run_stages
from resnet_course.loaders import get_dls
from resnet_course.lr_find import find_lr
from resnet_course.models import create_model
from resnet_course.photos import PhotoReader
from resnet_course.predict import predict_images
from resnet_course.recipes import fit_recipe
from resnet_course.records import list_runs

# What people see, from PyTorch, its libraries and the system
cuda = ('CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of '
        'which 1.03 GiB is free. See documentation for Memory Management')
mps = ('MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 384.00 KB, '
       'max allowed: 9.07 GB). Tried to allocate 1.00 GB on private pool.')
cpu = ("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
       'you tried to allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)')
windows = 'DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000 bytes.'
gpu_errors = [torch.OutOfMemoryError(cuda), RuntimeError(mps),
              RuntimeError('CUDA error: out of memory'),
              RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED')]
cpu_errors = [RuntimeError(cpu), RuntimeError(windows), MemoryError(),
              OSError(errno.ENOMEM, 'Cannot allocate memory')]

class Exhaust(nn.Module):
    "A network whose forward pass raises `error` at the `at`-th call"
    def __init__(self, net, error, at=1):
        super().__init__()
        self.net, self.error, self.at, self.n = net, error, at, 0
    def forward(self, x):
        "The network's outputs, until memory runs out"
        self.n += 1
        if self.n == self.at: raise self.error
        return self.net(x)

def exhausted(learn, error=None, at=1):
    "`learn` with a network that runs out of memory"
    cfg = learn.model.cfg
    learn.model = Exhaust(learn.model, error or torch.OutOfMemoryError(cuda), at)
    learn.model.cfg = cfg
    return learn

def advice(f, *args, **kwargs):
    "What the error of `f` says"
    with pytest.raises(OutOfMemoryError) as e: f(*args, **kwargs)
    assert '\n' not in str(e.value)
    return str(e.value)

@pytest.mark.parametrize('error', gpu_errors + cpu_errors, ids=lambda e: str(e)[:30])
def test_every_error_becomes_advice(error):
    "In the third batch of training, with the batch size that was tried and the one to try"
    where = 'the GPU' if error in gpu_errors else 'this computer'
    learn = exhausted(digits_learner(bs=16), error, at=3)
    said = advice(fit_recipe, learn, epochs=1)
    assert said == (f'{where} ran out of memory with batches of 16 images: try bs=8, with '
                    'accumulate=2 to keep steps of 16 images')
    assert learn.model.n == 3

class RaisesInCallback(Callback):
    "Runs out of memory in a callback: fastai changes such errors, and fails without a message"
    def __init__(self, error): self.error = error
    def after_pred(self): raise self.error

@pytest.mark.parametrize('error', [torch.OutOfMemoryError(cuda), MemoryError()],
                         ids=['gpu', 'none'])
def test_in_a_callback(error):
    learn = digits_learner(bs=16)
    assert 'try bs=8' in advice(fit_recipe, learn, epochs=1, cbs=RaisesInCallback(error))

@pytest.mark.filterwarnings('ignore:digits. a mirrored')
def test_wherever_a_network_runs():
    "Fits of fastai, the range test, evaluation, prediction, and stages"
    def learn(): return exhausted(digits_learner(bs=16))
    half = 'the GPU ran out of memory with batches of 16 images: try bs=8'
    assert advice(learn().fit_one_cycle, 1) == half
    assert advice(find_lr, learn(), num_it=6) == half
    for split in ('train', 'valid'): assert advice(evaluate, learn(), split) == half
    assert advice(evaluate, learn().model, dls=learn().dls) == half
    assert advice(tta, learn()) == half
    stages = [Stage('head', -1, 1, 0.01)]
    bad = digits_learner(bs=16)
    bad.add_cb(RaisesInCallback(torch.OutOfMemoryError(cuda)))
    assert advice(run_stages, bad, stages) == half

def test_any_fastai_learner():
    dls = get_dls('digits', bs=16, n_train=64, device='cpu')
    net = exhausted(digits_learner()).model
    plain = quiet(Learner(dls, net, loss_func=CrossEntropyLossFlat()))
    assert 'try bs=8' in advice(fit_recipe, plain, epochs=1)
    net.n = 0
    assert 'try bs=8' in advice(find_lr, plain, num_it=6)

def test_one_image():
    "A batch of one cannot be halved"
    with pytest.raises(OutOfMemoryError, match='try smaller images, or a smaller network'):
        with memory_advice(1): raise MemoryError

def test_predict(tmp_path, photo_folder):
    net = create_model('resnet8', n_out=2)
    net.meta = dict(vocab=['a', 'b'], size=32, stats=([.5]*3, [.5]*3))
    bad = Exhaust(net, torch.OutOfMemoryError(cuda))
    bad.cfg, bad.meta = net.cfg, net.meta
    files = sorted(photo_folder.rglob('*.png'))[:6]
    assert 'batches of 6 images: try bs=3' in advice(list, predict_images(bad, files))
    assert len(list(predict_images(net, files, bs=3))) == 6

killed = [RuntimeError('DataLoader worker (pid 4711) is killed by signal: Killed. '),
          RuntimeError('DataLoader worker (pid(s) 4711, 4712) exited unexpectedly'),
          RuntimeError('unable to write to file </torch_29_8_0>: No space left on device (28)')]

@pytest.mark.parametrize('error', killed, ids=['killed', 'exited', 'shm'])
def test_killed_workers(error):
    with pytest.raises(CourseError, match='num_workers=0') as e:
        fit_recipe(exhausted(digits_learner(), error), epochs=1)
    assert 'shm-size' in str(e.value) and '\n' not in str(e.value)

@pytest.mark.skipif(multiprocessing.get_start_method() != 'fork', reason='a new process would '
                    'not have the function that kills it')
def test_a_worker_that_is_really_killed(photo_folder, monkeypatch):
    "As the system does when memory runs out, while the worker reads an image"
    def killed(*args): os.kill(os.getpid(), signal.SIGKILL)
    dls = get_dls(photo_folder, bs=4, size=16, num_workers=1, in_memory=False, device='cpu')
    for name in ('read', 'read_augmented'): monkeypatch.setattr(PhotoReader, name, killed)
    learn = quiet(Learner(dls, create_model('resnet8', n_out=2), loss_func=CrossEntropyLossFlat()))
    with pytest.raises(CourseError, match='died unexpectedly'): fit_recipe(learn, epochs=1)

def test_other_errors_pass():
    others = RuntimeError('shapes do not fit'), KeyError('out of memory'), OSError(28, 'full')
    for error in others:
        with pytest.raises(type(error)) as e:
            with memory_advice(16): raise error
        assert e.value is error

def test_memory_is_free_afterwards():
    "A notebook keeps the last error, and so would the tensors of the functions that failed"
    kept = []
    def forward():
        "Fail with a tensor in a variable"
        x = torch.zeros(3)
        kept.append(weakref.ref(x))
        raise RuntimeError(mps)
    with pytest.raises(OutOfMemoryError) as e:
        with memory_advice(16): forward()
    gc.collect()
    assert kept[0]() is None and e.value

# A run

@pytest.fixture
def bad_batch(monkeypatch):
    "Runs whose network runs out of memory in its second epoch"
    def create(*args, **kwargs): return exhausted(course_learner(*args, **kwargs), at=20)
    course_learner = runs.course_learner
    monkeypatch.setattr(runs, 'course_learner', create)

train = ['train', '--data', 'digits', '--n-train', 96, '--bs', 16, '--epochs', 3]

def test_train_from_the_command_line(bad_batch, tmp_path, capfd):
    "One line, status 1, and the checkpoint of the last whole epoch stays"
    code = run_command(*train, '--out', tmp_path)
    err = capfd.readouterr().err
    assert code == 1 and 'Traceback' not in err
    assert err.splitlines()[-1].startswith('error: the GPU ran out of memory with batches of 16')
    assert read_checkpoint(next(tmp_path.iterdir()))['pos']['epoch'] == 1

def test_accumulate(tmp_path, capfd):
    "What the advice names works, and keeps the learning rate of the larger batch"
    options = ['train', '--data', 'digits', '--n-train', 64, '--epochs', 1, '--out', tmp_path]
    assert run_command(*options, '--bs', 16) == 0
    assert run_command(*options, '--bs', 8, '--accumulate', 2) == 0
    whole, halves = list_runs(tmp_path)
    assert whole['recipe']['lr'] == halves['recipe']['lr']
    assert halves['recipe']['changed'] == dict(accumulate=2)
    capfd.readouterr()

def test_smaller_batches_to_evaluate_and_predict(tmp_path, capfd, photo_folder):
    "They change no result"
    assert run_command('train', '--data', 'digits', '--n-train', 64, '--bs', 16, '--epochs', 1,
                       '--precision', 'fp32', '--out', tmp_path/'runs') == 0
    run, = (tmp_path/'runs').iterdir()
    capfd.readouterr()
    outs = []
    for bs in (16, 5):
        assert run_command('evaluate', run, '--bs', bs) == 0
        outs.append(capfd.readouterr().out.splitlines()[0])
    assert outs[0] == outs[1]
    assert run_command('compare', run, run, '--bs', 5) == 0
    image = next(photo_folder.rglob('*.png'))
    assert run_command('predict', image, '--model', run, '--bs', 1) == 0
    capfd.readouterr()

def test_accumulate_resumes(tmp_path):
    "An interrupted run remembers it, so that --resume needs no other option"
    learn = digits_learner(bs=16)
    with pytest.raises(Interrupted):
        fit_recipe(learn, epochs=2, accumulate=2, checkpoint=tmp_path, cbs=CtrlC(1, 1))
    _, how = runs.learner_from_checkpoint(tmp_path)
    assert how['accumulate'] == 2

class Tensors(Callback):
    "Counts the tensors that exist after each batch"
    order = 200
    def before_fit(self): self.counts = []
    def after_batch(self):
        if not self.training: return
        assert all(isinstance(o, float) for o in self.learn.recorder.losses)
        self.counts.append(sum(isinstance(o, torch.Tensor) for o in gc.get_objects()))

@pytest.mark.skipif(sys.platform != 'linux', reason='RetainHeap is for glibc')
def test_batches_leave_no_tensors_behind():
    "Small ones between what is freed break up the heap that a fit retains, which then grows"
    learn, tensors = digits_learner(n_train=320), Tensors()
    fit_recipe(learn, epochs=1, cbs=tensors)
    counts = tensors.counts
    assert len(counts) == 20 and max(counts[10:]) <= max(counts[2:10])
    assert all(isinstance(o, torch.Tensor) for o in learn.recorder.losses)   # as fastai's are
