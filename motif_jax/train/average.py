"""The moving average of the parameters: with a constant decay, or with a power function's profile.

The power profile weighs the weights of step tau by tau^gamma, so the average is always as long as a fixed share of the run so
far, however long that gets (Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models, arXiv 2312.02696,
section 3.1).  Its width is given as they give it, the standard deviation of the profile relative to the run's length.

Both count the steps of a stage, also where it starts from another's checkpoint and so from its average: what was there before is
gone after ten updates, and the average a stage ends with is of this stage alone.  An age that went on, as it does in EMAs that
are made for one run, would keep it: at 0.9999 the average at the end of stages 7 to 10, of 4,688 to 15,625 steps, would be 21 to
63 % weights from before fine-tuning, or from before there was cross-attention.  What that costs: in the first steps of a stage
the average is hardly smoother than the weights themselves.  Training never reads it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from motif_jax.config import OptimizerConfig


@jax.named_scope("ema")
def moved(average: dict, params: dict, decay: Array) -> dict:
  """The moving average of the parameters after one more update, float32."""
  return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), average, params)


def decay_at(step: Array, cfg: OptimizerConfig) -> Array:
  """The share of the average that stays, in the update that follows `step` others."""
  return DECAYS[cfg.average](step, cfg)


def constant(step: Array, cfg: OptimizerConfig) -> Array:
  """cfg.ema, to which the decay rises like (1 + step) / (10 + step): otherwise the initial weights would weigh on the average for
  the first 1 / (1 - decay) steps.  Meanwhile the profile is a power function's with gamma 8, a tenth of the steps old on average;
  0.9999 is reached at step 89,990."""
  return jnp.minimum(cfg.ema, (1 + step) / (10 + step))


def power(step: Array, cfg: OptimizerConfig) -> Array:
  """(1 - 1 / t)^(gamma + 1) with t = step + 1 (eq. 2): the first update replaces the initial weights."""
  return (1 - 1 / (step + 1.0)) ** (exponent(cfg.ema_width) + 1)


def exponent(width: float) -> float:
  """gamma of a relative width: the root of width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) (there, eq. 3 and algorithm 2)."""
  return float(np.roots([1, 7, 16 - width**-2, 12 - width**-2]).real.max())


DECAYS = {"constant": constant, "power": power}
