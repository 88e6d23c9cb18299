"""Looks after the checkpoints of a run: python -m launch.checkpoint list|verify|prune|cost WORKDIR

list    step, date, size, what evaluation said of it, and why it stays
verify  reads every byte of every checkpoint, or of --step, against its manifest; exit status 1 if one is damaged
prune   deletes what config.train of the newest checkpoint, changed by the flags, does not keep; not while a run is at work
cost    the share of the time of training for which saving held it up, from what the run wrote of itself
"""

import argparse
import dataclasses
import datetime
import json
import pathlib
import shutil
import sys

import jax

from launch import arguments
from motif_jax import config
from motif_jax.config import TrainConfig
from motif_jax.config_rules import CHOICES
from motif_jax.train import checkpoint, lock, manifest, metrics, retention, saved_config, stored


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.checkpoint", __doc__)
  parser.add_argument("what", choices=list(COMMANDS))
  parser.add_argument("workdir")
  parser.add_argument("--step", type=int, help="verify: this one alone")
  parser.add_argument("--keep", type=int, help="list, prune: that many of the newest stay")
  parser.add_argument("--keep_every", type=int, help="those of every k-th step stay")
  parser.add_argument("--keep_best", type=int, help="that many of the best stay")
  parser.add_argument("--best_by", help="by this figure of evaluation")
  parser.add_argument("--best_is", choices=CHOICES["train.best_is"])
  parser.add_argument("--dry_run", action="store_true", help="prune: say what would go")
  return parser.parse_args(argv)


def listed(args: argparse.Namespace) -> list[str]:
  """A line for each checkpoint."""
  folders = checkpoint.folders(args.workdir)
  policy, lines = _policy(folders, args), []
  stays = retention.reasons(_figures(folders), policy)
  for step, folder in folders.items():
    files, size = manifest.size(folder)
    date = datetime.datetime.fromtimestamp(folder.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    wrong = manifest.faults(folder)
    state = f"damaged: {wrong[0]}" if wrong else "whole" if manifest.is_there(folder) else "no manifest"
    kind = "" if stored.has_rest(folder) else ", weights alone"
    figures = stored.about(folder)["figures"]
    said = f"  {policy.best_by} {figures[policy.best_by]:.4g}" if policy.best_by in figures else ""
    lines.append(f"{step:>9}  {date}  {size / 1e6:>10,.1f} MB in {files} files  {state}{kind}  "
                 f"stays: {', '.join(stays[step]) or 'no'}{said}")
  return lines


def verified(args: argparse.Namespace) -> list[str]:
  """A line for each checkpoint, and one for each file that is not what was written; exits with 1 if there is one."""
  folders = checkpoint.folders(args.workdir)
  if args.step is not None and args.step not in folders:
    raise ValueError(f"there is no checkpoint of step {args.step} in {args.workdir}; there are {sorted(folders)}.")
  lines, bad = [], 0
  for step, folder in folders.items() if args.step is None else [(args.step, folders[args.step])]:
    wrong = manifest.faults(folder, full=True)
    bad += bool(wrong)
    how = "whole" if manifest.is_there(folder) else "its items are there; without a manifest nothing more is known of it"
    lines += [f"{step}: {len(wrong)} fault(s)", *(f"  - {fault}" for fault in wrong)] if wrong else [f"{step}: {how}"]
  if bad:
    sys.exit("\n".join([*lines, f"error: {bad} of {len(folders)} checkpoints are damaged; a run leaves them out by itself."]))
  return lines


def pruned(args: argparse.Namespace) -> list[str]:
  """A line for each checkpoint that is deleted.  Damaged ones are left alone, and do not count among those that stay."""
  folders = checkpoint.folders(args.workdir)
  whole = {step: folder for step, folder in folders.items() if not manifest.faults(folder)}
  stays = retention.reasons(_figures(whole), _policy(whole, args)) if whole else {}
  gone = [step for step, reasons in stays.items() if not reasons]
  with lock.held(args.workdir):
    for step in gone if not args.dry_run else []:
      trash = folders[step].rename(folders[step].with_name(f"{step}.orbax-checkpoint-tmp-pruned"))  # never half of a checkpoint
      shutil.rmtree(trash)
  verb = "would delete" if args.dry_run else "deleted"
  kept = ", ".join(f"{step} ({', '.join(reasons)})" for step, reasons in stays.items() if reasons) or "none"
  return [*(f"{verb} {step}" for step in gone), f"kept: {kept}"]


def cost(args: argparse.Namespace) -> list[str]:
  """What saving held up, beside the time that the steps took."""
  path = pathlib.Path(args.workdir) / metrics.SCALARS
  if not path.is_file():
    raise ValueError(f"{path} is not there; expected the work directory of a run of this version.")
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  rates = [(line["step"], line["train/steps_per_second"]) for line in lines if "train/steps_per_second" in line]
  # From the first report on: what comes before it compiles.
  seconds = sum((step - before) / rate for (before, _), (step, rate) in zip(rates, rates[1:]))
  blocked = [line["checkpoint/blocked_seconds"] for line in lines if "checkpoint/blocked_seconds" in line
             and rates and rates[0][0] < line["step"] <= rates[-1][0]]
  if not blocked:
    raise ValueError(f"{path} tells of no save between two reports; train for longer, or save more often.")
  held = sum(blocked)
  each = f"{held / len(blocked):.3g} s each; the longest {max(blocked):.3g} s"
  return [f"{len(blocked)} saves held up training for {held:.3g} s, {each}",
          f"steps {rates[0][0]} to {rates[-1][0]} took {seconds + held:.4g} s: saving cost {held / (seconds + held):.2%} of it"]


COMMANDS = {"list": listed, "verify": verified, "prune": pruned, "cost": cost}


def _figures(folders):
  return {step: stored.about(folder)["figures"] for step, folder in folders.items()}


def _policy(folders, args) -> TrainConfig:
  """What is kept: by the config of the newest readable checkpoint, with the flags that are given."""
  newest = next((folder for _, folder in sorted(folders.items(), reverse=True) if not manifest.faults(folder)), None)
  if newest is None:
    raise ValueError(f"none of the checkpoints in {args.workdir} is whole; python -m launch.checkpoint verify says more.")
  cfg = saved_config.config_from_json(newest / "config" / "metadata")
  given = {name: value for name in ("keep", "keep_every", "keep_best", "best_by", "best_is")
           if (value := getattr(args, name)) is not None}
  policy = config.from_config_dict(config.to_dict(dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, **given)))).train
  told = sorted({name for figures in _figures(folders).values() for name in figures})
  if args.best_by and args.best_by not in told:  # by a slip of the pen the best ones would go
    raise ValueError(f"no checkpoint has a figure {args.best_by!r}; there are {', '.join(told) or 'none'}.")
  return policy


def main(argv=None) -> None:
  arguments.quiet()
  args = parse(argv)
  jax.config.update("jax_platforms", "cpu")  # nothing is computed: no GPU's memory is taken
  try:
    print("\n".join(COMMANDS[args.what](args)))
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")


if __name__ == "__main__":
  main()
