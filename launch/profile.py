"""A trace of a few training steps on random data, and a report of where the time goes:

  python -m launch.profile --config=configs/smoke.py --workdir=DIR [--bucket=9x32x32] [--steps=3] [--config.model.remat=block ...]
  python -m launch.profile --config=configs/smoke.py --workdir=DIR --sample      a step of sampling, instead of training
  python -m launch.profile --read=DIR                                            the report on the newest trace in DIR again

DIR holds the trace for TensorBoard and xprof, and beside it the report as text and as JSON.  Runs where jax, flax, optax, einops,
chex and numpy are all there is.
"""

import argparse
import importlib.util
import os
import pathlib
import re
import sys

import jax

from motif_jax import config, config_dict, mesh as meshes, program_files
from motif_jax.bench import sizes, steps as programs
from motif_jax.budget import workload
from motif_jax.data import buckets
from motif_jax.profile import recording, table
from motif_jax.train.step import plan_at

WARM = 3  # steps before the traced ones, where --steps is a number
MOST = 1000  # steps traced at most: a trace of more than some dozens is large and says no more


def parse(argv=None) -> tuple[argparse.Namespace, list[str]]:
  """The flags, and the --config.a.b=value among them."""
  parser = argparse.ArgumentParser(prog="python -m launch.profile", description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add("--config", help="a file in configs/; --config.a.b=value changes one key of it")
  add("--workdir", help="where the trace goes")
  add("--read", metavar="DIR", help="report on the newest trace in DIR, and run nothing")
  add("--steps", default="3", help="how many to trace, or A:B for steps A to B - 1, counted from 0; those before warm up")
  add("--bucket", help="FRAMESxHEIGHTxWIDTH in pixels; default: sample.bucket of the config")
  add("--strides", help="pixels per latent in (time, height, width); default: those of the config's codec or of the released one")
  add("--sample", action="store_true", help="trace a step of sampling")
  add("--at", type=int, default=0, help="the training step whose plan is run: routing and alignment end at their last step")
  add("--share", type=float, default=0.005, help="scopes with less of the time are summed up")
  add("--top", type=int, default=15, help="instructions listed")
  args, others = parser.parse_known_args(argv)
  changes = [flag for flag in others if re.match(r"--config\.[\w.]+=", flag)]
  if unknown := [flag for flag in others if flag not in changes]:
    parser.error(f"unknown arguments {' '.join(unknown)}")
  return args, changes


def main(argv=None) -> None:
  args, changes = parse(argv)
  try:
    made, run, folder = recording.read(args.read if args.read else trace(args, changes))
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  said = table.lines(made, run, share=args.share, top=args.top)
  recording.write(made, run, folder, said)
  print("\n".join([*said, "", f"trace, report.txt and report.json: {folder}"]))


def trace(args: argparse.Namespace, changes: list[str]) -> pathlib.Path:
  """The folder of a new trace; ValueError for what cannot be."""
  if not args.config or not args.workdir:
    raise ValueError("Give --config=FILE and --workdir=DIR to take a trace, or --read=DIR to read one.")
  pathlib.Path(args.workdir).mkdir(parents=True, exist_ok=True)  # raises, before anything is compiled
  keep_names()
  cfg = read_config(args.config, changes)
  first, stop = span(args.steps)
  bucket = one_bucket(args.bucket) if args.bucket else cfg.sample.bucket
  strides, whose = strides_of(cfg, args.strides)
  grid = workload.latent_grid(bucket, strides)
  tokens = workload.tokens_of(cfg.model, grid, cfg.data.text_tokens)
  mesh = meshes.make_mesh(cfg.mesh)
  facts = {"bucket": f"{buckets.name(bucket)}: {tokens.video:,} video tokens, {tokens.context:,} of text, a quarter of it real",
           "latents": f"of {'x'.join(map(str, strides))} pixels, {whose}",
           "model": f"{cfg.model.dtype}, attention {cfg.model.attention}, remat {cfg.model.remat}, unroll {cfg.model.unroll}"}
  if args.sample:
    prepared, program = programs.prepared_sampling(cfg, grid), "sampling step"
    facts["batch"] = "1 clip, classifier-free guidance"
  else:
    plan = plan_at(cfg, args.at)
    meshes.check_batch_size(mesh, cfg.data.batch_size, accumulate=cfg.train.accumulate)
    workload.check_split(cfg, workload.make_split(tuple(mesh.shape.values()), cfg.model.heads), tokens)
    prepared, program = programs.prepared_training(cfg, mesh, grid, plan), "training step"
    facts |= {"plan": " | ".join(map(str, plan)), "optimizer": cfg.optimizer.kind,
              "batch": f"{cfg.data.rows(tokens.video)} in {cfg.train.accumulate} microbatches, mesh "
                       + ", ".join(f"{name} {size}" for name, size in mesh.shape.items())}
  about = dict(program=program, config=" ".join([args.config, *changes]), facts=facts)
  return recording.record(prepared, args.workdir, first=first, stop=stop, about=about)


def keep_names() -> None:
  """Sets what a trace needs to name things; before jax asks for devices.

  In CUDA graphs kernels lose the names of their instructions, so graphs are off: each kernel is launched from the host, which
  costs microseconds.  XLA_FLAGS=--xla_gpu_enable_command_buffer=FUSION,... keeps them, and only XLA's own kernels have names.
  A program from the compilation cache has the scopes of the code that compiled it first, unless they are part of its key.
  """
  program_files.keep_whole()
  jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
  flags = os.environ.get("XLA_FLAGS", "")
  if "xla_gpu_enable_command_buffer" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_enable_command_buffer=".strip()


def read_config(file: str, changes: list[str]) -> config.Config:
  """The `Config` of a file in configs/, with the keys that --config.a.b=value flags change."""
  spec = importlib.util.spec_from_file_location("profiled_config", file)
  if spec is None or not pathlib.Path(file).exists():
    raise ValueError(f"--config={file}: there is no such Python file; configs/ has "
                     + ", ".join(sorted(path.name for path in pathlib.Path("configs").glob("*.py"))) + ".")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  values = module.get_config()
  for flag in changes:
    path, _, text = flag.removeprefix("--config.").partition("=")
    config_dict.change(values, path, text)
  return config.from_config_dict(values)


def span(text: str) -> tuple[int, int]:
  """(first, stop) of --steps: "A:B", or a number of steps after some to warm up."""
  found = re.fullmatch(r"(?:(\d+):)?(\d+)", text)
  if not found:
    raise ValueError(f"--steps={text}: expected a number such as 3, or A:B such as 10:13.")
  first, stop = (WARM, WARM + int(text)) if found[1] is None else (int(found[1]), int(found[2]))
  if not 0 < stop - first <= MOST:
    raise ValueError(f"--steps={text} traces {stop - first} steps; expected 1 to {MOST}, A before B.")
  return first, stop


def one_bucket(text: str) -> config.BucketConfig:
  """The bucket that `text` names."""
  found = buckets.parse(text)
  if len(found) > 1:
    raise ValueError(f"--bucket={text} names {len(found)} buckets; a trace is of one.")
  return found[0]


def strides_of(cfg: config.Config, given: str | None) -> tuple[tuple[int, int, int], str]:
  """(strides, whose they are): as given, or of the config's codec where its channels are the model's, or of the released one."""
  if given:
    if not re.fullmatch(r"[1-9]\d*,[1-9]\d*,[1-9]\d*", given):
      raise ValueError(f"--strides={given}: expected three positive whole numbers (time, height, width) such as 4,8,8.")
    return tuple(map(int, given.split(","))), "as given"
  try:
    from motif_jax.encoders import registry  # only here: on a bare image it cannot be imported
  except ImportError as e:
    return sizes.STRIDES, f"of the released codec, because {e.name} is not installed"
  (codec,) = registry.announced(cfg.encoders, ("codec",))
  if codec is None or codec.channels != cfg.model.latent_channels:
    return sizes.STRIDES, "of the released codec"
  return tuple(codec.strides), f"of {codec.name}"


if __name__ == "__main__":
  main()
