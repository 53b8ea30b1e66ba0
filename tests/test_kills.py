"kill -9 at a few operations of a short run of each system; `python tests/kills.py SYSTEM` tries them all."
import subprocess, sys
from pathlib import Path

import pytest

from conftest import TIMEOUT

KILLS = Path(__file__).with_name("kills.py")
CASES = ["sgdd", "predictor", "exact", "timellm"]


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_end_and_leave_nothing_half_written(tmp_path):
    "In a process of its own, since it forks: others that ran here may have left threads."
    command = [sys.executable, KILLS, *CASES, "--few", "4", "--again", ".5", "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2*TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" 0 failed") == len(CASES)
