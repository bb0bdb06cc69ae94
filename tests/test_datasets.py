import hashlib, shutil
from dataclasses import replace

import pytest

from resnet_course.core import CourseError
from resnet_course.datasets import datasets, get_dataset
from resnet_course.loaders import get_dls

def test_incomplete_set(tmp_path):
    folder = tmp_path/'cifar-10-batches-py'
    folder.mkdir()
    for name in ('data_batch_5', 'test_batch'): (folder/name).write_bytes(b'')
    with pytest.raises(CourseError, match='is incomplete: remove it'):
        get_dls('cifar10', root=tmp_path)

def test_unpacked_files_must_be_the_published_ones(tmp_path, monkeypatch):
    "An archive with the right checksum is there already, but a file in it has another one"
    folder = tmp_path/'src'/'cifar-100-python'
    folder.mkdir(parents=True)
    for name in ('train', 'test', 'meta'): (folder/name).write_bytes(b'')
    archive = shutil.make_archive(tmp_path/'archives'/'set', 'gztar', tmp_path/'src')
    with open(archive, 'rb') as f: data = f.read()
    urls = {'http://127.0.0.1:9/set.tar.gz': (len(data), hashlib.md5(data).hexdigest())}
    info = replace(datasets['cifar100'], urls=urls, sums={'meta': '0'*32})
    monkeypatch.setitem(datasets, 'cifar100', info)
    with pytest.raises(CourseError, match='meta is not the published file'):
        get_dataset('cifar100', tmp_path, progress=False)
