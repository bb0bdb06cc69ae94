"What belongs together stays in one split, and folds test every image once"
import csv, json, re

import numpy as np
import pytest
import torch
from helpers import CtrlC, bits, cut, noise, photos, quiet, run_command

from resnet_course.checkpoint import Interrupted
from resnet_course.core import CourseError
from resnet_course.splits import group_splits, kfold_splits
from resnet_course.loaders import get_dls
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe
from resnet_course.records import list_runs, load_run
from resnet_course.runs import kfold_run, learner_from_checkpoint, mean_ci, train_run
from resnet_course.reuse import compare_runs, evaluate_run

pytestmark = pytest.mark.usefixtures('one_thread')
N_PATIENTS, EACH = 24, 5

def patient_of(name): return re.search(r'patient-(\d+)', str(name))[1]

@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    "Five photos of each of 24 patients, every third of them ill, in class folders and as CSV files"
    folder, rng = tmp_path_factory.mktemp('data')/'scans', np.random.RandomState(0)
    rows = []
    for i in range(N_PATIENTS):
        for j in range(EACH):
            name = f"{'ill' if i%3 == 0 else 'well'}/patient-{i:02}-{j}.png"
            (folder/name).parent.mkdir(parents=True, exist_ok=True)
            noise((8, 8), rng).save(folder/name)
            rows.append(dict(path=name, label=name.split('/')[0], patient=i, age=30 + i%2))
    for name, columns in dict(scans='path label patient age',
                              scans3='age patient path label').items():
        with open(folder/f'{name}.csv', 'w', newline='') as f:
            writer = csv.DictWriter(f, columns.split())
            writer.writeheader()
            writer.writerows(rows)
    return folder

def split_files(dls):
    images = dls.train_ds.tls[1].tfms.fs[0].images
    return [[str(images.files[i]) for i in dl.dataset.items] for dl in dls.loaders]

def splits_by(data, **kwargs):
    dls = get_dls(data, size=8, bs=8, device='cpu', **kwargs)
    return [{patient_of(f) for f in files} for files in split_files(dls)]

def disjoint(sets): return len(set().union(*sets)) == sum(map(len, sets))

GROUPS = [('scans', r'patient-(\d+)'), ('scans', r'patient-\d\d'), ('scans', patient_of),
          ('scans/scans.csv', 'patient'), ('scans/scans3.csv', 'patient'),
          ('scans/scans.csv', r'patient-(\d+)')]

@pytest.mark.parametrize('data, group', GROUPS)
@pytest.mark.parametrize('seed', [0, 1])
def test_no_patient_is_in_two_splits(data, group, seed, scans):
    sets = splits_by(scans.parent/data, group=group, seed=seed)
    assert disjoint(sets) and sum(map(len, sets)) == N_PATIENTS
    assert all(sets)
    assert not disjoint(splits_by(scans.parent/data, seed=seed))   # without it they are mixed

def test_the_test_patients_do_not_depend_on_the_seed(scans):
    (_, valid, test), (_, valid2, test2) = (
        splits_by(scans, group=r'patient-(\d+)', seed=seed) for seed in (3, 4))
    assert test == test2 and valid != valid2

def test_classes_stay_in_proportion(scans):
    dls = get_dls(scans, size=8, bs=8, device='cpu', group=r'patient-(\d+)')
    for files in split_files(dls):
        ill = np.mean([f.split('/')[-2] == 'ill' for f in files])
        assert 0.15 < ill < 0.55
    n = [len(files) for files in split_files(dls)]
    assert n[1] == pytest.approx(12, abs=8) and n[2] == pytest.approx(12, abs=8)

@pytest.mark.parametrize('seed', range(20))
def test_group_splits(seed):
    "No group on both sides, about the fraction asked for, for groups of any size"
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(60), rng.integers(1, 12, 60))
    y = rng.integers(0, 3, len(groups))
    for classes in (None, y):
        keep, drawn = group_splits(groups, 0.2, seed, classes)
        assert sorted([*keep, *drawn]) == list(range(len(groups)))
        assert not set(groups[keep]) & set(groups[drawn])
        assert 0.1 < len(drawn)/len(groups) < 0.3
        assert list(drawn) == list(group_splits(groups, 0.2, seed, classes)[1])
    assert len(group_splits(groups, 0)[1]) == 0

