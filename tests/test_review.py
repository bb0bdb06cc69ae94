"""What a review by reading found in the other rooms: silent mistakes between training, the record and what is made of it later"""
import json, sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset
from resnet_course import cli
from resnet_course.core import CourseError, atomic_write
from resnet_course.torch_loaders import as_dls
from resnet_course.loaders import get_dls, split_id
from resnet_course.doctor import _existing
from resnet_course.evaluate import evaluate
from resnet_course.predict import predict_images
from resnet_course.finetune import Stage, finetune_learner, get_plan, load_plan, run_stages
from resnet_course.images import ImageSet, open_csv, open_image, split_folders
from resnet_course.interpret import GradientNorms, neighbors
from resnet_course.interpret import get_activations
from resnet_course.learner import course_learner
from resnet_course.recipes import fit_recipe
from resnet_course.runs import run_learner
from resnet_course.runs import save_run, train_run
from resnet_course.models import create_model
from resnet_course.weights import load_model, read_weights, save_weights

def quiet(learn):
    learn.remove_cb(learn.progress)
    learn.logger = lambda o: None
    return learn

def photos(folder, n=12, side=32, classes='ab', start=0):
    "Class folders of small pictures that differ"
    rng = np.random.RandomState(start)
    for c in classes:
        (folder/c).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + n): Image.fromarray(rng.randint(256, size=(side, side, 3), dtype=np.uint8)).save(folder/c/f'{i}.png')
    return folder

def main(monkeypatch, *args):
    "Run `resnet-course`; its exit status"
    monkeypatch.setattr(sys, 'argv', ['resnet-course', *map(str, args)])
    try: cli.main()
    except SystemExit as e: return e.code or 0
    return 0

@pytest.mark.parametrize('size', [8, 24, 28, 40])
def test_predict_sees_what_the_network_was_trained_with(tmp_path, size):
    dls = get_dls('fashion_mnist_mini', bs=32, n_train=256, size=size, device='cpu')
    learn = quiet(course_learner(dls, 'resnet8', seed=0, precision='fp32'))
    learn.fit(1, 0.1)
    save_run(learn, tmp_path)
    files = []
    for i in range(12):
        files.append(tmp_path/f'{i}.png')
        Image.fromarray(dls.test_ds[i][0].numpy()[0]).save(files[-1])
    x = torch.cat([learn.dls.test_dl([f]).one_batch()[0] for f in files])
    learn.model.eval()
    with torch.no_grad(): want = learn.model(x).softmax(1).max(1).values
    got = torch.tensor([p.probs[0] for p in predict_images(load_model(tmp_path/'model.safetensors'), files)])
    assert got == pytest.approx(want, abs=1e-5)

def test_weights_that_cannot_predict_say_so(tmp_path):
    learn = course_learner(get_dls('digits', n_train=32, device='cpu'), 'resnet8')
    f = save_weights(learn.model, tmp_path/'w.safetensors')
    with pytest.raises(CourseError, match='without vocab, size, stats'): list(predict_images(load_model(f), []))

def test_another_set_is_normalized_as_the_network_was_trained(tmp_path):
    photos(tmp_path/'photos'); photos(tmp_path/'others', start=100)
    rec, _ = train_run(tmp_path/'photos', 'resnet8', epochs=1, bs=8, size=32, out=tmp_path/'runs', setup=quiet)
    learn, _ = run_learner(rec['path'], tmp_path/'others')
    assert [*map(list, learn.dls.stats)] == load_model(rec['path'] + '/model.safetensors').meta['stats']

def test_a_folder_that_has_changed_since(tmp_path):
    photos(tmp_path/'photos')
    rec, _ = train_run(tmp_path/'photos', 'resnet8', epochs=1, bs=8, size=32, out=tmp_path/'runs', setup=quiet)
    run_learner(rec['path'])
    photos(tmp_path/'photos', 6, start=50)
    with pytest.raises(CourseError, match='its images have changed'): run_learner(rec['path'])
    run_learner(rec['path'], tmp_path/'photos')

def test_runs_with_other_validation_images_are_not_compared(tmp_path, monkeypatch, capsys):
    photos(tmp_path/'photos')
    a, b = (train_run(tmp_path/'photos', 'resnet8', epochs=1, bs=8, size=32, seed=s, out=tmp_path/'runs', setup=quiet)[0]['path'] for s in (0, 1))
    assert main(monkeypatch, 'compare', a, b, '--data', tmp_path/'photos', '--split', 'valid') == 1
    assert 'hold out different images for valid' in capsys.readouterr().err
    assert main(monkeypatch, 'compare', a, b, '--data', tmp_path/'photos') == 0   # the test images are the same

