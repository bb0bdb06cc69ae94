"A finished run is evaluated on its own images, prepared as in training, or not at all"
import errno, os, shutil, subprocess, sys
from pathlib import Path

import numpy as np, pytest, torch
from helpers import noise, noise_learner, photos, quiet, run_command
from PIL import Image
from torchvision import transforms as T

from resnet_course.core import CourseError
from resnet_course.augment import HorizontalFlip
from resnet_course.datasets import imagenet_names
from resnet_course.images import imagenet_stats
from resnet_course.models import create_model
from resnet_course.export import OnnxModel, export_model
from resnet_course.loaders import get_dls, raw_image
from resnet_course.predict import predict_images
from resnet_course.saving import load_model
from resnet_course.recipes import fit_recipe
from resnet_course.evaluate import evaluate
from resnet_course.records import list_runs, runs_table, save_run, versions
from resnet_course.report import html_report
from resnet_course.runs import _few_valid, train_run
from resnet_course.reuse import evaluate_run, run_learner

@pytest.fixture
def photo_run(photo_folder, tmp_path):
    "The folder of a run on `photo_folder`"
    rec, _ = train_run(photo_folder, 'resnet8', epochs=1, bs=8, size=32, out=tmp_path/'runs',
                       setup=quiet)
    return rec['path']

def test_another_set_is_normalized_as_in_training(photo_run, tmp_path):
    others = photos(tmp_path/'others', start=100)
    learn, _ = run_learner(photo_run, others)
    stats = load_model(photo_run + '/model.safetensors').meta['stats']
    assert [*map(list, learn.dls.stats)] == stats

def test_folder_with_more_images(photo_run, photo_folder):
    run_learner(photo_run)
    photos(photo_folder, 6, start=50)
    with pytest.raises(CourseError, match='its images have changed'): run_learner(photo_run)
    with pytest.warns(UserWarning, match='have changed since training'):
        run_learner(photo_run, photo_folder)

@pytest.fixture
def broken(photo_run, photo_folder):
    "One of the run's test images, which has become unreadable"
    dls = run_learner(photo_run)[0].dls
    n = len(dls.test_ds)
    path = dls.files[dls.test_ds.items[0]]
    path.write_bytes(b'no image')
    return path, n

def test_skip_bad(photo_run, photo_folder, broken, capfd, tmp_path):
    "The others are tested, whether they are named with --data or not, and split as before"
    path, n = broken
    for data in ([], ['--data', photo_folder]):
        assert run_command('evaluate', photo_run, *data) == 1
        err = capfd.readouterr().err
        assert path.name in err and '--skip-bad' in err and err.count('\n') == 1
        assert run_command('evaluate', photo_run, *data, '--skip-bad') == 0
        out, err = capfd.readouterr()
        assert f'{n - 1} test images' in out and '1 file left out: 1 unreadable' in out, out
        assert 'have changed' not in err
    others = photos(tmp_path/'others', 5, start=90)
    (others/'a'/'x.png').write_bytes(b'no image')
    assert run_command('evaluate', photo_run, '--data', others) == 1
    assert 'a/x.png' in capfd.readouterr().err
    assert run_command('evaluate', photo_run, '--data', others, '--skip-bad') == 0
    out = capfd.readouterr().out
    assert 'of 10 images' in out and '1 unreadable' in out

def test_unreadable_files_change_no_split(photo_run, photo_folder, broken):
    path, n = broken
    learn, _ = run_learner(photo_run, skip_bad=True)
    now = [{learn.dls.files[i].name for i in dl.dataset.items} for dl in learn.dls.loaders]
    path.unlink()
    noise().save(path)
    learn, _ = run_learner(photo_run)
    then = [{learn.dls.files[i].name for i in dl.dataset.items} for dl in learn.dls.loaders]
    assert now[:2] == then[:2] and then[2] - now[2] <= {path.name}

def test_a_class_whose_images_are_all_unreadable(photo_folder):
    for f in (photo_folder/'a').iterdir(): f.write_bytes(b'no image')
    with pytest.raises(CourseError, match="no readable training images of 'a' are left"):
        get_dls(photo_folder, skip_bad=True)

