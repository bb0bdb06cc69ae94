"Images of any kind, class folders and lists of files: what they become, or one clear error"
import io, json, os, struct, zlib
from unittest import mock

import numpy as np, pytest, torch
from faults import Faults, load, pictures, write
from helpers import noise, photos
from PIL import Image

from resnet_course.core import CourseError
from resnet_course.folders import check_folder
from resnet_course.images import open_csv, open_image, read_image, split_folders
from resnet_course.listing import LeftOutWarning
from resnet_course.loaders import get_dls

faults = Faults()

def encoded(format='JPEG', im=None, **kwargs):
    "The bytes of an image file"
    file = io.BytesIO()
    (im or noise((40, 30))).save(file, format, **kwargs)
    return file.getvalue()

def with_file(folder, path, content):
    "Class folders with one more file"
    write(folder/path, content)
    return load(pictures(folder))

# Class folders

@faults.error('a folder that does not exist', 'no such folder')
def _(folder): load(folder/'no')

@faults.error('an empty folder', '0 class folders')
def _(folder): load(folder)

@faults.error('images without class folders', 'CLASS/IMAGE.jpg')
def _(folder): load(pictures(folder)/'a')

@faults.error('one class only', 'two or more')
def _(folder): load(pictures(folder, classes='a'))

@faults.works('an empty class beside two full ones', 16)
def _(folder):
    (folder/'c').mkdir()
    return load(pictures(folder))

@faults.error('test/ and no train/', 'but no train')
def _(folder):
    pictures(folder/'test')
    load(folder)

@faults.error('a class in valid/ that train/ lacks', 'no training images of c')
def _(folder):
    pictures(folder/'train')
    pictures(folder/'valid', classes='abc')
    load(folder)

def works(title, **kwargs):
    "Class folders of pictures of one kind can be loaded"
    @faults.works(title, 16)
    def _(folder): return load(pictures(folder, **kwargs))

works('non-ASCII names', classes=['Gänseblümchen', '向日葵'])
works('class names with spaces and dots', classes=['a b', 'c.d'])
works('very long names', classes=['n'*200, 'b'])

@faults.works('a link that makes a loop, a link to nothing', 16)
def _(folder):
    pictures(folder)
    os.symlink(folder, folder/'a'/'again')
    os.symlink(folder/'nowhere.png', folder/'a'/'dangling.png')
    return load(folder)

@faults.error('a folder that may not be read', 'Permission denied')
def _(folder):
    "The system call fails: as root, every folder may be read"
    pictures(folder)
    scandir = os.scandir
    def deny(path='.'):
        if str(path) == str(folder/'b'): raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)
    with mock.patch('os.scandir', deny): load(folder)

@faults.error('dataset.json that is not JSON', 'is not JSON')
def _(folder): with_file(folder, 'dataset.json', '{')

@faults.error('dataset.json without a class there is', 'does not list the class b')
def _(folder): with_file(folder, 'dataset.json', '{"classes": {"a": "A"}}')

# Files among the images

@faults.error('a truncated JPEG', '1 of 17 images is unreadable')
def _(folder): with_file(folder, 'a/x.jpg', encoded()[:-300])

@faults.error('a truncated PNG', 'unreadable')
def _(folder): with_file(folder, 'a/x.png', encoded('PNG')[:-900])

@faults.error('an empty file named .jpg', 'unreadable')
def _(folder): with_file(folder, 'a/x.jpg', '')

@faults.error('a text file named .png', 'a/x.png')
def _(folder): with_file(folder, 'a/x.png', 'hello')

@faults.works('a text file among the images', 16)
def _(folder): return with_file(folder, 'a/x.txt', 'hello')

@faults.works('a PNG named .jpg', 17)
def _(folder): return with_file(folder, 'a/x.jpg', encoded('PNG'))

@faults.works("macOS's ._x.jpg and .DS_Store", 16)
def _(folder):
    write(folder/'a/._x.jpg', b'\0')
    return with_file(folder, '.DS_Store/x.jpg', b'\0')

def png_chunk(kind, data):
    "A part of a PNG file: length, kind, data and checksum"
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

