"""What the gateway makes of its process's environment."""

from __future__ import annotations

import subprocess
import sys

import pytest

_THREADS = """
import sys, gateway.cli
from gateway.settings import keep_to_one_blas_thread
assert "numpy" not in sys.modules
keep_to_one_blas_thread()
import os, numpy
numpy.ones((500, 500)) @ numpy.ones((500, 500))
print(os.environ["OPENBLAS_NUM_THREADS"], len(os.listdir("/proc/self/task")))
"""


@pytest.mark.parametrize(("environ", "said"), [({}, "1 1"), ({"OPENBLAS_NUM_THREADS": "2"}, "2 ")])
def test_numpy_is_kept_to_one_thread_unless_the_environment_wants_more(environ: dict[str, str], said: str):
    told = subprocess.run([sys.executable, "-c", _THREADS], env=environ, capture_output=True, text=True, check=True)
    assert told.stdout.startswith(said)