def test_root_given_by_a_relative_path(tmp_path, monkeypatch):
    (tmp_path/'x').mkdir()
    monkeypatch.chdir(tmp_path)
    assert get_dls('digits', root='x').cfg['root'] == str(tmp_path/'x')

def test_a_run_is_used_from_another_directory(photo_folder, tmp_path, monkeypatch):
    "Images that were given by a relative path"
    monkeypatch.chdir(photo_folder.parent)
    rec, report = train_run(photo_folder.name, 'resnet8', epochs=1, bs=8, size=32, out='runs',
                            setup=quiet)
    monkeypatch.chdir(tmp_path/'..')
    run = photo_folder.parent/rec['path']
    assert evaluate_run(run)[0].top1 == report.top1
    assert html_report(run).is_file()

def test_a_full_disk_leaves_the_old_report(photo_run, monkeypatch):
    out, write_text = html_report(photo_run), Path.write_text
    before = out.read_bytes()
    def full(self, text, **kwargs):
        write_text(self, text[:100], **kwargs)
        raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(Path, 'write_text', full)
    with pytest.raises((CourseError, OSError), match='No space left'): html_report(photo_run)
    assert out.read_bytes() == before
    assert not [f for f in out.parent.iterdir() if f.name.endswith('.tmp')]

def test_folder_with_as_many_other_files(photo_run, photo_folder, tmp_path):
    photo_folder.rename(tmp_path/'moved')
    run_learner(photo_run, tmp_path/'moved')   # named with --data
    (tmp_path/'moved').rename(photo_folder)
    run_learner(photo_run)
    (photo_folder/'a'/'3.png').rename(photo_folder/'a'/'99.png')
    with pytest.raises(CourseError, match='different files or labels'): run_learner(photo_run)

def test_evaluate_after_custom_augmentation(tmp_path):
    "The record has only the names of such transforms"
    rec, _ = train_run('digits', 'resnet8', epochs=1, n_train=128, augment=[HorizontalFlip()],
                       out=tmp_path, setup=quiet)
    evaluate(run_learner(rec['path'])[0])

def test_pytorch_loaders_and_custom_network(tmp_path, capsys):
    "They can be recorded, though the record cannot build them again"
    learn = noise_learner()
    fit_recipe(learn, epochs=1)
    with pytest.raises(CourseError, match='no test set'): evaluate(learn)
    run = tmp_path/'own-001'
    run.mkdir()
    save_run(learn, run, [evaluate(learn, 'valid')])
    assert runs_table(list_runs(tmp_path))[0]['arch'] is None
    assert run_command('runs', '--out', tmp_path) == 0
    assert 'own-001' in capsys.readouterr().out
    with pytest.raises(CourseError, match='does not say which images'): run_learner(run)

@pytest.mark.parametrize('size, crop', [(None, True), (40, False)])
def test_weights_say_how_images_are_prepared(tmp_path, size, crop):
    "Images enlarged to the network's size are not cropped"
    rec, _ = train_run('digits', 'resnet8', epochs=1, n_train=64, size=size, out=tmp_path,
                       setup=quiet)
    assert load_model(rec['path'] + '/model.safetensors').meta['crop'] is crop

def test_a_record_holds_the_commit(tmp_path):
    "A run from a checkout names its commit; a copy without git, as after `pip install`, none"
    root = Path(__file__).resolve().parent.parent
    if (root/'.git').exists():
        head = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=root, capture_output=True,
                              text=True)
        assert versions()['commit'].split(' with')[0] == head.stdout.strip()
    shutil.copytree(root/'resnet_course', tmp_path/'resnet_course')
    script = 'from resnet_course.records import source_commit; print(source_commit())'
    def commit():
        done = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, capture_output=True,
                              text=True, env={**os.environ, 'PYTHONPATH': str(tmp_path)})
        return done.stdout.strip()
    assert commit() == 'None'
    def git(*args):
        as_me = ['-c', 'user.name=a', '-c', 'user.email=a@b.c']
        subprocess.run(['git', *as_me, *args], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path/'settings.ini').write_text('[DEFAULT]\n')
    git('init'), git('add', '.'), git('commit', '-m', 'one')
    assert len(commit()) == 40
    with open(tmp_path/'resnet_course/core.py', 'a') as f: f.write('\n# changed\n')
    assert commit().endswith(' with changes')

