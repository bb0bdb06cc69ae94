"Files of earlier versions still load, and those of later ones are refused by their version"
import json, shutil
from pathlib import Path

import pytest, torch
from safetensors.torch import save_file

from resnet_course.core import CourseError
from resnet_course.models import create_model
from resnet_course.weight_files import read_weights
from resnet_course.saving import load_model, save_weights
from resnet_course.checkpoint import read_checkpoint
from resnet_course.recipes import fit_recipe
from resnet_course.evaluate import evaluate
from resnet_course.records import load_run
from resnet_course.runs import learner_from_checkpoint
from resnet_course.reuse import run_learner

pytestmark = pytest.mark.usefixtures('one_thread')

def test_old_files_still_load(tmp_path):
    "A run of version 0.1.0: its weights, its record and its checkpoint"
    old = Path(__file__).parent/'fixtures/v0_1_0'
    rec = load_run(old/'run')
    learn, _ = run_learner(old/'run')
    assert evaluate(learn).top1 == rec['test']['top1']
    shutil.copytree(old/'ckpt', tmp_path/'ckpt')
    assert 'RestoreBest' not in read_checkpoint(tmp_path/'ckpt')['cbs']
    with pytest.warns(UserWarning): learn, how = learner_from_checkpoint(tmp_path/'ckpt')
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, **how)
    want = torch.load(old/'want.pt', weights_only=True)
    torch.testing.assert_close(dict(learn.model.state_dict()), want, atol=1e-3, rtol=0)

def later_record(folder):
    "A record of a later version, with another schema"
    rec = json.loads((folder/'run/run.json').read_text())
    rec['schema'], rec['versions']['resnet-course'] = 2, '9.9'
    (folder/'run/run.json').write_text(json.dumps(rec))
    return lambda: load_run(folder/'run')

def later_weights(folder):
    "Weights of a later version, for a network that this one does not have"
    net = create_model('resnet8')
    net.cfg['name'] = 'resnet9000'
    path = save_weights(net, folder/'w')
    sd, meta = read_weights(path)
    text = json.dumps(dict(meta, versions=dict(resnet_course='9.9')))
    save_file(sd, path, dict(format='pt', resnet_course=text))
    return lambda: load_model(path)

def later_checkpoint(change):
    "A function that changes a checkpoint, as a later version might have written it"
    def make(folder):
        path = folder/'ckpt/checkpoint.pt'
        s = torch.load(path, weights_only=True)
        s['made_by']['resnet_course'] = '9.9'
        change(s)
        torch.save(s, path)
        return lambda: resume(path)
    return make

def resume(path):
    "Finish an interrupted run"
    learn, how = learner_from_checkpoint(path)
    with learn.no_bar(), learn.no_logging(): fit_recipe(learn, **how)

@pytest.mark.filterwarnings('ignore:.* was (made|also trained) with')
@pytest.mark.parametrize('make', [
    later_record, later_weights, later_checkpoint(lambda s: s['pos'].pop('epoch')),
    later_checkpoint(lambda s: s['cfg']['data'].update(new_option=1)),
    later_checkpoint(lambda s: s['cfg']['model'].update(name='resnet9000')),
    later_checkpoint(lambda s: s['cfg']['recipe'].update(name='a_new_recipe')),
    later_checkpoint(lambda s: s['cfg']['recipe'].update(new_option=1)),
    later_checkpoint(lambda s: s['opt'].clear())])
def test_files_of_a_later_version_are_refused(make, tmp_path):
    "And the message names that version"
    old = Path(__file__).parent/'fixtures/v0_1_0'
    shutil.copytree(old, tmp_path, dirs_exist_ok=True)
    read = make(tmp_path)
    with pytest.raises(CourseError, match='written by resnet-course 9.9, and this is'): read()
