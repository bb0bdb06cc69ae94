#!/usr/bin/env python3
"""Which modules a run calls, in order of their first call, for the map in CONTRIBUTING.md.

    python tools/walk.py [--check]     write the two lists, or say whether they are stale

The first is of `train --data DIR` until the run has ended, with its record in `run.json`; the
second of `train --resume RUN` until the next step of the optimizer. Only calls of functions count,
not what a module does when it is imported. The tool also counts how often `checkpoint.pt` is read.
"""
import argparse, re, subprocess, sys, tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
START, END = '<!-- walk: made by tools/walk.py -->', '<!-- end of walk -->'

# Run in a process of its own: its arguments are 'step' or 'end', and the command's
PROGRAM = '''
import os, sys
from torch.optim.optimizer import register_optimizer_step_pre_hook
import resnet_course
from resnet_course import cli

package = os.path.dirname(resnet_course.__file__)
until, sys.argv[1:] = sys.argv[1], sys.argv[2:]
called, reads = [], []

def callers(frame):
    "The frames of the package from which `frame` was called"
    while frame is not None:
        if frame.f_code.co_filename.startswith(package): yield frame
        frame = frame.f_back

def on_call(frame, event, arg):
    "Note the module of a function"
    file = frame.f_code.co_filename
    if event != 'call' or not file.startswith(package): return
    if any(o.f_code.co_name == '<module>' for o in callers(frame)): return   # an import
    name = os.path.basename(file)[:-3]
    if name not in called and name != '__init__': called.append(name)

def on_event(event, args):
    "Note that a checkpoint is opened to read it"
    if event != 'open' or not str(args[0]).endswith('checkpoint.pt'): return
    if not set(args[1] or '') & set('wax+'): reads.append(args[0])

class FirstStep(Exception): pass

def end(*args, **kwargs): raise FirstStep

sys.addaudithook(on_event)
if until == 'step': register_optimizer_step_pre_hook(end)
sys.setprofile(on_call)
try: cli.main()
except (FirstStep, SystemExit): pass
finally: sys.setprofile(None)
print()
print(*called)
print(len(reads))
'''

def walk(until, *args):
    "Names of the modules that a command calls, and how often it reads a checkpoint"
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', PROGRAM, until, *map(str, args)],
                         capture_output=True, text=True)
    if res.returncode: sys.exit(res.stderr[-2000:])
    *_, called, reads = res.stdout.splitlines()
    return called.split(), int(reads)

def make_photos(folder):
    "Two classes of small random images"
    import numpy as np
    from PIL import Image
    rng = np.random.default_rng(0)
    for i in range(24):
        file = folder/'ab'[i%2]/f'{i}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 32, 3), dtype=np.uint8)).save(file)
    return folder

def interrupted_run(data, out):
    "A folder with a checkpoint, as a run leaves it that is stopped after its first epoch"
    from resnet_course.checkpoint import Checkpoint, Interrupted
    from resnet_course.runs import train_run
    save = Checkpoint.save
    def stop(self, epoch, it):
        "Save, then stop before the second epoch"
        save(self, epoch, it)
        if epoch == 1: raise Interrupted('stopped', self.path)
    Checkpoint.save = stop
    try: train_run(data=data, arch='resnet8', epochs=3, bs=8, size=32, out=out)
    except Interrupted: pass
    finally: Checkpoint.save = save
    return next(out.glob('*/checkpoint.pt')).parent

def walks():
    "The two lists, and the number of times that resuming reads the checkpoint"
    with tempfile.TemporaryDirectory() as tmp:
        data, out = make_photos(Path(tmp)/'photos'), Path(tmp)/'runs'
        train, _ = walk('end', 'train', '--data', data, '--arch', 'resnet8', '--epochs', 2, '--bs',
                        8, '--size', 32, '--out', out/'a')
        resume, reads = walk('step', 'train', '--resume', interrupted_run(data, out/'b'))
    return train, resume, reads

def table(train, resume):
    "The lists for CONTRIBUTING.md"
    return '\n'.join([
        '| command | until | modules, in order of their first call |', '|---|---|---|',
        f"| `train --data DIR` | `run.json` | {len(train)}: {', '.join(train)} |",
        f"| `train --resume RUN` | the next step | {len(resume)}: {', '.join(resume)} |"])

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--check', action='store_true', help='change nothing; exit 1 if stale')
    a = p.parse_args()
    file = root/'CONTRIBUTING.md'
    train, resume, reads = walks()
    text = file.read_text(encoding='utf-8')
    new = re.sub(f'(?s){START}.*{END}', f'{START}\n{table(train, resume)}\n{END}', text)
    stale = new != text
    if not a.check: file.write_text(new, encoding='utf-8')
    print(f'train calls {len(train)} modules, --resume {len(resume)}; resuming reads the '
          f'checkpoint {reads} times')
    if stale: print('CONTRIBUTING.md is stale' if a.check else 'Wrote CONTRIBUTING.md')
    sys.exit(a.check and (stale or reads != 1))