# Publishers' weights for ImageNet

WNIDS = dict(n01440764='tench', n11939491='daisy', n02012849='crane bird')

@pytest.fixture(scope='module')
def imagenet_like(tmp_path_factory):
    "Random weights for 1,000 classes, and photos in folders named by WordNet ids and by names"
    folder, rng = tmp_path_factory.mktemp('published'), np.random.RandomState(0)
    torch.manual_seed(0)
    net = create_model('resnet18', n_out=1000).eval()
    torch.save(net.state_dict(), folder/'resnet18.pth')
    for wnid, name in WNIDS.items():
        for c in (f'ids/{wnid}', f'names/{name}'): (folder/c).mkdir(parents=True)
        for i in range(3):
            im = noise((240 + 20*i, 300), rng)
            for c in (f'ids/{wnid}', f'names/{name}'): im.save(folder/c/f'{i}.png')
    return folder, net

def test_published_weights_on_folders_of_imagenets_classes(imagenet_like):
    "Evaluated as torchvision does it, whether folders have names or WordNet ids, or miss classes"
    folder, net = imagenet_like
    tfm = T.Compose([T.Resize(256), T.CenterCrop(224), T.ToTensor(), T.Normalize(*imagenet_stats)])
    place = {name: i for i, name in enumerate(imagenet_names())}
    for kind, classes in (('ids', WNIDS), ('names', WNIDS.values())):
        report, _ = evaluate_run(folder/'resnet18.pth', folder/kind)
        want, targets = [], []
        for c, wnid in sorted(zip(classes, WNIDS), key=lambda o: place[o[1]]):
            files = sorted((folder/kind/c).iterdir())
            with torch.no_grad():
                want.append(net(torch.stack([tfm(Image.open(f)) for f in files])).softmax(1))
            targets += [place[wnid]]*len(files)
        order = report.targets.argsort(stable=True)
        assert report.targets[order].tolist() == targets
        torch.testing.assert_close(report.probs[order], torch.cat(want), atol=1e-5, rtol=1e-3)
        assert [report.vocab[i] for i in targets[::3]] == ['tench', 'crane bird', 'daisy']

def test_published_weights_on_the_command_line(imagenet_like, tmp_path, capfd):
    folder, net = imagenet_like
    assert run_command('evaluate', folder/'resnet18.pth', '--data', folder/'ids') == 0
    out = capfd.readouterr().out
    assert 'a test set of 9 images, 1000 classes' in out and 'and 997 more classes' in out
    torch.save(create_model('resnet50', n_out=1000).state_dict(), tmp_path/'r50.pth')
    torch.save(create_model('resnet18', n_out=7).state_dict(), tmp_path/'seven.pth')
    refused = {'r50.pth': 'which variant', 'seven.pth': 'the names of its 7 classes are'}
    for file, says in refused.items():
        assert run_command('evaluate', tmp_path/file, '--data', folder/'ids') == 1
        assert says in capfd.readouterr().err
    shutil.copytree(folder/'ids'/'n01440764', tmp_path/'flowers'/'rose')
    assert run_command('evaluate', folder/'resnet18.pth', '--data', tmp_path/'flowers') == 1
    assert 'this network was trained for' in capfd.readouterr().err

