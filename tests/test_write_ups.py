"The page on the four write-ups: every row of their list has a place"
import json, re
from pathlib import Path

import pytest

from resnet_course.models import list_models
from resnet_course.recipes import recipes

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

# how many rows the list of what the write-ups contain has: things, and mistakes
n_rows = {features: dict(S0=31, S1=17, S2=19, S4=18), mistakes: dict(S0=14, S1=14, S2=17, S4=11)}

@pytest.mark.parametrize('f', [features, mistakes], ids=['features', 'mistakes'])
def test_no_row_is_missing_or_empty(f):
    found = rows(f)
    assert all(len(cells) == 2 and all(map(str.strip, cells)) for cells in found.values())
    for letter, n in n_rows[f].items():
        own = numbers(o for o in found if o.startswith(letter + '-'))
        assert own == list(range(1, n + 1)), letter

def test_a_missing_row_is_noticed(tmp_path):
    "Also the last one of a table"
    for last in ('S0-31', 'S4-18'):
        text = features.read_text(encoding='utf-8')
        short = tmp_path/f'{last}.ipynb'
        short.write_text(re.sub(rf'"\| {last} \|[^\n]*', '""', text), encoding='utf-8')
        assert last in rows(features) and last not in rows(short)

@pytest.mark.parametrize('f', [features, mistakes], ids=['features', 'mistakes'])
def test_links_lead_somewhere(f):
    "To files of the site, and to headings in them"
    for cells in rows(f).values():
        for target in re.findall(r'\]\(([^)]+)\)', cells[-1]):
            file, _, anchor = target.partition('#')
            page = f.parent/file if file else f
            assert page.is_file(), target
            if not anchor: continue
            text = page.read_text(encoding='utf-8')
            if page.suffix == '.ipynb':
                text = '\n'.join(''.join(c['source']) for c in json.loads(text)['cells'])
            titles = re.findall(r'^#+ (.*)', text, re.M)
            assert anchor in {re.sub(r'[^\w -]', '', t).lower().replace(' ', '-') for t in titles}

def test_names_exist():
    "Recipes, networks, functions and commands that the rows name"
    text = ' '.join(cells[-1] for cells in rows(features).values())
    for name in re.findall(r'The recipe `(\w+)`', text): assert name in recipes, name
    for name in re.findall(r"create_model\('(\w+)'", text): assert name in list_models(), name
    cli = (root/'resnet_course/cli.py').read_text(encoding='utf-8')
    for name in re.findall(r'`resnet-course ([\w-]+)', text):
        assert f"command('{name}'" in cli or f'def {name}(' in cli or f'{name}_app' in cli, name
    for name in ('draw_network', 'plot_rate_cuts', 'fit_identity', 'identity_error', 'compare_nets',
                 'layer_responses', 'neighbors', 'plot_history', 'model_summary', 'load_weights'):
        assert f'`{name}`' in text, name
        defined = [m for m in (root/'resnet_course').glob('*.py')
                   if f'def {name}(' in m.read_text(encoding='utf-8')]
        assert defined, name

@pytest.mark.skipif(not listed.exists(), reason='needs the list of what the write-ups contain')
def test_all_rows_of_the_list():
    wanted = set(re.findall(r'S\d-B?\d+', listed.read_text(encoding='utf-8')))
    assert wanted <= rows(features).keys() | rows(mistakes).keys()
