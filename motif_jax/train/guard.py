"""What happens when batch after batch brings no finite loss or gradient: back to the last checkpoint, and past those batches."""

from collections.abc import Sequence

import jax
import numpy as np

from motif_jax import endings
from motif_jax.config import TrainConfig
from motif_jax.train.state import TrainState


class Guard:
  """Counts the batches in a row that brought no update, and the rollbacks.

  One alone is skipped inside the step.  `train.skips_in_row` of them mean that the weights are spoilt, so the run takes those of
  its newest checkpoint and goes on behind the last of these batches: the position in the data is the step, so what lies between
  is never seen again.  Nothing is saved while a streak lasts, so the newest checkpoint is from before it, and a run that starts
  again from there meets the same streak.

  Args:
    left_out: of the starts before this one, out of the checkpoint: rollbacks are counted over the whole run.
  """

  def __init__(self, cfg: TrainConfig, left_out: Sequence[str] = ()):
    self._limit, self._rollbacks = cfg.skips_in_row, cfg.rollbacks
    self.left_out = list(left_out)  # a line for each rollback
    self.streak = 0
    self.position = 0  # the step behind the last batch that was counted

  def count(self, step: int, skipped: bool) -> None:
    """Takes note of whether the batch that led to `step` brought an update."""
    self.position, self.streak = step, self.streak + 1 if skipped else 0

  def calls(self) -> bool:
    """Whether it is time to roll back."""
    return self.streak >= self._limit

  def moved(self, state: TrainState) -> TrainState:
    """`state`, of the newest checkpoint, at the position behind the streak; `Ending` where it was rolled back too often."""
    step = int(state.step)
    self.left_out.append(f"from step {step} to {self.position}, the last {self.streak} without a finite loss or gradient")
    self.streak = 0
    if len(self.left_out) > self._rollbacks:
      listed = "\n".join(f"  - {ranges}" for ranges in self.left_out)
      raise endings.Ending(endings.DIVERGED, f"{len(self.left_out)} times {self._limit} batches in a row brought no finite loss "
                           f"or gradient (train.skips_in_row), and train.rollbacks is {self._rollbacks}:\n{listed}\n"
                           f"The checkpoint of step {step} is whole.  Look at those batches, or lower optimizer.rate.")
    return state.replace(step=jax.device_put(np.int32(self.position), state.step.sharding))

  def unsaved(self, step: int) -> str:
    """Why nothing is saved at `step`, in a line."""
    return f"step {step} is not saved: the last {self.streak} batches brought no finite loss or gradient"

  def said(self) -> str:
    """What was done last, in a line."""
    return f"rolled back ({len(self.left_out)} of {self._rollbacks}): left out are the batches {self.left_out[-1]}"
