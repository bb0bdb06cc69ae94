"Damaged weights and checkpoints: one clear line, no huge allocations, nothing half loaded"
import io, json, os, shutil, struct, subprocess, sys, warnings
from contextlib import contextmanager

import numpy as np
import pytest, torch
from helpers import cut, digits_learner, noise, photos, quiet, run_command
from safetensors.torch import save_file

from resnet_course.core import CourseError, write_json
from resnet_course.models import create_model
from resnet_course.weight_files import read_weights
from resnet_course.weights import load_weights
from resnet_course.saving import load_model, save_weights
from resnet_course.checkpoint import read_checkpoint, run_lock
from resnet_course.recipes import fit_recipe
from resnet_course.predict import predict_images
from resnet_course.finetune import Stage, run_stages
from resnet_course.runs import finetune_run, kfold_run, learner_from_checkpoint, train_run
from resnet_course.reuse import evaluate_run

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

def test_flipped_weights_are_noticed(file, net):
    "A bit anywhere in the numbers: what `save_weights` wrote has a checksum"
    data, rng = file.read_bytes(), np.random.default_rng(0)
    first = len(data) - sum(v.nbytes for v in net.state_dict().values())
    for _ in range(30):
        b = bytearray(data)
        b[rng.integers(first, len(b))] ^= 1 << rng.integers(8)
        file.write_bytes(b)
        one_line(lambda: load_model(file), 'checksum')
        one_line(lambda: load_weights(net, file), 'checksum')

# Checkpoints and folders of runs

@pytest.fixture(scope='module')
def cut_run(tmp_path_factory):
    "An interrupted run, whose checkpoint stands within the second epoch"
    folder = tmp_path_factory.mktemp('cut')/'run'
    cut(digits_learner('resnet8', n_train=64), folder, epochs=3, minutes=0)
    return folder

@pytest.fixture
def checkpoint(cut_run, tmp_path): return shutil.copytree(cut_run, tmp_path/'run')/'checkpoint.pt'

def resume(path):
    "Go on with the training of a checkpoint"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn, how = learner_from_checkpoint(path)
        fit_recipe(quiet(learn), **how)

def rewrite(path, change):
    "Change what a checkpoint says, with the right checksums"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)

def test_checkpoint_truncated_or_flipped(checkpoint):
    "Every damage is noticed, and the file stays as it is"
    data, rng = checkpoint.read_bytes(), np.random.default_rng(0)
    for i in range(40):
        b = bytearray(data)
        if i%4 == 0: b = b[:rng.integers(len(b))]
        else: b[rng.integers(len(b))] ^= 1 << rng.integers(8)
        checkpoint.write_bytes(b)
        try: state = read_checkpoint(checkpoint)
        except CourseError as e: assert '\n' not in str(e)
        else:   # padding between the parts, or a date: what is read is right
            want = torch.load(io.BytesIO(data), weights_only=True)
            assert repr(state) == repr(want)
        assert checkpoint.read_bytes() == b

lies = dict(
    no_pos=lambda s: s.pop('pos'), no_each=lambda s: s.pop('each'),
    each=lambda s: s.update(each=[]), pos=lambda s: s['pos'].update(epoch='x'),
    model=lambda s: s.update(model=[]), other_net=lambda s: s['model'].popitem(),
    opt=lambda s: s.update(opt={}), cfg=lambda s: s.update(cfg=3),
    data=lambda s: s['cfg']['data'].update(evil=1),
    size=lambda s: s['cfg']['data'].update(size='x'),
    net=lambda s: s['cfg']['model'].pop('name'), seed=lambda s: s['cfg'].update(seed='x'),
    recipe=lambda s: s['cfg']['recipe'].update(name='x'),
    lr=lambda s: s['cfg']['recipe'].pop('lr'),
    epochs=lambda s: s['cfg']['recipe'].update(epochs='3'),
    trains=lambda s: s.update(trains=None),
    random=lambda s: s.update(each=[({}, {}, 0.)]), made_by=lambda s: s.update(made_by=None),
    cbs=lambda s: s.update(cbs=dict(Unknown={})), hypers=lambda s: s['opt'].update(hypers=3),
    precision=lambda s: s['cfg'].update(precision=3))

@pytest.mark.parametrize('name', lies)
def test_checkpoint_that_lies(checkpoint, name):
    "One sentence, whatever it says, and it is still there"
    rewrite(checkpoint, lies[name])
    before = checkpoint.read_bytes()
    one_line(lambda: resume(checkpoint))
    assert checkpoint.read_bytes() == before

