"The recorded table of public layouts and architectures is complete, and all is as expected"
import json, runpy
from collections import Counter

import pytest
from conftest import root

def record(): return json.loads((root/'results/layouts.json').read_text(encoding='utf-8'))

def test_every_result_is_as_expected():
    rows = record()['rows']
    assert len(rows) >= 60
    assert [r for r in rows if r['result'] != r['expected']] == []
    assert all(r['source'] and r['what'] for r in rows)
    assert all(n >= 10 for n in Counter(r['kind'] for r in rows).values())
    assert len({(r['kind'], r['what']) for r in rows}) == len(rows)

def test_the_record_is_of_the_table(tmp_path):
    "Every layout of the script is in the record, with its source, and one is loaded again"
    for library in ('timm', 'transformers'):
        pytest.importorskip(library, reason=f'{library} is not installed')
    tool = runpy.run_path(str(root/'tools/layout_table.py'))
    known = {r['what']: r for r in record()['rows'] if r['kind'] == 'layout'}
    for title, who in tool['sources'].items(): assert known[title]['source'] == who
    [case] = [c for c in tool['cases'] if c.title == 'MoCo: two encoders and a queue']
    assert tool['load'](case, tmp_path)[0] == known[case.title]['result']

def test_who_says_what_it_is():
    rec = record()
    assert len(rec['commit'].split()[0]) == 40
    assert {'torch', 'torchvision', 'timm', 'transformers'} <= set(rec['versions'])
