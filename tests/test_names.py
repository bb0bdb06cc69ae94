"Names that other people chose: any bytes, any script, any length; trained, recorded and drawn"
import csv, os, sys, warnings
from pathlib import Path

import pytest
from browser import open_browser, watched
from helpers import noise, quiet, run_command

from resnet_course.core import plot_text, printable
from resnet_course.interpret import neighbors, plot_cam, plot_neighbors
from resnet_course.report import html_report
from resnet_course.predict import Prediction, write_csv
from resnet_course.records import load_run
from resnet_course.runs import train_run
from resnet_course.reuse import evaluate_run, run_learner
from resnet_course.saving import load_model

# The first character says in what order Python sorts them
names = [os.fsdecode(b'a caf\xe9'), 'b 猫 кот قط 🐈', 'c $x^$ and $', 'd new\nline',
         'e <script>x</script>', 'f \x1b[2J\x1b]0;owned\x07', 'g ' + 'x'*200,
         "h \"quoted\" 'twice'", 'i \u202ereversed', 'j &amp; \\n %s {0}', 'k \\$',
         'l ' + '\u0301'*20]

@pytest.fixture(scope='module', params=['folder', 'csv'])
def run(request, tmp_path_factory):
    "A finished run on images with these classes, and its folder"
    tmp = tmp_path_factory.mktemp('names')
    source = make_folder(tmp) if request.param == 'folder' else make_csv(tmp)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')   # no font here has all of the characters
        rec, _ = train_run(source, 'resnet8', epochs=1, bs=8, size=32, seed=0, out=tmp/'runs',
                           setup=quiet)
    return Path(rec['path'])

def make_folder(tmp):
    "Class folders whose own folder has a strange name, too"
    folder = tmp/'set $\n\x1b'
    for i, name in enumerate(names):
        try: (folder/name).mkdir(parents=True)
        except OSError: pytest.skip('this file system does not take any bytes as a name')
        for j in range(8): noise().save(folder/name/f'{j} $\udcff\x1b.png')
    return folder

def make_csv(tmp):
    "A CSV file, whose labels may be as long as they like"
    noise().save(tmp/'x.png')
    labels = [n for n in names if '\udce9' not in n and '\n' not in n] + ['z' + 'y'*10_000]
    with open(tmp/'set.csv', 'w', newline='', encoding='utf-8') as f:
        rows = csv.writer(f)
        rows.writerow(['path', 'label'])
        for label in labels:
            for i in range(8):
                name = f'{labels.index(label)}-{i}.png'
                noise().save(tmp/name)
                rows.writerow([name, label])
    return tmp/'set.csv'

def test_recorded(run):
    "The record and the weights have the names as they are"
    rec, model = load_run(run), load_model(run/'model.safetensors')
    vocab = model.meta['vocab']
    assert [o['name'] for o in rec['test']['per_class']] == vocab
    assert names[1] in vocab and names[5] in vocab
    # The folder of the run is a name for any terminal
    assert printable(run.name) == run.name and len(os.fsencode(run.name)) < 256

def test_drawn(run, tmp_path):
    "Every figure with class names can be drawn, and none of them is taken for a formula"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn, _ = run_learner(run)
        report, _ = evaluate_run(run)
        figures = [report.plot_confusion().figure, report.plot_worst(learn.dls), plot_cam(learn),
                   plot_neighbors(neighbors(learn))]
        for fig in figures:
            fig = getattr(fig, 'figure', fig)
            fig.savefig(tmp_path/'x.png')
            fig.savefig(tmp_path/'x.svg')
    texts = [t.get_text() for t in figures[0].axes[0].get_yticklabels()]
    assert r'c \$x^\$ and \$' in texts and all(len(t) <= 26 for t in texts)

