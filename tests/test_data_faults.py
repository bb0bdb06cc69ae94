"""Bad input, one row each, and what it gets: one clear line, or the right result.

    python tests/test_data_faults.py     writes the table to results/data_faults.json
"""
import io, json, os, pickle, re, tempfile, warnings, zipfile
from pathlib import Path

import numpy as np, pytest, torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from resnet_course import images
from resnet_course.core import CourseError
from resnet_course.torch_loaders import as_dls
from resnet_course.loaders import get_dls
from resnet_course.download import fetch, unpack
from resnet_course.folders import export_set, make_subset
from resnet_course.images import read_image

def picture(seed=0, size=(40, 30), mode='RGB'):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)

def folder(d, n=8, classes=('a', 'b'), ext='png', sub='', **kw):
    "Class folders with `n` pictures each"
    for k, c in enumerate(classes):
        (d/sub/c).mkdir(parents=True, exist_ok=True)
        for i in range(n): picture(100*k + i, **kw).save(d/sub/c/f'{i}.{ext}')
    return d

def dls(d, **kw): return get_dls(d, device='cpu', **{**dict(size=16, bs=4), **kw})

def made(d, f, data):
    "A folder with one more file"
    folder(d); (d/f).parent.mkdir(parents=True, exist_ok=True)
    (d/f).write_bytes(data() if callable(data) else data)
    return d

def encoded(fmt='JPEG', im=None, **kw):
    b = io.BytesIO(); (im or picture()).save(b, fmt, **kw)
    return b.getvalue()

def turned():
    e = Image.Exif(); e[0x0112] = 6
    return encoded(exif=e)

def csv(d, text): folder(d); (d/'x.csv').write_text(text); return d/'x.csv'

def linked(d):
    os.symlink(folder(d), d/'a'/'again'); os.symlink(d/'nowhere.png', d/'a'/'dangling.png'); return d

def deny(d, monkeypatch):
    "A class folder that may not be read (as root, every folder may: the system call says no)"
    folder(d); scan = os.scandir
    def scandir(p='.'):
        if str(p) == str(d/'b'): raise PermissionError(13, 'Permission denied', str(p))
        return scan(p)
    monkeypatch.setattr(os, 'scandir', scandir)
    return d

def raw_set(d, name, **files):
    (d/name).mkdir(parents=True, exist_ok=True)
    for n, b in files.items(): (d/name/n.replace('__', '.').replace('_s_', '-')).write_bytes(b)
    return d

def idx(d, cut=0):
    f = d/'FashionMNIST'/'raw'; f.mkdir(parents=True)
    for p, n in (('train', 20), ('t10k', 20)):
        for k, a in (('images-idx3', np.zeros((n, 28, 28), np.uint8)), ('labels-idx1', np.arange(n, dtype=np.uint8)%10)):
            b = bytes([0, 0, 8, a.ndim]) + np.array(a.shape, '>i4').tobytes() + a.tobytes()
            (f/f'{p}-{k}-ubyte').write_bytes(b[:len(b) - cut])
    return d

def zipped(d, name):
    with zipfile.ZipFile(d/'x.zip', 'w') as z: z.writestr(name, 'x')
    return d/'x.zip'

def torch_loader(n=8, **kw): return DataLoader(TensorDataset(torch.zeros(n, 3, 16, 16), torch.zeros(n, dtype=torch.long)), 4, **kw)

def works(n=None, shape=(3, 16, 16)):
    "The loaders have `n` images in all, and their batches the right shape"
    def check(o):
        x = o.train.one_batch()[0]
        assert tuple(x.shape[1:]) == shape and torch.isfinite(x).all()
        assert n is None or sum(len(l.dataset) for l in o.loaders) == n
    check.what = f'works{f": {n} images" if n else ""}'
    return check

def value(v, what):
    def check(o): assert (o == v).all() if hasattr(o, 'shape') else o == v
    check.what = what
    return check

BOMB = b'\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR' + (60_000).to_bytes(4, 'big')*2 + b'\x08\x02\x00\x00\x00' + b'\0\0\0\0'
LONG = 'n'*200

