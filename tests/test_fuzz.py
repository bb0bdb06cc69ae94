"""Random names, records, metadata, plans, command lines, folders: right, or one clear line

    pytest tests/test_fuzz.py                             a fixed sample, as in CI
    HYPOTHESIS_PROFILE=long pytest tests/test_fuzz.py     new inputs each time, many of them
"""
import csv, json, os, tempfile, warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest, torch
from helpers import noise, quiet, run_command, time_limit
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import save_file

from resnet_course.core import CourseError, plot_text, printable, write_json
from resnet_course.loaders import get_dls
from resnet_course.models import create_model
from resnet_course.saving import load_model, save_weights
from resnet_course.predict import predict_images
from resnet_course.finetune import load_plan
from resnet_course.records import list_runs, load_run, new_run_dir, runs_table
from resnet_course.runs import train_run
from resnet_course.report import html_report
from resnet_course.tables import list_csv

is_long = os.environ.get('HYPOTHESIS_PROFILE') == 'long'
fuzz = settings(max_examples=5000 if is_long else 25, derandomize=not is_long, deadline=None,
                database=None, suppress_health_check=list(HealthCheck))

def answer(f, *args):
    "What a call returns, or None if it ends with one clear line; anything else is a failure"
    with time_limit(20), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: return f(*args)
        except CourseError as e:
            text = str(e)
            assert text and printable(text) == text and len(text) < 2000, text
            return None

def command(*args):
    "The exit status of a command, and what it printed, which cannot steer a terminal"
    out, err = StringIO(), StringIO()
    with time_limit(60), warnings.catch_warnings(), redirect_stdout(out), redirect_stderr(err):
        warnings.simplefilter('always')
        code = run_command(*args)
    said = out.getvalue() + err.getvalue()
    assert 'Traceback' not in said
    assert not {c for c in said if printable(c) != c} - {'\n', '\t'}, ascii(said)
    return code, said

# Inputs

chars = st.characters() | st.sampled_from('$<>&"\'\\%{}\n\r\t\x00\x1b\x07\u202e\u0301\udcff/猫🐈')
names = st.text(chars, max_size=30) | st.builds(str.__mul__, chars, st.integers(1, 10_000))
file_names = names.map(lambda s: s.replace('/', '_').replace('\0', '_')).filter(
    lambda s: s not in ('', '.', '..') and not has_high_surrogate(s) and len(os.fsencode(s)) < 200)

def has_high_surrogate(s):
    "Surrogates that stand for no byte, so that no file can have them in its name"
    return any('\ud800' <= c < '\udc80' or '\udcff' < c <= '\udfff' for c in s)

scalars = (st.none() | st.booleans() | st.integers() | st.floats() | names
           | st.sampled_from([0, 1, -1, 2**31, 2**63, 2**70, 10**400, 1e308, 'digits', 'resnet8']))
values = st.recursive(scalars, lambda o: st.lists(o, max_size=4)
                      | st.dictionaries(names, o, max_size=4), max_leaves=12)

@st.composite
def changed(draw, good):
    "A copy of some JSON with one or two entries replaced, removed or added, at any depth"
    res = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(1, 2))):
        at = res
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys: break
            key = draw(st.sampled_from(keys))
            if isinstance(at[key], (dict, list)) and draw(st.booleans()): at = at[key]
            else:
                if isinstance(at, dict) and draw(st.booleans()): del at[key]
                else: at[key] = draw(values)
                break
    return res

@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    return create_model('resnet8')

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A finished run"
    out = tmp_path_factory.mktemp('fuzz')
    rec, _ = train_run('digits', 'resnet8', epochs=1, n_train=64, bs=32, out=out, setup=quiet)
    return rec

# Names

def check_text(name):
    "Whatever a name is, it can be shown, and JSON stays JSON"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')   # no font has all characters
        assert len(plot_text(name).split('\n')) <= 5
    assert printable(printable(name)) == printable(name)
    assert json.loads(printable(json.dumps(name, ensure_ascii=False))) == name
    return True

@given(names)
@fuzz
def test_text(name): check_text(name)

@given(names)
@fuzz
def test_folders_of_runs(name):
    with tempfile.TemporaryDirectory() as tmp:
        path = answer(new_run_dir, name, tmp)
        if path is not None: assert path.is_dir() and path.parent == Path(tmp)

@given(vocab=st.lists(names, min_size=10, max_size=10))
@fuzz
def test_vocab(net, vocab):
    "Class names come back as they were, or are refused"
    with tempfile.TemporaryDirectory() as tmp:
        path = answer(lambda: save_weights(net, Path(tmp)/'w', vocab=vocab, size=32))
        if path: assert load_model(path).meta['vocab'] == vocab

# Records, metadata, plans

