"""Claims about which checkpoints stay."""

import pytest

from motif_jax.train import checkpoint, retention
from tests.small_checkpoints import CFG, keeping, random_state

LOSS = "validation/loss"


def _stay(steps, cfg):
  return {step: reasons for step, reasons in retention.reasons(steps, cfg).items() if reasons}


def test_the_last_stay_and_every_kth_for_ever():
  assert _stay({step: {} for step in range(1, 11)}, keeping(2, keep_every=4)) == {
      4: ["every"], 8: ["every"], 9: ["last"], 10: ["last"]}


def test_step_zero_is_no_multiple():
  assert _stay({0: {}, 3: {}}, keeping(1, keep_every=3)) == {3: ["last", "every"]}


@pytest.mark.parametrize("best_is, best", [("lowest", [2, 4]), ("highest", [1, 3])])
def test_the_best_stay_by_what_evaluation_said_of_them(best_is, best):
  steps = {1: {LOSS: 5.0}, 2: {LOSS: 1.0}, 3: {LOSS: 4.0}, 4: {LOSS: 2.0}, 5: {LOSS: float("nan")}, 6: {"other": 0.0}, 7: {}}
  stay = _stay(steps, keeping(1, keep_best=2, best_is=best_is))
  assert stay == {step: ["best"] for step in best} | {7: ["last"]}


def test_of_equals_the_earlier_is_the_better():
  assert retention.best({3: {LOSS: 1.0}, 2: {LOSS: 1.0}}, keeping(1)) == [2, 3]


def test_a_figure_that_is_no_number_is_never_the_best():
  assert retention.best({1: {LOSS: float("nan")}, 2: {LOSS: 1.0}}, keeping(1)) == [2]


def test_a_figure_that_evaluation_does_not_say_is_told():
  assert "validation/lost" in retention.unknown({LOSS: 1.0}, keeping(1, keep_best=1, best_by="validation/lost"))
  assert not retention.unknown({LOSS: 1.0}, keeping(1, keep_best=1)) and not retention.unknown({}, keeping(1, keep_best=1))


def test_a_run_that_goes_on_still_knows_its_best(tmp_path):
  cfg = keeping(1, keep_best=1)
  for steps in ({1: 3.0, 2: 1.0, 3: 2.0}, {4: 5.0, 5: 4.0}):  # two processes, one after the other
    with checkpoint.make_manager(tmp_path, cfg) as manager:
      for step, loss in steps.items():
        checkpoint.save(manager, random_state(step), CFG, figures={LOSS: loss})
  assert list(checkpoint.folders(tmp_path)) == [2, 5]
