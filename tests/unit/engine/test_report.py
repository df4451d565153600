"""What a report says of the process."""

import subprocess
import sys

import numpy as np
import pytest

from pasdedeux.engine.report import peak_bytes

PROGRAM = "from pasdedeux.engine.report import peak_bytes; print(peak_bytes())"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a process's own peak apart")
def test_the_peak_is_this_processs_own():
    held = np.ones(3 * 10**8, np.uint8)  # a small child of a large parent
    assert peak_bytes() > held.nbytes
    child = int(subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout)
    assert 10**7 < child < peak_bytes() - held.nbytes // 2
