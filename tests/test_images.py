import json, struct

import pytest
from helpers import photos
from PIL import Image

from resnet_course.core import CourseError
from resnet_course.images import open_csv, open_image, split_folders
from resnet_course.loaders import get_dls

@pytest.mark.parametrize('names', [
    ('Train', 'Test'), ('training_set', 'test_set'), ('TRAIN', 'Val')])
def test_other_names_of_split_folders(tmp_path, names):
    for i, name in enumerate(names): photos(tmp_path/name, start=20*i)
    assert [p.name for p in split_folders(tmp_path).values()] == list(names)
    assert list(get_dls(tmp_path, bs=8, size=32, num_workers=0).vocab) == ['a', 'b']

def test_test_folder_without_class_folders(tmp_path):
    photos(tmp_path/'train')
    (tmp_path/'test').mkdir()
    Image.new('RGB', (32, 32)).save(tmp_path/'test'/'1.jpg')
    with pytest.raises(CourseError, match='test has no class folders with images'):
        get_dls(tmp_path, bs=8, size=32)

def test_csv_rows_that_leak(tmp_path):
    "A file in two splits, or in none"
    photos(tmp_path)
    rows, path = [f'{c}/{i}.png,{c}' for c in 'ab' for i in range(12)], tmp_path/'list.csv'
    def check(lines, says):
        path.write_text('\n'.join(lines))
        with pytest.raises(CourseError, match=says): open_csv(path)
    check(['path,label,split', *(row + ',test' for row in rows)], 'none for train')
    check(['path,label', *rows, './a/0.png,a'], '1 files more than once')
    check(['path,label,split', *(row + ',train' for row in rows[1:]), rows[0]], "'' is no split")

@pytest.mark.parametrize('error', [struct.error, TypeError, KeyError])
def test_exif_data_that_raises(tmp_path, monkeypatch, error):
    Image.new('RGB', (8, 8)).save(tmp_path/'x.png')
    def fail(im): raise error('bad')
    monkeypatch.setattr('PIL.ImageOps.exif_transpose', fail)
    with pytest.raises(CourseError, match='cannot read the image .*x.png'):
        open_image(tmp_path/'x.png')

@pytest.mark.parametrize('content', [{'id': 3}, [], {'classes': ['a', 'b']}], ids=str)
def test_dataset_json_of_another_program(tmp_path, content):
    photos(tmp_path)
    (tmp_path/'dataset.json').write_text(json.dumps(content))
    with pytest.raises(CourseError, match='needs "classes"'): get_dls(tmp_path, bs=8)
