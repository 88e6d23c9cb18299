"""Kills a run again and again: python -m launch.torture --output=DIR --rounds=200 [--processes=1] [--seed=0]

A tiny model trains; in every round it is killed at a random moment (while it starts, in a step, while it writes a checkpoint) or
told to stop, and started again from what lies on the disk.  No round may lose a finished checkpoint, and every loss that was ever
logged must have the bits of a run that nobody disturbed.  DIR/rounds.jsonl has a line per round, DIR/summary.json the count; a
second call goes on.  Each start is a process of its own, forked from one that has done the imports, which would take most of the
time; with --processes=2 one or both of a pair are hit.
"""

import argparse
import collections
import ctypes
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

from ml_collections import ConfigDict

from configs import smoke
from motif_jax import config, distributed, endings, program_files, supervise
from motif_jax.train import lock, loop, metrics

STEPS = 3000  # of the whole run; a round makes at most MOST
MOST = 15
KINDS = {"start": 1, "step": 3, "save": 4, "told": 2}  # where it is hit, and how often relative to each other
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent ends
PATIENCE = 300  # seconds until a round counts as lost


def tiny(dataset: str, seed: int, steps: int) -> config.Config:
  """The smoke config with next to nothing in it, saved every third step."""
  c: ConfigDict = smoke.get_config()
  c.seed = seed
  c.model.update(dict(width=16, heads=2, rope_axes=(2, 2, 4), mlp_ratio=1, depths=dict(dual=1, single=1, decoder=0), unroll=1))
  c.route.keep, c.alignment.weight, c.sample.prompts = 1.0, 0.0, ()
  c.data.update(dict(path=dataset, batch_size=4, validation=0.0))
  c.optimizer.kind = "adamw"
  c.train.update(dict(steps=steps, log_every=1, save_every=3, keep=3, stall_seconds=60.0))
  return config.from_config_dict(c)


