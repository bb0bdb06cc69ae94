"""Count what random inputs get, by kind: python tools/fuzz_table.py [INPUTS OF EACH KIND]

Writes results/fuzz.json. The inputs are those of tests/test_fuzz.py, other ones for each seed.
"""
import json, os, random, sys, tempfile, time, zlib
from pathlib import Path

root = Path(__file__).parents[1]
sys.path.insert(0, str(root/'tests'))

import torch
from hypothesis import HealthCheck, given, seed, settings, strategies as st

import test_fuzz as fuzz
from helpers import noise, quiet
from resnet_course.core import write_json
from resnet_course.models import create_model
from resnet_course.runs import train_run

def kinds(tmp):
    "Name → strategy, and a function that is true if an input is right, and false if it is refused"
    net = create_model('resnet8')
    noise().save(tmp/'x.png')
    rec, _ = train_run('digits', 'resnet8', epochs=1, n_train=64, bs=32, out=tmp, setup=quiet)
    rec = {k: v for k, v in rec.items() if k != 'path'}
    meta = dict(cfg=net.cfg, vocab=[str(i) for i in range(10)], size=32, crop=True,
                stats=[[.5]*3, [.2]*3])
    def record(value):
        with tempfile.TemporaryDirectory() as d: return fuzz.check_record(value, Path(d))
    def run_folder(name):
        with tempfile.TemporaryDirectory() as d:
            path = fuzz.answer(fuzz.new_run_dir, name, d)
            return path is not None and path.parent == Path(d)
    def table(value):
        with tempfile.TemporaryDirectory() as d: return fuzz.check_table(value, Path(d))
    folders = st.lists(fuzz.file_names, min_size=1, max_size=3, unique=True)
    return {'names of classes, shown': (fuzz.names, fuzz.check_text),
            'names of runs': (fuzz.names, run_folder),
            'names of class folders': (folders, fuzz.check_folder),
            'tables of images (CSV)': (fuzz.tables(), table),
            'records, changed': (fuzz.changed(rec), record),
            'records, anything': (fuzz.values, record),
            'metadata of weights': (fuzz.changed(meta),
                                    lambda m: fuzz.check_metadata(net, m, tmp/'x.png')),
            'plans, changed': (fuzz.changed(fuzz.plan), lambda o: fuzz.check_plan(json.dumps(o))),
            'plans, any text': (st.text() | st.text('[]{}:,&*-?!|> \n"\'ab1', max_size=200),
                                fuzz.check_plan),
            'command lines': (fuzz.lines, fuzz.check_line)}

def outcome(check, value):
    "What an input gets"
    try: return 'right' if check(value) else 'one clear line'
    except TimeoutError: return 'hang'
    except AssertionError: return 'silence'   # neither right nor refused in a clear line
    except BaseException as e:
        print(type(e).__name__, str(e)[:200], ascii(value)[:300])
        return 'traceback'

def files_in(folder):
    "Every file and a checksum of its content"
    return {p: zlib.crc32(p.read_bytes()) for p in Path(folder).rglob('*') if p.is_file()}

def count(strategy, check, n):
    "How many of `n` inputs get what"
    found = dict.fromkeys(['right', 'one clear line', 'traceback', 'hang', 'silence'], 0)
    @seed(20151210)
    @settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def each(value):
        "One input"
        res = outcome(check, value)
        if res == 'silence': print('silence', ascii(value)[:300])
        found[res] += 1
    each()
    return found

if __name__ == '__main__':
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    os.environ.setdefault('RESNET_COURSE_DEVICE', 'cpu')
    torch.manual_seed(0)
    random.seed(0)
    rows, began = [], time.monotonic()
    with tempfile.TemporaryDirectory() as tmp:
        for name, (strategy, check) in kinds(Path(tmp)).items():
            before = files_in(tmp)
            row = dict(kind=name, **count(strategy, check, n))
            row['loss'] = sum(files_in(tmp).get(p) != v for p, v in before.items())
            row = dict(row, inputs=sum(v for k, v in row.items() if k not in ('kind', 'loss')))
            rows.append(row)
            print(row, flush=True)
    total = {k: sum(r[k] for r in rows) for k in rows[0] if k != 'kind'}
    print(total, f'{time.monotonic() - began:.0f} s')
    write_json(dict(total=total, kinds=rows), root/'results/fuzz.json')
