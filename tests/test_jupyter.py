"The first lesson as a learner meets it: `resnet-course lessons --open`, and JupyterLab in a real browser"
import json, os, re, signal, subprocess, sys, time
from pathlib import Path

import pytest
from browser import open_browser

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.skipif(os.name == 'nt', reason='stops JupyterLab by POSIX signals')]
root = Path(__file__).resolve().parent.parent
config = {'ServerApp': dict(open_browser=False, allow_root=True, port_retries=200), 'LabApp': dict(expose_app_in_browser=True)}
minutes = 60_000
# What JupyterLab knows about the notebook on the screen: cells that are scrolled away are not in the page
state = '''() => { const w = jupyterapp.shell.currentWidget, k = w.sessionContext.session?.kernel;
    const cells = w.content.model.toJSON().cells.filter(c => c.cell_type === 'code');
    return {kernel: k?.status, cells: cells.map(c => ({n: c.execution_count, source: [c.source].flat().join(''),
        error: c.outputs.filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue)[0],
        kinds: c.outputs.flatMap(o => Object.keys(o.data ?? {[o.output_type]: 0})),
        text: c.outputs.map(o => [o.text ?? o.data?.['text/html'] ?? o.data?.['text/plain'] ?? ''].flat().join('')).join('')}))}; }'''

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "JupyterLab as the command starts it, with settings of its own; yields the address that it printed"
    pytest.importorskip('jupyterlab', reason='JupyterLab is not installed')
    work = tmp_path_factory.mktemp('lab')
    (work/'config').mkdir()
    (work/'config/jupyter_server_config.json').write_text(json.dumps(config))
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'MPLBACKEND')}
    env |= {f'JUPYTER_{k}_DIR': str(work/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')} | {'JUPYTERLAB_SETTINGS_DIR': str(work/'settings'),
            'JUPYTERLAB_WORKSPACES_DIR': str(work/'workspaces'), 'PYTHONPATH': os.pathsep.join(filter(None, [str(root), os.environ.get('PYTHONPATH')]))}
    log = work/'lab.log'
    with log.open('w') as f:
        server = subprocess.Popen([sys.executable, '-m', 'resnet_course.cli', 'lessons', 'mine', '--open'], cwd=work, env=env,
                                  stdout=f, stderr=f, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(600):
            if found := re.search(r'http://(?:localhost|127\.0\.0\.1):\d+/lab/\S*token=\w+', log.read_text()): break
            assert server.poll() is None, log.read_text()[-3000:]
            time.sleep(.2)
        assert found, log.read_text()[-3000:]
        yield found[0], work/'mine'
    finally:
        if server.poll() is None: os.killpg(server.pid, signal.SIGTERM)   # JupyterLab ends its kernels
        try: server.wait(60)
        except subprocess.TimeoutExpired: os.killpg(server.pid, signal.SIGKILL)

def until(page, done, timeout):
    "Wait until `done(state)` and the kernel has nothing left to do; the state then. An error ends the waiting"
    end = time.time() + timeout/1000
    while time.time() < end:
        s = page.evaluate(state)
        errors = [f'{c["source"]}\n{c["error"]}' for c in s['cells'] if c['error']]
        assert not errors, errors[0]
        if done(s) and s['kernel'] == 'idle': return s
        page.wait_for_timeout(500)
    raise AssertionError(f"not done in {timeout/minutes:.0f} minutes: kernel {s['kernel']}, {sum(c['n'] is not None for c in s['cells'])} of {len(s['cells'])} cells")

def answer(page, n, code):
    "Put `code` in place of what stands in code cell number `n`, run it, and return what it says"
    before = page.evaluate(state)['cells'][n]['n']
    page.evaluate('''async n => { const c = jupyterapp.shell.currentWidget.content;
        c.activeCellIndex = c.widgets.map((w, i) => [w, i]).filter(([w]) => w.model.type === 'code')[n][1]; await c.scrollToItem(c.activeCellIndex); }''', n)
    box = page.locator('.jp-CodeCell.jp-mod-active .cm-content')
    box.click()
    page.keyboard.press('Control+a')
    page.keyboard.insert_text(code)
    page.keyboard.press('Control+Enter')
    return until(page, lambda s: s['cells'][n]['n'] not in (None, before), 2*minutes)['cells'][n]['text']

def shot(page, name):
    "Keep a picture of the screen where RESNET_COURSE_SHOTS says"
    if to := os.environ.get('RESNET_COURSE_SHOTS'): page.screenshot(path=f'{to}/jupyterlab_{name}.png')

def test_first_lesson(lab):
    "Opened, run from the first cell to the last, its exercises answered wrong and right, saved"
    url, folder = lab
    with open_browser() as browser:
        page = browser.new_page(viewport=dict(width=1400, height=1000))
        page.goto(url)
        page.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=3*minutes)
        page.wait_for_function("() => jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=3*minutes)
        assert 'Train a classifier in one minute' in page.locator('.jp-MarkdownCell h1').first.inner_text()
        fresh = page.evaluate(state)['cells']
        assert not any(c['n'] or c['text'] for c in fresh)    # to be run, not read
        shot(page, 'opened')

        page.locator('.lm-MenuBar-item', has_text=re.compile('^Run$')).click()
        page.get_by_text('Run All Cells', exact=True).click()
        s = until(page, lambda s: all(c['n'] for c in s['cells'] if c['source'].strip()), 15*minutes)
        trained = next(c for c in s['cells'] if c['source'].startswith('learn = fit_recipe'))
        assert 'valid_loss' in trained['text'] and sum('image/png' in c['kinds'] for c in s['cells']) >= 4
        assert page.locator('.jp-OutputArea-output:has-text("Error")').count() == 0
        shot(page, 'ran')

        n = {m[1]: i for i, c in enumerate(s['cells']) if (m := re.search(r"check\('([\d.]+)'", c['source']))}
        assert all('not answered yet' in s['cells'][i]['text'] for i in n.values())
        wrong = answer(page, n['01.4'], "how_many = 100\ncheck('01.4', how_many);")
        shot(page, 'wrong')
        right = answer(page, n['01.4'], "how_many = 3458\ncheck('01.4', how_many);")
        assert wrong.startswith('✗ 01.4') and right.strip() == '✓ 01.4: right.'
        code = "def my_accuracy(probs, targets): return {}\ncheck('01.1', my_accuracy);"
        wrong = answer(page, n['01.1'], code.format('(probs.argmax(0) == targets).float().mean()'))
        right = answer(page, n['01.1'], code.format('(probs.argmax(1) == targets).float().mean()'))
        assert wrong.startswith('✗ 01.1') and right.strip() == '✓ 01.1: right.'
        shot(page, 'right')

        page.keyboard.press('Control+s')
        page.wait_for_function('() => !jupyterapp.shell.currentWidget.context.model.dirty', timeout=minutes)
    saved = json.loads((folder/'lessons/01_first_classifier.ipynb').read_text(encoding='utf-8'))
    assert 'how_many = 3458' in ''.join(''.join(c['source']) for c in saved['cells'])
    assert (folder/'lessons/models/clothes.safetensors').is_file()
