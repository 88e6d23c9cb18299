"""Starts the processes of a run on one machine, watches them, and starts all again from the last checkpoint when one fails.

Imports nothing but the standard library: what watches must not fail with what it watches, and has to start at once.
"""

import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence

from motif_jax import endings

LOOK = 0.2  # seconds between two looks at the processes
PARTING = 1.0  # seconds that a process has to print its stacks before it is killed
TOLD = (signal.SIGINT, signal.SIGTERM)


class Supervisor:
  """`run` is the exit status of a run that was started as often as it took.

  Processes live together: where one ends in error, or misses what its heartbeat file promised, the others would wait for it for
  ever, so they are killed and all start anew.  A signal to the supervisor is passed on to them, and ends the run.

  Args:
    command: of one process, without what tells it from the others.
    processes: how many there are on this machine, each with one of its devices.
    nodes: how many machines there are, each with its supervisor; `node`: which one this is.  With several, `starts` is 1: what
      started the supervisors has to start them all again.
    coordinator: host:port of the first process of node 0; by default a free port of this machine.
    starts: how often in a row the run may start without getting any further.
    reached: () -> a number that grows as the run gets on, such as the step of its newest checkpoint.
    start_seconds: how long a process may take until its first heartbeat.
    finish_seconds: how long the others may take once one has ended well, or all were told to end.
    heartbeats: a folder for their files; by default one that is deleted in the end.
    say: takes each line of the report.
  """

  def __init__(self, command: Sequence[str], *, processes: int, starts: int, reached: Callable[[], float], nodes: int = 1,
               node: int = 0, coordinator: str | None = None, heartbeats: str | None = None, start_seconds: float = 1800,
               finish_seconds: float = 600, say: Callable[[str], None] = print):
    self._command, self._processes, self._starts, self._reached = command, processes, starts, reached
    self._start_seconds, self._finish_seconds, self._say = start_seconds, finish_seconds, say
    self._nodes, self._node, self._coordinator, self._heartbeats = nodes, node, coordinator, heartbeats
    self._told: list[int] = []  # signals, in the order they came; `_passed` of them have been passed on
    self._passed = 0
    self._running: list[subprocess.Popen] = []

  def run(self) -> int:
    """The exit status of the last start, of the process that failed first."""
    old = {number: signal.signal(number, lambda number, frame: self._told.append(number)) for number in TOLD}
    try:
      vain, furthest = 0, self._reached()
      while True:
        status = self._attempt()
        if status in endings.FINAL or self._told:
          return status
        vain = 0 if self._reached() > furthest else vain + 1
        furthest = self._reached()
        if vain >= self._starts:
          self._say(f"supervise: {vain} starts in a row got no further; giving up with status {status}")
          return status
        self._say(f"supervise: status {status}; starting again from the last checkpoint")
    finally:
      for number, handler in old.items():
        signal.signal(number, handler)

  def _attempt(self):
    """Starts all processes once; the status of the first that failed, or 0."""
    with tempfile.TemporaryDirectory(prefix="heartbeats") as temporary:
      folder = pathlib.Path(self._heartbeats or temporary)
      folder.mkdir(parents=True, exist_ok=True)
      try:
        beats = [folder / str(i) for i in range(self._processes)]
        self._start(beats)
        return self._watch(beats)
      finally:
        self._end()

  def _start(self, beats):
    coordinator, count = self._coordinator or f"localhost:{free_port()}", self._nodes * self._processes
    self._running = []
    for i, beat in enumerate(beats):
      beat.write_text(f"{time.time() + self._start_seconds:.0f}\n")
      command, environment = [*self._command, f"--heartbeat={beat}"], dict(os.environ)
      if count > 1:
        command += [f"--coordinator={coordinator}", f"--processes={count}", f"--process_id={self._node * self._processes + i}"]
      if self._processes > 1:
        environment["JAX_LOCAL_DEVICE_IDS"] = str(i)
      # A session of its own: Control-C goes to a whole terminal, and would reach it twice.
      self._running.append(subprocess.Popen(command, env=environment, start_new_session=True))

  def _watch(self, beats):
    leaving = None  # since when one of them has ended, or was told to
    while True:
      statuses = [process.poll() for process in self._running]
      self._pass_on()
      if self._told or any(status is not None for status in statuses):
        leaving = leaving or time.monotonic()
      failed = [(i, status) for i, status in enumerate(statuses) if status not in (None, endings.DONE, endings.INTERRUPTED)]
      if failed:
        i, status = failed[0]
        self._say(f"supervise: process {i} of {self._processes} ended with status {status}")
        return status if status >= 0 else 128 - status  # of a signal, as shells have it
      if all(status is not None for status in statuses):
        return max(statuses)
      for i, (process, beat) in enumerate(zip(self._running, beats)):
        if process.poll() is None and time.time() > float(beat.read_text()):
          self._say(f"supervise: process {i} of {self._processes} gave no sign of life in time")
          return endings.STALLED
      if leaving and time.monotonic() - leaving > self._finish_seconds:
        self._say(f"supervise: not all processes ended within {self._finish_seconds:g} s")
        return endings.STALLED
      time.sleep(LOOK)

  def _end(self):
    """Kills who is left, after its stacks are printed."""
    left = [process for process in self._running if process.poll() is None]
    for process in left:
      process.send_signal(signal.SIGCONT)  # a stopped one cannot print
      process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + PARTING
    while left and time.monotonic() < deadline and any(process.poll() is None for process in left):
      time.sleep(0.05)
    for process in left:
      process.kill()
      process.wait()

  def _pass_on(self):
    for number in self._told[self._passed:]:
      self._passed += 1
      for process in self._running:
        process.send_signal(number)  # does nothing where it has ended


def newest_step(workdir: str) -> int:
  """The step of the newest finished checkpoint in a work directory, by name alone; -1 where there is none."""
  steps = [int(folder.name) for folder in pathlib.Path(workdir, "checkpoints").glob("*") if folder.name.isdigit()]
  return max(steps, default=-1)


def free_port() -> int:
  """A port of this machine that nobody listens on."""
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]
