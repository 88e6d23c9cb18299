"""Feature alignment: the teacher's features on the tokens' grid, and the loss on the kept ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motif_jax.config import AlignmentConfig
from motif_jax.model import alignment, routing

CFG = AlignmentConfig(teacher="t", teacher_dim=3, tap=1, hidden=8, weight=1.0, last_step=0)
B, GRID, WIDTH, LENGTH = 2, (2, 4, 6), 5, 48


def teacher():
  return jax.random.normal(jax.random.key(0), (B, *GRID, CFG.teacher_dim))


def test_features_on_the_grid_of_the_tokens_stay_as_they_are_in_raster_order():
  np.testing.assert_allclose(alignment.to_token_grid(teacher(), GRID), teacher().reshape(B, LENGTH, -1), rtol=1e-6)


def test_a_linear_ramp_stays_one_on_a_finer_grid():
  ramp = jnp.broadcast_to(jnp.arange(4.0)[None, None, None, :, None], (1, 1, 2, 4, 1))
  fine = alignment.to_token_grid(ramp, (1, 2, 8)).reshape(2, 8)
  np.testing.assert_allclose(fine[0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)  # half-pixel centres, clamped


def test_the_loss_is_one_minus_the_cosine(monkeypatch):
  monkeypatch.setattr(alignment.Projector, "__call__", lambda self, x: x)
  features = teacher().reshape(B, LENGTH, -1)
  turned = jnp.roll(features, 1, axis=-1)
  cosine = np.sum(features * turned, -1) / np.linalg.norm(features, axis=-1) / np.linalg.norm(turned, axis=-1)
  loss = lambda tapped: alignment.alignment_loss({}, CFG, tapped, teacher(), GRID, None)
  np.testing.assert_allclose(loss(2 * features), 0, atol=1e-6)
  np.testing.assert_allclose(loss(-features), 2, rtol=1e-6)
  np.testing.assert_allclose(loss(turned), np.mean(1 - cosine, axis=-1), rtol=1e-5)


def test_inside_a_route_kept_tokens_meet_their_own_targets(monkeypatch):
  monkeypatch.setattr(alignment.Projector, "__call__", lambda self, x: x)
  route = routing.draw(jax.random.key(1), B, LENGTH, keep=0.5, groups=4, policy="random")
  kept, bypassed = routing.leave(teacher().reshape(B, LENGTH, -1), route)
  loss = lambda tapped: alignment.alignment_loss({}, CFG, tapped, teacher(), GRID, route)
  np.testing.assert_allclose(loss(kept), 0, atol=1e-6)
  assert (loss(bypassed) > 0.5).all()


def test_gradients_reach_every_parameter_of_the_projector():
  params = alignment.init_projector(jax.random.key(0), CFG, WIDTH)
  tapped = jax.random.normal(jax.random.key(1), (B, LENGTH, WIDTH))
  gradients = jax.grad(lambda p: alignment.alignment_loss(p, CFG, tapped, teacher(), GRID, None).sum())(params)
  assert all(jnp.abs(g).max() > 1e-6 for g in jax.tree.leaves(gradients))


def test_teacher_frames_that_fit_no_latent_frames_are_refused():
  with pytest.raises(ValueError, match="3 frames cannot align with 2 latent frames"):
    alignment.to_token_grid(jnp.zeros((1, 3, 4, 4, 2)), GRID)
