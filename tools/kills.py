"""Kill five commands at random moments, and see what is left: half a file, other bits, a traceback?

    python tools/kills.py [KILLS [MINUTES]]     60 kills, for at most an hour; results/kills.json
    python tools/kills.py 15 20 --more          15 more, at other moments, beside those on record

Each command runs in a forked process and gets SIGKILL, SIGTERM or SIGINT, by turns. Then it runs to
its end, resumed where it can be, and must give what it gave without a kill. A process that ends
before its signal is no kill: it is counted as missed, and another one is killed in its place.
"""
import json, os, random, shutil, signal, sys, tempfile, time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from resnet_course import cli
from resnet_course.core import write_json
from resnet_course.export import OnnxModel
from resnet_course.loaders import get_dls
from resnet_course.records import source_commit

signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
small = ['--data', 'digits', '--n-train', '96', '--bs', '16', '--seed', '1', '--precision', 'fp32']

def start(args, log):
    "Run `resnet-course ARGS` in a forked process; its id"
    pid = os.fork()
    if pid: return pid
    code = 1
    try:
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2): os.dup2(fd, stream)
        torch.set_num_threads(1)
        # a shell's background processes ignore Ctrl-C, and so would their children
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ['resnet-course', *map(str, args)]
        cli.main()
        code = 0
    except SystemExit as e: code = e.code or 0
    except BaseException as e: os.write(2, f'Traceback: {e!r}'.encode())
    finally: os._exit(code)

def wait(pid, seconds=None):
    "The exit status, negative for a signal; None if the process runs longer than that"
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        if end and time.monotonic() > end: return None
        time.sleep(.002)

def run(args, log):
    "Run a command to its end"
    status = wait(start(args, log), 300)
    assert status == 0, f'{args}: {status}\n{log.read_text()[-2000:]}'

# What each command writes: whole or nothing, and equal to that of an uninterrupted one

class Training:
    "train and finetune, which resume"
    def __init__(self, name, args): self.name, self.args = name, args
    def command(self, folder): return [self.name, *self.args, '--out', folder]

    def half(self, folder):
        "Files that are there and cannot be read"
        bad = []
        for f in folder.rglob('*.safetensors'):
            try: load_file(f)
            except Exception: bad.append(f.name)
        for f in folder.rglob('*.pt'):
            try: torch.load(f, weights_only=True)
            except Exception: bad.append(f.name)
        return bad

    def finish(self, folder, log):
        "Resume what can be resumed, or start again; was it resumed?"
        runs = [p for p in folder.glob('*') if p.is_dir()]
        if any((p/'run.json').exists() for p in runs): return False
        kept = [p for p in runs if (p/'checkpoint.pt').exists() or (p/'finetune.json').exists()]
        if kept: run([self.name, '--resume', kept[0]], log)
        else: run(self.command(folder), log)
        return bool(kept)

    def result(self, folder):
        "The tensors"
        [f] = folder.rglob('model.safetensors')
        return {k: v.numpy().tobytes() for k, v in load_file(f).items()}

class Writing:
    "predict, export and report, which start again"
    def __init__(self, name, args, out, read):
        self.name, self.args, self.out, self.read = name, args, out, read

    def command(self, folder):
        out = ['--out', folder/self.out] if self.out else []
        return [self.name, *self.args, *out]

    def half(self, folder):
        "The file, if it is there and cannot be read"
        if not self.out or not (folder/self.out).exists(): return []
        try: self.read(folder/self.out)
        except Exception: return [self.out]
        return []

    def finish(self, folder, log):
        self.log = log.with_suffix('.again')
        run(self.command(folder), self.log)
        return False

    def result(self, folder): return self.read(folder/self.out if self.out else self.log)

def read_page(path):
    text = path.read_text(encoding='utf-8')
    assert text.rstrip().endswith('</html>')
    return text

def read_onnx(path):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((2, 1, 32, 32), np.float32))
    return OnnxModel(path)(x).numpy().tobytes()

