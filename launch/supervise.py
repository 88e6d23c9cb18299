"""Runs training and starts it again: python -m launch.supervise --workdir=DIR [--processes=2] -- --config=... [flags of train]

All processes are on this machine, each with one of its devices.  On a cluster one of these runs on each node, or beside each
process, with --starts=1: it only watches, and the cluster starts all of them again (`launch/slurm/`, `launch/k8s/`).  Whatever
ends a process, the others are killed and all start from the last checkpoint, until the run is done, or three starts in a row
bring no new checkpoint.  SIGTERM or Control-C saves and leaves, with the status of an interrupted run (75).  Statuses:
`motif_jax/endings.py`.
"""

import argparse
import functools
import sys

from motif_jax import supervise


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", required=True, help="of the run")
  parser.add_argument("--processes", type=int, default=1, help="on this machine")
  parser.add_argument("--nodes", type=int, default=1, help="machines that this command runs on at the same time")
  parser.add_argument("--node", type=int, default=0, help="which one this is, from 0")
  parser.add_argument("--coordinator", help="host:port of node 0, with several nodes")
  parser.add_argument("--heartbeats", help="a folder for files that say until when each process is well")
  parser.add_argument("--starts", type=int, default=3, help="in a row that may bring no new checkpoint")
  parser.add_argument("--start_seconds", type=float, default=1800, help="until a process has begun to train")
  parser.add_argument("--finish_seconds", type=float, default=600, help="for the last save, once told to end")
  parser.add_argument("flags", nargs="*", help="of launch.train")
  args = parser.parse_args(argv)
  if min(args.processes, args.starts) < 1:
    parser.error("--processes and --starts are at least 1.")
  if args.nodes > 1 and (args.starts > 1 or not args.coordinator or not 0 <= args.node < args.nodes):
    parser.error(f"with --nodes={args.nodes} give --starts=1, --coordinator=HOST:PORT and --node=0 to {args.nodes - 1}: one node "
                 "cannot start the others again.")
  command = [sys.executable, "-m", "launch.train", f"--workdir={args.workdir}", *args.flags]
  reached = functools.partial(supervise.newest_step, args.workdir)
  return supervise.Supervisor(command, processes=args.processes, starts=args.starts, reached=reached, nodes=args.nodes,
                              node=args.node, coordinator=args.coordinator, heartbeats=args.heartbeats,
                              start_seconds=args.start_seconds, finish_seconds=args.finish_seconds,
                              say=functools.partial(print, flush=True)).run()


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
