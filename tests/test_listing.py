"Which files of a folder or a table are taken, which are not, and that it is said"
import io, os, shutil, socket, sys, warnings
from types import SimpleNamespace

import pytest
import torch
from helpers import noise, photos, time_limit
from PIL import Image, PngImagePlugin

from resnet_course import listing
from resnet_course.core import CourseError
from resnet_course.folders import check_folder
from resnet_course.images import open_image, read_image
from resnet_course.listing import LeftOutWarning, list_folder, split_of
from resnet_course.loaders import get_dls
from resnet_course.predict import find_images
from resnet_course.tables import list_csv

def load(path, **kwargs):
    "Loaders of small images, and what was warned of"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        dls = get_dls(path, device='cpu', **{'size': 16, 'bs': 4, **kwargs})
    return dls, [str(w.message) for w in said if w.category is LeftOutWarning]

def n_images(dls): return sum(len(dl.dataset) for dl in dls.loaders)

# Folders

@pytest.mark.parametrize('name', ['.ipynb_checkpoints', '@eaDir', '.thumbnails', '__MACOSX',
                                  '#recycle', '$RECYCLE.BIN', '.git', 'lost+found'])
@pytest.mark.parametrize('where', ['.', 'a'])
def test_folders_of_systems_are_never_taken(photo_folder, name, where):
    shutil.copytree(photo_folder/'b', photo_folder/where/name/'b')
    dls, _ = load(photo_folder)
    assert list(dls.vocab) == ['a', 'b'] and n_images(dls) == 24
    assert '12 files left out: 12 hidden' in dls.describe()

@pytest.mark.parametrize('name', ['_background', '_unknown_', 'a_', '__', '-', 'a b', 'ä', '0'])
def test_any_other_name_is_a_class(photo_folder, name):
    photos(photo_folder, classes=[name])
    dls, said = load(photo_folder)
    assert name in dls.vocab and n_images(dls) == 36 and not said

def test_runs_are_no_class(photo_folder):
    run = photo_folder/'runs/x-001'
    run.mkdir(parents=True)
    noise().save(run/'curves.png')
    (run/'run.json').write_text('{}')
    dls, _ = load(photo_folder)
    assert list(dls.vocab) == ['a', 'b'] and '2 of earlier runs' in dls.describe()

@pytest.mark.parametrize('ending, format', [('jfif', 'JPEG'), ('JPE', 'JPEG'), ('avif', 'AVIF'),
                                            ('webp', 'WEBP'), ('', 'JPEG'), ('.photo', 'PNG')])
def test_what_can_be_read_is_taken(photo_folder, ending, format):
    for c in 'ab': noise((40, 30)).save(photo_folder/c/f'x.{ending}'.rstrip('.'), format)
    assert n_images(load(photo_folder)[0]) == 26

class FakeHeif(PngImagePlugin.PngImageFile):
    "A reader of HEIC files that hold a PNG file after the first 12 bytes"
    format = 'HEIF'
    def _open(self):
        assert self.fp.read(12)[4:] == b'ftypheic'
        self.fp = io.BytesIO(self.fp.read())
        super()._open()

def heic(path, im):
    "Write a file that `FakeHeif` reads"
    im.save(path, 'PNG')
    path.write_bytes(b'\0\0\0\x0cftypheic' + path.read_bytes())

@pytest.fixture(params=['none', 'fake'])
def reader(request, monkeypatch):
    "Pillow without a reader for HEIC, and with one of another package"
    Image.init()   # what is registered later would be forgotten after the test
    def register(): Image.register_open('HEIF', FakeHeif, lambda head: head[4:12] == b'ftypheic')
    package = SimpleNamespace(register_heif_opener=register) if request.param == 'fake' else None
    monkeypatch.setitem(sys.modules, 'pillow_heif', package)   # None: it cannot be imported
    monkeypatch.setattr(Image, 'OPEN', {k: v for k, v in Image.OPEN.items() if k != 'HEIF'})
    monkeypatch.setattr(Image, 'ID', [name for name in Image.ID if name != 'HEIF'])
    listing._load_readers.cache_clear()
    yield request.param
    listing._load_readers.cache_clear()

def test_heic(reader, photo_folder):
    "Taken where there is a reader, by name or by content; otherwise counted, and it is said why"
    for name in ('x.heic', 'X.HEIF', 'without an ending'): heic(photo_folder/'a'/name, noise())
    dls, said = load(photo_folder)
    if reader == 'none':
        assert n_images(dls) == 24 and '1 HEIC without a reader' in dls.describe()
        assert '1 HEIF without a reader' in dls.describe() and len(said) == 2
        assert 'pip install "resnet-course[heic]"' in said[1]
        assert '1 HEIC or AVIF without a reader' in dls.describe()
        with pytest.raises(CourseError, match='cannot read'): open_image(photo_folder/'a/x.heic')
        return
    assert n_images(dls) == 27 and not said
    assert open_image(photo_folder/'a/x.heic').tobytes() == noise().tobytes()
    assert '/x.heic' in ''.join(map(str, find_images([photo_folder])))

