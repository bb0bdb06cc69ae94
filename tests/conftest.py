"Fixtures that several test files use"
import os, signal, subprocess, sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tests'))

# Apple GPUs on hosted runners have no memory to speak of; processes that tests start inherit this
if sys.platform == 'darwin' and os.environ.get('CI'):
    os.environ.setdefault('RESNET_COURSE_DEVICE', 'cpu')

# torch.compile without worker processes: on a busy machine one of them has hung for five minutes
os.environ.setdefault('TORCHINDUCTOR_COMPILE_THREADS', '1')

# a shell lets the commands in its background ignore Ctrl-C, which some tests press
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

@pytest.fixture(autouse=True)
def device_of_the_next_test(monkeypatch):
    "A device that a test chooses, as with `--device`, is not that of the tests after it"
    name = 'RESNET_COURSE_DEVICE'
    # setting and deleting make monkeypatch put back what is there now
    monkeypatch.setenv(name, os.environ.get(name, ''))
    if not os.environ[name]: monkeypatch.delenv(name)
    yield
    core = sys.modules.get('fastai.torch_core')   # some tests run without it
    if core is not None: core.defaults.use_cuda = None

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The built site's folder: the one that RESNET_COURSE_SITE names, or built now, once"
    if 'RESNET_COURSE_SITE' in os.environ: return Path(os.environ['RESNET_COURSE_SITE'])
    pytest.importorskip('smalldocs', reason='smalldocs, which builds the site offline, needs '
                                            'Python 3.11')
    if 'PYTEST_XDIST_WORKER' not in os.environ: return build_site()
    from filelock import FileLock   # the environment of the wheel's tests has only pytest
    done = tmp_path_factory.getbasetemp().parent/'site-is-built'   # for all processes of this run
    with FileLock(f'{done}.lock'):
        if not done.exists(): build_site()
        done.touch()
    return root/'_docs'

def build_site():
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    res = subprocess.run([sys.executable, 'tools/build_site.py'], cwd=root, env=env,
                         capture_output=True, text=True)
    assert res.returncode == 0, res.stdout[-2000:] + res.stderr[-6000:]
    return root/'_docs'

@pytest.fixture
def photo_folder(tmp_path):
    "Two class folders with twelve random images each, in a folder `photos`"
    from helpers import photos
    return photos(tmp_path/'photos')

@pytest.fixture
def one_thread():
    "PyTorch on one thread: tiny networks gain nothing from more, and lose much on a busy machine"
    import torch
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)
