"The first lesson as learners meet it: `resnet-course lessons --open`, then JupyterLab in a browser"
import json, os, re, signal, subprocess, sys, time
from pathlib import Path

import pytest
from browser import open_browser

pytestmark = [pytest.mark.browser, pytest.mark.slow,
              pytest.mark.skipif(os.name == 'nt', reason='stops JupyterLab by POSIX signals')]
root = Path(__file__).resolve().parent.parent
config = {'ServerApp': dict(open_browser=False, allow_root=True, port_retries=200),
          'LabApp': dict(expose_app_in_browser=True)}
minutes = 60_000
stalled_after = 5*60  # seconds without any change
# JupyterLab's model of the open notebook; cells that are scrolled away are not in the page
state = '''() => {
    const w = jupyterapp.shell.currentWidget, k = w.sessionContext.session?.kernel;
    const cells = w.content.model.toJSON().cells.filter(c => c.cell_type === 'code');
    const text = o => [o.text ?? o.data?.['text/html'] ?? o.data?.['text/plain'] ?? ''];
    const errors = c => c.outputs.filter(o => o.output_type === 'error');
    return {kernel: k?.status, cells: cells.map(c => ({
        n: c.execution_count,
        source: [c.source].flat().join(''),
        error: errors(c).map(o => o.ename + ': ' + o.evalue)[0],
        kinds: c.outputs.flatMap(o => Object.keys(o.data ?? {[o.output_type]: 0})),
        text: c.outputs.map(o => text(o).flat().join('')).join('')}))}; }'''
kernel_is_idle = '''() =>
    jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle' '''
go_to_cell = '''async n => {
    const c = jupyterapp.shell.currentWidget.content;
    const code = c.widgets.map((w, i) => [w, i]).filter(([w]) => w.model.type === 'code');
    c.activeCellIndex = code[n][1];
    await c.scrollToItem(c.activeCellIndex); }'''
lab_url = r'http://(?:localhost|127\.0\.0\.1):\d+/lab/\S*token=\w+'

def environment(work):
    "The environment of a JupyterLab that keeps its settings in the folder `work`"
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'MPLBACKEND')}
    for k in ('CONFIG', 'DATA', 'RUNTIME'): env[f'JUPYTER_{k}_DIR'] = str(work/k.lower())
    for k in ('SETTINGS', 'WORKSPACES'): env[f'JUPYTERLAB_{k}_DIR'] = str(work/k.lower())
    path = filter(None, [str(root), os.environ.get('PYTHONPATH')])
    return env | dict(PYTHONPATH=os.pathsep.join(path))

def wait_for_url(log, server):
    "The address that JupyterLab prints when it has started"
    for _ in range(600):
        found = re.search(lab_url, log.read_text())
        if found: return found[0]
        assert server.poll() is None, log.read_text()[-3000:]
        time.sleep(.2)
    pytest.fail(log.read_text()[-3000:])

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "JupyterLab as the command starts it; yields its address and the folder of lessons"
    pytest.importorskip('jupyterlab', reason='JupyterLab is not installed')
    work = tmp_path_factory.mktemp('lab')
    (work/'config').mkdir()
    (work/'config/jupyter_server_config.json').write_text(json.dumps(config))
    log, cmd = work/'lab.log', [sys.executable, '-m', 'resnet_course.cli', 'lessons', 'mine']
    with log.open('w') as f:
        server = subprocess.Popen([*cmd, '--open'], cwd=work, env=environment(work), stdout=f,
                                  stderr=f, stdin=subprocess.DEVNULL, start_new_session=True)
    try: yield wait_for_url(log, server), work/'mine'
    finally:
        # JupyterLab ends its kernels
        if server.poll() is None: os.killpg(server.pid, signal.SIGTERM)
        try: server.wait(60)
        except subprocess.TimeoutExpired: os.killpg(server.pid, signal.SIGKILL)

