"""How fast this machine feeds training, and what our order uses of a long-tailed data set.

python -m launch.feed --clips=33x144x256,121x736x1280   records/s of random clips, by order and workers
python -m launch.feed --data=FOLDER                      the same of a data set that is there
python -m launch.feed --simulate                         the report's problem: shares used by an epoch, time per step
"""

import pathlib
import sys
import tempfile

from absl import app, flags

from configs import base
from launch import arguments
from motif_jax import config
from motif_jax.budget import workload
from motif_jax.data import buckets, dataset as datasets, rates, record, simulation

CLIPS = flags.DEFINE_string("clips", "33x144x256,121x736x1280", "Buckets to write random clips of.")
DATA = flags.DEFINE_string("data", "", "A data set to measure instead.")
RECORDS = flags.DEFINE_integer("records", 64, "Random clips of each bucket.", lower_bound=8)
FOLDER = flags.DEFINE_string("folder", None, "Where random clips are written, and removed again; default: the system's.")
TEACHER = flags.DEFINE_integer("teacher_dim", 0, "Of a teacher's features on a grid of 8 x 8; 0: none.")
BATCH = flags.DEFINE_integer("batch_size", 8, "Rows of a batch.", lower_bound=1)
BATCHES = flags.DEFINE_integer("batches", 24, "Batches to take the rate of.", lower_bound=1)
WORKERS = flags.DEFINE_list("workers", ["0", "1", "2"], "Numbers of worker processes; more than 1 for the random order alone.")
SIMULATE = flags.DEFINE_bool("simulate", False, "Simulate the report's problem instead.")
RANKS = flags.DEFINE_integer("ranks", 64, "Of the simulated problem.", lower_bound=1)
SHARDS = flags.DEFINE_integer("shards", 4000, "Tar shards of the simulated problem.", lower_bound=1)
WAN = (4, 8, 8)  # strides of the released codec


def data_config(**changes) -> config.DataConfig:
  """The base config's data section with changes."""
  c = base.get_config()
  c.data.update(dict(validation=0.0, batch_size=BATCH.value, workers=0) | changes)
  return config.from_config_dict(c).data


def of_data(name: str, path) -> None:
  """Prints the rates of a data set, a line for each order and number of workers."""
  opened = datasets.open_dataset(path)
  parts = opened.meta.parts
  size = sum(part.records * record.bytes_of(part.spec) for part in parts) / sum(part.records for part in parts)
  cpu = rates.parts(data_config(), opened)
  print(f"{name}: {size / 1e6:.3g} MB a record; CPU ms a record: "
        + ", ".join(f"{part} {1e3 * seconds:.3g}" for part, seconds in cpu.items())
        + f"; one core: {1 / sum(cpu.values()):.4g} records/s, {size / sum(cpu.values()) / 1e9:.3g} GB/s")
  for order in ("random", "shards"):
    for workers in map(int, WORKERS.value):
      if order == "shards" and workers > 1:
        continue
      rate = rates.measure(data_config(order=order, workers=workers), opened, batches=BATCHES.value)
      print(f"  {order:<7} {workers} workers: {rate.records:8.4g} records/s, {rate.bytes / 1e9:.3g} GB/s, first batch after "
            f"{rate.first:.2g} s" + (f", {1e3 * rate.cpu:.3g} CPU ms a record" if not workers else ""), flush=True)


def of_random() -> None:
  """Writes random clips of each bucket, measures them, and removes them."""
  model = base.get_config().model
  for bucket in buckets.parse(CLIPS.value):
    spec = record.Spec(workload.latent_grid(bucket, WAN), model.latent_channels, model.text_dim, (8, 8), TEACHER.value)
    with tempfile.TemporaryDirectory(dir=FOLDER.value) as folder:
      path = pathlib.Path(folder) / "set"
      rates.write_random(path, bucket, spec, records=RECORDS.value, per_shard=RECORDS.value // 8)
      of_data(buckets.name(bucket), path)


def simulated() -> None:
  """Prints what each way of dealing the simulated clips uses of them."""
  problem = simulation.make_problem(ranks=RANKS.value, shards=SHARDS.value)
  clips = problem.clips.sum(0)
  print(f"{clips.sum():,} clips in {SHARDS.value:,} tar shards, {(clips > 0).sum()} buckets of {clips.min():,} to "
        f"{clips.max():,} clips, {RANKS.value} ranks")
  for name, deal in (("tar shards dealt in turn", simulation.dealt), ("tar shards dealt greedily", simulation.greedy)):
    print(f"  {name:<42}{simulation.share_used(problem, deal(problem)):>7.1%} of the clips are used in an epoch")
  for order in ("random", "shards"):
    used = simulation.ours(problem, data_config(order=order, batch_size=8 * RANKS.value))
    print(f"  {'ours, order=' + order:<42}{used.share:>7.1%}, {used.milliseconds:.2g} ms a step of {8 * RANKS.value} rows to "
          f"find them, {used.again:.2%} read by more than one rank")


def main(argv: list[str]) -> None:
  arguments.quiet()
  try:
    arguments.check_no_others(argv)
    if SIMULATE.value:
      simulated()
    elif DATA.value:
      of_data(DATA.value, DATA.value)
    else:
      of_random()
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")


if __name__ == "__main__":
  app.run(main, flags_parser=arguments.parse)
