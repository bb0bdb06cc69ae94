"Several labels per image: tables, loaders of this package and of fastai, training, evaluation"
import json, shutil

import numpy as np, pandas as pd, pytest, torch
from fastai.data.all import ColReader, ColSplitter, DataBlock, MultiCategoryBlock
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat
from fastai.vision.all import ImageBlock, Resize
from helpers import CtrlC, quiet, run_command
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from torch import nn

from resnet_course.core import CourseError
from resnet_course.loaders import class_counts, get_dls, get_test_dls, is_multi_label
from resnet_course.models import create_model
from resnet_course.saving import load_model, save_weights
from resnet_course.export import image_meta
from resnet_course.checkpoint import Interrupted
from resnet_course.learner import course_learner
from resnet_course.recipes import change_recipe, fit_recipe
from resnet_course.evaluate import MultiReport, evaluate, tta
from resnet_course.predict import (
    Prediction, labels_of, predict_images, thresholds_of, write_csv)
from resnet_course.interpret import plot_cam
from resnet_course.records import load_run, save_run
from resnet_course.runs import train_run
from resnet_course.report import html_report
from resnet_course.reuse import run_learner

NAMES = ['blue', 'green', 'red']

@pytest.fixture(scope='module')
def table(tmp_path_factory):
    "Images of 24 px whose labels are the channels that are bright; some have none"
    folder, rng, rows = tmp_path_factory.mktemp('colors'), np.random.default_rng(0), []
    for i in range(160):
        there = rng.random(3) < (.5, .4, .6)
        x = rng.integers(0, 60, (24, 24, 3)) + 190*there[::-1]
        Image.fromarray(x.astype(np.uint8)).save(folder/f'{i:03}.png')
        rows.append((f'{i:03}.png', ' '.join(n for n, t in zip(NAMES, there) if t)))
    df = pd.DataFrame(rows, columns=['path', 'labels'])
    df.to_csv(folder/'labels.csv', index=False)
    return folder/'labels.csv'

def loaders(table, **kw):
    return get_dls(table, **dict(dict(bs=16, label_delim=' ', augment=False, valid_pct=.2), **kw))

def truth(table, dls, split):
    "Zeros and ones as pandas reads them"
    df = pd.read_csv(table, index_col='path', keep_default_na=False)
    dl = dict(zip(('train', 'valid', 'test'), dls.loaders))[split]
    rows = [df.labels[dls.files[i].name].split() for i in dl.dataset.items]
    return np.array([[n in row for n in NAMES] for row in rows])

@pytest.fixture(scope='module')
def trained(table):
    learn = course_learner(loaders(table), 'resnet8', seed=1)
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, 'one_cycle', 8, 0.02)
    return learn

@pytest.mark.parametrize('how', [{}, dict(in_memory=False), dict(in_memory=False, num_workers=2)])
def test_batches_have_the_labels_of_the_table(how, table):
    dls = loaders(table, **how)
    assert (list(dls.vocab), dls.c, is_multi_label(dls)) == (NAMES, 3, True)
    for split, dl in zip(('valid', 'test'), dls.loaders[1:]):
        y = torch.cat([yb for _, yb in dl])
        assert y.dtype == torch.float32 and (y.numpy() == truth(table, dls, split)).all()
    # the splits are disjoint, and say how many images have each label
    assert sum(len(dl.dataset) for dl in dls.loaders) == 160
    for split in ('train', 'valid', 'test'):
        want = truth(table, dls, split).sum(0)
        assert list(dls.counts[split].values()) == want.tolist() and want.all()