@pytest.mark.parametrize('group, says', [
    ('ward', 'does not match 120 of 120 paths'), (r'patient-2', 'does not match 100 of 120'),
    ('patient-(', 'neither a column nor a pattern'), ('scans', 'does not match')])
def test_wrong_groups(group, says, scans):
    with pytest.raises(CourseError, match=says): splits_by(scans, group=group)

def test_too_few_groups(scans):
    with pytest.raises(CourseError): splits_by(scans, group=lambda path: 'one')
    with pytest.raises(CourseError, match='no training images|two or more'):
        splits_by(scans, group=lambda path: path.parent.name)   # a class is a group

def test_only_files_have_groups():
    with pytest.raises(CourseError, match='no files to group'): get_dls('digits', group='x')

def test_an_empty_cell_is_an_error(scans, tmp_path):
    lines = (scans/'scans.csv').read_text().splitlines()
    lines[1] = re.sub(r'^([^,]*),([^,]*),[^,]*', r'\1,\2,', lines[1])
    f = scans/'holes.csv'
    f.write_text('\n'.join(lines))
    with pytest.raises(CourseError, match="'patient' is empty for 1 images"):
        splits_by(f, group='patient')

def test_a_group_in_two_given_splits_is_an_error(tmp_path):
    for split, start in (('train', 0), ('test', 8)):
        photos(tmp_path/'own'/split, n=10, size=(8, 8), start=start)
    kw = dict(size=8, bs=4, device='cpu')
    with pytest.raises(CourseError, match="group '.' is in train and in test"):
        get_dls(tmp_path/'own', group=r'(\d+)[.]png', **kw)
    get_dls(tmp_path/'own', **kw)

def test_a_grouped_run_is_recorded_repeated_and_resumed(scans, tmp_path):
    how = dict(size=8, bs=8, epochs=1, group=r'patient-(\d+)', out=tmp_path, setup=quiet)
    rec, report = train_run(scans, 'resnet8', **how)
    assert load_run(rec['path'])['data']['group'] == r'patient-(\d+)'
    again, _ = evaluate_run(rec['path'])
    assert again.top1 == report.top1
    plain, _ = train_run(scans, 'resnet8', **dict(how, group=None))
    with pytest.raises(CourseError, match='different images'):
        compare_runs(rec['path'], plain['path'])

@pytest.mark.parametrize('more', [dict(group=r'patient-(\d+)'), dict(fold=(2, 3))])
def test_a_checkpoint_holds_groups_and_folds(more, scans, tmp_path):
    def learner(): return quiet(course_learner(get_dls(scans, size=8, bs=8, device='cpu', **more),
                                               'resnet8', seed=1, precision='fp32'))
    whole = learner()
    fit_recipe(whole, 'step', 2)
    cut(learner(), tmp_path, 'step', 2)
    with pytest.warns(match='CtrlC'): again, how = learner_from_checkpoint(tmp_path)
    fit_recipe(quiet(again), **how)
    assert torch.equal(bits(again), bits(whole))

def test_a_function_is_not_repeated_silently(scans, tmp_path):
    rec, _ = train_run(scans, 'resnet8', size=8, bs=8, epochs=1, group=patient_of, out=tmp_path,
                       setup=quiet)
    with pytest.raises(CourseError, match='<function patient_of>, which a record cannot store'):
        evaluate_run(rec['path'])

# Folds

@pytest.mark.parametrize('k', [2, 5])
@pytest.mark.parametrize('group', [None, r'patient-(\d+)'])
def test_every_image_is_in_one_fold(k, group, scans):
    tested = []
    for i in range(1, k + 1):
        dls = get_dls(scans, size=8, bs=8, device='cpu', fold=(i, k), group=group, seed=i)
        train, valid, test = split_files(dls)
        assert len({*train, *valid, *test}) == len(train) + len(valid) + len(test) == 120
        tested += test
        assert 0.15 < np.mean(['/ill/' in f for f in test]) < 0.5
        if group: assert disjoint([set(map(patient_of, o)) for o in (train, valid, test)])
    assert sorted(tested) == sorted({*tested}) and len(tested) == 120

