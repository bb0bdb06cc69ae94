"Atomic writes to a wrong path, and the device that an environment variable asks for"
import os, subprocess, sys
from pathlib import Path

import pytest

from resnet_course.core import CourseError, atomic_write

root = Path(__file__).resolve().parent.parent

def test_folder_is_not_a_file(tmp_path):
    with pytest.raises(CourseError, match='a directory; name a file in it'):
        with atomic_write(tmp_path): pass
    assert not list(tmp_path.iterdir())

ask_twice = '''
import fastai.torch_core, torch
fastai.torch_core._has_mps = lambda: True   # as on GitHub's macOS runners
torch.cuda.is_available = lambda: False
from resnet_course.core import default_device
print(default_device(), fastai.torch_core.default_device())
'''

@pytest.mark.parametrize('asked, device', [('cpu', 'cpu'), ('', 'mps')])
def test_device_by_environment(asked, device):
    "RESNET_COURSE_DEVICE=cpu keeps training off a GPU, and fastai's own loaders too"
    env = {**os.environ, 'PYTHONPATH': str(root), 'RESNET_COURSE_DEVICE': asked}
    res = subprocess.run([sys.executable, '-c', ask_twice], env=env, capture_output=True, text=True)
    assert res.stdout.split() == [device, device], res.stderr