def test_labels_as_columns_and_again_from_the_record(table):
    df = pd.read_csv(table, keep_default_na=False)
    flags = pd.DataFrame({n: df.labels.str.split().map(lambda o: int(n in o)) for n in NAMES})
    other = table.with_name('flags.csv')
    pd.concat([df.path, flags], axis=1).to_csv(other, index=False)
    a, b = loaders(table), loaders(other, label_delim=';')
    assert a.split_id == b.split_id and (truth(table, b, 'test') == truth(table, a, 'test')).all()
    again = get_dls(**a.cfg)
    assert again.split_id == a.split_id and is_multi_label(again)
    with pytest.raises(CourseError, match='label_delim'): get_dls(other)

def test_training_and_metrics(trained, table):
    assert isinstance(trained.loss_func, BCEWithLogitsLossFlat)
    row = trained.history.rows[-1]
    assert row['accuracy_multi'] > .9 and row['average_precision_score'] > .9
    rep, y = evaluate(trained), truth(table, trained.dls, 'test')
    assert isinstance(rep, MultiReport) and (rep.targets.numpy() == y).all()
    p = rep.probs.numpy()
    s = rep.summary()
    np.testing.assert_allclose(s['map'], average_precision_score(y, p), rtol=1e-6)
    np.testing.assert_allclose(s['macro_f1'], f1_score(y, p >= .5, average='macro'), rtol=1e-6)
    np.testing.assert_allclose(s['micro_f1'], f1_score(y, p >= .5, average='micro'), rtol=1e-6)
    assert s['map'] > .9 and 'mAP' in str(rep) and 'sensitivity' in str(rep)
    want = nn.functional.binary_cross_entropy(torch.tensor(p), torch.tensor(y).float())
    assert abs(rep.loss - want) < 1e-5

def test_thresholds_are_chosen_on_validation(trained):
    valid = evaluate(trained, 'valid')
    t = valid.best_thresholds()
    assert valid.at(t).summary()['macro_f1'] >= valid.summary()['macro_f1']
    test = evaluate(trained).at(t)
    assert [o['threshold'] for o in test.to_dict()['per_label']] == pytest.approx(t)

def test_saved_network_predicts_every_label_by_itself(trained, table, tmp_path):
    file = save_weights(trained.model, tmp_path/'colors', **image_meta(trained.dls))
    net, dls = load_model(file), trained.dls
    files = [dls.files[i] for i in dls.test.dataset.items]
    found = np.array([[dict(zip(o.classes, o.probs))[n] for n in NAMES]
                      for o in predict_images(net, files, precision='fp32')])
    np.testing.assert_allclose(found, evaluate(trained).probs, atol=1e-4)
    same = evaluate(file, dls=get_test_dls(table, NAMES, size=24, stats=dls.stats, label_delim=' '))
    assert same.n == 160
    dec = trained.predict(files[0])[0]
    assert list(dec) == [n for n, p in zip(NAMES, found[0]) if p > .5]

def test_grad_cam_names_the_labels(trained):
    fig = plot_cam(trained, range(4))
    shown = {o for ax in fig.axes for o in ax.get_title().split(', ')}
    assert shown <= {*NAMES, 'no label'}

def test_loaders_of_fastai(table):
    df = pd.read_csv(table, keep_default_na=False)
    df['is_valid'] = np.arange(len(df)) % 4 == 0
    block = DataBlock((ImageBlock, MultiCategoryBlock), splitter=ColSplitter(),
                      get_x=ColReader('path', pref=table.parent),
                      get_y=ColReader('labels', label_delim=' '), item_tfms=Resize(24))
    dls = block.dataloaders(df, bs=16, num_workers=0)
    learn = quiet(course_learner(dls, 'resnet8', seed=1))
    fit_recipe(learn, change_recipe('one_cycle', mixup=.2), 3, 0.02)
    rep = evaluate(learn, 'valid')
    want = [[n in row.split() for n in NAMES] for row in df.labels[df.is_valid]]
    assert (rep.targets.numpy() == np.array(want)).all() and rep.summary()['map'] > .5

