"Data sets written to folders, and subsets: what is refused"
import pytest
from faults import Faults, pictures

from resnet_course.folders import export_set, make_subset

faults = Faults()

@faults.error('exporting over an existing folder', 'already exists')
def _(folder): export_set('digits', folder)

@faults.error('exporting a folder of photos', 'already a folder of photos')
def _(folder): export_set(pictures(folder/'f'), folder/'out')

@faults.error('a subset of a class there is not', "did you mean 'b'")
def _(folder): make_subset(pictures(folder/'f'), folder/'out', ['a', 'bb'])

@faults.error('a subset of one class', 'two or more classes')
def _(folder): make_subset(pictures(folder/'f'), folder/'out', ['a'])

@pytest.mark.parametrize('fault', faults, ids=lambda fault: fault.title)
def test_input_gets_an_error(fault, tmp_path): fault.check(tmp_path)
