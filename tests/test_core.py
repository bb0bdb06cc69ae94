"Atomic writes to a wrong path"
import pytest

from resnet_course.core import CourseError, atomic_write

def test_folder_is_not_a_file(tmp_path):
    with pytest.raises(CourseError, match='a directory; name a file in it'):
        with atomic_write(tmp_path): pass
    assert not list(tmp_path.iterdir())
