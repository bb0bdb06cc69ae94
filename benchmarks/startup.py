"""What it costs to begin: imports and `resnet-course --help`, seconds, each in a fresh process

    python benchmarks/startup.py [--rounds 7]

Rounds go through all ways in turn; the median of each counts. `fastai` imports just those modules of fastai that the package imports, and
what they import, torch among them.
"""
import argparse, json, statistics, subprocess, sys, time
from pathlib import Path

from resnet_course.runs import machine, versions
from resnet_course.core import write_json

out = Path(__file__).resolve().parent.parent/'results'/'startup.json'
modules = [f'resnet_course.{p.stem}' for p in sorted((out.parent.parent/'resnet_course').glob('*.py')) if not p.stem.startswith('_')]

def python(code): return [sys.executable, '-c', code]

def fastai_modules():
    "Those that the package imports"
    code = f'import sys, json, {", ".join(modules)}; print(json.dumps(sorted(m for m in sys.modules if m.partition(".")[0] == "fastai")))'
    return json.loads(subprocess.run(python(code), capture_output=True, text=True, check=True).stdout.splitlines()[-1])

def seconds(cmd):
    "One process, from its start to its end"
    start = time.perf_counter()
    subprocess.run(cmd, capture_output=True, check=True)
    return time.perf_counter() - start

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=7)
    rounds = p.parse_args().rounds
    ways = {'python': python('pass'), 'fastai': python(f'import {", ".join(fastai_modules())}'), 'import resnet_course': python('import resnet_course'),
            'all its modules': python(f'import {", ".join(modules)}'), 'resnet-course --help': [sys.executable, '-m', 'resnet_course.cli', '--help']}
    took = {k: [] for k in ways}
    for _ in range(rounds):
        for k, cmd in ways.items(): took[k].append(round(seconds(cmd), 3))
    rows = [dict(what=k, seconds=statistics.median(v), rounds=v) for k, v in took.items()]
    for r in rows: print(f"{r['what']:22} {r['seconds']:.2f} s")
    write_json(dict(what='seconds from the start of a process to its end', rows=rows, machine=machine(), versions=versions()), out)

if __name__ == '__main__': main()