def test_checkpoint_of_another_run(checkpoint, tmp_path):
    "Other data, another network, another seed: refused, and nothing is lost"
    other = tmp_path/'other'
    cut(digits_learner('plain8', n_train=64), other, epochs=3, minutes=0)
    before = checkpoint.read_bytes()
    for learn, how in [(digits_learner('resnet8', n_train=80), dict(epochs=3)),
                       (digits_learner('plain8', n_train=64), dict(epochs=3)),
                       (digits_learner('resnet8', n_train=64), dict(epochs=4)),
                       (digits_learner('resnet8', n_train=64), dict(epochs=3, lr=.5))]:
        one_line(lambda: fit_recipe(learn, checkpoint=checkpoint, resume=True, **how))
    assert checkpoint.read_bytes() == before

def test_other_versions_and_processes_are_named(checkpoint):
    def change(s): s['made_by'].update(torch='1.0', processes=4)
    rewrite(checkpoint, change)
    with pytest.warns(UserWarning, match='torch 1.0 .*processes 4 .*last digits may differ'):
        learn, how = learner_from_checkpoint(checkpoint)
        fit_recipe(quiet(learn), **how)

def test_two_fine_tunings_in_one_folder(tmp_path):
    "The second one is refused while the first one works, and may go on afterwards"
    learn, stages = digits_learner('resnet8', n_train=64), [Stage('head', -1, 1, .01)]
    with run_lock(tmp_path/'stages'):
        one_line(lambda: run_stages(learn, stages, tmp_path/'stages'), 'in use by process')
    assert len(run_stages(learn, stages, tmp_path/'stages').rows) == 1

def test_damaged_stages(tmp_path):
    "Swapped, truncated and lying files of stages"
    path, stages = tmp_path/'stages', [Stage('head', -1, 1, .01), Stage('all', 0, 1, .01)]
    def again(arch='resnet8'): return run_stages(digits_learner(arch, n_train=64), stages, path)
    again()
    good, head = (path/'stages.json').read_text(), path/'head.safetensors'
    d = json.loads(good)
    for bad in ('', '{', '[]', '{}', json.dumps(d | dict(done=[])), json.dumps(d | dict(plan=3)),
                json.dumps(d | dict(done=dict(head=3))), json.dumps(d | dict(done=dict(head={})))):
        (path/'stages.json').write_text(bad)
        one_line(again, 'stages.json')
    del d['done']['all']
    (path/'stages.json').write_text(json.dumps(d))
    weights = head.read_bytes()
    head.write_bytes(weights[:-100])
    one_line(again, 'head.safetensors')
    save_weights(create_model('resnet20'), head)
    one_line(again, 'head.safetensors')
    head.write_bytes(weights)
    assert len(again().rows) == 2

def test_swapped_run_files(tmp_path):
    "The weights of one run in the folder of another"
    settings = dict(data='digits', epochs=1, n_train=64, bs=32, setup=quiet, out=tmp_path)
    a, _ = train_run(arch='resnet8', **settings)
    b, _ = train_run(arch='plain8', **settings)
    for name in ('model.safetensors', 'run.json'):
        shutil.copy(f"{a['path']}/{name}", tmp_path/name)
    shutil.copy(f"{b['path']}/model.safetensors", tmp_path/'model.safetensors')
    one_line(lambda: evaluate_run(tmp_path), 'another run')

def asked(folder, name, content, change):
    "A file of an interrupted run, with one entry changed; the entry is named by its keys"
    folder.mkdir(exist_ok=True)
    content = json.loads(json.dumps(content))
    *keys, last, value = change
    at = content
    for key in keys: at = at[key]
    at[last] = value
    (folder/name).write_text(json.dumps(content))
    return folder

tuned = ['head', 1, .01, dict(data='digits', weights='resnet20-fashion_mnist', n_train=64, bs=32),
         dict(changes=dict(mixup=.2), log=None)]
folded = dict(schema=1, k=2, finetune=False, asked=dict(
    data='digits', arch='resnet8', epochs=1, n_train=64,
    recipe=dict(name='one_cycle', changed={})), not_recorded=[], folds=[])

@pytest.mark.parametrize('change', [
    (0, 5), (0, 'no such plan'), (1, 'x'), (1, None), (2, []), (2, float('nan')), (3, []),
    (3, 'evil', 1), (3, 'n_train', 'x'), (3, 'weights', ''), (3, 'weights', '/dev/zero'), (4, 3),
    (4, 'changes', 5), (4, 'changes', [1]), (4, 'changes', 'evil', 1), (4, 'log', 7),
    (4, 'changes', 'mixup', 'x')], ids=str)
def test_fine_tuning_that_is_damaged(tmp_path, change):
    "What `finetune --resume` reads"
    folder = asked(tmp_path/'run', 'finetune.json', tuned, change)
    one_line(lambda: finetune_run(resume=folder, setup=quiet))

