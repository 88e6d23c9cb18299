"""How fast this machine feeds training, and what our order uses of a long-tailed data set.

python -m launch.feed --clips=33x144x256,121x736x1280   records/s of random clips, by order and workers
python -m launch.feed --data=FOLDER                      the same of a data set that is there
python -m launch.feed --simulate                         the report's problem: shares used by an epoch, time per step
"""

import argparse
import pathlib
import re
import sys
import tempfile

from configs import base
from launch import arguments
from motif_jax import config
from motif_jax.budget import workload
from motif_jax.data import buckets, dataset as datasets, rates, record, simulation

WAN = (4, 8, 8)  # strides of the released codec


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.feed", __doc__)
  add, count = parser.add_argument, arguments.at_least(1)
  add("--clips", default="33x144x256,121x736x1280", help="buckets to write random clips of")
  add("--data", help="a data set to measure instead")
  add("--records", type=arguments.at_least(8), default=64, help="random clips of each bucket")
  add("--folder", help="where random clips are written, and removed again; by default the system's")
  add("--teacher_dim", type=arguments.at_least(0), default=0, help="of a teacher's features on a grid of 8 x 8; 0: none")
  add("--batch_size", type=count, default=8, help="rows of a batch")
  add("--batches", type=count, default=24, help="batches to take the rate of")
  add("--workers", default="0,1,2", help="numbers of worker processes; more than 1 for the random order alone")
  add("--simulate", action="store_true", help="simulate the report's problem instead")
  add("--ranks", type=count, default=64, help="of the simulated problem")
  add("--shards", type=count, default=4000, help="tar shards of the simulated problem")
  return parser.parse_args(argv)


def workers_of(text: str) -> list[int]:
  """The numbers of --workers."""
  if not re.fullmatch(r"\d+(,\d+)*", text):
    raise ValueError(f"--workers={text}: expected numbers of processes with commas, such as 0,1,2.")
  return list(map(int, text.split(",")))


def data_config(**changes) -> config.DataConfig:
  """The base config's data section with changes."""
  c = base.get_config()
  c.data.update(dict(validation=0.0, workers=0) | changes)
  return config.from_config_dict(c).data


def of_data(name: str, path, args: argparse.Namespace) -> None:
  """Prints the rates of a data set, a line for each order and number of workers."""
  opened = datasets.open_dataset(path)
  parts = opened.meta.parts
  size = sum(part.records * record.bytes_of(part.spec) for part in parts) / sum(part.records for part in parts)
  cpu = rates.parts(data_config(batch_size=args.batch_size), opened)
  print(f"{name}: {size / 1e6:.3g} MB a record; CPU ms a record: "
        + ", ".join(f"{part} {1e3 * seconds:.3g}" for part, seconds in cpu.items())
        + f"; one core: {1 / sum(cpu.values()):.4g} records/s, {size / sum(cpu.values()) / 1e9:.3g} GB/s")
  for order in ("random", "shards"):
    for workers in workers_of(args.workers):
      if order == "shards" and workers > 1:
        continue
      rate = rates.measure(data_config(order=order, workers=workers, batch_size=args.batch_size), opened, batches=args.batches)
      print(f"  {order:<7} {workers} workers: {rate.records:8.4g} records/s, {rate.bytes / 1e9:.3g} GB/s, first batch after "
            f"{rate.first:.2g} s" + (f", {1e3 * rate.cpu:.3g} CPU ms a record" if not workers else ""), flush=True)


def of_random(args: argparse.Namespace) -> None:
  """Writes random clips of each bucket, measures them, and removes them."""
  model = base.get_config().model
  for bucket in buckets.parse(args.clips):
    spec = record.Spec(workload.latent_grid(bucket, WAN), model.latent_channels, model.text_dim, (8, 8), args.teacher_dim)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
      path = pathlib.Path(folder) / "set"
      rates.write_random(path, bucket, spec, records=args.records, per_shard=args.records // 8)
      of_data(buckets.name(bucket), path, args)


def simulated(args: argparse.Namespace) -> None:
  """Prints what each way of dealing the simulated clips uses of them."""
  problem = simulation.make_problem(ranks=args.ranks, shards=args.shards)
  clips = problem.clips.sum(0)
  print(f"{clips.sum():,} clips in {args.shards:,} tar shards, {(clips > 0).sum()} buckets of {clips.min():,} to "
        f"{clips.max():,} clips, {args.ranks} ranks")
  for name, deal in (("tar shards dealt in turn", simulation.dealt), ("tar shards dealt greedily", simulation.greedy)):
    print(f"  {name:<42}{simulation.share_used(problem, deal(problem)):>7.1%} of the clips are used in an epoch")
  for order in ("random", "shards"):
    used = simulation.ours(problem, data_config(order=order, batch_size=8 * args.ranks))
    print(f"  {'ours, order=' + order:<42}{used.share:>7.1%}, {used.milliseconds:.2g} ms a step of {8 * args.ranks} rows to "
          f"find them, {used.again:.2%} read by more than one rank")


def main(argv=None) -> None:
  arguments.quiet()
  args = parse(argv)
  try:
    if args.simulate:
      simulated(args)
    elif args.data:
      of_data(args.data, args.data, args)
    else:
      of_random(args)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")


if __name__ == "__main__":
  main()