def test_augmentations_of_ones_own_do_not_keep_a_run_from_being_evaluated(tmp_path):
    from resnet_course.augment import HorizontalFlip
    rec, _ = train_run('digits', 'resnet8', epochs=1, n_train=128, augment=[HorizontalFlip()], out=tmp_path, setup=quiet)
    evaluate(run_learner(rec['path'])[0])

@pytest.mark.parametrize('names', [('Train', 'Test'), ('training_set', 'test_set'), ('TRAIN', 'Val')])
def test_split_folders_by_other_names(tmp_path, names):
    for i, n in enumerate(names): photos(tmp_path/n, start=20*i)
    assert [p.name for p in split_folders(tmp_path).values()] == list(names)
    assert list(get_dls(tmp_path, bs=8, size=32, num_workers=0).vocab) == ['a', 'b']

def test_a_test_folder_of_loose_files(tmp_path):
    photos(tmp_path/'train')
    (tmp_path/'test').mkdir()
    Image.new('RGB', (32, 32)).save(tmp_path/'test'/'1.jpg')
    with pytest.raises(CourseError, match='test has no class folders with images'): get_dls(tmp_path, bs=8, size=32)

def test_lists_with_rows_that_leak(tmp_path):
    photos(tmp_path)
    rows = [f'{c}/{i}.png,{c}' for c in 'ab' for i in range(12)]
    def write(lines): (tmp_path/'list.csv').write_text('\n'.join(lines)); return tmp_path/'list.csv'
    with pytest.raises(CourseError, match='none for train'): open_csv(write(['path,label,split', *(r + ',test' for r in rows)]))
    with pytest.raises(CourseError, match='1 files more than once'): open_csv(write(['path,label', *rows, './a/0.png,a']))
    with pytest.raises(CourseError, match="'' is no split"): open_csv(write(['path,label,split', *(r + ',train' for r in rows[1:]), rows[0]]))

def test_a_batch_sampler_is_refused():
    ds = TensorDataset(torch.zeros(8, 1, 8, 8), torch.arange(8)%2)
    ds.classes = ['a', 'b']
    with pytest.raises(CourseError, match='batch_sampler'): as_dls(DataLoader(ds, batch_sampler=BatchSampler(SequentialSampler(ds), 4, False)), DataLoader(ds, 4))

def test_exif_that_raises_anything(tmp_path, monkeypatch):
    import struct
    Image.new('RGB', (8, 8)).save(tmp_path/'x.png')
    for e in (struct.error('bad'), TypeError('bad'), KeyError('bad')):
        def broken(im): raise e
        monkeypatch.setattr('PIL.ImageOps.exif_transpose', broken)
        with pytest.raises(CourseError, match='cannot read the image .*x.png'): open_image(tmp_path/'x.png')

def test_dataset_json_of_somebody_else(tmp_path):
    photos(tmp_path)
    for o in ({'id': 3}, [], {'classes': ['a', 'b']}):
        (tmp_path/'dataset.json').write_text(json.dumps(o))
        with pytest.raises(CourseError, match='needs "classes"'): get_dls(tmp_path, bs=8)

def test_an_empty_split_is_a_sentence():
    dls = get_dls('digits', n_train=64, valid_pct=0, device='cpu')
    with pytest.raises(CourseError, match='valid split is empty'): evaluate(quiet(course_learner(dls, 'resnet8')), 'valid')

def test_a_finished_finetuning_keeps_its_record(tmp_path, monkeypatch, capsys):
    assert main(monkeypatch, 'finetune', '--weights', 'resnet20-fashion_mnist', '--data', 'digits', '--plan', 'head', '--epochs', 1, '--n-train', 128, '--out', tmp_path) == 0
    run, = tmp_path.iterdir()
    old = (run/'run.json').read_bytes()
    capsys.readouterr()
    assert main(monkeypatch, 'finetune', '--resume', run) == 1
    assert 'is finished' in capsys.readouterr().err and (run/'run.json').read_bytes() == old
    assert main(monkeypatch, 'predict', 'nothing.png', '--model', run/'stages'/'head.safetensors') == 1

