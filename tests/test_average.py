"""Claims about the moving average: what weighs how much in it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from motif_jax.train import average
from tests.test_optimizer import CONFIG


def _weights(cfg, steps):
  """(steps + 1,): what the initial weights and those after each update weigh in the average after `steps` updates."""
  mean = {"w": jnp.eye(steps + 1)[0]}
  decays = [average.decay_at(jnp.array(step), cfg) for step in range(steps)]
  for step, decay in enumerate(decays):
    mean = average.moved(mean, {"w": jnp.eye(steps + 1)[step + 1]}, decay)
  return np.asarray(mean["w"])


def test_the_constant_average_forgets_the_start_and_then_decays_as_told():
  at = lambda step: float(average.moved({"w": jnp.array(4.0)}, {"w": jnp.array(1.0)}, average.decay_at(jnp.array(step), CONFIG))["w"])
  assert at(0) == pytest.approx(0.1 * 4 + 0.9)
  assert at(10**6) == pytest.approx(0.9 * 4 + 0.1)


def test_the_constant_average_of_a_stage_holds_nothing_from_before_it_and_is_a_tenth_of_its_steps_old():
  cfg = dataclasses.replace(CONFIG, ema=0.9999)
  assert 0 < _weights(cfg, 10)[0] < 2e-5
  assert 90 - _weights(cfg, 90) @ np.arange(91) == pytest.approx(9, rel=0.02)
  assert average.decay_at(jnp.array(80_000), cfg) < average.decay_at(jnp.array(89_990), cfg) == np.float32(0.9999)


@pytest.mark.parametrize("width", [0.05, 0.15])
def test_the_power_average_is_as_wide_as_told_whatever_the_length(width):
  for steps in (60, 120):
    weights = _weights(dataclasses.replace(CONFIG, average="power", ema_width=width), steps)
    times = np.arange(steps + 1) / steps
    mean = weights @ times
    assert weights.sum() == pytest.approx(1, abs=1e-5) and weights[0] == 0
    assert np.sqrt(weights @ (times - mean) ** 2) == pytest.approx(width, rel=0.06)


@pytest.mark.parametrize("width, gamma", [(0.05, 16.97), (0.10, 6.94)])  # the two of EDM2
def test_exponents_are_the_published_ones(width, gamma):
  assert average.exponent(width) == pytest.approx(gamma, abs=0.005)
