"The page on the four write-ups: every row of their list has a place"
import json, re
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
features, mistakes = root/'nbs/write_ups.ipynb', root/'nbs/lessons/11b_find_more_bugs.ipynb'
listed = root.parent/'shared/reference/sources.md'

def rows(f):
    "Row → its cells, in all tables of a notebook"
    cells = json.loads(f.read_text(encoding='utf-8'))['cells']
    text = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    lines = [line.strip('| ').split(' | ') for line in text.splitlines() if line.startswith('| S')]
    return {line[0]: line[1:] for line in lines}

def numbers(names): return [int(re.search(r'\d+$', o)[0]) for o in names]

@pytest.mark.parametrize('f', [features, mistakes], ids=['features', 'mistakes'])
def test_no_row_is_missing_or_empty(f):
    found = rows(f)
    assert all(len(cells) == 2 and all(map(str.strip, cells)) for cells in found.values())
    for letter in ('S0', 'S1', 'S2', 'S4'):
        own = numbers(o for o in found if o.startswith(letter + '-'))
        assert own == list(range(1, len(own) + 1))

@pytest.mark.skipif(not listed.exists(), reason='needs the list of what the write-ups contain')
def test_all_rows_of_the_list():
    wanted = set(re.findall(r'S\d-B?\d+', listed.read_text(encoding='utf-8')))
    assert wanted <= rows(features).keys() | rows(mistakes).keys()
