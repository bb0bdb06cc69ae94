"Atomic writes to a wrong path, names that no file can have, and the device that is asked for"
import os, socket, stat, subprocess, sys, time
from pathlib import Path

import pytest

from resnet_course.checkpoint import read_checkpoint
from resnet_course.core import (
    CourseError, atomic_write, check_file, in_threads, printable, read_json, utf8_path, write_json)
from resnet_course.download import unpack
from resnet_course.drawings import draw_network
from resnet_course.export import OnnxModel
from resnet_course.finetune import load_plan
from resnet_course.folders import check_folder, export_set, make_subset
from resnet_course.images import open_image
from resnet_course.lessons import copy_lessons
from resnet_course.listing import list_folder
from resnet_course.loaders import get_dls
from resnet_course.predict import find_images, write_csv
from resnet_course.records import list_runs, load_run, new_run_dir
from resnet_course.saving import load_model
from resnet_course.tables import list_csv

root = Path(__file__).resolve().parent.parent

def test_folder_is_not_a_file(tmp_path):
    with pytest.raises(CourseError, match='a directory; name a file in it'):
        with atomic_write(tmp_path): pass
    assert not list(tmp_path.iterdir())

# Pipes, sockets and devices: /dev/null as an output would become a file, for the whole system

def make_pipe(path): os.mkfifo(path)
def make_socket(path): socket.socket(socket.AF_UNIX).bind(str(path))
def make_device(path): os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
def make_link(path):
    make_pipe(f'{path}.pipe')
    path.symlink_to(f'{path}.pipe')

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='Windows has no such files')
@pytest.mark.parametrize('make', [make_pipe, make_socket, make_device, make_link])
def test_pipes_and_devices_are_not_replaced(make, tmp_path, monkeypatch):
    "An output with such a name is refused, and it stays what it is"
    monkeypatch.chdir(tmp_path)   # the name of a socket has to be short
    path = Path('x.svg')
    try: make(path)
    except PermissionError: pytest.skip('only root can make a device')
    before = os.lstat(path)
    for write in (lambda: write_json({}, path), lambda: write_csv([], ['a', 'b'], path),
                  lambda: draw_network('resnet8').save(path)):
        with pytest.raises(CourseError, match='not a regular file'): write()
    after = os.lstat(path)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert not list(tmp_path.glob('.*'))

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='Windows has no such links')
def test_a_link_that_leads_to_itself(tmp_path):
    (tmp_path/'loop').symlink_to(tmp_path/'loop')
    for f in (check_file, read_json, list_folder, list_csv, check_folder, load_model, load_run,
              load_plan, OnnxModel, get_dls, lambda p: find_images([p]), copy_lessons,
              lambda p: make_subset(p, tmp_path/'new', 2), lambda p: new_run_dir('x', p)):
        for path in (tmp_path/'loop', tmp_path/'loop'/'x'):
            with pytest.raises(CourseError) as e: f(path)
            assert '\n' not in str(e.value)

@pytest.mark.skipif(sys.platform != 'linux', reason='elsewhere all names are UTF-8')
def test_a_name_for_libraries_that_want_utf8(tmp_path):
    for name in ('x', os.fsdecode(b'\xff')):
        (tmp_path/name).write_text('here')
        with utf8_path(tmp_path/name) as other:
            other.encode()
            assert Path(other).read_text() == 'here'

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

# Names that no file can have

no_names = {'too long': 'x'*300, 'long, in a folder that is missing': 'no/such/' + 'x'*300,
            'a long path': 'a/'*3000, 'a surrogate': 'a\ud800b', 'a null byte': 'a\0b'}

@pytest.mark.parametrize('name', no_names.values(), ids=no_names)
def test_names_that_no_file_can_have(name, tmp_path, monkeypatch):
    "One short sentence from every function that takes a path"
    monkeypatch.chdir(tmp_path)
    read = [check_file, read_json, list_folder, list_csv, check_folder, open_image, load_model,
            read_checkpoint, load_run, list_runs, load_plan, OnnxModel, get_dls,
            lambda p: get_dls(f'{p}.csv'), lambda p: get_dls(Path(p)), lambda p: find_images([p]),
            lambda p: load_plan(f'{p}.yaml')]
    write = [lambda p: write_json({}, p), lambda p: new_run_dir('x', p), copy_lessons,
             lambda p: export_set('digits', p), lambda p: unpack(__file__, p),
             lambda p: make_subset('.', p, 2)]
    for f in read + write:
        with pytest.raises(CourseError) as e: f(name)
        text = str(e.value)
        assert len(text) < 300 and '\n' not in text and printable(text) == text
    assert not list(tmp_path.iterdir())

def test_an_error_is_short():
    "Whatever was given, the beginning and the end of the sentence are there"
    text = str(CourseError('x: ' + 'y\x1b'*10_000 + ': give less'))
    assert len(text) < 1000 and text.startswith('x: y') and text.endswith(': give less')

def test_the_longest_names_are_taken(tmp_path):
    "Names of 255 bytes are written and read, also with a long ending"
    for name in ('x'*255, 'x.' + 'y'*253, 'é'*127):
        write_json(dict(a=1), tmp_path/name)
        assert read_json(tmp_path/name) == dict(a=1)
    assert len(list(tmp_path.iterdir())) == 3

def test_threads_do_not_run_far_ahead():
    "Of a million files, only a few wait; an error, or no further interest, stops the others"
    done = []
    results = in_threads(done.append, range(100_000))
    next(results)
    time.sleep(.3)
    assert 0 < len(done) < 5000
    results.close()
    n = len(done)
    time.sleep(.1)
    assert len(done) == n