def test_a_test_folder_is_left_out_and_said(tmp_path, capfd):
    for split, n, start in (('train', 20, 0), ('test', 4, 50)):
        photos(tmp_path/'own'/split, n=n, size=(8, 8), start=start)
    args = ['--data', tmp_path/'own', '--size', 8, '--bs', 4, '--epochs', 1, '--arch', 'resnet8']
    assert run_command('train', *args, '--folds', 2, '--out', tmp_path/'runs') == 0
    out = capfd.readouterr().out
    assert '8 test images of the set are not used' in out
    assert sum(r['test']['n'] for r in list_runs(tmp_path/'runs')) == 40

def test_folds_on_the_command_line(scans, tmp_path, capfd):
    args = ['--data', scans/'scans.csv', '--size', 8, '--bs', 8, '--epochs', 1, '--arch', 'resnet8',
            '--group', 'patient', '--out', tmp_path]
    assert run_command('train', *args, '--folds', 3) == 0
    out = capfd.readouterr().out
    res = json.loads(next(tmp_path.glob('*/folds.json')).read_text())
    runs = sorted(list_runs(tmp_path), key=lambda r: r['path'])   # they end in one second
    assert [r['data']['fold'] for r in runs] == [[1, 3], [2, 3], [3, 3]]
    assert res['n'] == 120 and res['top1'] == mean_ci([r['test']['top1'] for r in runs])
    assert f"3 folds: test accuracy {res['top1']['mean']:.2%}" in out
    again, _ = evaluate_run(runs[1]['path'])
    assert again.top1 == runs[1]['test']['top1']

@pytest.mark.parametrize('args, says', [
    (['--folds', 2, '--seeds', 2], 'leave out --seeds'), (['--folds', 200], 'from 2 to')])
def test_impossible_folds(args, says, scans, tmp_path, capfd):
    assert run_command('train', '--data', scans, '--size', 8, *args, '--out', tmp_path/'runs') == 1
    assert says in capfd.readouterr().err
    with pytest.raises(CourseError, match='give .i, k.'): get_dls('digits', fold=3)
    with pytest.raises(CourseError, match='from 1 to 3'): get_dls('digits', fold=(4, 3))
    with pytest.raises(CourseError, match='groups or images'):
        kfold_splits([0, 1]*9, 1, 5, groups=[0]*9 + [1]*9)

HOW = dict(size=8, bs=8, epochs=1, precision='fp32')
TUNE = dict(weights='resnet20-fashion_mnist', plan='head', n_train=48, bs=8, epochs=1,
            precision='fp32', finetune=True)
KINDS = [('scans', dict(HOW, arch='resnet8')), ('digits', TUNE)]

def numbers(res): return [{k: v for k, v in row.items() if k != 'run'} for row in res['folds']]

def cut_folds(folder, data, at=2, **how):
    "Folds that are interrupted while the fold `at` trains; their folder"
    begun = []
    def setup(learn):
        begun.append(quiet(learn))
        if len(begun) == at: learn.add_cb(CtrlC(0, 3))
    with pytest.raises(KeyboardInterrupt) as e:
        kfold_run(3, data, out=folder, setup=setup, **how)
    assert e.type is Interrupted and f'{at - 1} of 3 folds are finished' in str(e.value)
    assert len(begun) == at
    return e.value.path.parent