def test_what_needs_one_class_says_so(trained, table):
    dls, says = trained.dls, 'one class per image'
    with pytest.raises(CourseError, match=says): class_counts(dls)
    with pytest.raises(CourseError, match=says): loaders(table, balance='sample')
    with pytest.raises(CourseError, match=says): course_learner(dls, 'resnet8', balance='loss')
    with pytest.raises(CourseError, match=says): tta(trained)
    with pytest.raises(CourseError, match='its own loss'): fit_recipe(
        trained, change_recipe('one_cycle', label_smoothing=.1), 1)
    with pytest.raises(CourseError, match='tables'): get_dls('digits', label_delim=' ')
    with pytest.raises(CourseError, match='tables'): get_dls(table.parent, label_delim=' ')
    with pytest.raises(CourseError, match='label_delim'): loaders(table, label_delim='')

def test_missing_labels_are_reported(table):
    text = table.read_text().replace('green', 'red')
    lines = text.splitlines()
    lines[5] = lines[5].split(',')[0] + ',nan'
    bad = table.with_name('bad.csv')
    bad.write_text('\n'.join(lines))
    with pytest.raises(CourseError, match='line 6 has no label'): loaders(bad)

def test_single_labels_are_unchanged(table):
    "A report on one class per image, and the loss of its loaders"
    dls = get_dls('digits', n_train=64)
    assert not is_multi_label(dls)
    learn = course_learner(dls, create_model('resnet8', n_in=1))
    assert isinstance(learn.loss_func, CrossEntropyLossFlat)

def test_an_unreadable_file_changes_no_split_of_the_others(table, tmp_path):
    shutil.copytree(table.parent, tmp_path/'x')
    names = [f.name for f in loaders(table).files]
    (tmp_path/'x'/names[7]).write_bytes(b'no image')
    dls, whole = loaders(tmp_path/'x/labels.csv', skip_bad=True), loaders(table)
    def splits(dls): return [{dls.files[i].name for i in dl.dataset.items} for dl in dls.loaders]
    assert [a - {names[7]} for a in splits(whole)] == splits(dls)
    y = torch.cat([yb for _, yb in dls.test])
    assert (y.numpy() == truth(table, dls, 'test')).all() and dls.split_id == whole.split_id

@pytest.mark.parametrize('thresholds', ['x', [.5, .5], 2, float('nan')])
def test_impossible_thresholds(thresholds, trained):
    with pytest.raises(CourseError, match='thresholds='): evaluate(trained, 'valid').at(thresholds)

def command(name, table, out, *args):
    "Run `train` or `finetune` with several labels; its exit status"
    return run_command(name, '--data', table, '--label-delim', ' ', '--bs', 16, '--epochs', 1,
                       '--precision', 'fp32', '--device', 'cpu', '--out', out, *args)

@pytest.fixture(scope='module')
def run(table, tmp_path_factory):
    "The folder of a run of `train`"
    out = tmp_path_factory.mktemp('runs')
    assert command('train', table, out, '--arch', 'resnet8', '--mixup', .2, '--cutmix', 1) == 0
    return out/'labels-resnet8-001'

def test_record_and_evaluation_of_a_run(run, capsys):
    rec = load_run(run)
    assert {'map', 'macro_f1', 'micro_f1', 'all_right', 'per_label'} <= set(rec['test'])
    assert rec['data']['label_delim'] == ' '
    saved = load_model(run/'model.safetensors').meta['thresholds']
    assert [o['threshold'] for o in rec['test']['per_label']] == saved
    assert run_command('evaluate', run, '--json') == 0
    assert json.loads(capsys.readouterr().out) == rec['test']
    assert run_command('runs', '--out', run.parent) == 0
    assert f"mAP {rec['test']['map']:.3f}" in capsys.readouterr().out

