"PyTorch's own loaders: which are refused"
import pytest, torch
from faults import Faults
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from resnet_course.core import CourseError
from resnet_course.torch_loaders import as_dls

faults = Faults()

@faults.error('a PyTorch loader without class names', 'vocab=')
def _(folder):
    ds = TensorDataset(torch.zeros(8, 3, 16, 16), torch.zeros(8, dtype=torch.long))
    as_dls(DataLoader(ds, 4), DataLoader(ds, 4))

@faults.error('a list instead of a loader', 'not a PyTorch DataLoader')
def _(folder): as_dls([1], [2], vocab='ab')

@pytest.mark.parametrize('fault', faults, ids=lambda fault: fault.title)
def test_input_gets_an_error(fault, tmp_path): fault.check(tmp_path)

def test_batch_sampler_is_refused():
    ds = TensorDataset(torch.zeros(8, 1, 8, 8), torch.arange(8)%2)
    ds.classes = ['a', 'b']
    batches = BatchSampler(SequentialSampler(ds), 4, drop_last=False)
    with pytest.raises(CourseError, match='batch_sampler'):
        as_dls(DataLoader(ds, batch_sampler=batches), DataLoader(ds, 4))
