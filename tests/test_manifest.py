"""Claims about damaged checkpoints: they are named, left out and put aside, and never half of one is taken for a whole."""

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import shutil
import threading
import time
import types

import jax
import pytest

from motif_jax.train import checkpoint, damage, lock, manifest, stored
from tests.small_checkpoints import ABSTRACT, CFG, ONE, assert_same, keeping, random_state, saved


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory):
  return saved(tmp_path_factory.mktemp("undamaged"), 1, 2)


@pytest.fixture
def run(undamaged, tmp_path):
  """A work directory with steps 1 and 2, to be damaged."""
  return shutil.copytree(undamaged, tmp_path / "run")


def _largest(folder):
  return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def _truncate(folder):
  largest = _largest(folder)
  os.truncate(largest, largest.stat().st_size // 2)
  return largest.name


def _half_delete(folder):
  shutil.rmtree(folder / "rest")
  return "left out: rest/ is lacking"


def _without_manifest(folder):
  (folder / manifest.FILE).unlink()
  return manifest.FILE


def _nothing_left_of_the_metadata(folder):
  (folder / "_CHECKPOINT_METADATA").write_text("{")
  return "cannot be read"


def _flip(folder):
  """One bit, which no size tells."""
  path = _largest(folder)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  return path.name


def _restored(workdir, cfg=CFG):
  with checkpoint.make_manager(workdir, keeping(5)) as manager:
    return checkpoint.restore(manager, ABSTRACT, cfg, ONE)


def test_a_saved_checkpoint_is_whole_and_says_with_what_it_was_written(undamaged):
  for folder in checkpoint.folders(undamaged).values():
    assert manifest.is_there(folder) and not manifest.faults(folder, full=True)
  said = json.loads((folder / manifest.FILE).read_text())
  assert said["format"] == manifest.FORMAT and sum(size for size, _ in said["files"].values()) == manifest.size(folder)[1]
  assert set(stored.about(folder)["libraries"]) == set(checkpoint.LIBRARIES)


@pytest.mark.parametrize("harm", [_truncate, _half_delete, _without_manifest, _nothing_left_of_the_metadata])
def test_a_run_goes_on_from_the_step_before_a_damaged_one_and_says_so(run, harm, capsys):
  said = harm(run / "checkpoints" / "2")
  checkpoint.check_architecture(run, CFG)
  assert checkpoint.find(run)[1] == 1
  capsys.readouterr()
  with checkpoint.make_manager(run, CFG.train) as manager:
    assert_same(checkpoint.restore(manager, ABSTRACT, CFG, ONE), random_state(1, seed=1))
    out = capsys.readouterr().out
    assert "checkpoints/2 is damaged and is left out" in out and said in out
    assert list(checkpoint.folders(run)) == [1] and (run / damage.FOLDER / "2").is_dir()
    assert checkpoint.save(manager, random_state(2), CFG)  # the run comes to that step again
  assert list(checkpoint.folders(run)) == [1, 2] and not manifest.faults(run / "checkpoints" / "2", full=True)


def test_a_bit_that_no_size_tells_is_found_on_request(run):
  name = _flip(run / "checkpoints" / "2")
  assert not manifest.faults(run / "checkpoints" / "2")
  (fault,) = manifest.faults(run / "checkpoints" / "2", full=True)
  assert fault.endswith("has other bytes than were written") and name in fault
  parts = [manifest.faults(run / "checkpoints" / "2", full=True, part=(i, 3)) for i in range(3)]  # of three processes
  assert sum(parts, []) == [fault]


def test_every_file_counts_whatever_its_name_and_may_not_grow(tmp_path):
  (tmp_path / "_CHECKPOINT_METADATA").write_text('{"item_handlers": {"ema": ""}}')
  (tmp_path / "ema").mkdir()
  (tmp_path / "ema" / manifest.FILE).write_text("a")
  manifest.write(tmp_path)
  assert not manifest.faults(tmp_path, full=True)
  (tmp_path / "ema" / manifest.FILE).write_text("ab")
  assert manifest.faults(tmp_path) == ["ema/manifest.json has 2 bytes instead of 1"]


def test_of_many_faults_three_are_said_and_the_others_counted(tmp_path, capsys):
  damage.say(tmp_path, ["a", "b", "c"])
  damage.say(tmp_path, ["a", "b", "c", "d"])
  assert [line.partition("left out: ")[2] for line in capsys.readouterr().out.splitlines()] == ["a; b; c", "a; b; c and 1 more"]


def test_train_verify_leaves_out_what_has_other_bytes(run, capsys):
  _flip(run / "checkpoints" / "2")
  state = _restored(run, dataclasses.replace(CFG, train=keeping(5, verify=True)))
  assert int(state.step) == 1 and "has other bytes" in capsys.readouterr().out


def test_what_orbax_cannot_read_is_left_out_too(run, capsys):
  for path in (run / "checkpoints" / "2" / "ema").rglob("manifest.ocdbt"):
    path.write_bytes(bytes(path.stat().st_size))  # of the right size
  (run / damage.FOLDER / "2").mkdir(parents=True)  # it was damaged once before
  assert int(_restored(run).step) == 1 and (run / damage.FOLDER / "2.1" / "ema").is_dir()
  assert "checkpoints/2 is damaged and is left out: " in capsys.readouterr().out


def test_no_whole_checkpoint_is_an_error_and_no_new_start(run):
  for step in (1, 2):
    _truncate(run / "checkpoints" / str(step))
  with pytest.raises(ValueError, match=r"none of the checkpoints of steps \[2, 1\] .* is whole"):
    _restored(run)
  assert list(checkpoint.folders(run)) == [1, 2]  # nothing is put aside
  with pytest.raises(ValueError, match="no whole checkpoint"):
    checkpoint.find(run)


def test_a_checkpoint_from_before_manifests_is_restored(run):
  folder = run / "checkpoints" / "2"
  (folder / manifest.FILE).unlink()
  shutil.rmtree(folder / "about")
  metadata = folder / "_CHECKPOINT_METADATA"
  said = json.loads(metadata.read_text())
  del said["item_handlers"]["about"]
  metadata.write_text(json.dumps(said))
  assert not manifest.faults(folder, full=True) and not manifest.is_there(folder)
  assert int(_restored(run).step) == 2
  assert stored.about(folder) == {"libraries": {}, "figures": {}, "beside": {}}
  shutil.rmtree(folder / "rest")
  assert manifest.faults(folder) == ["rest/ is lacking"]


def test_a_newer_format_is_no_damage_but_an_error_that_says_so(run):
  path = run / "checkpoints" / "2" / manifest.FILE
  said = json.loads(path.read_text())
  path.write_text(json.dumps(said | {"format": manifest.FORMAT + 1}))
  with pytest.raises(ValueError, match=f"2 has format {manifest.FORMAT + 1}, and this program knows {manifest.FORMAT} and older"):
    _restored(run)
  assert list(checkpoint.folders(run)) == [1, 2]


def test_reading_a_checkpoint_writes_nothing(run):
  state = lambda: {path: path.stat().st_mtime_ns for path in run.rglob("*")}
  before = state()
  checkpoint.restore_for_sampling(run)
  checkpoint.restore_weights(run, raw=True)
  assert state() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder_is_read_from_and_no_run_begins_in_it(run):
  folders = [run, *(path for path in run.rglob("*") if path.is_dir())]
  for folder in folders:
    folder.chmod(0o555)
  try:
    assert checkpoint.restore_for_sampling(run)[0] == CFG
    assert int(_restored(run).step) == 2
    with pytest.raises(PermissionError), lock.held(run):  # a run ends here, before it computes anything
      pass
  finally:
    for folder in folders:
      folder.chmod(0o755)


def test_what_a_save_left_is_cleared_though_it_is_still_written(tmp_path):
  left = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp" / "rest.orbax-checkpoint-tmp"
  ends = time.monotonic() + 0.5

  def write():  # as the storage library does, which makes the folders that it lacks
    for i in itertools.count():
      with contextlib.suppress(FileNotFoundError, FileExistsError):  # it may go at any moment
        left.mkdir(parents=True, exist_ok=True)
        (left / f"{i % 50}").touch()
      if time.monotonic() > ends:
        return

  writer = threading.Thread(target=write)
  writer.start()
  while not left.exists():
    time.sleep(0.001)
  with checkpoint.make_manager(tmp_path, CFG.train) as manager:
    writer.join()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == []  # it had ended before, or would have left something
    checkpoint.save(manager, random_state(4), CFG)
  assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]