def test_stages_of_an_earlier_process_are_in_the_history(tmp_path):
    def make(): return quiet(finetune_learner('digits', 'resnet20-fashion_mnist', n_train=128))
    plan = get_plan('chain', make(), 1, 0.002)
    run_stages(make(), plan[:1], tmp_path/'a')
    learn = make()
    run_stages(learn, plan, tmp_path/'b')
    whole = learn.history.rows
    class Die(Callback):
        def before_fit(self):
            if len(self.learn.history.rows) == 1: raise KeyboardInterrupt
    learn = make(); learn.add_cb(Die())
    with pytest.raises(KeyboardInterrupt): run_stages(learn, plan, tmp_path/'c')
    learn = make()
    run_stages(learn, plan, tmp_path/'c')
    assert [(r['epoch'], r['train_loss']) for r in learn.history.rows] == [(r['epoch'], r['train_loss']) for r in whole]

def test_stages_of_other_weights_are_not_taken_up(tmp_path):
    learn = quiet(finetune_learner('digits', 'resnet20-fashion_mnist', n_train=128))
    plan = get_plan('head', learn, 1, 0.002)
    run_stages(learn, plan, tmp_path)
    learn.weights_report.source = 'other.safetensors'
    with pytest.raises(CourseError, match='holds another start'): run_stages(learn, plan, tmp_path)
    (tmp_path/'stages.json').write_text('[]')
    with pytest.raises(CourseError, match='is damaged'): run_stages(learn, plan, tmp_path)

def test_rates_as_people_write_them_in_yaml(tmp_path):
    (tmp_path/'p.yaml').write_text('- {name: 1, freeze_to: -1, epochs: 1, lr: 1e-3}\n- {name: two, freeze_to: 0, epochs: 1, lr: {low: 1e-5, high: 1e-3}}\n')
    one, two = load_plan(tmp_path/'p.yaml')
    assert (one.name, one.lr, two.lr) == ('1', 1e-3, slice(1e-5, 1e-3))
    (tmp_path/'p.yaml').write_bytes('- {name: Köpfe}'.encode('latin-1'))
    with pytest.raises(CourseError, match='not YAML'): load_plan(tmp_path/'p.yaml')

def test_alexnet_has_no_stem(monkeypatch):
    "`finetune --arch alexnet_tv --weights torchvision` was refused for an option that nobody gave"
    monkeypatch.setattr('resnet_course.finetune.load_weights', lambda *a, **kw: None)
    assert finetune_learner('digits', 'torchvision', 'alexnet_tv', n_train=64, size=64).model.cfg['name'] == 'alexnet_tv'

def test_a_wrong_layer_leaves_no_hook():
    learn = course_learner(get_dls('digits', n_train=64, device='cpu'), 'resnet8')
    with pytest.raises(CourseError):
        get_activations(learn, torch.zeros(1, 1, 8, 8), ['layer1', 'layr2'])
    assert not any(m._forward_hooks for m in learn.model.modules())

def test_gradients_without_the_scale_of_float16():
    def norms(precision):
        learn, g = quiet(course_learner(get_dls('digits', bs=32, n_train=64, device='cpu'), 'resnet8', seed=0, precision=precision)), GradientNorms(every=1)
        learn.fit(1, 1e-6, cbs=g)
        return g.norms['fc'][0]
    assert norms('fp16') == pytest.approx(norms('fp32'), rel=0.1)

def test_pictures_are_written_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    rec, _ = train_run('digits', 'resnet8', epochs=1, n_train=128, out=tmp_path/'runs', setup=quiet)
    assert main(monkeypatch, 'evaluate', rec['path'], '--out', tmp_path/'plots'/'c.png') == 0 and (tmp_path/'plots'/'c.png').stat().st_size
    assert main(monkeypatch, 'evaluate', rec['path'], '--out', tmp_path/'c.txt') == 1 and "kind of figure '.txt'" in capsys.readouterr().err

def test_weights_on_a_full_disk(tmp_path):
    resource = pytest.importorskip('resource', reason='needs a system that can limit the size of files')
    learn, limits = course_learner(get_dls('digits', n_train=64, device='cpu'), 'resnet8'), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises((CourseError, OSError)) as e: save_weights(learn.model, tmp_path/'w.safetensors')
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir()), e.value

def test_a_drive_that_is_not_there():
    class Drive:
        def expanduser(self): return self
        def exists(self): return False
        @property
        def parent(self): return self
    import resnet_course.doctor as doctor
    old, doctor.Path = doctor.Path, lambda o: o
    try: assert isinstance(_existing(Drive()), Drive)
    finally: doctor.Path = old

