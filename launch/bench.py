"""Measures this device: python -m launch.bench --only attention,train/motif_2b --output results.json

Cases are groups of names like attention/cudnn/...; --list shows them.  Each is written to the file as soon as it is measured, and
a later call passes over what the file has for the same device, jax and commit: after a kill, or --limit, run the same command
again.  --config=configs/FILE.py measures steps of that config alone; --config.a.b=value changes a key of every config.
--absent=h200 only compiles the cases for such a GPU, which need not be here: what will not fit is known before there is one.
Needs jax, flax, optax, einops, chex and numpy, and nothing else.
"""

import argparse
import contextlib
import importlib
import os
import pathlib
import re
import sys

import jax

from motif_jax import config, config_dict, program_files
from motif_jax.bench import absent, measure, reference, results, run, sizes, table
from motif_jax.bench.case import Job

OUTPUT = ".cache/bench.json"


def arguments(argv: list[str]) -> argparse.Namespace:
  """The flags; `changed` holds the config keys among them.  ValueError for what is no flag."""
  parser = argparse.ArgumentParser(prog="launch.bench", description=__doc__.splitlines()[0], allow_abbrev=False)
  parser.add_argument("--only", default="", help=f"Beginnings of names, comma-separated; groups: {', '.join(run.GROUPS)}.")
  parser.add_argument("--list", action="store_true", help="Print the names of the cases and measure nothing.")
  parser.add_argument("--output", default=OUTPUT, help="The file of results, %(default)s by default.")
  parser.add_argument("--config", default="", help="Steps of this config file alone.")
  parser.add_argument("--limit", type=float, default=float("inf"), help="Begin no case after so many seconds.")
  parser.add_argument("--absent", default="", help="Only compile the cases for one GPU that is not here: "
                      f"{', '.join(absent.KINDS)}; motif_jax/bench/absent.py says what that needs.")
  parser.add_argument("--again", action="store_true", help="Measure what the file has already, too.")
  parser.add_argument("--reference", action="store_true", help="The group 'reference' too: diffusers' torch model beside ours.")
  flags, others = parser.parse_known_args(argv)
  flags.changed = {}
  for other in others:
    if not (found := re.fullmatch(r"--config\.([\w.]+)=(.*)", other)):
      raise ValueError(f"unknown argument {other}; write --flag=value, and see --help.")
    flags.changed[found[1]] = found[2]
  return flags


def load(name: str, device: sizes.Sizes, changed: dict[str, str]) -> config.Config:
  """The config `name` of configs/ for these devices, all of them along fsdp, with the keys that the user changed."""
  c = importlib.import_module(f"configs.{name}").get_config()
  c.model.update(dict(attention=device.backends[0], dtype=device.dtype))
  c.mesh.update(dict(data=1, fsdp=-1, sequence=1))
  for path, text in changed.items():
    config_dict.change(c, path, text)
  return config.from_config_dict(c)


def job_of(flags: argparse.Namespace) -> Job:
  """What is to be measured here."""
  device = jax.devices()[0]
  memory = absent.memory_of(flags.absent) if flags.absent else measure.memory_of(device)
  here = sizes.sizes_of(device.platform)
  if flags.config:
    file = pathlib.Path(flags.config)
    if not file.is_file() or file.parent.name != "configs":
      raise ValueError(f"--config={flags.config}: no such file; expected one of configs/.")
    here = sizes.with_config(here, file.stem)
  return Job(here, lambda name: load(name, here, flags.changed), memory, flags.changed)


def main(argv: list[str] | None = None) -> None:
  program_files.keep_whole()
  try:
    flags = arguments(sys.argv[1:] if argv is None else argv)
    others = absent.believed(absent.devices(flags.absent, 1)[0]) if flags.absent else contextlib.nullcontext()
  except ValueError as e:
    sys.exit(f"error: {e}")
  with others:
    answer(flags)


def answer(flags: argparse.Namespace) -> None:
  """Measures what `flags` ask for, and prints it."""
  try:
    only = [name for name in flags.only.split(",") if name]
    if flags.reference or any(name.startswith("reference") for name in only):
      os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch, in its process, needs room beside jax
    only += ["reference"] * flags.reference
    job, file = job_of(flags), results.Results(flags.output)
    cases, where = run.chosen(job, only), results.here()
    if flags.absent:
      cases = [absent.only_compiled(case, jax.devices()[0], job.memory) for case in cases if case.prepare]
      where["device"] += ", absent"
    if flags.list:
      print("\n".join(case.name for case in cases))
      return
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  print(f"{where['devices']} x {where['device']}, jax {where['jax']}, commit {where['commit']}; {len(cases)} cases", flush=True)
  left = run.run(cases, file, where, seconds=job.sizes.seconds, limit=flags.limit, again=flags.again,
                 say=lambda line: print(line, flush=True))
  found = [entry for case in cases if (entry := file.find(case.name, case.settings, where))]
  print("\n" + "\n".join(table.lines(found, file.at(where)) + reference.ratios(found)))
  print(f"\n{len(found)} of {len(cases)} cases are in {flags.output}" + (
      f"; {len(left)} left: run the same command again" if left else ""))


if __name__ == "__main__":
  main()
