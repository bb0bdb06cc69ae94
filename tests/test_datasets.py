import pytest

from resnet_course.core import CourseError
from resnet_course.loaders import get_dls

def test_incomplete_set(tmp_path):
    folder = tmp_path/'cifar-10-batches-py'
    folder.mkdir()
    for name in ('data_batch_5', 'test_batch'): (folder/name).write_bytes(b'')
    with pytest.raises(CourseError, match='is incomplete: remove it'):
        get_dls('cifar10', root=tmp_path)