@faults.error('a decompression bomb', 'decompression bomb')
def _(folder):
    "A small file that says it has 60,000 × 60,000 pixels"
    header = struct.pack('>IIBBBBB', 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = png_chunk(b'IHDR', header) + png_chunk(b'IDAT', zlib.compress(bytes(100)))
    with_file(folder, 'a/x.png', b'\x89PNG\r\n\x1a\n' + chunks)

# Kinds of images

works('gray images', mode='L')
works('palette images (GIF)', mode='P', ext='gif')
works('transparent images', mode='RGBA')
works('CMYK JPEGs', mode='CMYK', ext='jpg')
works('black-and-white images (1 bit)', mode='1')

@faults.gives('16-bit PNG', torch.full((1, 8, 8), 255), 'white stays white')
def _(folder):
    white = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    return read_image(encoded('PNG', white), 8, 1)

@faults.gives('floating-point TIFF', 200, 'works')
def _(folder):
    gray = Image.fromarray(np.full((8, 8), 200, np.float32))
    return read_image(encoded('TIFF', gray), 8, 1).max()

@faults.gives('a photo turned by EXIF', (30, 40), 'comes out upright')
def _(folder):
    exif = Image.Exif()
    exif[0x0112] = 6   # orientation: turned by 90°
    return open_image(encoded(exif=exif)).size

@faults.works('a 1×1 image', 17)
def _(folder): return with_file(folder, 'a/x.png', encoded('PNG', noise((1, 1))))

@faults.works('a 3000×2 image', 17)
def _(folder): return with_file(folder, 'a/x.png', encoded('PNG', noise((3000, 2))))

@faults.works('modes mixed', 32)
def _(folder):
    pictures(folder, mode='RGBA')
    return load(pictures(folder, classes='cd', mode='L'))

# Lists of files

def csv(folder, content):
    "Class folders, and a list of files beside them"
    return load(write(pictures(folder)/'x.csv', content))

@faults.error('an empty CSV', 'needs a header')
def _(folder): csv(folder, '')

@faults.error('a CSV that lists missing files', '1 missing file')
def _(folder): csv(folder, 'path,label\nx.png,a\n')

@faults.error('a CSV with a missing label', 'line 2 has no label')
def _(folder): csv(folder, 'path,label\na/1.png,\n')

@faults.error('a CSV with an unknown split', "'later' is not a split")
def _(folder): csv(folder, 'path,label,split\na/1.png,a,train\nb/1.png,b,later\n')

@faults.error('a binary file named .csv', 'not a CSV')
def _(folder): csv(folder, b'\xff\xfe\0')

# Arrays

@faults.error('an array of floats up to 255', 'divide by 255')
def _(folder): read_image(np.full((8, 8, 3), 200.), 8)

@faults.error('an array with NaN', '0 to 1')
def _(folder): read_image(np.full((8, 8), np.nan), 8)

@faults.error('an array of two channels', 'not an image')
def _(folder): read_image(np.zeros((8, 8, 2), np.uint8), 8)

@faults.error('an array of strings', 'not an image')
def _(folder): read_image(np.array([['a']]), 8)

@pytest.mark.parametrize('fault', faults, ids=lambda fault: fault.title)
def test_input_gets_an_error_or_works(fault, tmp_path): fault.check(tmp_path)

def test_enough_faults(): assert len(faults) >= 40

told = dict(classes=dict(a='A', b='B'), flip=False, stats=[[.5]*3, [.2]*3])

@pytest.mark.parametrize('change, says', [
    (dict(classes=dict(a='A', b='A')), 'a name of its own'),
    (dict(classes=dict(a='', b='B')), 'a name of its own'),
    (dict(classes=dict(a=1, b=None)), 'a name of its own'),
    (dict(classes=dict(a=['x'], b=['y'])), 'a name of its own'),
    (dict(classes=['a', 'b']), 'needs "classes"'), (dict(flip='no'), 'write true or false'),
    (dict(flip=[1]), 'write true or false'), (dict(stats='imagenet'), 'stats are'),
    (dict(stats={}), 'stats are'), (dict(stats=[[.5]*2, [.2]*2]), 'stats are'),
    (dict(stats=[[.5]*3, [0]*3]), 'stats are'), (dict(stats=[[.5]*3, [.2]]), 'stats are'),
    (dict(stats=[[float('nan')]*3, [.2]*3]), 'stats are'),
    ('['*10**5, 'nested too deeply'), ('9'*5000, 'is not JSON')], ids=lambda o: str(o)[:40])
def test_dataset_json_that_is_wrong(change, says, tmp_path):
    "Nothing in it is believed, since other people wrote it"
    text = change if isinstance(change, str) else json.dumps(told | change)
    with pytest.raises(CourseError, match=says) as e: with_file(tmp_path, 'dataset.json', text)
    assert '\n' not in str(e.value)

def test_dataset_json_that_is_right(tmp_path):
    for change in ({}, dict(stats=None), dict(stats=[[.5], [.2]]), dict(more=1)):
        dls = with_file(tmp_path, 'dataset.json', json.dumps(told | change))
        assert list(dls.vocab) == ['A', 'B']

# Several inputs for one test

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
    check(['path,label', *rows, './a/0.png,a'], '1 file more than once')
    check(['path,label,split', *(row + ',train' for row in rows[1:]), rows[0]], "'' is not a split")

def deep_png(color, values):
    "A PNG file of 16 bits, gray (0), RGB (2) or with transparency (4, 6): Pillow writes none"
    n = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    rows = np.repeat(values.astype('>u2')[..., None], n, -1)
    if color > 3: rows[..., -1] = 65535
    head = struct.pack('>IIBBBBB', *values.shape[::-1], 16, color, 0, 0, 0)
    data = b''.join(b'\0' + row.tobytes() for row in rows)
    chunks = png_chunk(b'IHDR', head) + png_chunk(b'IDAT', zlib.compress(data))
    return b'\x89PNG\r\n\x1a\n' + chunks + png_chunk(b'IEND', b'')

ramp = np.linspace(0, 1, 4096).reshape(64, 64)
gray = Image.fromarray((ramp*255).round().astype(np.uint8))

def in_palette(**kwargs): return encoded('PNG', gray.convert('P'), **kwargs)

def portable(max_value):
    "A PGM file"
    dtype = 'u1' if max_value < 256 else '>u2'
    return f'P5 64 64 {max_value}\n'.encode() + (ramp*max_value).round().astype(dtype).tobytes()

@pytest.mark.parametrize('data', [
    encoded('PNG', gray), encoded('PNG', gray.convert('LA')), encoded('PNG', gray.convert('RGBA')),
    in_palette(), in_palette(transparency=bytes([255]*256)), encoded('PNG', gray.convert('RGB')),
    encoded('TIFF', gray.convert('CMYK')), encoded('TIFF', gray.convert('YCbCr')),
    encoded('GIF', gray, save_all=True, append_images=[gray.rotate(90)]),
    encoded('PNG', gray, save_all=True, append_images=[gray.rotate(90)]),
    encoded('TIFF', gray, save_all=True, append_images=[gray.rotate(90)]),
    encoded('WEBP', gray.convert('RGB'), lossless=True),
    encoded('WEBP', gray.convert('RGB'), lossless=True, save_all=True,
            append_images=[gray.convert('RGB').rotate(90)]),
    encoded('BMP', gray), encoded('PPM', gray), encoded('JPEG2000', gray), encoded('TGA', gray),
    *(deep_png(color, ramp*65535) for color in (0, 2, 4, 6)), portable(255), portable(65535),
    portable(4095), portable(15),
    *(encoded('TIFF', Image.fromarray((ramp*high).astype(dtype)))
      for high, dtype in [(1, 'f4'), (255, 'f4'), (65535, 'f4'), (255, 'i4'), (4095, 'u2'),
                          (65535, 'u2'), (16383, 'i4')]),
    encoded('TIFF', Image.frombytes('I;16B', (64, 64), (ramp*65535).astype('>u2').tobytes()))],
    ids=lambda data: f'{data[:4]!r} {len(data)}')
def test_one_image_in_every_kind_of_file(data):
    "The first frame, with the same gray levels to within rounding"
    levels = np.asarray(open_image(data).convert('L'), float)
    tolerance = 9 if b'P5 64 64 15' in data else 2   # 16 levels in the file
    assert np.abs(levels - ramp*255).max() <= tolerance
    x = read_image(data, 64, 1)
    assert x.dtype == torch.uint8 and x.shape == (1, 64, 64)

@pytest.mark.parametrize('orientation', range(10))
@pytest.mark.parametrize('format', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_every_orientation(orientation, format):
    "A white corner at the top left of what the camera saw"
    upright = Image.new('RGB', (40, 30))
    upright.paste('white', (0, 0, 10, 10))
    undo = {2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE',
            6: 'ROTATE_90', 7: 'TRANSVERSE', 8: 'ROTATE_270'}.get(orientation)
    stored = upright.transpose(getattr(Image.Transpose, undo)) if undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    im = open_image(encoded(format, stored, exif=exif))
    assert im.size == (40, 30) and im.getpixel((3, 3)) > (200,)*3 > im.getpixel((30, 20))

@pytest.mark.parametrize('mode', ['RGB', 'RGBA', '1', 'P', 'L', 'LA'])
def test_small_images_keep_their_size(tmp_path, mode):
    "Also if one of many differs, which is said"
    photos(tmp_path/'x', 20, mode=mode)
    assert get_dls(tmp_path/'x', bs=8, device='cpu').size == 32
    noise((33, 32), mode=mode).save(tmp_path/'x/a/odd.png')
    with pytest.warns(LeftOutWarning, match='1 of 41 images was resized to 32×32 px'):
        assert get_dls(tmp_path/'x', bs=8, device='cpu').size == 32

def test_pixels_that_fit_no_range(tmp_path):
    "Refused by name, one by one and as a set"
    for i, high in enumerate((1.0001, 3., 15.9, -1., np.nan, np.inf, 1e6)):
        f = tmp_path/f'{i}.tif'
        Image.fromarray((ramp*high).astype('f4')).save(f)
        with pytest.raises(CourseError, match='rescale'): open_image(f)

def test_color_of_12_bits_in_16(tmp_path):
    "Pillow keeps the upper 8 bits: nearly nothing is left, which is said"
    values = [np.clip(ramp*4095, 0, 4095 - i) for i in range(24)]
    for i, a in enumerate(values): write(tmp_path/'photos'/'ab'[i%2]/f'{i}.png', deep_png(2, a))
    with pytest.raises(CourseError, match='24 color images with 16 bits have no value above 4095'):
        load(tmp_path/'photos')
    report = check_folder(tmp_path/'photos', progress=False)
    assert not report.ok and 'no value above 4095' in str(report)
    write(tmp_path/'photos/a/x.png', deep_png(2, ramp*65535))
    with pytest.warns(LeftOutWarning, match='25 color images have 16 bits.*; 24 of them'):
        load(tmp_path/'photos')

def test_images_of_a_set_have_one_white(tmp_path):
    "Also where a name hides the format, and in either order of bytes"
    rng = np.random.default_rng(0)
    for i in range(24):
        a = rng.integers(0, 4096 if i%2 else 40, (20, 20)).astype('u2')
        name, format = [('png', 'PNG'), ('jpg', 'PNG'), ('tif', 'TIFF')][i%3]
        write(tmp_path/'x'/'ab'[i%2]/f'{i}.{name}', encoded(format, Image.fromarray(a)))
    big = Image.frombytes('I;16B', (20, 20), rng.integers(0, 40, (20, 20)).astype('>u2').tobytes())
    write(tmp_path/'x/a/big.tif', encoded('TIFF', big))
    with pytest.warns(LeftOutWarning, match='25 images have more than 8 bits.*4095 is white'):
        dls = load(tmp_path/'x', size=20, augment=False)
    assert dls.white == {'I;16': 4095}
    x = {c: torch.stack([read_image(f, 20, 1, dls.white) for f in dls.files if f.parent.name == c])
         for c in 'ab'}
    assert x['a'].max() <= 3 and x['b'].max() > 240

def test_damaged_files_get_one_sentence():
    "Whatever a codec raises: RuntimeError (AVIF), EOFError (HEIF), struct.error, …"
    rng = np.random.default_rng(0)
    for format in 'JPEG PNG GIF WEBP BMP TIFF AVIF PPM JPEG2000 TGA ICO'.split():
        try: whole = encoded(format)
        except (KeyError, OSError): continue   # this Pillow cannot write it
        for i in range(60):
            data = np.frombuffer(whole, np.uint8).copy()
            at = rng.integers(0, min(len(data), [40, 200, len(data)][i%3]), 1 + i%8)
            data[at] = rng.integers(0, 256, len(at))
            data = data.tobytes()[:len(data) if i%4 else rng.integers(len(data))]
            try: open_image(data)
            except CourseError as e: assert '\n' not in str(e) and len(str(e)) < 400

@pytest.mark.parametrize('error', [RuntimeError, EOFError, struct.error, TypeError, KeyError])
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