def check_record(rec, folder):
    "A record is read, or skipped and named; a report runs no script"
    write_json(rec, folder/'run.json')
    found = answer(load_run, folder)
    assert len(runs_table(answer(list_runs, folder))) == (found is not None)
    code, said = command('runs', '--out', folder)
    assert code == 0 and (found or 'skipped' in said)
    if found is None: return False
    page = answer(html_report, folder)
    if page: assert '<script' not in page.read_text(encoding='utf-8').lower()
    return True

@given(data=st.data())
@fuzz
def test_records(run, data):
    good = {k: v for k, v in run.items() if k != 'path'}
    with tempfile.TemporaryDirectory() as tmp: check_record(data.draw(changed(good)), Path(tmp))

@given(value=values)
@fuzz
def test_no_records(value):
    with tempfile.TemporaryDirectory() as tmp: assert not check_record(value, Path(tmp))

def check_metadata(net, meta, image):
    "Weights are loaded and classify, or are refused"
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp)/'w.safetensors'
        save_file(net.state_dict(), path, metadata=dict(resnet_course=json.dumps(meta)))
        model = answer(load_model, path)
        if model is None: return False
        found = answer(lambda: list(predict_images(model, [image])))
        if not found: return False
        assert all(0 <= p <= 1 for p in found[0].probs)
        return True

@given(data=st.data())
@fuzz
def test_metadata(net, tmp_path_factory, data):
    image = tmp_path_factory.getbasetemp()/'x.png'
    if not image.exists(): noise().save(image)
    good = dict(cfg=net.cfg, vocab=[str(i) for i in range(10)], size=32, crop=True,
                stats=[[.5]*3, [.2]*3])
    check_metadata(net, data.draw(changed(good)), image)

plan = [dict(name='head', freeze_to=-1, epochs=1, lr=.01),
        dict(name='all', freeze_to=0, epochs=2, lr=dict(low=.001, high=.01), bn='eval', cache=0)]

def check_plan(text, is_bytes=False):
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp)/'p.yaml'
        path.write_bytes(text if is_bytes else text.encode(errors='surrogatepass'))
        found = answer(load_plan, path)
        if found is None: return False
        assert all(s.name and s.epochs >= 1 for s in found)
        return True

@given(changed(plan))
@fuzz
def test_plans(value): check_plan(json.dumps(value))

@given(st.text() | st.text('[]{}:,&*-?!|> \n"\'ab1', max_size=200) | st.binary(max_size=100))
@fuzz
def test_no_plans(text): check_plan(text, isinstance(text, bytes))

@pytest.mark.parametrize('text', [
    '['*5000, '{'*5000, '[{a: '*3000, '- '*5000, '&a [*a]', '- ? [a]\n  : b',
    '!!python/name:os.system',
    '- {name: &a [x, x], freeze_to: &b [*a, *a], epochs: &c [*b, *b], lr: [*c, *c]}', '\0', '%'*100,
    '- {name: ' + 'x'*10_000 + ', freeze_to: 0, epochs: 1, lr: 1}', '---\n---\n'],
    ids=lambda t: ascii(t)[:20])
def test_yaml_that_is_no_plan(text): check_plan(text)

def test_aliases_stay_small():
    "Thirty lines that mean a thousand million words"
    lines = ['- &a0 {name: x, freeze_to: 0, epochs: 1, lr: 1}']
    lines += [f'- &a{i} {{name: [*a{i - 1}, *a{i - 1}], freeze_to: 0, epochs: 1, lr: 1}}'
              for i in range(1, 30)]
    assert not check_plan('\n'.join(lines))

# Command lines

words = st.sampled_from(['train', 'finetune', 'evaluate', 'compare', 'report', 'predict', 'export',
                         'data', 'check', 'get', 'subset', 'runs', 'lr-find', 'doctor', '--help'])
options = st.sampled_from('--data --arch --epochs --recipe --lr --bs --size --out --seed --n-train '
                          '--plan --weights --resume --precision --model --top --split --json '
                          '--classes --n --plot -x'.split())
arguments = names.filter(lambda s: '\0' not in s and not has_high_surrogate(s)) | st.sampled_from(
    ['0', '-1', 'nan', 'inf', '1e999', '9'*400, '', '.', '/dev/null', '/no/such', 'digits/..', '-'])
# never something that starts to train or to download: the first option is wrong
lines = st.tuples(words, st.lists(options | arguments, max_size=5)).map(lambda o: [o[0], *o[1]])

def check_line(args):
    "It answers without a traceback; training starts from data that does not exist"
    harmless = {'train': ['--data', '/no/such'], 'finetune': ['--data', '/no/such'],
                'lr-find': ['--data', '/no/such'], 'get': [], 'doctor': ['--help']}
    with tempfile.TemporaryDirectory() as tmp:
        old = os.getcwd()
        os.chdir(tmp)
        try: code, said = command(*args, *harmless.get(args[0], []))
        finally: os.chdir(old)
    assert code == 0 or said.strip(), args
    return code == 0

