"Damaged weights and checkpoints: one clear line, no huge allocations, nothing half loaded"
import json, struct

import numpy as np
import pytest, torch
from helpers import noise, run_command
from safetensors.torch import save_file

from resnet_course.core import CourseError
from resnet_course.models import create_model
from resnet_course.predict import predict_images
from resnet_course.weights import load_model, load_weights, read_weights, save_weights

vocab, stats = [str(i) for i in range(10)], [[.5]*3, [.2]*3]

@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    return create_model('resnet8')

@pytest.fixture
def file(net, tmp_path):
    "An intact weights file"
    return save_weights(net, tmp_path/'w.safetensors', vocab=vocab, size=32, stats=stats, crop=True)

@pytest.fixture
def image(tmp_path):
    noise().save(tmp_path/'x.png')
    return tmp_path/'x.png'

def one_line(call, says=''):
    "The message of a `CourseError` of one line"
    with pytest.raises(CourseError) as e: call()
    text = str(e.value)
    assert says in text and '\n' not in text and len(text) < 500, text

def with_meta(net, path, meta):
    "A file with other metadata, as it stands or as JSON"
    text = meta if isinstance(meta, str) else json.dumps(meta)
    save_file(net.state_dict(), path, metadata=dict(resnet_course=text))
    return path

# Metadata

nested = '['*900 + ']'*900
wrong = [dict(vocab='abc'), dict(vocab=[]), dict(vocab=[1]*10), dict(vocab={}),
         dict(vocab=vocab[:3]), dict(vocab=[None]*10), dict(vocab=[vocab]*10), dict(size=10**6),
         dict(size=-1), dict(size='32'), dict(size=32.5), dict(size=True), dict(size=[32]),
         dict(side=10**9), dict(side=[]), dict(side={}), dict(stats='imagenet'),
         dict(stats=[[.5]*3, [0.]*3]), dict(stats=[[.5]*3]), dict(stats=[[.5]*2, [.2]*2]),
         dict(stats=[['x']*3, [.2]*3]), dict(stats=[[float('nan')]*3, [.2]*3]),
         dict(stats=[[1e40]*3, [.2]*3]), dict(stats=3), dict(crop='yes'), dict(crop=[]),
         dict(cfg=None), dict(cfg=3), dict(cfg=[]), dict(cfg={}),
         dict(cfg=dict(name='resnet8', n_out=2**70)), dict(cfg=dict(name='resnet8', nf=2**40)),
         dict(cfg=dict(name='resnet8', act=[])), dict(cfg=dict(name='resnet8', stem={})),
         dict(cfg=dict(name='resnet8', variant=9)), dict(cfg=dict(name='resnet1202', n_out=10))]

@pytest.mark.parametrize('change', wrong, ids=str)
def test_wrong_metadata(net, tmp_path, image, change):
    "Not one image is classified with it"
    good = dict(cfg=net.cfg, vocab=vocab, size=32, stats=stats)
    path = with_meta(net, tmp_path/'w.safetensors', good | change)
    one_line(lambda: list(predict_images(load_model(path), [image])))
    assert run_command('predict', image, '--model', path) == 1

@pytest.mark.parametrize('text', ['', '{', 'null', '[]', nested, '{"vocab":' + nested + '}',
                                  '9'*5000, '"x"'], ids=lambda t: t[:10])
def test_metadata_that_is_none(net, tmp_path, image, text):
    path = with_meta(net, tmp_path/'w.safetensors', text)
    one_line(lambda: load_model(path))

def test_save_refuses_what_load_would(net, tmp_path):
    for change in (dict(vocab=[1, 2]), dict(size=10**6), dict(stats=[[0.], [0.]])):
        one_line(lambda: save_weights(net, tmp_path/'w', **change), 'damaged')
    assert not list(tmp_path.iterdir())

def test_outputs_that_are_not_finite(net, tmp_path, image):
    huge = create_model('resnet8')
    huge.load_state_dict(net.state_dict())
    huge.fc.weight.data.fill_(3e38)
    path = save_weights(huge, tmp_path/'w', vocab=vocab, size=32, stats=stats)
    one_line(lambda: list(predict_images(load_model(path), [image])), 'not finite')

# Equal weights, equal files

def test_equal_models_give_equal_files(net, tmp_path):
    files = [save_weights(net, tmp_path/f'{i}', vocab=vocab, size=32) for i in range(8)]
    files.append(save_weights(net, tmp_path/'other', size=32, vocab=vocab))
    assert len({f.read_bytes() for f in files}) == 1
    assert load_model(files[0]).cfg == net.cfg

