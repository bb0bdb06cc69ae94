"""Startup time of imports and of `resnet-course --help` in seconds, each in a fresh process.

    python benchmarks/startup.py [--rounds 7]

The commands take turns in every round; the median of each counts. `fastai` imports only the
modules of fastai that the package imports, and what they import, including torch.
"""
import argparse, json, statistics, subprocess, sys, time
from pathlib import Path

from resnet_course.core import write_json
from resnet_course.records import machine, versions

root = Path(__file__).resolve().parent.parent
paths = sorted((root/'resnet_course').glob('*.py'))
modules = [f'resnet_course.{p.stem}' for p in paths if not p.stem.startswith('_')]

def python(code): return [sys.executable, '-c', code]
def importing(names): return python(f'import {", ".join(names)}')

def fastai_modules():
    "The modules of fastai that the package imports"
    code = (f'import json, sys, {", ".join(modules)}\n'
            'names = [m for m in sys.modules if m.partition(".")[0] == "fastai"]\n'
            'print(json.dumps(sorted(names)))')
    res = subprocess.run(python(code), capture_output=True, text=True, check=True)
    return json.loads(res.stdout.splitlines()[-1])

def seconds(cmd):
    "The seconds that the process of `cmd` runs"
    start = time.perf_counter()
    subprocess.run(cmd, capture_output=True, check=True)
    return time.perf_counter() - start

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=7)
    rounds = p.parse_args().rounds
    commands = {
        'python': python('pass'), 'fastai': importing(fastai_modules()),
        'import resnet_course': importing(['resnet_course']), 'all its modules': importing(modules),
        'resnet-course --help': [sys.executable, '-m', 'resnet_course.cli', '--help']}
    took = {k: [] for k in commands}
    for _ in range(rounds):
        for k, cmd in commands.items(): took[k].append(round(seconds(cmd), 3))
    rows = [dict(what=k, seconds=statistics.median(v), rounds=v) for k, v in took.items()]
    for r in rows: print(f"{r['what']:22} {r['seconds']:.2f} s")
    write_json(dict(what='seconds from the start of a process to its end', rows=rows,
                    machine=machine(), versions=versions()), root/'results/startup.json')

if __name__ == '__main__': main()
