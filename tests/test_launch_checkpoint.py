"""Claims about the command that looks after checkpoints."""

import dataclasses
import json

import pytest

from launch import checkpoint as command
from motif_jax.train import checkpoint, lock, metrics
from tests.small_checkpoints import CFG, keeping, random_state


@pytest.fixture
def run(tmp_path):
  """A work directory with the steps 2, 4, 6 and 8, of which 4 is the best; at first the config kept fewer."""
  with checkpoint.make_manager(tmp_path, keeping(9)) as manager:
    for step, loss in {2: 3.0, 4: 1.0, 6: 2.0, 8: 4.0}.items():
      checkpoint.save(manager, random_state(step), dataclasses.replace(CFG, train=keeping(1 if step == 2 else 2)), figures={"validation/loss": loss})
  return tmp_path


def _said(capsys, *argv, fails=False):
  """What the command prints; with `fails` what it says as it exits with an error."""
  if fails:
    with pytest.raises(SystemExit) as ended:
      command.main([str(a) for a in argv])
    return str(ended.value)
  command.main([str(a) for a in argv])
  return capsys.readouterr().out


def test_a_list_verify_and_prune_keep_the_policy_and_name_what_is_damaged(run, capsys):
  lines = _said(capsys, "list", run, "--keep_best=1").splitlines()
  assert [line.split()[0] for line in lines] == ["2", "4", "6", "8"] and all("whole" in line for line in lines)
  assert [line.split("stays: ")[1] for line in lines] == [
      "no  validation/loss 3", "best  validation/loss 1", "last  validation/loss 2", "last  validation/loss 4"]
  lines = _said(capsys, "list", run, "--keep_every=4", "--keep_best=1", "--best_is=highest").splitlines()
  assert [line.split("stays: ")[1].split("  ")[0] for line in lines] == ["no", "every", "last", "last, every, best"]
  assert _said(capsys, "verify", run, "--step=4") == "4: whole\n"
  assert "there is no checkpoint of step 5" in _said(capsys, "verify", run, "--step=5", fails=True)
  assert _said(capsys, "verify", run).splitlines() == [f"{step}: whole" for step in (2, 4, 6, 8)]

  damaged = run / "checkpoints" / "8" / "config" / "metadata"
  damaged.write_text(damaged.read_text().replace("0", "1", 1))
  said = _said(capsys, "verify", run, fails=True)
  assert "8: 1 fault(s)\n  - config/metadata has other bytes than were written" in said and "error: 1 of 4" in said
  damaged.write_text("")
  assert "damaged: config/metadata has 0 bytes" in _said(capsys, "list", run)

  slip = ("--keep_best=1", "--best_by=validation/lost")
  for what in ("list", "prune"):
    assert "no checkpoint has a figure 'validation/lost'; there are validation/loss." in _said(capsys, what, run, *slip, fails=True)
  assert _said(capsys, "prune", run, "--keep=1", "--keep_best=1", "--dry_run") == "would delete 2\nkept: 4 (best), 6 (last)\n"
  with lock.held(run):
    assert "another run is at work" in _said(capsys, "prune", run, fails=True)
  assert list(checkpoint.folders(run)) == [2, 4, 6, 8]
  assert _said(capsys, "prune", run, "--keep=1", "--keep_best=1") == "deleted 2\nkept: 4 (best), 6 (last)\n"
  assert list(checkpoint.folders(run)) == [4, 6, 8]  # the damaged one is left to look at


def test_the_cost_of_saving_is_its_share_of_the_time_between_reports(tmp_path, capsys):
  lines = [{"step": 10, "train/steps_per_second": 5.0}, {"step": 10, "checkpoint/blocked_seconds": 100.0},
           {"step": 20, "train/steps_per_second": 2.0}, {"step": 20, "checkpoint/blocked_seconds": 1.0},
           {"step": 30, "train/steps_per_second": 1.0}, {"step": 30, "checkpoint/blocked_seconds": 3.0}]
  (tmp_path / metrics.SCALARS).write_text("".join(json.dumps(line) + "\n" for line in lines))
  (tmp_path / "checkpoints").mkdir()
  assert _said(capsys, "cost", tmp_path).splitlines() == [
      "2 saves held up training for 4 s, 2 s each; the longest 3 s", "steps 10 to 30 took 19 s: saving cost 21.05% of it"]


@pytest.mark.parametrize("argv, said", [
    (["list", "no/such/folder"], "error: no/such/folder is not a folder"),
    (["verify", "{empty}"], "error: There is no finished checkpoint"),
    (["cost", "{empty}"], "scalars.jsonl is not there"),
])
def test_a_wrong_folder_is_one_line(tmp_path, capsys, argv, said):
  assert said in _said(capsys, *(a.format(empty=tmp_path) for a in argv), fails=True)