def test_heic_of_pillow_heif(photo_folder):
    "The package that reads the photos of phones"
    pytest.importorskip('pillow_heif', reason='pillow-heif is not installed').register_heif_opener()
    blue = Image.new('RGB', (64, 48), (10, 60, 200))
    for name in ('x.heic', 'y.HEIF', 'z.hif'): blue.save(photo_folder/'a'/name, 'HEIF')
    blue.save(photo_folder/'b'/'none', 'HEIF')
    dls, said = load(photo_folder)
    assert n_images(dls) == 28 and not said
    x = read_image(photo_folder/'a'/'x.heic', 16).float()
    assert (x.mean((1, 2)) - torch.tensor([10., 60., 200.])).abs().max() < 3
    data = (photo_folder/'a'/'x.heic').read_bytes()
    (photo_folder/'a'/'x.heic').write_bytes(data[:len(data)//2])
    with pytest.raises(CourseError, match='1 of 28 images is unreadable'): load(photo_folder)

@pytest.mark.parametrize('name, why', [('x.dng', 'DNG without a reader'), ('x.svg', 'SVG'),
                                       ('x.jxl', 'JXL without a reader')])
def test_images_without_a_reader_are_counted(photo_folder, name, why):
    (photo_folder/'a'/name).write_bytes(b'?')
    dls, said = load(photo_folder)
    assert why in dls.describe() and any(why in o for o in said)

def test_jpegs_called_heic(reader, photo_folder):
    "Some programs rename photos: without a reader for HEIC, the content decides"
    noise().save(photo_folder/'a'/'x.heic', 'JPEG')
    assert n_images(load(photo_folder)[0]) == 25

def test_names_that_say_nothing(photo_folder):
    for name in ('x.bin', 'y.1', 'z.large'): noise().save(photo_folder/'a'/name, 'PNG')
    (photo_folder/'a'/'w.bin').write_bytes(bytes(99))
    dls, _ = load(photo_folder)
    assert n_images(dls) == 27 and '1 file left out: 1 not images' in dls.describe()

def test_what_programs_leave_behind(photo_folder):
    for name in ('~$x.png', 'x.png~', 'x.png.part', '.y.png.icloud', 'y.png.icloud'):
        (photo_folder/'a'/name).write_bytes(b'?')
    dls, said = load(photo_folder)
    assert n_images(dls) == 24 and '3 temporary' in dls.describe()
    assert '2 not downloaded from iCloud' in dls.describe() and 'iCloud' in said[0]

@pytest.mark.parametrize('name', ['x.txt', 'x.pdf', 'x.mpg', 'x.h5', 'x.mp4', 'x.csv'])
def test_other_files_are_counted(photo_folder, name):
    (photo_folder/'a'/name).write_bytes(b'hello')
    assert '1 file left out: 1 not images' in load(photo_folder)[0].describe()

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='there are no named pipes here')
def test_pipes_and_sockets_among_the_images(photo_folder, monkeypatch):
    "They would block, and are counted; so are links to nothing"
    os.mkfifo(photo_folder/'a'/'x.png')
    os.mkfifo(photo_folder/'a'/'without an ending')
    monkeypatch.chdir(photo_folder/'b')   # the name of a socket has to be short
    socket.socket(socket.AF_UNIX).bind('y.jpg')
    (photo_folder/'b'/'z.jpg').symlink_to('/dev/zero')
    (photo_folder/'b'/'nothing.jpg').symlink_to('nowhere.jpg')
    with time_limit(60):
        dls, said = load(photo_folder)
        assert n_images(dls) == 24 and '4 pipes or devices' in dls.describe()
        assert '1 broken links' in dls.describe() and any('pipes or devices' in o for o in said)
        with pytest.warns(LeftOutWarning, match='pipes'): files = find_images([photo_folder])
        assert len(files) == 24
        assert '4 left out: pipes or devices' in str(check_folder(photo_folder, progress=False))

def test_class_called_train(tmp_path):
    photos(tmp_path, classes=['bus', 'car'])
    photos(tmp_path/'train', classes=['steam', 'diesel'])
    dls, said = load(tmp_path)
    assert '24 in a folder next to `train`' in dls.describe()
    assert any('next to `train`' in o for o in said)

@pytest.mark.parametrize('names', [('train', 'val'), ('Training', 'dev'), ('seg_train', 'seg_val'),
                                   ('train_set', 'validation-images')])
def test_other_names_of_splits(tmp_path, names):
    for name in names: photos(tmp_path/name)
    dls, _ = load(tmp_path)
    assert [len(dl.dataset) for dl in dls.loaders] == [22, 24, 2]
    assert 'no test images are given, so they were drawn from the training images' in dls.describe()

@pytest.mark.parametrize('name, split', [('Test', 'test'), ('trains', None), ('test1', 'test'),
                                         ('contest', None), ('valley', None), ('dev', 'valid')])
def test_split_of(name, split): assert split_of(name) == split

def test_splits_inside_of_classes(tmp_path):
    "cat/train and cat/test: they are not taken as splits, which is said"
    for c in ('cat', 'dog'): photos(tmp_path/c, 6, classes=['train', 'test'])
    _, said = load(tmp_path)
    assert 'test, train inside class folders are not used as splits' in said[0]

def test_a_folder_in_a_folder(tmp_path):
    "As some archives unpack: the folder that is meant is named"
    photos(tmp_path/'data'/'train')
    with pytest.raises(CourseError, match='did you mean .*data'): load(tmp_path)

def test_a_file_is_no_folder(tmp_path):
    noise().save(tmp_path/'x.png')
    for name in ('x.png', 'x.zip'):
        (tmp_path/'x.zip').write_bytes(b'PK')
        with pytest.raises(CourseError, match='is a file: give a folder'): load(tmp_path/name)

def test_classes_that_a_split_lacks_are_said(tmp_path):
    photos(tmp_path/'train', classes='abc')
    photos(tmp_path/'valid', classes='ab', start=20)
    photos(tmp_path/'test', classes='a', start=40)
    text = load(tmp_path)[0].describe()
    assert 'no validation images of c' in text and 'no test images of b, c' in text

def test_names_that_look_the_same(photo_folder):
    photos(photo_folder, 6, classes=['a b', 'A  B', 'a\u200bb', 'a\u200fb'])
    _, said = load(photo_folder)
    assert 'A  B, a b' in said[0]
    assert r'a\u200bb, a\u200fb' in said[0]

def test_two_folders_of_one_split(tmp_path):
    for name in ('train', 'val', 'valid'): photos(tmp_path/name)
    with pytest.raises(CourseError, match='two folders for the valid split'): list_folder(tmp_path)

def test_folder_called_like_a_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path/'digits')
    with pytest.raises(CourseError, match='write ./digits for the folder'): load('digits')
    assert list(load('./digits')[0].vocab) == ['a', 'b']

