"""Run the tests of the exercises many times, since exercises draw their inputs at random.

    python tools/repeat_checks.py [--times N] [--seconds S] [NOTEBOOK ...]

Without notebooks: all of `nbs/api/checks`. Each `accepts` and `rejects` in them runs `N` times, or
for `S` seconds, whatever ends first. What fails even once is printed, with the number of its runs,
and the exit status is 1: a wrong answer that some inputs let through, a right one that some refuse,
or a hint for another mistake. Not part of the test suite: it takes some minutes.
"""
import argparse, json, sys, time
from collections import Counter
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))
from resnet_course import exercises

def repeated(f, runs, failures, times, seconds):
    "`f`, called many times, with what it raised counted in `failures`"
    def again(id, answer, *args):
        key, end = (f.__name__, id, *args), time.monotonic() + seconds
        for _ in range(times):
            runs[key] += 1
            try: f(id, answer, *args)
            except AssertionError as e: failures[(key, str(e))] += 1
            if time.monotonic() > end: return
    return again

def run(notebook, times, seconds):
    "Runs and failures of the tests in `notebook`"
    runs, failures = Counter(), Counter()
    names = {'__name__': 'checks'}   # classes want to know where they are from
    tests = {f.__name__: repeated(f, runs, failures, times, seconds)
             for f in (exercises.accepts, exercises.rejects)}
    for cell in json.loads(Path(notebook).read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] != 'code': continue
        exec(compile(''.join(cell['source']), str(notebook), 'exec'), names)
        for name, test in tests.items():
            if name in names: names[name] = test
    return runs, failures

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('notebooks', nargs='*')
    parser.add_argument('--times', type=int, default=300)
    parser.add_argument('--seconds', type=float, default=5)
    args = parser.parse_args()
    bad = False
    for o in args.notebooks or sorted((root/'nbs/api/checks').glob('*.ipynb')):
        runs, failures = run(o, args.times, args.seconds)
        print(f'{Path(o).name}: {sum(runs.values()):,} runs of {len(runs)} tests', flush=True)
        for (key, said), n in failures.items(): print(f'  {n} of {runs[key]} failed: {key}: {said}')
        bad = bad or bool(failures)
    sys.exit(bad)
