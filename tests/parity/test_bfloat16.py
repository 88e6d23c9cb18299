"""In bfloat16 we err no more than torch does, against one float64 run of the reference with the same weights and inputs."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import jax

from tests.parity import cases, reference


def rounded(x):
  """x to bfloat16 and back, so that all three runs get the same numbers; a mask stays as it is."""
  return x if x is None or x.dtype == bool else np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32)


@pytest.fixture(scope="module")
def errors():
  """name -> (our error, torch's error) of the velocity and of each gradient."""
  cfg = dataclasses.replace(cases.TINY, image_dim=24)
  params = jax.tree.map(rounded, cases.parameters(cfg))
  given = cases.inputs(cfg, image=5)
  given = cases.Inputs(*map(rounded, given))._replace(t=given.t)  # both keep the time in float32
  direction = rounded(cases.cotangent(cfg, given))
  weights = cases.weights(params, cfg)
  exact, torchs = (reference.run(reference.build(cfg, weights), given, direction, dtype=dtype)
                   for dtype in (torch.float64, torch.bfloat16))
  ours = cases.ours(params, dataclasses.replace(cfg, dtype="bfloat16"), given, direction=direction)
  return {name: (cases.error(ours[name], exact[name]), cases.error(torchs[name], exact[name])) for name in exact}


def test_velocity_errs_at_most_as_torchs(errors):
  ours, torchs = errors["velocity"]
  assert 1e-3 < torchs < 2e-2  # bfloat16 it is
  assert 1e-3 < ours < 1.2 * torchs


def test_gradients_err_at_most_as_torchs(errors):
  """Over all tensors together: single ones vary by a factor of two to either side, with the chance of their rounding."""
  ours, torchs = (np.sqrt(np.mean(np.square(side))) for side in zip(*(e for name, e in errors.items() if name != "velocity")))
  assert ours < 1.2 * torchs