@pytest.mark.parametrize('data, how', KINDS)
@pytest.mark.filterwarnings('ignore:.*was also trained with')
def test_interrupted_folds_continue(data, how, scans, tmp_path):
    "Finished folds are not repeated, and the result is that of folds that were left alone"
    data = scans if data == 'scans' else data
    whole = kfold_run(3, data, out=tmp_path/'whole', setup=quiet, **how)
    folder, trained = cut_folds(tmp_path/'cut', data, **how), []
    def setup(learn): trained.append(quiet(learn).dls.cfg['fold'])
    again = kfold_run(resume=folder, setup=setup, finetune=how.get('finetune', False))
    assert trained == [[2, 3], [3, 3]]
    assert numbers(again) == numbers(whole) and again['top1'] == whole['top1']
    assert again == dict(json.loads((folder/'folds.json').read_text()), path=str(folder))
    with pytest.raises(CourseError, match='all folds are finished'):
        kfold_run(resume=folder, finetune=how.get('finetune', False))

def test_a_fold_that_was_finished_but_not_noted_is_not_repeated(scans, tmp_path):
    def setup(learn): raise AssertionError('trained again')
    whole = kfold_run(2, scans, 'resnet8', tmp_path, setup=quiet, **HOW)
    f = tmp_path/'scans-resnet8-2folds-001'/'folds.json'
    f.write_text(json.dumps(dict(json.loads(f.read_text()), folds=[])))
    assert kfold_run(resume=f.parent, setup=setup) == whole

def test_what_cannot_be_recorded_is_given_again(scans, tmp_path):
    how = dict(HOW, group=patient_of)
    folder = cut_folds(tmp_path, scans, at=1, arch='resnet8', **how)
    with pytest.raises(CourseError, match='could not record group'):
        kfold_run(resume=folder, setup=quiet)
    # the interrupted fold was grouped by the function, too
    with pytest.raises(CourseError, match='grouped by <function patient_of>'):
        kfold_run(resume=folder, setup=quiet, group=patient_of)

@pytest.mark.filterwarnings('ignore:.*was also trained with')
def test_resumed_folds_on_the_command_line(scans, tmp_path, capfd):
    recipe = ['--recipe', 'step', '--mixup', 0.3]
    folder = cut_folds(tmp_path, scans, arch='resnet8', recipe='step', **HOW)
    assert run_command('finetune', '--resume', folder) == 1
    assert 'belong to `train`' in capfd.readouterr().err
    assert run_command('train', '--resume', folder, *recipe) == 0
    out = capfd.readouterr().out
    assert '3 folds: test accuracy' in out and f"{folder/'folds.json'}" in out
    runs = sorted(list_runs(folder), key=lambda r: r['path'])
    assert [r['data']['fold'] for r in runs] == [[1, 3], [2, 3], [3, 3]]
    assert {r['recipe']['name'] for r in runs} == {'step'}   # its own, not that of the command
    for text in ('{}', '[]', '{"schema": 1, "k": 3}'):
        (folder/'folds.json').write_text(text)
        assert run_command('train', '--resume', folder) == 1
        assert 'is damaged' in capfd.readouterr().err

def test_finetuning_in_folds_and_with_seeds(tmp_path, capfd):
    args = ['--data', 'digits', '--weights', 'resnet20-fashion_mnist', '--plan', 'head', '--bs', 8,
            '--epochs', 1, '--n-train', 48, '--out', tmp_path]
    assert run_command('finetune', *args, '--folds', 2) == 0
    out = capfd.readouterr().out
    res = json.loads((tmp_path/'digits-finetune-2folds-001'/'folds.json').read_text())
    assert res['n'] == 1797 and f"2 folds: test accuracy {res['top1']['mean']:.2%}" in out
    assert run_command('finetune', *args, '--seeds', 2) == 0
    tops = [r['test']['top1'] for r in list_runs(tmp_path) if not r['data']['fold']]
    m = mean_ci(tops)
    assert f"2 seeds: test accuracy {m['mean']:.2%}" in capfd.readouterr().out
    seeds = json.loads((tmp_path/'digits-resnet20-finetune-001-seeds.json').read_text())
    assert seeds['top1'] == m and [r['seed'] for r in seeds['seeds']] == [42, 43]
    assert run_command('finetune', *args, '--seeds', 2, '--folds', 2) == 1
    assert 'leave out --seeds' in capfd.readouterr().err