def test_names_of_any_script_survive(net, tmp_path):
    names = ['猫', 'a\udcff', '"\\\n', 'x'*10_000, '$', '<b>', '', '\x1b', '\u202e', '🐈']
    path = save_weights(net, tmp_path/'w', vocab=names)
    assert load_model(path).meta['vocab'] == names
    other = save_weights(net, tmp_path/'w2', vocab=names)
    assert path.read_bytes() == other.read_bytes()

# The file itself

def header(data):
    "The header of a safetensors file, and the rest"
    n = struct.unpack('<Q', data[:8])[0]
    return json.loads(data[8:8 + n]), data[8 + n:]

def with_header(head, rest, n=None):
    "A safetensors file with this header, whose length may be a lie"
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack('<Q', len(text) if n is None else n) + text + rest

def lie(change):
    "A file whose header was changed"
    def make(data):
        head, rest = header(data)
        change(head)
        return with_header(head, rest)
    return make

key = 'conv1.weight'
damages = dict(
    empty=lambda d: b'', eight=lambda d: d[:8], half=lambda d: d[:len(d)//2],
    in_header=lambda d: d[:100], last_byte=lambda d: d[:-1], more=lambda d: d + b'\0',
    long_header=lambda d: struct.pack('<Q', 2**62) + d[8:],
    short_header=lambda d: struct.pack('<Q', 3) + d[8:],
    zero_header=lambda d: struct.pack('<Q', 0) + d[8:],
    no_json=lambda d: with_header(b'{"a"', d),
    nested=lambda d: with_header(b'{"a":' + b'['*10**5, d),
    list_header=lambda d: with_header(b'{}', d), not_utf8=lambda d: with_header(b'{"\xff":1}', d),
    huge_shape=lie(lambda h: h[key].update(shape=[2**40, 2**20])),
    overflow=lie(lambda h: h[key].update(shape=[2**32, 2**32])),
    negative=lie(lambda h: h[key].update(shape=[-1, 3])),
    text_shape=lie(lambda h: h[key].update(shape='x')),
    dtype=lie(lambda h: h[key].update(dtype='F13')),
    other_dtype=lie(lambda h: h[key].update(dtype='F64')),
    int_dtype=lie(lambda h: h[key].update(dtype='I32')),
    offsets=lie(lambda h: h[key].update(data_offsets=[0, 2**40])),
    swapped=lie(lambda h: h[key].update(data_offsets=h[key]['data_offsets'][::-1])),
    overlap=lie(lambda h: h['fc.bias'].update(data_offsets=h[key]['data_offsets'])),
    no_tensors=lambda d: with_header({}, b''),
    transposed=lie(lambda h: h[key].update(shape=h[key]['shape'][::-1])),
    meta_number=lie(lambda h: h['__metadata__'].update(resnet_course=5)),
    meta_list=lie(lambda h: h.update(__metadata__=[])))

@pytest.mark.parametrize('kind', damages)
@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_damaged_file(file, net, kind, suffix):
    "Neither door lets it in, and the network stays as it was"
    bad = file.with_name('bad' + suffix)
    bad.write_bytes(damages[kind](file.read_bytes()))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    one_line(lambda: load_model(bad))
    one_line(lambda: load_weights(net, bad))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())

def test_nan_weights(net, tmp_path):
    for bad in (float('nan'), float('inf')):
        sd = {k: v.clone() for k, v in net.state_dict().items()}
        sd['layer2.0.conv1.weight'][0, 0, 0, 0] = bad
        meta = dict(resnet_course=json.dumps(dict(cfg=net.cfg)))
        save_file(sd, tmp_path/'w.safetensors', metadata=meta)
        for f in (load_model, lambda p: load_weights(create_model('resnet8'), p)):
            one_line(lambda: f(tmp_path/'w.safetensors'), 'layer2.0.conv1.weight')

@pytest.mark.parametrize('form', ['safetensors', 'zip', 'pickle'])
def test_bit_flips_and_truncation(net, file, tmp_path, form):
    "Damage is refused, or changes nothing but numbers"
    if form == 'safetensors': data = file.read_bytes()
    else:
        torch.save(net.state_dict(), tmp_path/'w.pth', _use_new_zipfile_serialization=form == 'zip')
        data = (tmp_path/'w.pth').read_bytes()
    rng, bad = np.random.default_rng(0), tmp_path/'bad.bin'
    for i in range(40):
        b = bytearray(data)
        # where the structure is: the first and the last kilobytes
        at = rng.integers(2000) if i%2 else len(b) - 1 - rng.integers(2000)
        if i%4 < 3: b[at] ^= 1 << rng.integers(8)
        else: b = b[:at]
        bad.write_bytes(b)
        try: sd, _ = read_weights(bad)
        except CourseError as e: assert '\n' not in str(e)
        else: assert sum(v.numel() for v in sd.values()) < 10**6