def test_predictions_and_page_of_a_run(run, table, tmp_path, capsys):
    assert run_command('predict', table.with_name('000.png'), '--model', run, '--json') == 0
    o = json.loads(capsys.readouterr().out.splitlines()[-1])
    at = dict(zip(NAMES, load_model(run/'model.safetensors').meta['thresholds']))
    assert o['labels'] == [c for c, p in zip(o['classes'], o['probs']) if p >= at[c]]
    page = html_report(run, tmp_path/'page.html').read_text(encoding='utf-8')
    assert 'mean average precision' in page and 'Per label' in page and 'Confusion' not in page

def tied_network(path, logits, **meta):
    "Save a network that computes these logits for any image, under the names a, b, …"
    net = create_model('resnet8', n_in=1, n_out=len(logits))
    nn.init.zeros_(net.fc.weight)
    net.fc.bias.data = torch.tensor(logits)
    own = dict(vocab=[*'abcdefgh'][:len(logits)], size=24, stats=[[.5], [.5]], multi_label=True)
    return save_weights(net, path, **own | meta)

def test_reports_with_different_thresholds(trained, tmp_path):
    "Only one set of thresholds can be saved, and none is chosen in silence"
    report = evaluate(trained, 'valid')
    with pytest.raises(CourseError, match='different thresholds'):
        save_run(trained, tmp_path, [report.at(.3), report.at(.4)])
    assert not list(tmp_path.iterdir())
    save_run(trained, tmp_path, [report.at(.3), report.at(.3)])
    assert load_model(tmp_path/'model.safetensors').meta['thresholds'] == pytest.approx([.3]*3)

@pytest.mark.parametrize('vocab,between', [(['a', 'b'], ';'), (['a;b', 'c'], '|'),
                                           (['a;', 'b|'], '\t')])
def test_labels_in_a_table_can_be_told_apart(vocab, between, tmp_path):
    p = Prediction('x.jpg', vocab, [.9, .8])
    write_csv([p], vocab, tmp_path/'x.csv', dict.fromkeys(vocab, .5))
    row = pd.read_csv(tmp_path/'x.csv').labels[0]
    assert row.split(between) == vocab

def test_labels_that_no_table_can_hold(tmp_path):
    vocab = [';', '|', '\t']
    with pytest.raises(CourseError, match='--json'):
        write_csv([Prediction('x.jpg', vocab, [.9]*3)], vocab, tmp_path/'x.csv',
                  dict.fromkeys(vocab, .5))
    assert not (tmp_path/'x.csv').exists()
    # with one class per image, nothing has to be separated
    write_csv([Prediction('x.jpg', vocab, [.9, .1, 0.])], vocab, tmp_path/'x.csv')

@pytest.mark.parametrize('split', ['train', 'valid', 'test'])
def test_a_split_without_labels(split, table, tmp_path):
    "It is found before training: no metric could be computed afterwards"
    df = pd.read_csv(table, keep_default_na=False)
    df['path'] = [str(table.parent/p) for p in df.path]
    df['split'] = [('train', 'valid', 'test')[i%3] for i in range(len(df))]
    df.loc[df.split == split, 'labels'] = ''
    df.to_csv(tmp_path/'x.csv', index=False)
    said = dict(train='no training images of blue, green, red',
                valid='none of the 53 validation images', test='none of the 53 test images')
    with pytest.raises(CourseError, match=said[split]): loaders(tmp_path/'x.csv')

def test_all_predicted_labels_are_shown(table, tmp_path, capsys):
    "However many are more probable"
    image = table.with_name('000.png')
    net = tied_network(tmp_path/'w.safetensors', [4., 3., 2., 1., -1.],
                       thresholds=[.99, .9, .99, .5, .1])
    assert run_command('predict', image, '--model', net, '--top', 1, '--json') == 0
    o = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (o['labels'], o['classes'], len(o['probs'])) == (['b', 'd', 'e'], [*'abde'], 4)
    assert run_command('predict', image, '--model', net) == 0
    out = capsys.readouterr().out
    assert 'b 95.3%, d 73.1%, e 26.9% (below their thresholds: a 98.2%, c 88.1%)' in out
    model = load_model(net)
    few = next(predict_images(model, image, k=2))
    with pytest.raises(CourseError, match='k=5'): labels_of(few, thresholds_of(model))

