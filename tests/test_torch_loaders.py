import pytest, torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from resnet_course.core import CourseError
from resnet_course.torch_loaders import as_dls

def test_batch_sampler_is_refused():
    ds = TensorDataset(torch.zeros(8, 1, 8, 8), torch.arange(8)%2)
    ds.classes = ['a', 'b']
    batches = BatchSampler(SequentialSampler(ds), 4, drop_last=False)
    with pytest.raises(CourseError, match='batch_sampler'):
        as_dls(DataLoader(ds, batch_sampler=batches), DataLoader(ds, 4))