def until(page, done):
    "The state once `done(state)` and the kernel is idle; fails after five minutes without a change"
    last, changed = None, time.monotonic()
    while True:
        s = page.evaluate(state)
        errors = [f'{c["source"]}\n{c["error"]}' for c in s['cells'] if c['error']]
        assert not errors, errors[0]
        assert s['kernel'] not in ('dead', 'autorestarting'), f"the kernel is {s['kernel']}"
        if done(s) and s['kernel'] == 'idle': return s
        if s != last: last, changed = s, time.monotonic()
        n_run = sum(c['n'] is not None for c in s['cells'])
        assert time.monotonic() - changed < stalled_after, (
            f"nothing has changed for {stalled_after} s: kernel {s['kernel']}, "
            f"{n_run} of {len(s['cells'])} cells")
        page.wait_for_timeout(500)

def answer(page, n, code):
    "Replace the source of code cell number `n` by `code`, run it, and return its output"
    before = page.evaluate(state)['cells'][n]['n']
    page.evaluate(go_to_cell, n)
    page.locator('.jp-CodeCell.jp-mod-active .cm-content').click()
    page.keyboard.press('Control+a')
    page.keyboard.insert_text(code)
    page.keyboard.press('Control+Enter')
    s = until(page, lambda s: s['cells'][n]['n'] not in (None, before))
    return s['cells'][n]['text']

def shot(page, name):
    "Save a screenshot in the folder RESNET_COURSE_SHOTS, if it is set"
    folder = os.environ.get('RESNET_COURSE_SHOTS')
    if folder: page.screenshot(path=f'{folder}/jupyterlab_{name}.png')

def open_lesson(page, url):
    "Open the lesson; nothing in it has run"
    page.goto(url)
    page.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=3*minutes)
    page.wait_for_function(kernel_is_idle, timeout=3*minutes)
    title = page.locator('.jp-MarkdownCell h1').first.inner_text()
    assert 'Train a classifier in one minute' in title
    assert not any(c['n'] or c['text'] for c in page.evaluate(state)['cells'])

def run_all(page):
    "Run all cells; the state afterwards"
    page.locator('.lm-MenuBar-item', has_text=re.compile('^Run$')).click()
    page.get_by_text('Run All Cells', exact=True).click()
    s = until(page, lambda s: all(c['n'] for c in s['cells'] if c['source'].strip()))
    trained = next(c for c in s['cells'] if c['source'].startswith('learn = fit_recipe'))
    assert 'valid_loss' in trained['text']
    assert sum('image/png' in c['kinds'] for c in s['cells']) >= 4
    assert page.locator('.jp-OutputArea-output:has-text("Error")').count() == 0
    return s

def exercise_cells(s):
    "Number of an exercise → number of the code cell that checks it"
    found = {}
    for i, c in enumerate(s['cells']):
        m = re.search(r"check\('([\d.]+)'", c['source'])
        if m: found[m[1]] = i
    return found

def test_first_lesson(lab):
    "Open it, run all cells, answer exercises wrong and right, and save"
    url, folder = lab
    with open_browser() as browser:
        page = browser.new_page(viewport=dict(width=1400, height=1000))
        open_lesson(page, url)
        shot(page, 'opened')
        s = run_all(page)
        shot(page, 'ran')

        cells = exercise_cells(s)
        assert all('not answered yet' in s['cells'][i]['text'] for i in cells.values())
        wrong = answer(page, cells['01.4'], "how_many = 100\ncheck('01.4', how_many);")
        shot(page, 'wrong')
        right = answer(page, cells['01.4'], "how_many = 3458\ncheck('01.4', how_many);")
        assert wrong.startswith('✗ 01.4') and right.strip() == '✓ 01.4: right.'
        code = "def my_accuracy(probs, targets): return {}\ncheck('01.1', my_accuracy);"
        mean = '(probs.argmax({}) == targets).float().mean()'
        wrong = answer(page, cells['01.1'], code.format(mean.format(0)))
        right = answer(page, cells['01.1'], code.format(mean.format(1)))
        assert wrong.startswith('✗ 01.1') and right.strip() == '✓ 01.1: right.'
        shot(page, 'right')

        page.keyboard.press('Control+s')
        saved = '() => !jupyterapp.shell.currentWidget.context.model.dirty'
        page.wait_for_function(saved, timeout=minutes)
    nb = json.loads((folder/'lessons/01_first_classifier.ipynb').read_text(encoding='utf-8'))
    assert 'how_many = 3458' in ''.join(''.join(c['source']) for c in nb['cells'])
    assert (folder/'lessons/models/clothes.safetensors').is_file()
