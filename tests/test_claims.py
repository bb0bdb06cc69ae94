"The tool that repeats the lessons' experiments with other seeds"
import importlib.util, json
from pathlib import Path

import pytest

root = Path(__file__).parents[1]

@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('claims', root/'tools/claims.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def test_every_sentence_is_in_its_lesson(tool):
    lost = [f'{c.id} {c.sentence}' for c in tool.claims if not tool.in_lesson(c)]
    assert not lost, f'tools/claims.py tests what no lesson says: {lost}'
    assert len({c.id for c in tool.claims}) == len(tool.claims) >= 30

def test_sentences_may_be_reworded_but_not_lost(tool):
    said = 'Without a shortcut, four units are no better than a network that always answers 0.5.'
    assert tool.likeness('four units are no better than the network that answers 0.5', said) > 0.6
    assert tool.likeness('The gradients of the first layers are too large', said) < 0.6

def test_cells_by_the_names_they_define(tool):
    ns = tool.lesson('04', 'branch', 'learn_to_copy', 'Copy')
    assert ns.learn_to_copy(1, True, steps=1, seed=0)[0] < 0.2
    assert not hasattr(ns, 'curves') and hasattr(ns, 'plt')   # no runs, but all imports
    with pytest.raises(LookupError, match='no_such_name'): tool.lesson('04', 'no_such_name')

def test_a_claim_that_fails(tool, tmp_path, monkeypatch, capsys):
    sentence = 'With shortcuts, the same 56 layers with the same number of parameters'
    def f(seed): return seed != 12, str(seed)
    monkeypatch.setattr(tool, 'claims', [tool.Claim('04.1', sentence, f, 1.)])
    out = tmp_path/'claims.json'
    monkeypatch.setattr('sys.argv', ['claims.py', '--out', str(out)])
    with pytest.raises(SystemExit, match='04.1'): tool.main()
    row, = json.loads(out.read_text())['claims']
    assert row['held'] == {'11': True, '12': False, '13': True} and row['in_text'] and not row['ok']
    assert 'seed 12: does NOT hold: 12' in capsys.readouterr().out