@given(lines)
@fuzz
def test_command_lines(args): check_line(args)

# Folders and CSV files

heads = [['path', 'label'], ['path', 'label', 'split'], ['image', 'class', 'is_valid'], ['x', 'y'],
         ['path', 'a', 'b'], None]
cells = names | st.sampled_from(['', ' ', '0', '1', '0.0', '01', '0.5', 'nan', 'train', 'valid',
                                 'True', 'a', 'b', ' a', '"', '"a', "a/0.png", '../x.csv', 'a', '/',
                                 'x'*300, 'a\\1.png', './a/0.png', '.', 'path', 'label', '=1+1'])

@st.composite
def tables(draw):
    "A table of images, right or nearly so: its rows, its separator, its encoding, its line ends"
    head = draw(st.sampled_from(heads))
    last = dict(split=['train', 'valid', 'test'], is_valid=['1', '0', '1']).get((head or 'x')[-1])
    rows = []
    for c in 'ab':
        for i in range(3):
            more = [last[i]] if last else [str(int(c == 'b'))] if head and 'b' in head else []
            label = str(int(c == 'a')) if head and 'b' in head else c
            rows.append([f'{c}/{i}.png', label, *more])
    rows = [head, *rows] if head else rows
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(rows) - 1))
        what = draw(st.sampled_from(['change', 'remove', 'add', 'double', 'drop']))
        if what == 'double': rows.insert(at, list(rows[draw(st.integers(0, len(rows) - 1))]))
        elif what == 'drop' and len(rows) > 1: del rows[at]
        elif what == 'add': rows[at] = [*rows[at], draw(cells)]
        elif rows[at]:
            col = draw(st.integers(0, len(rows[at]) - 1))
            row = list(rows[at])
            row[col:col + 1] = [draw(cells)] if what == 'change' else []
            rows[at] = row
    encoding = draw(st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16', 'latin-1']))
    return rows, draw(st.sampled_from(',;\t|')), encoding, draw(st.sampled_from(['\n', '\r\n']))

def check_table(table, folder):
    "Every row is taken, with the label that it names, or the reason is given in one line"
    rows, sep, encoding, end = table
    for c in 'ab':
        (folder/c).mkdir()
        for i in range(3): noise((8, 8)).save(folder/f'{c}/{i}.png')
    if encoding == 'latin-1':
        rows = [[c.encode(encoding, 'replace').decode(encoding) for c in row] for row in rows]
    out = StringIO()
    csv.writer(out, delimiter=sep, lineterminator=end).writerows(rows)
    path = folder/'x.csv'
    path.write_bytes(out.getvalue().encode(encoding, errors='surrogatepass'))
    found = answer(list_csv, path)
    if found is None: return False
    rows = [[c.strip() for c in row] for row in rows]
    rows = [row for row in rows if any(row)]
    assert len(found.files) in (len(rows), len(rows) - 1)
    head, own = rows[0], rows[-len(found.files):]
    for row, f, label, split in zip(own, found.files, found.labels, found.splits):
        assert any((folder/c.replace('\\', '/')).resolve() == f.resolve() for c in row if c), row
        named = [head[i] for i, c in enumerate(row) if c and i < len(head)]
        assert label in row or f'{label}.0' in row or label in named, (label, row)
        assert split is None or len(row) > 2
    assert len({f.resolve() for f in found.files}) == len(found.files)
    return True

def check_folder(names):
    "Class folders with these names are all taken, or the reason is given"
    with tempfile.TemporaryDirectory() as tmp:
        for name in names:
            folder = Path(os.fsdecode(os.fsencode(tmp)))/name
            folder.mkdir(exist_ok=True)
            for i in range(6): noise((8, 8)).save(folder/f'{i}.png')
        dls = answer(lambda: get_dls(tmp, bs=4, size=8, device='cpu'))
        if dls is None: return False
        assert sum(len(dl.dataset) for dl in dls.loaders) == 6*len(dls.vocab)
        return True

class TestFolders:
    "For the data half: what a folder or a CSV file holds"
    @given(st.lists(file_names, min_size=1, max_size=3, unique=True))
    @settings(fuzz, max_examples=500 if is_long else 8)
    def test_class_names(self, names): check_folder(names)

    @given(st.lists(st.lists(st.text(chars, max_size=30), min_size=1, max_size=3), min_size=1,
                    max_size=6), st.sampled_from(',;\t'))
    @fuzz
    def test_csv(self, rows, comma):
        with tempfile.TemporaryDirectory() as tmp:
            path = Path(tmp)/'x.csv'
            path.write_bytes('\n'.join(comma.join(r) for r in rows).encode(errors='surrogatepass'))
            assert answer(lambda: get_dls(path)) is None

    @given(tables())
    @fuzz
    def test_changed_tables(self, table):
        with tempfile.TemporaryDirectory() as tmp: check_table(table, Path(tmp))