# (what is handed over, how, the error's text or what comes out)
TABLE = [
    ("a misspelt set", lambda d, m: dls('fashion_minst'), "did you mean 'fashion_mnist"),
    ("a name that is no set and no folder", lambda d, m: dls('my_photos'), 'unknown data set'),
    ("a folder that does not exist", lambda d, m: dls(d/'no'), 'no such folder'),
    ("an empty folder", lambda d, m: dls(d), '0 class folders'),
    ("images without class folders", lambda d, m: dls(folder(d)/'a'), 'CLASS/IMAGE.jpg'),
    ("one class only", lambda d, m: dls(folder(d, classes='a')), 'two or more'),
    ("an empty class beside two full ones", lambda d, m: ((folder(d)/'c').mkdir(), dls(d))[1], works(16)),
    ("test/ and no train/", lambda d, m: dls(folder(d, sub='test')), 'but no train'),
    ("a class in valid/ that train/ lacks", lambda d, m: (folder(d, sub='train'), dls(folder(d, sub='valid', classes='abc')))[1], 'no training images of c'),
    ("one image a class", lambda d, m: dls(folder(d, n=1)), 'no training images of'),
    ("two images a class", lambda d, m: dls(folder(d, n=2)), works(4)),
    ("three images a class", lambda d, m: dls(folder(d, n=3)), works(6)),
    ("fewer images than a batch", lambda d, m: dls(folder(d), bs=512), works(16)),
    ("a truncated JPEG", lambda d, m: dls(made(d, 'a/x.jpg', lambda: encoded()[:-300])), '1 of 17 images are unreadable'),
    ("a truncated PNG", lambda d, m: dls(made(d, 'a/x.png', lambda: encoded('PNG')[:-900])), 'unreadable'),
    ("an empty file named .jpg", lambda d, m: dls(made(d, 'a/x.jpg', b'')), 'unreadable'),
    ("a text file named .png", lambda d, m: dls(made(d, 'a/x.png', b'hello')), 'a/x.png'),
    ("a text file among the images", lambda d, m: dls(made(d, 'a/x.txt', b'hello')), works(16)),
    ("a PNG named .jpg", lambda d, m: dls(made(d, 'a/x.jpg', lambda: encoded('PNG'))), works(17)),
    ("macOS's ._x.jpg and .DS_Store", lambda d, m: (made(d, 'a/._x.jpg', b'\0'), dls(made(d, '.DS_Store/x.jpg', b'\0')))[1], works(16)),
    ("a decompression bomb", lambda d, m: dls(made(d, 'a/x.png', BOMB)), 'unreadable'),
    ("gray images", lambda d, m: dls(folder(d, mode='L')), works(16)),
    ("palette images (GIF)", lambda d, m: dls(folder(d, mode='P', ext='gif')), works(16)),
    ("transparent images", lambda d, m: dls(folder(d, mode='RGBA')), works(16)),
    ("CMYK JPEGs", lambda d, m: dls(folder(d, mode='CMYK', ext='jpg')), works(16)),
    ("black-and-white images (1 bit)", lambda d, m: dls(folder(d, mode='1')), works(16)),
    ("16-bit PNG", lambda d, m: read_image(encoded('PNG', Image.fromarray(np.full((8, 8), 65535, np.uint16))), 8, 1), value(torch.full((1, 8, 8), 255), 'white stays white')),
    ("floating-point TIFF", lambda d, m: read_image(encoded('TIFF', Image.fromarray(np.full((8, 8), 200, np.float32))), 8, 1).max(), value(torch.tensor(200), 'works')),
    ("a photo turned by EXIF", lambda d, m: images.open_image(turned()).size, value((30, 40), 'comes out upright')),
    ("a 1×1 image", lambda d, m: dls(made(d, 'a/x.png', lambda: encoded('PNG', picture(size=(1, 1))))), works(17)),
    ("a 3000×2 image", lambda d, m: dls(made(d, 'a/x.png', lambda: encoded('PNG', picture(size=(3000, 2))))), works(17)),
    ("modes mixed", lambda d, m: (folder(d, mode='RGBA'), dls(folder(d, classes='cd', mode='L')))[1], works(32)),
    ("non-ASCII names", lambda d, m: dls(folder(d, classes=('Gänseblümchen', '向日葵'))), works(16)),
    ("class names with spaces and dots", lambda d, m: dls(folder(d, classes=('a b', 'c.d'))), works(16)),
    ("very long names", lambda d, m: dls(folder(d, classes=(LONG, 'b'))), works(16)),
    ("a link that makes a loop, a link to nothing", lambda d, m: dls(linked(d)), works(16)),
    ("a folder that may not be read", lambda d, m: dls(deny(d, m)), 'Permission denied'),
    ("dataset.json that is not JSON", lambda d, m: dls(made(d, 'dataset.json', b'{')), 'is not JSON'),
    ("dataset.json without a class there is", lambda d, m: dls(made(d, 'dataset.json', b'{"classes": {"a": "A"}}')), 'does not know the class b'),
    ("an empty CSV", lambda d, m: dls(csv(d, '')), 'needs a header'),
    ("a CSV that lists missing files", lambda d, m: dls(csv(d, 'path,label\nx.png,a\n')), '1 missing files'),
    ("a CSV with a missing label", lambda d, m: dls(csv(d, 'path,label\na/1.png,\n')), 'line 2 has no label'),
    ("a CSV with an unknown split", lambda d, m: dls(csv(d, 'path,label,split\na/1.png,a,train\nb/1.png,b,later\n')), "'later' is no split"),
    ("a binary file named .csv", lambda d, m: dls((d/'x.csv', (d/'x.csv').write_bytes(b'\xff\xfe\0'))[0]), 'not a CSV'),
    ("Fashion-MNIST cut short", lambda d, m: dls('fashion_mnist', size=None, root=idx(d, cut=5)), 'is truncated'),
    ("CIFAR-10 binary cut short", lambda d, m: dls('cifar10', root=raw_set(d, 'cifar-10-batches-bin', **{f'data_batch_{i}__bin': bytes(3073) for i in range(1, 6)}, test_batch__bin=bytes(99))), 'truncated'),
    ("CIFAR-10 with a pickle that runs code", lambda d, m: dls('cifar10', root=raw_set(d, 'cifar-10-batches-py', **{f'data_batch_{i}': pickle.dumps(print, 2) for i in range(1, 6)}, test_batch=b'')), 'not the published file'),
    ("CIFAR-10 with a pickle of something else", lambda d, m: dls('cifar10', root=raw_set(d, 'cifar-10-batches-py', **{f'data_batch_{i}': pickle.dumps([1], 2) for i in range(1, 6)}, test_batch=b'')), 'not the published file'),
    ("ImageNet that is not there", lambda d, m: dls('imagenet', root=d), 'train and val'),
    ("ImageNet with two classes", lambda d, m: (folder(d/'imagenet', sub='train'), dls('imagenet', root=folder(d/'imagenet', sub='val').parent))[1], 'has 2 class folders'),
    ("a download without a network", lambda d, m: fetch('http://127.0.0.1:9/x.tgz', d/'x.tgz', tries=1, progress=False), 'no connection'),
    ("an archive that writes outside its folder", lambda d, m: unpack(zipped(d, '../x'), d/'out'), 'not safe'),
    ("an archive that is none", lambda d, m: unpack((d/'x.zip', (d/'x.zip').write_bytes(b'no'))[0], d/'out'), 'cannot unpack'),
    ("bs=0", lambda d, m: get_dls(bs=0), 'at least one image'),
    ("bs='64'", lambda d, m: get_dls(bs='64'), 'at least one image'),
    ("size=0", lambda d, m: get_dls(size=0), 'give pixels'),
    ("size=100_000", lambda d, m: get_dls(size=100_000), 'give pixels'),
    ("valid_pct=10 (per cent)", lambda d, m: get_dls(valid_pct=10), '0.1 for 10 %'),
    ("valid_pct=-0.1", lambda d, m: get_dls(valid_pct=-0.1), 'give a fraction'),
    ("n_train=3 of ten classes", lambda d, m: get_dls(n_train=3), 'larger n_train'),
    ("n_train=0", lambda d, m: get_dls(n_train=0), 'give a number'),
    ("n_in=4", lambda d, m: get_dls(n_in=4), '1 channel (gray) or 3'),
    ("stats of two channels", lambda d, m: get_dls(stats=([0, 0], [1, 1])), 'one or three means'),
    ("a standard deviation of 0", lambda d, m: get_dls(stats=([0.5], [0.])), 'above 0'),
    ("a misspelt augmentation", lambda d, m: get_dls(augment='miror'), "did you mean 'mirror'"),
    ("fancy PCA on gray images", lambda d, m: get_dls(augment='alexnet'), 'needs color'),
    ("an array of floats up to 255", lambda d, m: read_image(np.full((8, 8, 3), 200.), 8), 'divide by 255'),
    ("an array with NaN", lambda d, m: read_image(np.full((8, 8), np.nan), 8), '0 to 1'),
    ("an array of two channels", lambda d, m: read_image(np.zeros((8, 8, 2), np.uint8), 8), 'not an image'),
    ("an array of strings", lambda d, m: read_image(np.array([['a']]), 8), 'not an image'),
    ("no images to predict", lambda d, m: get_dls().test_dl([]), 'no images to predict'),
    ("exporting over an existing folder", lambda d, m: export_set('digits', d), 'already exists'),
    ("exporting a folder of photos", lambda d, m: export_set(folder(d/'f'), d/'out'), 'already a folder of photos'),
    ("a subset of a class there is not", lambda d, m: make_subset(folder(d/'f'), d/'out', ['a', 'bb']), "did you mean 'b'"),
    ("a subset of one class", lambda d, m: make_subset(folder(d/'f'), d/'out', ['a']), 'two or more classes'),
    ("a PyTorch loader without class names", lambda d, m: as_dls(torch_loader(), torch_loader()), 'vocab='),
    ("a list instead of a loader", lambda d, m: as_dls([1], [2], vocab='ab'), 'not a PyTorch DataLoader'),
]

def outcome(call, want, d, monkeypatch):
    "Runs a row; returns what it got, in words"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if not isinstance(want, str): want(call(d, monkeypatch)); return want.what
        with pytest.raises(CourseError) as e: call(d, monkeypatch)
    text = str(e.value)
    assert want in text and '\n' not in text, text
    return 'error: ' + re.sub(r'[^\s\'"]*' + re.escape(str(d)), '…', text)

@pytest.mark.parametrize('name,call,want', TABLE, ids=[r[0] for r in TABLE])
def test_bad_input(name, call, want, tmp_path, monkeypatch): outcome(call, want, tmp_path, monkeypatch)

def test_enough(): assert len(TABLE) >= 40

if __name__ == '__main__':
    rows = []
    for name, call, want in TABLE:
        with tempfile.TemporaryDirectory() as d, pytest.MonkeyPatch.context() as m: rows.append(dict(input=name, gets=outcome(call, want, Path(d), m)))
    out = Path(__file__).parents[1]/'results/data_faults.json'
    out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + '\n')
    print(f'{len(rows)} rows in {out}')
