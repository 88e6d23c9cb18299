"""Claims about several processes on one machine: they are one program, one run, and they stop together."""

import contextlib
import functools
import os
import pathlib
import pickle
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from launch import render
from motif_jax import distributed, endings, mesh as meshes
from motif_jax.config import MeshConfig
from motif_jax.train import metrics
from tests import one_step, test_end_to_end
from tests.test_end_to_end import TINY, launch

ROOT = pathlib.Path(__file__).parent.parent
PATIENCE = 600  # seconds until a hanging process is killed; no claim about speed


def _free_port() -> int:
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


class Processes(contextlib.ExitStack):
  """The same module several times, each on `devices` virtual CPU devices; who is not gone at the end is killed."""

  def __init__(self, folder, count, arguments, *, devices):
    """`arguments`: (port, process id) -> the command line after `python -m`."""
    super().__init__()
    self.outputs = [folder / f"process{i}.txt" for i in range(count)]
    environment = test_end_to_end.devices(devices) | {"PYTHONUNBUFFERED": "1"}
    port, self.started = _free_port(), []
    self.callback(self._end)
    for i, output in enumerate(self.outputs):
      command = [sys.executable, "-m", *arguments(port, i)]
      with output.open("w") as file:
        self.started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT))

  def _end(self):
    for process in self.started:
      if process.poll() is None:
        process.kill()
      process.wait()

  def said(self, i=0) -> str:
    """What process `i` has printed so far."""
    return self.outputs[i].read_text()

  def until(self, holds, *, statuses=(0,)):
    """Waits until `holds()`; fails if a process ends with another status or nothing happens for long."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
      ended = [p.poll() for p in self.started]
      assert time.monotonic() < deadline and all(s is None or s in statuses for s in ended), self._all_said()
      time.sleep(0.05)

  def join(self, status=0):
    """Waits until all have ended with `status`; fails if one did otherwise."""
    self.until(lambda: all(p.poll() == status for p in self.started), statuses=(status,))

  def _all_said(self):
    return "\n".join(f"--- process {i}: {p.poll()}\n{self.said(i)[-3000:]}" for i, p in enumerate(self.started))


@functools.cache
def _alone():
  return one_step.run(meshes.make_mesh(MeshConfig(1, 1, 1), devices=jax.devices()[:1]))


@pytest.mark.parametrize("processes, devices, sizes, accumulate", [
    (2, 2, (2, 1, 2), 2),  # a sequence inside each process
    (4, 1, (1, 2, 2), 1),  # fsdp and sequence reach across processes; two of them read the same rows
])
def test_several_processes_take_the_step_of_one(tmp_path, processes, devices, sizes, accumulate):
  command = lambda port, i: ["tests.one_step", *map(str, (port, processes, i, tmp_path / "result", *sizes, accumulate))]
  with Processes(tmp_path, processes, command, devices=devices) as running:
    expected = _alone()
    running.join()
  one_step.assert_same(pickle.loads((tmp_path / "result").read_bytes()), expected)


def test_processes_agree_on_the_checkpoint_that_they_go_on_from(tmp_path):
  command = lambda port, i: ["tests.fallen_back", str(port), "2", str(i), str(tmp_path / "work")]
  with Processes(tmp_path, 2, command, devices=2) as running:
    running.join()
    said = [running.said(i) for i in range(2)]
  assert all("went on from step 1 with [1]" in text for text in said)
  assert all(sum(f"checkpoints/{step} is damaged" in text for text in said) >= 1 for step in (2, 3))
  assert sorted(path.name for path in (tmp_path / "work" / "damaged").iterdir()) == ["2", "3"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  folder = tmp_path_factory.mktemp("multiprocess")
  render.main([f"--output={folder}/clips", "--count=24"])
  launch("encode", "--config=configs/smoke.py", f"--source={folder}/clips", f"--output={folder}/dataset")
  return folder / "dataset"


def test_a_signal_to_one_process_stops_all_after_the_same_step_and_they_go_on(tmp_path, dataset):
  def training(*changes):
    flags = [*TINY, "--config.optimizer.kind=adamw", f"--config.data.path={dataset}", f"--workdir={tmp_path}/work", *changes]
    return lambda port, i: ["launch.train", *flags, f"--coordinator=localhost:{port}", "--processes=2", f"--process_id={i}"]

  with Processes(tmp_path, 2, training("--config.train.steps=1000000"), devices=1) as running:
    running.until(lambda: "step 4/" in running.said())  # after a validation, previews and a save
    running.started[1].send_signal(signal.SIGTERM)
    running.join(endings.INTERRUPTED)
    said, other = running.said(0), running.said(1)
  assert "of 2 cpu device(s) in 2 process(es) on 1 node(s)" in said and "batch: 4, 2 per device" in said
  assert "validation loss" in said and "step" not in other  # one of them speaks
  step = int(re.search(r"interrupted: step (\d+) is saved", said)[1])
  assert step >= 4
  rest = training(f"--config.train.steps={step + 2}", "--config.sample.prompts=()", "--config.data.validation=0.0")
  with Processes(tmp_path, 2, rest, devices=1) as running:
    running.join()
    said = running.said()
  assert f"from step {step} to {step + 2}" in said and f"done: step {step + 2} is saved" in said
  assert len(list((tmp_path / "work").glob("events*"))) == 2  # one of each run


def test_a_stopped_process_is_noticed_and_all_go_on_from_the_checkpoint_to_the_same_losses(tmp_path, dataset):
  work, output = tmp_path / "work", tmp_path / "said.txt"
  changes = ["train.steps=150", "train.save_every=50", "train.stall_seconds=20.0", "sample.prompts=()", "data.validation=0.0",
             "route.keep=1.0", "alignment.weight=0.0", "optimizer.kind=adamw", "model.depths.single=1",
             "model.depths.decoder=0"]
  flags = [*TINY, f"--config.data.path={dataset}", *(f"--config.{change}" for change in changes)]
  command = [sys.executable, "-m", "launch.supervise", f"--workdir={work}", "--processes=2", "--", *flags]
  environment = test_end_to_end.devices(1)
  with output.open("w") as file, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT) as run:
    deadline = time.monotonic() + PATIENCE
    while "\nstep 55/" not in output.read_text():
      assert run.poll() is None and time.monotonic() < deadline, output.read_text()[-3000:]
      time.sleep(0.005)
    children = pathlib.Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGSTOP)
    first = metrics.read(work, "train/loss")  # the next start takes back what came after its checkpoint
    assert run.wait(3 * PATIENCE) == 0, output.read_text()[-3000:]
  said = output.read_text()
  assert "supervise: process 0 of 2 ended with status 76" in said or "gave no sign of life" in said
  assert "most recent call first" in said and len(re.findall("from step \\d+ to 150", said)) >= 2 and "done: step 150" in said
  losses = metrics.read(work, "train/loss")
  assert [step for step, _ in losses] == list(range(1, 151)) and len(first) >= 55
  assert losses[:len(first)] == first  # what was done twice came to the same bits


@pytest.mark.parametrize("given, said", [
    (dict(coordinator="a:1"), "--coordinator came without --processes, --process_id; give"),
    (dict(processes=2, process_id=0), "--processes, --process_id came without --coordinator"),
    (dict(coordinator="a:1", processes=2, process_id=0, detect=True), "came with --distributed, which finds them by itself"),
    (dict(coordinator="a", processes=2, process_id=0), "expected host:port"),
    (dict(coordinator="a:1", processes=2, process_id=2), "--process_id is 2, expected 0 to --processes - 1 = 1"),
])
def test_half_of_what_joins_processes_is_a_clear_error(given, said):
  with pytest.raises(ValueError, match=said):
    distributed.join(**dict(coordinator=None, processes=None, process_id=None) | given)


def test_no_cluster_to_be_found_is_a_clear_error(tmp_path):
  said = launch("train", *TINY, f"--workdir={tmp_path}", "--distributed", fails=True)
  assert "error: jax cannot tell which process this is" in said and "give --coordinator, --processes, --process_id" in said


def test_a_slurm_task_among_others_does_not_train_by_itself(monkeypatch):
  nothing = dict(coordinator=None, processes=None, process_id=None)
  distributed.join(**nothing)
  monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
  with pytest.raises(ValueError, match="one of 4 tasks of a SLURM step.*add --distributed"):
    distributed.join(**nothing)