def jobs(tmp):
    "The five commands, the last three with a run to work on"
    train = Training('train', [*small, '--arch', 'resnet8', '--epochs', '2'])
    tune = Training('finetune', [*small, '--weights', 'resnet20-fashion_mnist', '--epochs', '1'])
    run(train.command(tmp/'own'), tmp/'own.log')
    [own] = (tmp/'own').glob('*')
    images = tmp/'images'
    images.mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(256, size=(8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(images/f'{i}.png')
    return [train, tune,
            # 'auto' measures which precision is fastest, and a busy machine can give another one
            Writing('predict', [images, '--model', own, '--json', '--precision', 'fp32'], None,
                    lambda p: p.read_text()),
            Writing('export', [own], 'x.onnx', read_onnx),
            Writing('report', [own], 'x.html', read_page)]

# Kills

def try_one(job, folder, sig, after, whole):
    "Kill a command once; what was found, and the seconds until it was killed or had ended"
    folder.mkdir()
    log = folder.with_suffix('.log')
    began, pid = time.monotonic(), start(job.command(folder), log)
    status = wait(pid, after)
    lasted = time.monotonic() - began
    missed = status is not None
    if not missed:
        os.kill(pid, sig)
        status = wait(pid, 60)
        missed = status == 0   # it had just ended
    half, text = job.half(folder), log.read_text(errors='replace')
    left = [p.name for p in folder.rglob('.*')]
    resumed = job.finish(folder, log)
    same = job.result(folder) == whole
    row = dict(command=job.name, signal=sig.name, seconds=round(after, 3), missed=missed,
                status=status, half_written=half, left=len(left), resumed=resumed, identical=same,
                traceback='Traceback' in text, hang=status is None)
    return row, lasted

def kill_all(n, tmp, names=None, minutes=60, seed=20151210, each=None):
    "Kill `n` times, for at most so many minutes; a row for each kill, and for each that came late"
    get_dls('digits', n_train=96)   # read once, here; the children inherit it
    rng, rows, todo, end = random.Random(seed), [], [], time.monotonic() + 60*minutes
    for job in jobs(tmp):
        if names and job.name not in names: continue
        folder, began = tmp/f'whole-{job.name}', time.monotonic()
        folder.mkdir()
        log = folder.with_suffix('.log')
        run(job.command(folder), log)
        took = time.monotonic() - began
        job.log = log
        todo.append((job, job.result(folder), took))
    n_hits = 0
    while n_hits < n and time.monotonic() < end:
        at = n_hits%len(todo)
        job, whole, took = todo[at]
        folder, sig = tmp/f'kill-{len(rows)}', signals[n_hits//len(todo)%3]
        row, lasted = try_one(job, folder, sig, rng.uniform(0, took), whole)
        if row['missed']: todo[at] = job, whole, lasted   # the machine has become faster
        shutil.rmtree(folder)
        rows.append(row)
        n_hits += not row['missed']
        if each: each(rows)
    return rows

def summary(rows):
    "One line for each command"
    res = []
    for name in dict.fromkeys(r['command'] for r in rows):
        tried = [r for r in rows if r['command'] == name]
        mine = [r for r in tried if not r['missed']]
        res.append(dict(command=name, kills=len(mine), missed=len(tried) - len(mine),
                        resumed=sum(r['resumed'] for r in mine),
                        identical=sum(r['identical'] for r in mine),
                        half_written=sum(bool(r['half_written']) for r in mine),
                        temporary_files_left=sum(bool(r['left']) for r in mine),
                        traceback=sum(r['traceback'] for r in mine),
                        hang=sum(r['hang'] for r in mine)))
    return res

if __name__ == '__main__':
    more = '--more' in sys.argv
    numbers = [int(v) for v in sys.argv[1:] if v != '--more']
    n, minutes = (numbers + [60, 60][len(numbers):])[:2]
    out, commit = Path(__file__).parents[1]/'results/kills.json', source_commit()
    old = json.loads(out.read_text(encoding='utf-8')) if more else dict(kills=[], commits={})
    before = old['kills']
    def write(rows):
        "Write what has been found so far, and which code made it"
        part = f'tries {len(before) + 1} to {len(before) + len(rows)}'
        rows = before + rows
        write_json(dict(commits=old['commits'] | {part: commit}, summary=summary(rows), kills=rows),
                   out)
    with tempfile.TemporaryDirectory() as tmp:
        rows = kill_all(n, Path(tmp), minutes=minutes, seed=20151210 + len(before), each=write)
    for row in summary(before + rows): print(row)
    print(f'{sum(not r["missed"] for r in before + rows)} kills in {out}')
