"""Claims about the lock of a work directory."""

import os
import subprocess
import sys

import pytest

from motif_jax.train import lock


def test_a_second_run_in_a_work_directory_is_refused_and_told_who_is_there(tmp_path):
  with lock.held(tmp_path / "new"):
    with pytest.raises(ValueError, match=f"another run is at work in .*new .process {os.getpid()} on "):
      with lock.held(tmp_path / "new"):
        pass
    with lock.held(tmp_path / "other"):
      pass
  with lock.held(tmp_path / "new"):  # free again
    pass


def test_a_killed_run_leaves_its_work_directory_free(tmp_path):
  hold = f"import os; from motif_jax.train import lock; lock.held({str(tmp_path)!r}).__enter__(); os.kill(os.getpid(), 9)"
  assert subprocess.run([sys.executable, "-c", hold], check=False).returncode == -9
  assert "process" in (tmp_path / lock.FILE).read_text()
  with lock.held(tmp_path):
    pass