def test_a_damaged_archive_and_a_page_after_blank_lines(tmp_path):
    torch.save(dict(w=torch.zeros(1000)), tmp_path/'w.pth')
    b = bytearray((tmp_path/'w.pth').read_bytes())
    i = b.index(b'PK\x01\x02')   # the directory at the end
    b[i:i + 4] = b'XXXX'
    (tmp_path/'w.pth').write_bytes(b)
    with pytest.raises(CourseError, match='not a complete PyTorch checkpoint'): read_weights(tmp_path/'w.pth')
    (tmp_path/'page.pth').write_bytes(b'\n'*40 + b'<html><body>not found</body></html>')
    with pytest.raises(CourseError, match='a text file .<html>'): read_weights(tmp_path/'page.pth')

def test_half_weights_are_loaded_as_ordinary_ones(tmp_path):
    net = create_model('resnet8', n_out=10, n_in=1).eval()
    f = save_weights(net.half(), tmp_path/'w.safetensors')
    assert load_model(f)(torch.zeros(1, 1, 28, 28)).dtype == torch.float32

def test_neighbors_of_duplicates(tmp_path):
    ds = TensorDataset(torch.randn(12, 1, 28, 28).repeat(2, 1, 1, 1), torch.arange(24)%2)
    ds.classes = ['a', 'b']
    dls = as_dls(DataLoader(ds, 8, shuffle=True), DataLoader(ds, 8))
    found = neighbors(quiet(course_learner(dls, 'resnet8', seed=0)), 3, 'valid', 'valid')
    i = found.idx
    assert i.shape == (24, 3) and not (i == torch.arange(24)[:, None]).any() and ((i - torch.arange(24)[:, None]).abs() == 12).any(1).all()

def test_a_set_that_is_half_there(tmp_path):
    (tmp_path/'cifar-10-batches-py').mkdir()
    for n in ('data_batch_5', 'test_batch'): (tmp_path/'cifar-10-batches-py'/n).write_bytes(b'')
    with pytest.raises(CourseError, match='is incomplete: remove it'): get_dls('cifar10', root=tmp_path)

def test_a_plan_without_validation_images():
    learn = course_learner(get_dls('digits', n_train=64, valid_pct=0, device='cpu'), 'resnet8')
    with pytest.raises(CourseError, match='chooses on validation images'): run_stages(learn, 'head')

def test_a_folder_with_other_files_of_the_same_number(tmp_path):
    photos(tmp_path/'photos')
    rec, _ = train_run(tmp_path/'photos', 'resnet8', epochs=1, bs=8, size=32, out=tmp_path/'runs', setup=quiet)
    (tmp_path/'photos').rename(tmp_path/'moved')
    run_learner(rec['path'], tmp_path/'moved')   # a moved folder is named with --data
    (tmp_path/'moved').rename(tmp_path/'photos')
    run_learner(rec['path'])
    (tmp_path/'photos'/'a'/'3.png').rename(tmp_path/'photos'/'a'/'99.png')
    with pytest.raises(CourseError, match='other files or labels'): run_learner(rec['path'])

def test_a_run_goes_on_with_its_files_only(tmp_path):
    photos(tmp_path/'photos')
    def learn(): return quiet(course_learner(get_dls(tmp_path/'photos', bs=8, size=32, device='cpu'), 'resnet8', seed=0))
    fit_recipe(learn(), 'one_cycle', 1, checkpoint=tmp_path/'run')
    (tmp_path/'photos'/'a'/'3.png').rename(tmp_path/'photos'/'a'/'99.png')
    with pytest.raises(CourseError, match='split_id='): fit_recipe(learn(), 'one_cycle', 1, checkpoint=tmp_path/'run', resume=True)

def test_stages_go_on_with_their_files_only(tmp_path):
    photos(tmp_path/'photos')
    def learn(): return quiet(course_learner(get_dls(tmp_path/'photos', bs=8, size=32, device='cpu'), 'resnet8', seed=0))
    plan = [Stage('head', -1, 1, 0.1)]
    run_stages(learn(), plan, tmp_path/'run')
    f = tmp_path/'run'/'stages.json'
    old = json.loads(f.read_text(encoding='utf-8'))
    (tmp_path/'photos'/'a'/'3.png').rename(tmp_path/'photos'/'a'/'99.png')
    with pytest.raises(CourseError, match='another split of the images'): run_stages(learn(), plan, tmp_path/'run')
    del old['plan']['split_id']   # begun with an older version
    f.write_text(json.dumps(old), encoding='utf-8')
    run_stages(learn(), plan, tmp_path/'run')