class Life:
  """One start of the run: `count` processes that train in `workdir` until they are ended."""

  def __init__(self, cfg: config.Config, workdir: pathlib.Path, count: int):
    self._said = workdir.with_suffix(".log")
    self._said.write_text("")
    port = supervise.free_port()
    self.pids = [self._fork(cfg, workdir, count, port, i) for i in range(count)]
    self.statuses: dict[int, int] = {}

  def _fork(self, cfg, workdir, count, port, i):
    if pid := os.fork():
      return pid
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # who stops the torturer leaves nobody at work
    status = endings.WRONG_INPUT
    try:
      output = os.open(self._said if i == 0 else os.devnull, os.O_WRONLY | os.O_APPEND)
      os.dup2(output, 1)
      os.dup2(output, 2)
      if count > 1:
        distributed.join(coordinator=f"localhost:{port}", processes=count, process_id=i)
      job = loop.prepare(cfg, str(workdir))
      with lock.held(workdir):
        status = endings.DONE if int(loop.run(job).step) == cfg.train.steps else endings.INTERRUPTED
    except BaseException as e:  # pylint: disable=broad-except
      print(f"{type(e).__name__}: {e}", flush=True)
    os._exit(status)

  def said(self) -> str:
    return self._said.read_text()

  def step(self) -> int:
    """The last step in the log; -1 before there is one."""
    return max((int(n) for n in re.findall(r"^step (\d+)/", self.said(), re.M)), default=-1)

  def start(self) -> int | None:
    """The step that it went on from, once that is said."""
    found = re.search(r"^from step (\d+) to", self.said(), re.M)
    return found and int(found[1])

  def ended(self) -> bool:
    """Whether one of the processes has ended."""
    for pid in set(self.pids) - set(self.statuses):
      done, status = os.waitpid(pid, os.WNOHANG)
      if done:
        self.statuses[pid] = os.waitstatus_to_exitcode(status)
    return bool(self.statuses)

  def send(self, number: int, pids: list[int]) -> None:
    for pid in set(pids) - set(self.statuses):
      os.kill(pid, number)

  def finish(self) -> None:
    """Waits until all have ended."""
    for pid in set(self.pids) - set(self.statuses):
      self.statuses[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def until(holds, life: Life) -> bool:
  """Whether `holds()` came true while `life` lasted."""
  deadline = time.monotonic() + PATIENCE
  while not holds():
    if life.ended() or time.monotonic() > deadline:
      return False
    time.sleep(0.002)
  return True


def one_round(cfg: config.Config, workdir: pathlib.Path, count: int, rng: random.Random) -> dict:
  """What was done to one life, and what it had said and saved by then."""
  kind = rng.choices(list(KINDS), KINDS.values())[0]
  before = supervise.newest_step(workdir)
  life = Life(cfg, workdir, count)
  if kind == "start":
    time.sleep(rng.uniform(0, 2))
  else:
    steps = rng.randint(1, MOST)
    until(lambda: life.step() >= max(before, 0) + steps, life)
    if kind == "save":
      until(lambda: any(workdir.glob("checkpoints/*tmp*")) or life.step() > before + 2 * MOST, life)
    time.sleep(rng.uniform(0, 0.03))
  ended_early = life.ended()
  victims = life.pids if kind == "told" else rng.sample(life.pids, rng.randint(1, count))
  saved = supervise.newest_step(workdir)  # at least this must be there afterwards
  in_save = any(workdir.glob("checkpoints/*tmp*"))
  life.send(signal.SIGTERM if kind == "told" else signal.SIGKILL, victims)
  if kind == "told":
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and len(life.statuses) < count:
      life.ended()
      time.sleep(0.01)
  life.send(signal.SIGKILL, life.pids)  # the other of a pair would wait for the first
  life.finish()
  told_well = kind != "told" or all(s == endings.INTERRUPTED for s in life.statuses.values())
  resumed = life.start()
  wrong = ["ended by itself: " + life.said()[-300:]] if ended_early else []
  wrong += [f"statuses {sorted(life.statuses.values())}"] if not told_well else []
  wrong += [f"went on from {resumed}, {before} was saved"] if resumed is not None and resumed < before else []
  return dict(kind=kind, processes=count, hit=len(victims), while_saving=in_save, saved_before=before, went_on_from=resumed,
              reached=life.step(), saved=saved, wrong=wrong)


def differing(workdir: pathlib.Path, expected: dict[int, float]) -> tuple[int, list[str]]:
  """(how many losses were logged in all lives, what differs from the run that nobody disturbed)."""
  logged = metrics.read(workdir, "train/loss") if (workdir / metrics.SCALARS).exists() else []
  return len(logged), [f"step {step}: {value!r} and not {expected.get(step)!r}" for step, value in logged
                       if expected.get(step) != value][:5]


def prepare(output: pathlib.Path, count: int, seed: int) -> tuple[config.Config, dict[int, float]]:
  """The config, and the loss of each step of a run that nobody disturbs."""
  dataset, undisturbed = output / "dataset", output / "undisturbed"
  command = lambda name, *args: subprocess.run([sys.executable, "-m", f"launch.{name}", *args], check=True)
  if not (dataset / "dataset.json").exists():
    command("render", f"--output={output}/clips", "--count=24")
    command("encode", "--config=configs/smoke.py", f"--source={output}/clips", f"--output={dataset}")
  cfg = tiny(str(dataset), seed, STEPS)
  if supervise.newest_step(undisturbed) < STEPS:
    shutil.rmtree(undisturbed, ignore_errors=True)
    undisturbed.mkdir()
    rare = config.from_config_dict(config.to_dict(cfg) | {"train": config.to_dict(cfg)["train"] | {"save_every": STEPS}})
    life = Life(rare, undisturbed, count)
    life.finish()
    assert set(life.statuses.values()) == {endings.DONE}, life.said()
  return cfg, dict(metrics.read(undisturbed, "train/loss"))


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--output", required=True, type=pathlib.Path)
  parser.add_argument("--rounds", type=int, default=200)
  parser.add_argument("--processes", type=int, default=1)
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args(argv)
  program_files.keep_whole()
  output = args.output.absolute()
  try:
    output.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    sys.exit(f"error: {e}")
  cfg, expected = prepare(output, args.processes, args.seed)
  assert len(expected) == STEPS, f"{len(expected)} losses of the undisturbed run"
  log, workdir = output / "rounds.jsonl", output / "tortured"
  workdir.mkdir(exist_ok=True)
  done = len(log.read_text().splitlines()) if log.exists() else 0
  for number in range(done, args.rounds):
    outcome = one_round(cfg, workdir, args.processes, random.Random(f"{args.seed} {number}"))
    compared, differ = differing(workdir, expected)
    outcome |= dict(round=number, losses_compared=compared, differ=differ,
                    outcome="diverged" if differ else "lost" if outcome["wrong"] else "same")
    with log.open("a") as file:
      file.write(json.dumps(outcome) + "\n")
    print(json.dumps(outcome), flush=True)
  rounds = [json.loads(line) for line in log.read_text().splitlines()]
  count = lambda key: dict(collections.Counter(str(r[key]) for r in rounds))
  summary = dict(rounds=len(rounds), outcomes=count("outcome"), kinds=count("kind"), while_saving=count("while_saving"),
                 processes=count("processes"), furthest=max(r["reached"] for r in rounds), seed=args.seed)
  (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
  print(json.dumps(summary, indent=2))


if __name__ == "__main__":
  main(sys.argv[1:])