@pytest.mark.skipif(sys.platform != 'linux', reason='elsewhere all names are UTF-8')
@pytest.mark.filterwarnings('ignore')
def test_a_folder_of_any_bytes(tmp_path, monkeypatch, capfd):
    "Runs in it are made, and then used in every way; safetensors and onnxruntime want UTF-8"
    folder = tmp_path/os.fsdecode(b'caf\xe9 $x \xff\n\x1b')
    folder.mkdir()
    monkeypatch.chdir(folder)
    noise().save('x.png')
    small = ['--data', 'digits', '--n-train', 64, '--epochs', 1, '--out', folder/'runs']
    def run(*args): assert run_command(*args) == 0, capfd.readouterr().err
    run('train', *small, '--arch', 'resnet8')
    run_folder = folder/'runs'/'digits-resnet8-001'
    weights = run_folder/'model.safetensors'
    run('evaluate', run_folder)
    run('export', run_folder)
    run('predict', folder/'x.png', '--model', run_folder, '--csv', folder/'x.csv')
    run('predict', folder/'x.png', '--model', run_folder/'model.onnx')
    run('draw', weights)
    run('report', run_folder)
    run('train', *small, '--arch', 'resnet8', '--weights', weights)
    run('finetune', *small, '--weights', weights, '--plan', 'head')
    said = ''.join(capfd.readouterr())
    assert not {c for c in said if printable(c) != c} - {'\n'}
    assert (folder/'x.csv').read_text(encoding='utf-8').count('\n') == 2 + 1   # one in the name

def test_tables_of_predictions_have_all_names(tmp_path):
    "Names that are not UTF-8 get the escapes that the screen shows"
    names = ['a', '\udcff', 'x\ny', '=1+1']
    preds = [Prediction(f'{name}.png', [name], [1.]) for name in names]
    write_csv(preds, names, tmp_path/'x.csv')
    with open(tmp_path/'x.csv', encoding='utf-8', newline='') as f: head, *rows = csv.reader(f)
    shown = ['a', r'\udcff', 'x\ny', '=1+1']
    assert head[4:] == shown and [row[1] for row in rows] == shown
    assert [row[0] for row in rows] == [f'{name}.png' for name in shown]

def test_a_missing_glyph_is_named():
    "One warning for a character that no installed font has"
    with pytest.warns(UserWarning, match='no installed font has \U0010fff0'):
        plot_text('\U0010fff0')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        plot_text('\U0010fff0')

def test_report(run, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        page = html_report(run, tmp_path/'x.html').read_text(encoding='utf-8')
    assert '<script' not in page and '&lt;script&gt;' in page and '\x1b' not in page
    assert 'cannot be tested here' not in page

@pytest.mark.browser
def test_report_runs_no_script(run, tmp_path):
    "The page of a run with hostile names of classes, files and folders, opened in Chromium"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        file = html_report(run, tmp_path/'x.html')
    with open_browser() as browser:
        page, wrong = watched(browser.new_context())
        page.goto(file.as_uri())
        assert page.locator('script').count() == 0 and not wrong
        assert '<script>x<' in page.inner_text('body')

@pytest.mark.filterwarnings('ignore')
def test_printed(run, tmp_path, capfd):
    "Nothing that the commands print can steer the terminal"
    folder = tmp_path/'photos'
    folder.mkdir()
    noise().save(folder/os.fsdecode(b'\x1b[2J \xff.png'))
    (folder/'\x1b.png').write_text('no image')
    for args in (['evaluate', run], ['evaluate', run, '--json'], ['runs', '--out', run.parent],
                 ['evaluate', run, '--out', tmp_path/'x.png'], ['report', run], ['export', run]):
        assert run_command(*args) == 0, capfd.readouterr().err
    for more in ([], ['--json']):
        assert run_command('predict', folder, '--model', run, *more) == 1
    both = capfd.readouterr()
    said = both.out + both.err
    assert r'\x1b[2J' in said
    assert not {c for c in said if printable(c) != c} - {'\n'}
