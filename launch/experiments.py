"""Trains and judges the arms of the experiments (docs/results.md), seed by seed; stopped at any moment, the same command goes on:

  python -m launch.experiments --output=DIR [--arms=base,joint,single_stream,routed] [--seeds=0,1,2]
  python -m launch.experiments --output=DIR --time

Scenes of two things are rendered and encoded once, into DIR/dataset.  A run that has ended leaves DIR/results/ARM-SEED.json,
which `launch.results` makes tables and pictures of.  --time measures a step of each arm instead, in turn, into
DIR/results/times.json.
"""

import argparse
import importlib
import json
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np

from launch import arguments
from motif_jax import config, config_dict, endings, mesh as meshes
from motif_jax.bench import interleaved, results, steps
from motif_jax.budget import memory, workload
from motif_jax.config import Config
from motif_jax.data import dataset as datasets, videos
from motif_jax.evaluate import studies
from motif_jax.train import lock, loop, metrics
from motif_jax.train.step import plan_at

ROOT = pathlib.Path(__file__).parent.parent


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.experiments", __doc__)
  add = parser.add_argument
  add("--output", required=True, help="folder of the data set, the work directories and the results")
  add("--arms", default=",".join(studies.ARMS), help="files of configs/experiments/, with commas")
  add("--seeds", default="0,1,2")
  add("--clips", type=int, default=8000, help="rendered for training")
  add("--data", help="folder of a data set that is at hand, instead")
  add("--set", action="append", default=[], help="key=value of every arm's config, such as train.steps=8; repeatable")
  add("--share", type=float, default=1.0, help="of each arm's steps; a later call with a larger one goes on from there")
  add("--time", action="store_true", help="measure steps, train nothing")
  add("--rounds", type=int, default=20, help="of --time")
  return parser.parse_args(argv)


def main(argv=None) -> None:
  arguments.quiet()
  args = parse(argv)
  arguments.keep_programs()
  output = pathlib.Path(args.output)
  try:
    arms, seeds = args.arms.split(","), arguments.numbers("seeds", args.seeds, int)
    if not 0 < args.share <= 1 or args.rounds < 1:
      raise ValueError(f"--share={args.share:g} --rounds={args.rounds}: expected a share in (0, 1] of each arm's steps, and at "
                       "least 1 round.")
    given = lambda arm, seed, data: config_of(arm, seed, data, changes=args.set, share=args.share)
    for arm in arms:  # says what is wrong before anything is made
      given(arm, 0, "")
    with lock.held(output):
      data = args.data or encoded(output, args.clips)
      if args.time:
        timed(output, {arm: given(arm, seeds[0], data) for arm in arms}, args.rounds)
        return
      for seed in seeds:
        for arm in arms:
          if not done(output, arm, seed, given(arm, seed, data)):
            sys.exit(endings.INTERRUPTED)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  except endings.Ending as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(e.status)


def config_of(arm: str, seed: int, data: str, *, changes: list[str], share: float) -> Config:
  """The config of an arm for a run.  Fewer steps change nothing in those that remain, since no arm's rate knows how long it runs;
  but that routing ends that much earlier."""
  known = sorted(path.stem for path in (ROOT / "configs" / "experiments").glob("[!_]*.py"))
  if arm not in known:
    raise ValueError(f"--arms names {arm!r}; the arms are {', '.join(known)}.")
  c = importlib.import_module(f"configs.experiments.{arm}").get_config()
  for key, equals, value in (change.partition("=") for change in changes):
    if not equals:
      raise ValueError(f"--set={key} is not key=value, such as train.steps=8.")
    config_dict.change(c, key, value)
  c.seed, c.data.path = seed, str(data)
  c.train.steps, c.route.last_step = round(share * c.train.steps), round(share * c.route.last_step)
  return config.from_config_dict(c)


