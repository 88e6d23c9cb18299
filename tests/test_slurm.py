"""Claims about the restart loop of launch/slurm/train.sbatch, with stand-ins for srun and scontrol."""

import os
import pathlib
import subprocess

import pytest

from motif_jax import endings

ROOT = pathlib.Path(__file__).parent.parent
# The n-th call does the n-th of $DOES: "status", or "step:status" to leave a checkpoint first.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >> "$LOG"
does=$(cut -d, -f "$(grep -c ^srun "$LOG")" <<< "$DOES")
case $does in *:*) mkdir -p "$WORKDIR/checkpoints/${does%:*}" "$WORKDIR/checkpoints/${does%:*}9.orbax-checkpoint-tmp" ;; esac
exit "${does#*:}"
"""


@pytest.mark.parametrize("does, status, starts, requeued", [
    ("1:137,2:1,0", 0, 3, False),
    ("8:137,137,137,12:137,0", 0, 5, False),  # 12 is further than 8
    ("9:76,76,76,76,0", 76, 4, False),
    ("5:75,0", 0, 1, True),
    *((f"5:{final},0", final, 1, False) for final in endings.FINAL),
])
def test_the_batch_script_starts_again_while_that_brings_the_run_on(tmp_path, does, status, starts, requeued):
  for name, script in (("srun", SRUN), ("scontrol", '#!/bin/sh\necho "scontrol $*" >> "$LOG"\n')):
    (tmp_path / name).write_text(script)
    (tmp_path / name).chmod(0o755)
  environment = os.environ | dict(
      PATH=f"{tmp_path}:{os.environ['PATH']}", LOG=str(tmp_path / "log"), DOES=does, WORKDIR=str(tmp_path / "work"), CONFIG="c.py",
      SLURM_SUBMIT_DIR=str(ROOT), SLURM_JOB_ID="17")
  done = subprocess.run(["bash", "launch/slurm/train.sbatch", "--config.seed=3"], cwd=ROOT, env=environment, capture_output=True,
                        text=True, check=False)
  log = (tmp_path / "log").read_text()
  assert (done.returncode, log.count("srun "), "scontrol requeue 17" in log) == (status, starts, requeued), done.stdout + done.stderr
  assert "srun --kill-on-bad-exit=0 --wait=60 .venv/bin/python" in log  # the others are neither killed at once nor waited for long
  assert f"launch.supervise --starts=1 --workdir={tmp_path}/work -- --config=c.py --distributed --config.seed=3" in log
