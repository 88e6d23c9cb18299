"""Claims about the training objective."""

import jax
import jax.numpy as jnp
import numpy as np

from motif_jax.flow import path
from motif_jax.model import routing, transformer
from motif_jax.model.alignment import to_token_grid
from motif_jax.model.plan import make_plan
from motif_jax.train import losses
from tests import tiny

CFG = tiny.make_config()
BATCH = tiny.batch(CFG)
SHAPE = BATCH["latents"].shape


def _draws(seed, routed=True):
  return losses.draw(jax.random.key(seed), CFG, SHAPE, routed=routed)


def _with_network(monkeypatch, velocity):
  """Replaces the network by velocity(inputs, t, route) -> (velocity, tapped)."""
  fake = lambda params, cfg, inputs, t, text, *, text_mask, image, plan, route, measure: (lambda v, tapped: (v, transformer.Aux(tapped)))(
      *velocity(inputs, t, route))
  monkeypatch.setattr(losses.transformer, "apply", fake)


def test_noise_minus_data_has_no_loss_and_zero_velocity_has_its_square(monkeypatch):
  draws = _draws(0, routed=False)
  target = draws.noise - BATCH["latents"]
  for velocity, expected in ((target, np.zeros(SHAPE[0])), (jnp.zeros(SHAPE), np.mean(np.square(target), axis=(1, 2, 3, 4)))):
    _with_network(monkeypatch, lambda inputs, t, route: (velocity, None))
    _, parts = losses.objective({"model": {}}, CFG, BATCH, draws, make_plan(CFG.model.depths))
    np.testing.assert_allclose(parts["loss"], expected, rtol=1e-5)


def test_the_network_reads_the_point_of_the_path_at_its_time(monkeypatch):
  draws, seen = _draws(1, routed=False), {}
  _with_network(monkeypatch, lambda inputs, t, route: (seen.update(inputs=inputs, t=t), (jnp.zeros(SHAPE), None))[1])
  losses.objective({"model": {}}, CFG, BATCH, draws, make_plan(CFG.model.depths))
  noisy = seen["inputs"][..., :SHAPE[-1]]
  back = path.data_from(noisy, path.velocity(BATCH["latents"], draws.noise), seen["t"])
  np.testing.assert_allclose(back, BATCH["latents"], atol=1e-5)
  mask = seen["inputs"][..., -1]
  np.testing.assert_array_equal(mask[:, 0].min((1, 2)), draws.conditioned)
  assert not mask[:, 1:].any() and draws.conditioned.any() and not draws.conditioned.all()


def test_a_tap_inside_the_route_is_compared_with_the_teacher_at_the_kept_tokens(monkeypatch):
  teacher = to_token_grid(jnp.asarray(BATCH["teacher"]), losses.token_grid(CFG, SHAPE))  # (B, L, E)
  _with_network(monkeypatch, lambda inputs, t, route: (jnp.zeros(SHAPE), routing.take(teacher, route.kept)))
  monkeypatch.setattr(losses.alignment.Projector, "apply", lambda self, variables, x: x)
  draws = _draws(2)
  _, parts = losses.objective({"model": {}, "projector": {}}, CFG, BATCH, draws, make_plan(CFG.model.depths, (0, 4), 2))
  np.testing.assert_allclose(parts["alignment"], 0, atol=1e-5)
  other = _draws(3).route
  _with_network(monkeypatch, lambda inputs, t, route: (jnp.zeros(SHAPE), routing.take(teacher, other.kept)))
  _, parts = losses.objective({"model": {}, "projector": {}}, CFG, BATCH, draws, make_plan(CFG.model.depths, (0, 4), 2))
  assert parts["alignment"].min() > 0.1


def test_a_tap_outside_the_route_is_compared_with_the_whole_teacher(monkeypatch):
  teacher = to_token_grid(jnp.asarray(BATCH["teacher"]), losses.token_grid(CFG, SHAPE))
  _with_network(monkeypatch, lambda inputs, t, route: (jnp.zeros(SHAPE), teacher))
  monkeypatch.setattr(losses.alignment.Projector, "apply", lambda self, variables, x: x)
  total, parts = losses.objective({"model": {}, "projector": {}}, CFG, BATCH, _draws(2), make_plan(CFG.model.depths, (2, 4), 2))
  np.testing.assert_allclose(parts["alignment"], 0, atol=1e-5)
  np.testing.assert_allclose(total, jnp.mean(parts["loss"]), atol=1e-5)


def test_alignment_enters_the_total_with_its_weight(monkeypatch):
  teacher = to_token_grid(jnp.asarray(BATCH["teacher"]), losses.token_grid(CFG, SHAPE))
  _with_network(monkeypatch, lambda inputs, t, route: (jnp.zeros(SHAPE), -teacher))  # cosine -1, loss 2
  monkeypatch.setattr(losses.alignment.Projector, "apply", lambda self, variables, x: x)
  plan = make_plan(CFG.model.depths, None, 2)
  total, parts = losses.objective({"model": {}, "projector": {}}, CFG, BATCH, _draws(2, routed=False), plan)
  np.testing.assert_allclose(total - jnp.mean(parts["loss"]), CFG.alignment.weight * 2, rtol=1e-5)


def test_draws_depend_on_the_key_alone():
  same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), _draws(5), _draws(5))
  assert all(jax.tree.leaves(same))
  for a, b in zip(jax.tree.leaves(_draws(5)), jax.tree.leaves(_draws(6))):
    assert (a != b).any()


def test_one_latent_frame_is_never_conditioned_and_the_share_is_kept():
  draw = lambda frames: losses.draw_conditioned(jax.random.key(0), 4000, frames, share=0.25)
  assert not draw(1).any()
  assert abs(draw(2).mean() - 0.25) < 0.03