def encoded(output: pathlib.Path, clips: int) -> pathlib.Path:
  """The folder of the encoded data set, made where it is not there yet."""
  made, rendered = output / "dataset", output / "clips"
  config_file = ROOT / "configs" / "experiments" / "base.py"
  launch = lambda command, *flags: subprocess.run([sys.executable, "-m", f"launch.{command}", *flags], cwd=ROOT, check=True)
  try:
    if not (rendered / "captions.jsonl").exists():  # written last
      launch("render", f"--output={rendered.absolute()}", f"--count={clips}", "--benchmark=scenes")
    launch("encode", f"--config={config_file}", f"--source={rendered.absolute()}", f"--output={made.absolute()}")
  except subprocess.CalledProcessError as e:
    raise ValueError(f"the data set was not made: {' '.join(e.cmd[2:4])} ended with status {e.returncode}.") from e
  return made


def timed(output: pathlib.Path, configs: dict[str, Config], rounds: int) -> None:
  """Writes times.json: arm -> for each of its plans the share of the steps that it has, and CPU seconds of a step, by round."""
  plans, cases = {}, {}
  for arm, cfg in configs.items():
    every = [plan_at(cfg, step) for step in range(cfg.train.steps)]
    plans[arm] = {" | ".join(map(str, plan)): every.count(plan) / len(every) for plan in dict.fromkeys(every)}
    for plan in dict.fromkeys(every):
      cases[f"{arm}: {' | '.join(map(str, plan))}"] = steps.prepared_training(cfg, meshes.make_mesh(cfg.mesh), grid_of(cfg), plan)
  found = interleaved.seconds(cases, rounds=rounds)
  arms = {arm: [dict(plan=plan, share=share, seconds=found[f"{arm}: {plan}"]) for plan, share in of_arm.items()]
          for arm, of_arm in plans.items()}
  write(output / "results" / studies.TIMES, results.here() | dict(rounds=rounds, arms=arms))
  for arm, parts in arms.items():
    print(f"{arm}: {studies.step_seconds(parts):.4f} CPU seconds a step, of {configs[arm].train.steps} steps")


def done(output: pathlib.Path, arm: str, seed: int, cfg: Config) -> bool:
  """Whether the run has come to its end, by now or before."""
  told, folder = output / "results" / f"{arm}-{seed}.json", output / f"{arm}-{seed}"
  if told.exists() and json.loads(told.read_text())["steps"] >= cfg.train.steps:
    return True
  fresh, began = not (folder / metrics.SCALARS).exists(), (time.process_time(), time.perf_counter())
  print(f"== {arm}, seed {seed}", flush=True)
  state = loop.train(cfg, str(folder))
  if int(state.step) < cfg.train.steps:
    return False
  cost = dict(cpu_seconds=time.process_time() - began[0], wall_seconds=time.perf_counter() - began[1])
  write(told, results.here() | dict(arm=arm, seed=seed) | record(cfg, folder) | (cost if fresh else {}))
  jax.clear_caches()  # programs know their seed, so no later run asks for these
  return True


def grid_of(cfg: Config) -> tuple[int, int, int]:
  """The latent grid of the data set."""
  return datasets.open_data(cfg.data).meta.parts[0].spec.grid


def record(cfg: Config, folder: pathlib.Path) -> dict:
  """What a result says of a run: its size, the FLOPs executed by each step that was looked at, and what was seen there."""
  tokens = workload.tokens_of(cfg.model, grid_of(cfg), cfg.data.text_tokens)
  rows = cfg.data.rows(tokens.video)
  plans = [plan_at(cfg, step) for step in range(cfg.train.steps)]
  work = {plan: steps.train_flops(cfg, tokens, plan, workload.Split(), rows)[1] for plan in dict.fromkeys(plans)}
  executed = np.cumsum([work[plan] for plan in plans])
  curves: dict[str, dict[int, float]] = {}
  for line in map(json.loads, (folder / metrics.SCALARS).read_text().splitlines()):
    for name, value in line.items():
      if name.startswith(studies.RECORDED):
        curves.setdefault(name, {})[line["step"]] = value
  looked = sorted({step for curve in curves.values() for step in curve})
  return dict(
      parameters=memory.network_size(cfg), video_tokens=tokens.video, text_tokens=tokens.text, batch=rows, steps=cfg.train.steps,
      prompts=cfg.train.judge, flops={step: float(executed[step - 1]) for step in looked}, curves=curves)


def write(path: pathlib.Path, said: dict) -> None:
  """Writes `said` as JSON, whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with videos.replacing(path) as temporary:
    temporary.write_text(json.dumps(said) + "\n")


if __name__ == "__main__":
  main()