def test_classes_and_counts_are_said(photo_folder):
    text = load(photo_folder)[0].describe()
    assert text.startswith('photos: 20 training, 2 validation, 2 test images, 2 classes: a (12), b')

# Tables

def table(folder, text, encoding='utf-8'):
    "A list of files beside the class folders"
    f = folder/'list.csv'
    f.write_bytes(text.encode(encoding))
    return f

rows = [f'{c}/{i}.png' for c in 'ab' for i in range(12)]

def csv(sep=',', head='path,label', label=lambda i, c: c, end='\n'):
    "A table of all images"
    lines = [head.replace(',', sep)]*bool(head)
    lines += [f'{p}{sep}{label(i, p[0])}' for i, p in enumerate(rows)]
    return end.join(lines) + end

@pytest.mark.parametrize('text', [
    csv(), csv(';'), csv('\t'), csv('|'), csv(head=''), csv(';', head=''), csv(end='\r\n'),
    csv(label=lambda i, c: ' '*(i%2) + c + ' '*(i%3)), csv(head=' image , label '),
    csv(head='label_id,class').replace('label_id', 'filename'), csv() + '\n\n',
    csv(',', 'path,a,b', lambda i, c: f'{int(c == "a")},{int(c == "b")}'),
    csv(',', 'path,a,b', lambda i, c: f'{c == "a"},{c == "b"}'),   # pandas' get_dummies
    csv(head='path,breed'), 'sep=;\n' + csv(';'), csv(end='\r'), '\n\n' + csv(), csv() + ',\n',
    csv(head='path,label,class', label=lambda i, c: f'{c},{"xy"["ab".index(c)]}')],
    ids=lambda t: repr(t[:25]))
def test_tables_that_are_read(photo_folder, text):
    o = list_csv(table(photo_folder, text))
    assert o.counts() == dict(a=12, b=12)
    assert all(f.parent.name == label for f, label in zip(o.files, o.labels))