@pytest.mark.parametrize('change', [
    ('schema', None), ('k', 'x'), ('k', 10**6), ('finetune', 1), ('asked', []), ('folds', [1]),
    ('asked', 'out', '/tmp'), ('asked', 'recipe', []),
    ('asked', 'recipe', 'changed', []), ('asked', 'recipe', 'changed', 2**70),
    ('asked', 'recipe', 'name', None), ('asked', 'data', ''), ('not_recorded', [1]),
    ('not_recorded', ['lr'])], ids=str)
def test_folds_that_are_damaged(tmp_path, change):
    "What `train --resume` reads in a folder of folds"
    folder = asked(tmp_path/'run', 'folds.json', folded, change)
    one_line(lambda: kfold_run(resume=folder, setup=quiet))

# A full disk

@contextmanager
def full_disk(tmp_path):
    "A folder on a file system of one megabyte, which is full"
    folder = tmp_path/'disk'
    folder.mkdir()
    done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder],
                          capture_output=True)
    if done.returncode: pytest.skip('mounting a small file system is not allowed here')
    try: yield folder
    finally: subprocess.run(['umount', folder], check=True)

@pytest.mark.skipif(sys.platform != 'linux', reason='uses tmpfs')
def test_full_disk(tmp_path, net):
    "A small file system that is full: one sentence, and the old file is as it was"
    with full_disk(tmp_path) as folder:
        path = save_weights(net, folder/'w')
        old = path.read_bytes()
        with open(folder/'rest', 'wb', buffering=0) as f:
            try:
                while True: f.write(b'x'*4096)
            except OSError: pass
        one_line(lambda: save_weights(net, path), 'disk full')
        assert path.read_bytes() == old
        with pytest.raises(OSError): write_json(dict(a='x'*10**5), folder/'x.json')
        assert sorted(p.name for p in folder.iterdir()) == ['rest', 'w.safetensors']

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A finished run"
    out = tmp_path_factory.mktemp('run')
    rec, _ = train_run('digits', 'resnet8', epochs=1, n_train=64, bs=32, out=out, setup=quiet)
    return rec['path']

digits = ['--data', 'digits', '--n-train', 64, '--epochs', 1]

@pytest.mark.skipif(sys.platform != 'linux', reason='uses tmpfs')
@pytest.mark.parametrize('args, out', [
    (['train', *digits, '--arch', 'resnet8'], 'runs'),
    (['train', *digits, '--arch', 'resnet8', '--folds', 2], 'runs'),
    (['finetune', *digits, '--weights', 'resnet20-fashion_mnist', '--plan', 'head'], 'runs'),
    (['export', 'RUN'], 'x.onnx'), (['export', 'RUN'], 'x.pt2'),
    (['export', 'RUN', '--int8'], 'x.onnx'), (['report', 'RUN'], 'x.html'),
    (['evaluate', 'RUN'], 'x.png'), (['evaluate', 'RUN'], 'x.svg'), (['draw', 'resnet8'], 'x.svg'),
    (['lr-find', '--data', 'digits', '--arch', 'resnet8', '-n', 6], 'x.png'),
    (['predict', 'IMAGE', '--model', 'RUN'], 'x.csv'), (['data', 'export', 'digits'], 'set'),
    (['data', 'subset', 'FOLDER', '--classes', 2, '--copy'], 'set'), (['lessons'], 'lessons')],
    ids=lambda o: ' '.join(map(str, o[:2])) if isinstance(o, list) else o)
def test_every_output_on_a_full_disk(args, out, run, tmp_path, image, capfd):
    "One line that names what did not fit, and nothing is left but the folder of a run"
    photos(tmp_path/'photos', 4)
    flag = dict(predict='--csv', data='', lessons='').get(args[0], '--out')
    if args[0] == 'lr-find': flag = '--plot'
    known = dict(RUN=run, IMAGE=image, FOLDER=tmp_path/'photos')
    with full_disk(tmp_path) as disk:
        at = 3 if args[:2] == ['data', 'subset'] else len(args)
        given = [known.get(o, o) for o in args]
        given[at:at] = [flag, disk/out] if flag else [disk/out]
        with open(disk/'rest', 'wb', buffering=0) as f:
            try:
                while True: f.write(b'x'*4096)
            except OSError: pass
        assert run_command(*given) == 1
        err = capfd.readouterr().err.strip().splitlines()[-1]
        assert err.startswith('error: ') and str(disk) in err, err
        assert {p.name for p in disk.rglob('*') if p.is_file()} == {'rest'}

def test_device_that_is_full(net, tmp_path):
    "`/dev/full` takes no byte"
    if not os.path.exists('/dev/full'): pytest.skip('there is no /dev/full')
    for args in (['--help'], ['runs', '--out', tmp_path], ['data']):
        with open('/dev/full', 'w') as full:
            done = subprocess.run([sys.executable, '-m', 'resnet_course', *map(str, args)],
                                  stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode and 'Traceback' not in done.stderr and done.stderr.strip()
