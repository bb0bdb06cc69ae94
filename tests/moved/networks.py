# to test_networks.py
import pytest
from torch import nn

from resnet_course.models import create_model

@pytest.mark.parametrize('omit', [None, 3, 4, 5])
def test_alexnet_biases_belong_to_layers(omit):
    "Leaving a layer out does not move the ones of Krizhevsky et al. to another layer"
    net = create_model('alexnet_1gpu', n_out=2, omit=omit)
    biases = [float(m.bias[0]) for m in net.features if isinstance(m, nn.Conv2d)]
    assert biases == [b for i, b in enumerate((0, 1, 0, 1, 1), 1) if i != omit]