def test_thresholds_of_other_labels(table, tmp_path, capsys):
    "They are refused, also where names are missing"
    with pytest.raises(CourseError, match='2 thresholds for 3 labels'):
        tied_network(tmp_path/'w.safetensors', [1., 2., 3.], thresholds=[.5, .5])
    net = tied_network(tmp_path/'w.safetensors', [1., 2.], vocab=None)
    assert run_command('predict', table.with_name('000.png'), '--model', net) == 1
    assert 'vocab' in capsys.readouterr().err

def test_a_saved_network_on_a_table(run, table):
    "Its thresholds are for its own labels, not for as many others"
    learn, _ = run_learner(run/'model.safetensors', table, label_delim=' ')
    saved = learn.model.meta['thresholds']
    assert evaluate(learn).thresholds.tolist() == saved != [.5]*3
    learn.model.meta['vocab'] = ['cyan', 'pink', 'gold']
    assert evaluate(learn).thresholds.tolist() == [.5]*3

def test_stages_and_seeds_are_compared_by_map(run, table, tmp_path, capsys):
    weights = run/'model.safetensors'
    how = ('--weights', weights, '--plan', 'head', '--seeds', 2)
    assert command('finetune', table, tmp_path, *how) == 0
    assert '2 seeds: test mAP' in capsys.readouterr().out
    rec = load_run(tmp_path/'labels-resnet8-finetune-001')
    assert rec['finetune']['score'] == 'mAP'
    assert rec['finetune']['stages'][0]['test'] == pytest.approx(rec['test']['map'])
    page = html_report(rec['path']).read_text(encoding='utf-8')
    assert 'mean test mAP' in page

def test_an_interrupted_run_resumes_to_the_same_result(table, tmp_path):
    "Labels, thresholds and metrics come from the record"
    def run(out, setup):
        return train_run(table, 'resnet8', label_delim=' ', epochs=2, bs=16, precision='fp32',
                         out=tmp_path/out, setup=setup)
    def stop(learn): quiet(learn).add_cb(CtrlC(1, 2))
    whole, _ = run('whole', quiet)
    with pytest.raises(Interrupted): run('cut', stop)
    folder = tmp_path/'cut/labels-resnet8-001'
    assert run_command('train', '--resume', folder) == 0
    rec = load_run(folder)
    assert rec['test'] == whole['test'] and rec['data'] == whole['data']

def test_folds_are_compared_by_map(table, tmp_path, capsys):
    assert command('train', table, tmp_path, '--arch', 'resnet8', '--folds', 2) == 0
    assert '2 folds: test mAP' in capsys.readouterr().out

@pytest.mark.parametrize('args', [('--balance', 'loss'), ('--balance', 'sample'),
                                  ('--label-smoothing', .1), ('--recipe', 'rsb_a3')])
def test_refused_before_a_run_has_a_folder(args, table, tmp_path, capsys):
    assert command('train', table, tmp_path, '--arch', 'resnet8', *args) == 1
    assert 'one class per image' in capsys.readouterr().err and not list(tmp_path.iterdir())

def test_refused_for_a_finished_run(run, table, tmp_path, capsys):
    taught = ('--arch', 'resnet8', '--teacher', run)
    assert command('train', table, tmp_path, *taught) == 1 and not list(tmp_path.iterdir())
    for args in (['evaluate', run, '--tta'], ['evaluate', run, '--out', 'x.png'],
                 ['compare', run, run], ['export', run, '--int8']):
        assert run_command(*args) == 1
    assert capsys.readouterr().err.count('one class per image') == 5
    assert run_command('evaluate', run/'model.safetensors', '--data', table) == 1
    assert 'label_delim' in capsys.readouterr().err