def test_new_photos_in_any_folders(photo_run, tmp_path):
    "All of them are tested: in class folders, in split folders, without one of the classes, listed"
    photos(tmp_path/'new', start=50)
    photos(tmp_path/'only/test', start=50)
    photos(tmp_path/'splits/train', start=50)
    photos(tmp_path/'splits/valid', start=70)
    photos(tmp_path/'part', classes='b', start=50)
    (tmp_path/'list.csv').write_text('path,label\n' + ''.join(f'new/a/{i}.png,a\n'
                                                              for i in range(50, 57)))
    wanted = {'new': 24, 'only': 24, 'only/test': 24, 'splits': 48, 'part': 12, 'list.csv': 7}
    for name, n in wanted.items():
        dls = run_learner(photo_run, tmp_path/name)[0].dls
        assert len(dls.test_ds) == n and f'a test set of {n} images' in dls.describe()
    photos(tmp_path/'part', classes='c')
    with pytest.raises(CourseError, match='has the classes b, c'):
        run_learner(photo_run, tmp_path/'part')

def test_few_validation_images_for_few_training_images():
    assert [_few_valid(n) for n in (None, 64, 640)] == [None, 500, 640]

def test_new_photos_with_the_old_names(photo_run, photo_folder, tmp_path):
    "All of them are tested; of a copy, also of another size, those that were held out"
    new, copy, large = photos(tmp_path/'new'), tmp_path/'copy', tmp_path/'large'
    for i, f in enumerate(new.rglob('*.png')): noise(rng=np.random.RandomState(99 + i)).save(f)
    shutil.copytree(photo_folder, copy)
    for f in photo_folder.rglob('*.png'):
        (large/f.parent.name).mkdir(parents=True, exist_ok=True)
        Image.open(f).resize((64, 64), Image.Resampling.NEAREST).save(large/f.parent.name/f.name)
    n = [len(run_learner(photo_run, d)[0].dls.test_ds) for d in (new, copy, large, photo_folder)]
    assert n == [24, 2, 2, 2]
    assert 'held out' in run_learner(photo_run, copy)[0].dls.describe()
    photo_folder.rename(tmp_path/'moved')
    assert len(run_learner(photo_run, tmp_path/'moved')[0].dls.test_ds) == 2

# Images of more than 8 bits

def deep_photos(folder, high, n=12, start=0):
    "Class folders of gray 16-bit images with values up to `high`"
    rng = np.random.default_rng(start)
    for c in 'ab':
        (folder/c).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + n):
            a = rng.integers(0, high + 1, (24, 24)).astype(np.uint16)
            a[0, 0] = high
            Image.fromarray(a).save(folder/c/f'{i}.png')
    return folder

def test_white_is_the_same_as_in_training(tmp_path):
    "Dark images of 12 bits are not made brighter, and images of 16 bits are refused"
    rec, _ = train_run(deep_photos(tmp_path/'x', 4000), 'resnet8', epochs=1, bs=8,
                       out=tmp_path/'runs', setup=quiet)
    model = load_model(Path(rec['path'])/'model.safetensors')
    assert model.meta['white'] == {'I;16': 4095}
    dark, light = deep_photos(tmp_path/'dark', 200), deep_photos(tmp_path/'light', 60_000)
    learn, _ = run_learner(rec['path'], dark)
    assert learn.dls.white == {'I;16': 4095}
    assert raw_image(learn.dls, 'test', 0).max() == round(200/4095*255)
    probs = evaluate(learn).probs   # in float32, as below
    files = [learn.dls.files[i] for i in learn.dls.test_ds.items]
    found = list(predict_images(model, files, k=2, precision='fp32'))
    ours = torch.tensor([[dict(zip(p.classes, p.probs))[c] for c in 'ab'] for p in found])
    assert torch.allclose(ours, probs, atol=1e-4)
    [p] = predict_images(model, [light/'a'/'0.png'])
    assert 'white is 4095' in p.error
    with pytest.raises(CourseError, match='white is 4095'): run_learner(rec['path'], light)
    pytest.importorskip('onnxscript', reason='onnxscript is not installed')
    export_model(model, tmp_path/'x.onnx', images=None)
    [p] = predict_images(OnnxModel(tmp_path/'x.onnx'), [light/'a'/'0.png'])
    assert 'white is 4095' in p.error
