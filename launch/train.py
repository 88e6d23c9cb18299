"""Trains a model: python -m launch.train --config=configs/smoke.py --workdir=DIR [--config.train.steps=100 ...]

Goes on from the newest checkpoint in the work directory; where there is none yet, --start=CHECKPOINT begins at step 0 with the
weights of another run.  TensorBoard reads the same directory.  Control-C saves and leaves with status 75, a second one at once;
`motif_jax/endings.py` has all statuses, and launch.supervise starts again what failed.  Several processes become one with
--distributed (SLURM and others), or with --coordinator, --processes and --process_id; the work directory and the data must be the
same folders for all of them.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import sys

from absl import logging

from launch import arguments
from motif_jax import config, distributed, endings
from motif_jax.bench import fastest
from motif_jax.train import checkpoint, curriculum, lock, loop


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.train", __doc__)
  add = parser.add_argument
  arguments.add_config(parser)
  add("--bench", default=".cache/bench.json", help="results of launch.bench, for --config.model.attention=auto")
  add("--workdir", required=True, help="where checkpoints and TensorBoard files go")
  add("--start", help="checkpoint, or work directory, that a new run starts from; else random weights")
  add("--distributed", action="store_true", help="one of several processes; jax finds the others from the cluster")
  add("--coordinator", help="host:port of process 0, where jax cannot find it")
  add("--processes", type=int, help="how many processes there are")
  add("--process_id", type=int, help="which of them this is, from 0")
  add("--programs", help="where compiled programs are kept for the next start; 'none': nowhere.  Else JAX_COMPILATION_CACHE_DIR, "
      "or programs/ in MOTIF_JAX_CACHE, or in ~/.cache/motif_jax")
  add("--heartbeat", help="a file that says until when this process is well")
  add("--verbosity", type=int, help="of libraries, as absl has it: 0 lets them tell what they do; by default they tell errors")
  return arguments.parse(parser, argv)


def main(argv=None) -> None:
  args = parse(argv)
  if args.verbosity is None:
    arguments.quiet()
  else:
    logging.use_absl_handler()
    logging.set_verbosity(args.verbosity)
  with contextlib.ExitStack() as stack:
    try:
      job = prepared(args, stack)
      state = loop.run(job, heartbeat=args.heartbeat)
    except endings.Ending as e:
      print(f"error: {e}", file=sys.stderr, flush=True)
      os._exit(e.status)  # the usual way out waits for the other processes, which may wait for this one
  if int(state.step) < job.cfg.train.steps:
    sys.exit(endings.INTERRUPTED)


def prepared(args: argparse.Namespace, stack: contextlib.ExitStack) -> loop.Job:
  """The run that the flags ask for; `stack` holds its work directory."""
  try:
    arguments.keep_programs(args.programs)
    distributed.join(coordinator=args.coordinator, processes=args.processes, process_id=args.process_id,
                     detect=args.distributed)
    if chosen := fastest.resolve(args.config, args.bench):
      print(chosen)
    job = loop.prepare(config.from_config_dict(args.config), args.workdir)
    if args.start:
      checkpoint.find(args.start)  # to hear of a wrong name now
      job = dataclasses.replace(job, start=functools.partial(curriculum.from_checkpoint, args.start, job))
    with endings.of_disk(args.workdir):
      stack.enter_context(lock.held(args.workdir))
    return job
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")


if __name__ == "__main__":
  main()
