"Two of the kills of `tools/kills.py`: nothing is half-written, and the end is the same"
import runpy

from conftest import root
from helpers import needs_fork

@needs_fork
def test_two_kills(tmp_path):
    tool = runpy.run_path(str(root/'tools/kills.py'))
    for row in tool['kill_all'](2, tmp_path, names=('finetune', 'report')):
        assert row['identical'] and not row['half_written'], row
        assert not row['traceback'] and not row['hang'], row