def test_a_save_that_failed_deletes_no_older_checkpoint_however_late_orbax_hears_of_it(tmp_path, monkeypatch):
  failed, late = threading.Event(), threading.Event()

  def full(folder):
    failed.set()
    raise OSError(errno.ENOSPC, "No space left on device")

  with checkpoint.make_manager(tmp_path, keeping(1)) as manager:
    checkpoint.save(manager, random_state(1), CFG)
    manager.wait_until_finished()
    finished = manager._wait_for_checkpointers  # in the thread that then deletes what is not kept
    monkeypatch.setattr(manager, "_wait_for_checkpointers", lambda: (late.wait(), finished()))
    monkeypatch.setattr(manifest, "write", full)
    checkpoint.save(manager, random_state(2), CFG)
    failed.wait()
    with pytest.raises(OSError, match="No space left"):
      for i in itertools.count():  # the steps of a run
        time.sleep(0.01)
        checkpoint.check(manager)
        if i == 10:
          late.set()
    late.set()
  assert list(checkpoint.folders(tmp_path)) == [1]


def test_what_cannot_be_cleared_is_an_error_at_once(tmp_path, monkeypatch):
  (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir(parents=True)

  refused = []

  def refuse(path):
    refused.append(path)
    raise PermissionError(errno.EACCES, "Permission denied", path)

  monkeypatch.setattr(shutil, "rmtree", refuse)
  with pytest.raises(PermissionError):
    checkpoint.make_manager(tmp_path, CFG.train)
  assert len(refused) == 1


@pytest.mark.parametrize("busy, raises", [(2, None), (9, OSError)])
def test_clearing_is_tried_again_while_somebody_writes_and_not_for_ever(tmp_path, monkeypatch, busy, raises):
  (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
  clock, calls, rmtree = itertools.count(), [], shutil.rmtree

  def remove(path):
    calls.append(path)
    assert len(calls) <= busy + 1
    if len(calls) <= busy:
      raise OSError(errno.ENOTEMPTY, "Directory not empty", path)
    rmtree(path)

  monkeypatch.setattr(shutil, "rmtree", remove)
  monkeypatch.setattr(damage, "time", types.SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None))
  monkeypatch.setattr(damage, "PATIENCE", 5)
  with pytest.raises(raises) if raises else contextlib.nullcontext():
    damage.clear_unfinished(tmp_path)
  assert list(tmp_path.iterdir()) == [] or raises and 5 <= len(calls) <= 7


def test_a_fault_is_told_by_the_first_process_and_by_those_that_found_it(tmp_path, monkeypatch, capsys):
  told = lambda index, wrong: (monkeypatch.setattr(jax, "process_index", lambda: index), damage.say(tmp_path, wrong),
                               capsys.readouterr().out)[-1]
  assert told(0, damage.ELSEWHERE) == f"checkpoint {tmp_path} is damaged and is left out: another process found a fault in it\n"
  assert told(1, damage.ELSEWHERE) == "" and told(1, ["a", "b", "c"]).endswith(": a; b; c\n")
  assert told(1, list("abcde")).endswith(": a; b; c and 2 more\n")
