"""Trains a model: python -m launch.train --config=configs/smoke.py --workdir=DIR [--config.train.steps=100 ...]

Goes on from the newest checkpoint in the work directory; where there is none yet, --start=CHECKPOINT begins at step 0 with the
weights of another run.  TensorBoard reads the same directory.  Control-C saves and leaves with status 75, a second one at once;
`motif_jax/endings.py` has all statuses, and launch.supervise starts again what failed.  Several processes become one with
--distributed (SLURM and others), or with --coordinator, --processes and --process_id; the work directory and the data must be the
same folders for all of them.
"""

import contextlib
import dataclasses
import functools
import os
import sys

from absl import app, flags
from ml_collections import config_flags

from launch import arguments
from motif_jax import config, distributed, endings
from motif_jax.bench import fastest
from motif_jax.train import checkpoint, curriculum, lock, loop

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/; --config.a.b=value changes one key of it.")
BENCH = flags.DEFINE_string("bench", ".cache/bench.json", "Results of launch.bench, for --config.model.attention=auto.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and TensorBoard files go.")
START = flags.DEFINE_string("start", None, "Checkpoint, or work directory, that a new run starts from; else random weights.")
DISTRIBUTED = flags.DEFINE_boolean("distributed", False, "One of several processes; jax finds the others from the cluster.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, where jax cannot find it.")
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes there are.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
PROGRAMS = flags.DEFINE_string("programs", None, "Where compiled programs are kept for the next start; 'none': nowhere.  Else "
                               "JAX_COMPILATION_CACHE_DIR, or programs/ in MOTIF_JAX_CACHE, or in ~/.cache/motif_jax.")
HEARTBEAT = flags.DEFINE_string("heartbeat", None, "A file that says until when this process is well.")


def main(argv: list[str]) -> None:
  if not flags.FLAGS["verbosity"].present:
    arguments.quiet()  # --verbosity=0 lets them speak
  with contextlib.ExitStack() as stack:
    try:
      job = prepared(argv, stack)
      state = loop.run(job, heartbeat=HEARTBEAT.value)
    except endings.Ending as e:
      print(f"error: {e}", file=sys.stderr, flush=True)
      os._exit(e.status)  # the usual way out waits for the other processes, which may wait for this one
  if int(state.step) < job.cfg.train.steps:
    sys.exit(endings.INTERRUPTED)


def prepared(argv: list[str], stack: contextlib.ExitStack) -> loop.Job:
  """The run that the flags ask for; `stack` holds its work directory."""
  try:
    arguments.check_no_others(argv)
    arguments.keep_programs(PROGRAMS.value)
    distributed.join(coordinator=COORDINATOR.value, processes=PROCESSES.value, process_id=PROCESS_ID.value,
                     detect=DISTRIBUTED.value)
    if chosen := fastest.resolve(CONFIG.value, BENCH.value):
      print(chosen)
    job = loop.prepare(config.from_config_dict(CONFIG.value), WORKDIR.value)
    if START.value:
      checkpoint.find(START.value)  # to hear of a wrong name now
      job = dataclasses.replace(job, start=functools.partial(curriculum.from_checkpoint, START.value, job))
    with endings.of_disk(WORKDIR.value):
      stack.enter_context(lock.held(WORKDIR.value))
    return job
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=arguments.parse)
