"""Claims about processes that stop, hang or die: somebody notices, says where they were, and starts them again."""

import os
import signal
import subprocess
import sys
import time

import pytest

from motif_jax import endings, supervise
from motif_jax.train import watchdog
from tests.test_end_to_end import ROOT

PATIENCE = 240  # seconds until a hanging process is killed; no claim about speed

# In place of a trainer: each start does what its turn in a list says; processes are told apart by ";".
STAND_IN = """
import os, pathlib, signal, sys, time
workdir, flags = pathlib.Path(sys.argv[1]), dict(flag.split("=") for flag in sys.argv[3:])
process = int(flags.get("--process_id", 0))
def leave(*_):
  (workdir / "told").touch()
  sys.exit(75)
signal.signal(signal.SIGTERM, leave)
with open(workdir / f"starts{process}", "a") as file:
  number = file.tell()
  file.write(".")
started = [workdir / f"starts{i}" for i in range(sys.argv[2].count(";") + 1)]
while any(not file.exists() or file.stat().st_size <= number for file in started):  # on a busy machine one may be long in coming
  time.sleep(0.01)
does = sys.argv[2].split(";")[process].split(",")[number]
if does == "saves":
  (workdir / "checkpoints" / str(number)).mkdir(parents=True)
  sys.exit(3)
if does == "killed":
  os.kill(os.getpid(), signal.SIGKILL)
if does == "stopped":
  (workdir / "beat").write_text("0")
  os.replace(workdir / "beat", flags["--heartbeat"])  # as the watchdog does: whoever reads meanwhile finds no half of it
  os.kill(os.getpid(), signal.SIGSTOP)
if does == "waits":
  time.sleep(999)
sys.exit(int(does))
"""


def supervised(folder, does, **options):
  """(the exit status of a run whose starts do one thing after another, how many starts there were)."""
  command = [sys.executable, "-c", STAND_IN, str(folder), does]
  options = dict(processes=1, starts=2, reached=lambda: supervise.newest_step(folder)) | options
  status = supervise.Supervisor(command, **options).run()
  return status, len((folder / "starts0").read_text())


@pytest.mark.parametrize("does, status, starts", [
    ("killed,saves,saves,saves,0", 0, 5),  # each new checkpoint brings new patience
    ("saves,killed,1,0", 1, 3),  # two in a row got no further
    ("killed,killed,0", 128 + signal.SIGKILL, 2),  # as shells have it
    ("stopped,0", 0, 2),
    ("75,0", 0, 2),  # told to stop by somebody who is gone
    (f"{endings.DISK}", endings.DISK, 1),
    (f"{endings.DIVERGED}", endings.DIVERGED, 1),
])
def test_a_run_is_started_again_as_long_as_that_can_help(tmp_path, does, status, starts):
  assert supervised(tmp_path, does) == (status, starts)


def test_a_supervisor_that_is_told_to_stop_passes_it_on_and_starts_nothing(tmp_path):
  me, handler = os.getpid(), signal.getsignal(signal.SIGTERM)
  script = f"import os, pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'starts0')!r}).exists(): time.sleep(0.01)\n"
  with subprocess.Popen([sys.executable, "-c", script + f"time.sleep(0.1)\nos.kill({me}, 15)"]):
    assert supervised(tmp_path, "waits,waits") == (endings.INTERRUPTED, 1)
  assert (tmp_path / "told").exists()
  assert signal.getsignal(signal.SIGTERM) is handler


def test_one_process_that_fails_takes_the_other_along_and_both_start_anew(tmp_path):
  assert supervised(tmp_path, "waits,0;1,0", processes=2) == (0, 2) and len((tmp_path / "starts1").read_text()) == 2


def test_a_process_that_hangs_after_the_other_has_ended_is_not_waited_for(tmp_path):
  assert supervised(tmp_path, "0;waits", processes=2, starts=1, finish_seconds=0.1) == (endings.STALLED, 1)


@pytest.mark.parametrize("slow, waits", [(False, "hashlib.pbkdf2_hmac('sha1', b'', b'', 1 << 26)"), (True, "time.sleep(999)")])
def test_a_process_without_a_beat_prints_where_it_is_and_ends(tmp_path, slow, waits):
  script = ("import hashlib, time\nfrom motif_jax.train.watchdog import Watchdog\n"
            f"with Watchdog(0.2, {str(tmp_path / 'beat')!r}) as dog:\n  dog.beat(slow={slow})\n  dog.beat(slow={slow})\n"
            f"  began = time.time()\n  {waits}\n")
  done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
  assert done.returncode == endings.STALLED and "no step came to its end within 0.2 s" in done.stderr
  assert 'File "<string>", line 7 in <module>' in done.stderr  # of the main thread
  assert float((tmp_path / "beat").read_text()) > 1e9


def test_what_is_slow_may_take_ten_times_as_long_and_so_may_the_step_after_it():
  dog = watchdog.Watchdog(100.0)
  allowed = lambda slow: (dog.beat(slow=slow), dog._due - time.monotonic())[1]
  assert [round(allowed(slow), -2) for slow in (False, True, False, False)] == [100, 1000, 1000, 100]


def test_a_second_signal_ends_a_process_at_once_even_where_python_does_not_run(tmp_path):
  script = ("import hashlib, jax, signal, time\nfrom motif_jax import mesh\nfrom motif_jax.config import MeshConfig\n"
            "from motif_jax.train.interrupt import Interrupt\nwith Interrupt(mesh.make_mesh(MeshConfig(1, 1, 1))) as interrupt:\n"
            "  print('ready', flush=True)\n  while not interrupt.agreed():\n    time.sleep(0.01)\n"
            "  print('noted', flush=True)\n  hashlib.pbkdf2_hmac('sha1', b'', b'', (1 << 31) - 1)\n")
  environment = os.environ | {"XLA_FLAGS": ""}
  with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
    try:
      assert process.stdout.readline() == "ready\n"
      process.send_signal(signal.SIGTERM)
      process.send_signal(signal.SIGTERM)  # at once: the same one, passed on
      assert process.stdout.readline() == "noted\n"
      time.sleep(1.1)
      assert process.poll() is None
      deadline = time.monotonic() + PATIENCE
      while process.poll() is None and time.monotonic() < deadline:  # on a busy machine the first may have been read late
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
      assert process.returncode == 128 + signal.SIGTERM
    finally:
      process.kill()
