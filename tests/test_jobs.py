"""Encoding by processes that hang, crash or are killed, and by many jobs at once: the data set is the undisturbed one.

KILLS=20 python -m pytest -s tests/test_jobs.py -k kill    kills more often, and says what it met
"""

import contextlib
import itertools
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from motif_jax import mesh as meshes
from motif_jax.config import MeshConfig
from motif_jax.data import clip as clips, dataset, extract, progress, reader, videos, worker
from motif_jax.encoders.block_dct import BlockDCT
from motif_jax.encoders.gradients import Gradients
from tests import broken_decoder, small_data
from tests.test_encode import VIDEO, clip, contents, folder, run, undisturbed  # noqa: F401, the fixtures too

PATIENCE = 600  # seconds until what hangs is a fault, where nothing should hang; no claim about speed


@pytest.fixture(scope="module")
def process():
  made = worker.Worker()
  yield made
  made.close()


def test_a_worker_answers_and_outlives_what_hangs_crashes_or_fails_in_it(process):
  assert process.call(divmod, 17, 5, limit=PATIENCE) == (3, 2)
  for function, argument, kind in ((time.sleep, 2 * PATIENCE, "took too long"), (os._exit, 7, "crashed"), (int, "x", "failed")):
    with pytest.raises(worker.Failed) as failed:
      process.call(function, argument, limit=0.3 if function is time.sleep else PATIENCE)
    assert failed.value.kind == kind
    assert process.call(divmod, 17, 5, limit=PATIENCE) == (3, 2)


def test_an_exit_code_says_how_a_worker_ended(process):
  with pytest.raises(worker.Failed, match="exit code 7"):
    process.call(os._exit, 7, limit=PATIENCE)


def test_files_that_hang_or_crash_their_decoder_are_skipped_with_that_reason(folder, monkeypatch):
  def call(self, function, folder, clip, bucket, *, limit, call=worker.Worker.call):  # a process may be long in starting
    return call(self, function, folder, clip, bucket, limit=1 if clip.key == "hangs" else limit)

  monkeypatch.setattr(worker.Worker, "call", call)
  monkeypatch.setattr(reader, "decode", broken_decoder.decode)
  found = [clips.Clip(key=name, file="v0.mp4", span=None, long="a", short="b", tags=(), start=0.0, end=None, fps=24.0, stamp=(0, 0))
           for name in ("good", "hangs", "crashes", "fails", "also good")]
  opened, skipped = reader.Reader(folder, decoders=1, limit=PATIENCE, clock=progress.Clock()), []
  (taken, frames), = opened.batches(found, VIDEO, rows=6, skipped=skipped)
  opened.close()
  assert [clip.key for clip in taken] == ["good", "also good"]
  for decoded in frames:
    np.testing.assert_array_equal(decoded, videos.read_clip(folder / "v0.mp4", VIDEO))
  assert [(skip.name, skip.reason) for skip in skipped] == [
      ("hangs", "decoder took too long"), ("crashes", "decoder crashed"), ("fails", "decoder failed")]
  assert "IndexError: a fault of the decoder" in skipped[2].detail


def test_processes_that_decode_change_no_byte(folder, undisturbed, tmp_path):
  run(folder, tmp_path / "set", decoders=2)
  assert contents(tmp_path / "set") == contents(undisturbed)


def test_jobs_in_any_order_make_the_same_data_set_and_the_last_one_finishes_it(folder, undisturbed, tmp_path):
  said = []
  for job in (2, 0):
    assert run(folder, tmp_path / "set", job=(job, 3), say=said.append) is None
    with pytest.raises(ValueError, match="interrupted"):
      dataset.open_dataset(tmp_path / "set")
  assert "3 of 4 shards are there" in said[-1]
  (tmp_path / "set" / "5x24x32" / f".left.0a{videos.PARTIAL}").write_bytes(b"half written by a job that was killed")
  assert run(folder, tmp_path / "set", job=(1, 3)).records == {"1x24x32": 3, "5x24x32": 9}
  assert contents(tmp_path / "set") == contents(undisturbed)


def test_two_jobs_with_the_same_shards_at_the_same_time_do_no_harm(folder, undisturbed, tmp_path):
  """A second job runs from beginning to end while the first is in the middle of each of its shards."""
  others = iter([(0, 2), (0, 1), (0, 2), (0, 2), (0, 2)])

  def jit(function):
    def program(*args):
      if job := next(others, None):
        run(folder, tmp_path / "set", job=job)
      return function(*args)
    return program

  run(folder, tmp_path / "set", job=(0, 2), jit=jit)
  assert contents(tmp_path / "set") == contents(undisturbed)


def test_jobs_with_different_plans_are_kept_apart(folder, tmp_path):
  run(folder, tmp_path / "set", job=(0, 2))
  with pytest.raises(ValueError, match="another plan.*clips_per_shard"):
    run(folder, tmp_path / "set", job=(1, 2), clips_per_shard=3)


def test_batches_lie_over_all_devices_and_no_record_changes(folder, tmp_path):
  encoders = extract.Encoders(BlockDCT(), small_data.Text(), Gradients())
  mesh, spread = meshes.make_mesh(MeshConfig(-1, 1, 1)), set()

  def place(array):
    placed = jax.device_put(array, meshes.batch_sharding(mesh))
    spread.add((placed.shape[0], *placed.addressable_shards[0].data.shape[:1]))
    return placed

  for name, put, rows in (("one", lambda x: x, 3), ("all", place, 8)):
    run(folder, tmp_path / name, encoders=encoders, jit=jax.jit, place=put, rows=rows)
  assert mesh.devices.size == 8 and spread == {(8, 1), (32, 4)}  # clips, and their four stills
  for alone, together in zip(*(dataset.open_dataset(tmp_path / name).sources for name in ("one", "all"))):
    for i in range(len(alone)):
      for name in ("latents", "first_frame", "teacher"):
        np.testing.assert_allclose(together[i][name], alone[i][name], atol=2e-3, err_msg=name)


def children(pid):
  found = []
  for file in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
      found += map(int, file.read_text().split())
  return found


def alive(pid):
  try:
    return "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
  except (FileNotFoundError, ProcessLookupError):
    return False


def test_kill_9_at_random_times_and_a_rerun_give_the_undisturbed_bytes(folder, undisturbed, tmp_path):
  seed = os.environ.get("SEED", str(time.time_ns()))
  print(f"  SEED={seed}")
  kills, draw, output, orphans = int(os.environ.get("KILLS", 2)), random.Random(seed), tmp_path / "set", set()
  whole = itertools.count()
  command = [sys.executable, "-m", "tests.encode_slowly", str(folder), str(output)]
  while kills:
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    process.stdout.readline()
    time.sleep(draw.uniform(0, 1.2))
    if process.poll() is None:
      orphans |= set(children(process.pid))
    process.kill()
    if process.wait() == 0:
      assert contents(output) == contents(undisturbed)
      output.rename(tmp_path / f"whole-{next(whole)}")
      print("  it was whole, and equal")
      continue
    assert process.returncode == -signal.SIGKILL
    kills -= 1
    print(f"  killed with {len(list(output.glob('*/*.array_record-*-of-0000?')))} shards there, "
          f"{len(list(output.rglob('*.partial')))} half written")
  subprocess.run(command, check=True)
  assert contents(output) == contents(undisturbed)
  deadline = time.monotonic() + PATIENCE
  while any(map(alive, orphans)) and time.monotonic() < deadline:
    time.sleep(0.1)
  assert not any(map(alive, orphans)), "decoders outlive their job"
  print(f"  {len(orphans)} decoders were left alone, and all have ended")