@pytest.mark.parametrize('ending', ['.csv', '.CSV', '.tsv', '.txt'])
def test_endings_of_tables(photo_folder, ending):
    f = table(photo_folder, csv('\t'))
    dls, _ = load(f.rename(f.with_suffix(ending)))
    assert n_images(dls) == 24 and list(dls.vocab) == ['a', 'b']

def test_an_index_of_pandas(photo_folder):
    lines = [',path,breed'] + [f'{i},{p},{p[0]}' for i, p in enumerate(rows)]
    assert list_csv(table(photo_folder, '\n'.join(lines))).counts() == dict(a=12, b=12)

def test_columns_that_are_not_used_are_said(photo_folder):
    dls, _ = load(table(photo_folder, csv(head='path,label,patient',
                                          label=lambda i, c: f'{c},{i//2}')))
    assert 'columns not used for classes and splits: patient' in dls.describe()

def test_is_test(photo_folder):
    text = csv(head='path,label,is_test', label=lambda i, c: f'{c},{i%3 == 0}')
    assert list_csv(table(photo_folder, text)).splits == ['train' if i%3 else 'test'
                                                          for i in range(24)]

@pytest.mark.parametrize('label, says', [
    (lambda i, c: 'None' if i == 3 else c, '1 image has the class None'),
    (lambda i, c: f'{c}|x', 'several labels per image'),
    (lambda i, c: 'a b' if i == 3 else c, 'several labels per image'),
    (lambda i, c: f'{c} cat' if i%2 else f'{c}  cat', 'differ only in case')])
def test_labels_that_are_doubtful(photo_folder, label, says):
    assert says in ' '.join(load(table(photo_folder, csv(label=label)))[1])

@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_byte_order_mark(photo_folder, encoding):
    assert list_csv(table(photo_folder, csv(), encoding)).counts() == dict(a=12, b=12)

def test_numbers_as_labels(photo_folder):
    text = csv(label=lambda i, c: ('0', '0.0')[i%2] if c == 'a' else '1')
    assert list_csv(table(photo_folder, text)).counts() == {'0': 12, '1': 12}

def test_numbers_of_thousands_of_digits(photo_folder):
    "Python refuses to convert them; as names of classes they are as good as any"
    for same, says in ((True, ''), (False, 'the same way everywhere')):
        huge = '9'*9999
        text = csv(label=lambda i, c: (huge if same or i else '0' + huge) if c == 'a' else '1')
        if same: assert list_csv(table(photo_folder, text)).counts() == {'1': 12, huge: 12}
        else:
            with pytest.raises(CourseError, match=says): list_csv(table(photo_folder, text))

@pytest.mark.parametrize('yes, no', [('True', 'False'), ('1', '0'), ('1.0', '0.0'), ('yes', 'no'),
                                     ('TRUE', 'FALSE'), ('valid', 'train')])
def test_is_valid(photo_folder, yes, no):
    text = csv(head='path,label,is_valid', label=lambda i, c: f'{c},{no if i%3 else yes}')
    o = list_csv(table(photo_folder, text))
    assert o.splits == ['train' if i%3 else 'valid' for i in range(24)]