def test_a_run_from_before_seeds_were_drawn_goes_on(tmp_path):
    def learn(): return quiet(course_learner(get_dls('digits', n_train=64, bs=16, device='cpu'), 'resnet8', seed=0))
    a = learn()
    a.dls.cfg['seed'] = a.dls.split_id = None
    fit_recipe(a, 'one_cycle', 1, checkpoint=tmp_path)
    fit_recipe(learn(), 'one_cycle', 1, checkpoint=tmp_path, resume=True)

def test_names_that_are_no_text_and_folders_that_moved():
    def pool(*files): return ImageSet('x', [0, 1], ['a', 'b'], files=[Path(f) for f in files])
    assert split_id(pool('caf\udce9.jpg', 'b.png'), ([0], [1], [])) != split_id(pool('a.png', 'b.png'), ([0], [1], []))
    assert split_id(pool('photos/a.png', 'photos/b.png'), ([0], [1], [])) == split_id(pool('a.png', 'b.png'), ([0], [1], []))

def test_a_seed_that_nobody_chose_is_kept():
    dls = get_dls('digits', seed=None, device='cpu')
    again = get_dls(**dls.cfg, device='cpu')
    assert isinstance(dls.cfg['seed'], int) and again.split_id == dls.split_id != get_dls('digits', device='cpu').split_id
    assert torch.equal(dls.train.one_batch()[0], again.train.one_batch()[0])

def test_a_channel_without_spread(tmp_path):
    for c in 'ab':
        (tmp_path/c).mkdir()
        for i in range(8):
            im = np.full((16, 16, 3), 200, np.uint8)
            im[..., 0] = np.random.RandomState(i).randint(256, size=(16, 16))
            Image.fromarray(im).save(tmp_path/c/f'{c}{i}.png')
    dls = get_dls(tmp_path, bs=4, size=16, augment=False, device='cpu')
    assert dls.stats[1][1:] == [1., 1.] and dls.train.one_batch()[0][:, 1:].abs().max() < 1e-3

def test_export_refuses_a_size_that_cannot_be(tmp_path, monkeypatch, capsys):
    f = save_weights(create_model('alexnet_tv', n_out=2, n_in=3), tmp_path/'w.safetensors')
    for size, why in {0: 'one pixel', -3: 'one pixel', 4: 'too small'}.items():
        assert main(monkeypatch, 'export', f, '--size', size, '--out', tmp_path/'w.onnx') != 0
        err = capsys.readouterr().err
        assert 'Traceback' not in err and why in err and not (tmp_path/'w.onnx').exists()

def test_a_folder_is_not_a_file_to_write(tmp_path):
    with pytest.raises(CourseError, match='a directory; name a file in it'):
        with atomic_write(tmp_path): pass
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('omit', [None, 3, 4, 5])
def test_biases_belong_to_a_layer_not_to_a_place(omit):
    net = create_model('alexnet_1gpu', n_out=2, omit=omit)
    got = [float(m.bias[0]) for m in net.features if isinstance(m, torch.nn.Conv2d)]
    assert got == [b for i, b in enumerate((0, 1, 0, 1, 1), 1) if i != omit]

def test_gradients_of_layers_that_start_late(tmp_path):
    learn = quiet(course_learner(get_dls('digits', bs=16, n_train=64, device='cpu'), 'resnet8', seed=0))
    cb = GradientNorms(every=1)
    learn.freeze()
    learn.fit(1, 0.1, cbs=cb)
    n = len(cb.plot().lines)
    learn.unfreeze()
    learn.fit(1, 0.1, cbs=cb)
    assert n < len(cb.plot().lines) == len(cb.norms) and {len(v) for v in cb.norms.values()} == {len(cb.batches)}

def test_the_fastest_recipe_says_for_which_networks_it_is(recwarn):
    def warned(arch):
        recwarn.clear()
        fit_recipe(quiet(course_learner(get_dls('digits', bs=16, n_train=64, device='cpu'), arch, seed=0)), 'fast_cifar', 1)
        return any('tuned to networks' in str(w.message) for w in recwarn)
    assert warned('resnet8') and not warned('fast_resnet')
