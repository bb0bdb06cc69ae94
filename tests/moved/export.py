# to test_export.py
import pytest
from helpers import run_command

from resnet_course.models import create_model
from resnet_course.weights import save_weights

@pytest.mark.parametrize('size,says', [(0, 'one pixel'), (-3, 'one pixel'), (4, 'too small')])
def test_impossible_size(tmp_path, capsys, size, says):
    "One line, and no file"
    f = save_weights(create_model('alexnet_tv', n_out=2, n_in=3), tmp_path/'w.safetensors')
    assert run_command('export', f, '--size', size, '--out', tmp_path/'w.onnx') != 0
    err = capsys.readouterr().err
    assert 'Traceback' not in err and says in err and not (tmp_path/'w.onnx').exists()