@pytest.mark.parametrize('text, says', [
    ('path,label\n\na/0.png,a\nno.png,b\n', 'line 4'),
    ('path,label\na/0.png,a\nb/0.png,\n', 'line 3'),
    ('path,label\na/0.png,0.5\nb/0.png,1\n', 'line 2 has the label 0.5'),
    ('path,label\na/0.png,1\nb/0.png,01\n', 'line 3 has the label 01'),
    ('path,label\na/0.png,1000\nb/0.png,"1,000"\n', 'line 3 has the label 1,000'),
    ('path,label,split\na/0.png,a,train\nb/0.png,b,later\n', 'line 3'),
    ('path,a,b\na/0.png,1,1\nb/0.png,0,1\n', 'line 2 has 2 classes'),
    ('path,label\na/0.png,a\nb/0.png,b,c\n', 'line 3 has 3 cells'),
    ('path,label\na/0.png,"a\nx"\nb/0.png,\n', 'line 4'),
    ('path,label\na/0.png,a\n' + 'x'*300 + ',b\n', 'line 3'),
    ('path,label\na/0.png,a\n' + 'x/'*3000 + ',b\n', 'line 3'),
    ('path,label\na/0.png,a\na\udcff,b\n', 'not a CSV file in UTF-8'),
    ('path,label\na/0.png,a\na\0b,b\n', 'null bytes'),
    ('path,label\na/0.png,1\nb/0.png,' + '9'*9999 + '.5\n', 'line 3'),
    ('path,x,y\na/0.png,a,c\nb/0.png,b,d\n', 'Call it label'),
    ('path,label\na/0.png,NaN\nb/0.png,b\n', 'line 2 has no label'),
    ('path,label\na/0.png,n/a\nb/0.png,b\n', 'line 2 has no label'),
    ('path,label\na/0.png,<NA>\nb/0.png,b\n', 'line 2 has no label'),
    ('path,label\na/0.png,1\nb/0.png,None\n', 'line 3 has no label'),
    ('path,label,class\na/0.png,a,x\nb/0.png,b,x\n', 'which of the columns label, class'),
    ('path,label,is_train\na/0.png,a,1\nb/0.png,b,0\n', 'is_train looks like splits'),
    ('path,label,phase\na/0.png,a,train\nb/0.png,b,test\n', 'phase looks like splits'),
    ('path,label,is_training_image\na/0.png,a,1\nb/0.png,b,0\n', 'image looks like splits'),
    ('path,label,in_test_set\na/0.png,a,True\nb/0.png,b,False\n', 'set looks like splits'),
    # what would 1 mean? training in one table, test in another
    ('path,label,split\na/0.png,a,1\nb/0.png,b,0\n', "line 2: '1' is not a split"),
    ('path,label,set\na/0.png,a,train\nb/0.png,b,yes\n', "line 3: 'yes' is not a split"),
    ('path,label,split,is_valid\na/0.png,a,train,0\nb/0.png,b,test,0\n', 'holds the splits'),
    ('path,label,is_valid\na/0.png,a,True\nb/0.png,b,\n', 'line 3'),
    ('no.png,a\na/0.png,a\nb/0.png,b\n', 'line 1: there is no file'),
    ('no,a\na/0.png,a\nb/0.png,b\n', 'is the first row a header'),
    ('path,label\na/0.png,a\n../photos/a/0.png,b\n', 'lines 2 and 3'),
    ('path,label\na/0.png,a\nb/0.png,\udce9\n', 'line 3'),
    ('path label\na/0.png a\n', 'separated by commas')], ids=lambda o: repr(o[:40]))
def test_tables_that_are_refused(photo_folder, text, says):
    path = table(photo_folder, text.encode(errors='surrogateescape').decode('latin-1'), 'latin-1')
    with pytest.raises(CourseError, match=says) as e: list_csv(path)
    assert len(str(e.value)) < 1001

def test_one_file_under_two_names(photo_folder):
    (photo_folder/'link.png').symlink_to(photo_folder/'a/0.png')
    with pytest.raises(CourseError, match='lines 2 and 26'):
        list_csv(table(photo_folder, csv() + 'link.png,b\n'))

# Copies

def test_copies_across_drawn_splits_are_an_error(photo_folder):
    assert check_folder(photo_folder, progress=False).ok
    for i in range(6): shutil.copy(photo_folder/f'a/{i}.png', photo_folder/f'a/again{i}.png')
    for i in range(6): shutil.copy(photo_folder/f'b/{i}.png', photo_folder/f'b/again{i}.png')
    dls, _ = load(photo_folder, valid_pct=0.3)
    kept, _ = load(photo_folder, valid_pct=0.3, group='copies')
    assert n_across(dls) > 0 and n_across(kept) == 0
    assert '24 images have copies, which are kept in one split' in kept.describe()
    report = check_folder(photo_folder, progress=False)
    assert not report.ok and 'in two splits' in str(report)

def n_across(dls):
    "Test and validation images that are also in training"
    ids = [{dls.files[i].read_bytes() for i in dl.dataset.items} for dl in dls.loaders]
    return len(ids[0] & ids[1]) + len(ids[0] & ids[2]) + len(ids[1] & ids[2])

def test_copies_of_given_test_images_are_not_trained_on(tmp_path):
    for split, start in (('train', 0), ('valid', 20), ('test', 40)):
        photos(tmp_path/split, start=start)
    for i in range(40, 44):
        shutil.copy(tmp_path/f'test/a/{i}.png', tmp_path/f'train/a/{i}.png')
    dls, _ = load(tmp_path, group='copies')
    assert [len(dl.dataset) for dl in dls.loaders] == [24, 24, 24] and n_across(dls) == 0

# Pixels

def test_constant_images_and_odd_ranges_are_found(photo_folder):
    Image.new('RGB', (40, 40), 'red').save(photo_folder/'a/plain.png')
    noise((40, 40), mode='L').point(lambda v: v//32).save(photo_folder/'a/mask.png')
    text = str(check_folder(photo_folder, progress=False))
    assert '1 image is of one color' in text and '1 image is nearly black' in text
