"""Our side of the parity tests: tiny configurations, inputs, our output and gradients, and the comparison."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from motif_jax import config
from motif_jax.model import plan, transformer
from motif_jax.weights import names
from tests.sensitive import sensitive

TOLERANCE = 1e-5  # relative, per tensor, float32; noise between the two is about 5e-7
SEPARATE = config.CrossAttentionConfig("separate", "none", False)
TINY = dataclasses.replace(
    config.from_config_dict(base.get_config()).model, width=64, heads=2, depths=config.Depths(2, 2, 2), text_dim=48, image_dim=24,
    rope_axes=(8, 12, 12), cross_attention=SEPARATE, dtype="float32")


class Inputs(NamedTuple):
  """What both models read, channels last, as numpy arrays; `mask` is True for real text."""

  latents: np.ndarray
  t: np.ndarray
  text: np.ndarray
  image: np.ndarray | None
  mask: np.ndarray | None


def inputs(cfg, *, grid=(3, 8, 12), text=10, image=0, padded=(0, 3)) -> Inputs:
  """Two samples at different times, with `text` tokens of which the last `padded` are padding; `padded` None: no mask."""
  rng = np.random.default_rng(11)
  normal = lambda *shape: rng.standard_normal((2, *shape), np.float32)
  return Inputs(
      latents=normal(*grid, 2 * cfg.latent_channels + 1),
      t=np.array([0.90625, 0.03125], np.float32),  # 1000 t is exact in float32
      text=normal(text, cfg.text_dim),
      image=normal(image, cfg.image_dim) if image else None,
      mask=np.arange(text) < text - np.array(padded)[:, None] if padded else None)


def parameters(cfg, seed=0) -> dict:
  """Sensitive parameters of the model, by our paths."""
  return sensitive(jax.eval_shape(lambda key: transformer.init(key, cfg), jax.random.key(0)), seed)


def cotangent(cfg, given: Inputs) -> np.ndarray:
  """The fixed random numbers that the loss multiplies the velocity with."""
  return np.random.default_rng(12).standard_normal((*given.latents.shape[:-1], cfg.latent_channels), np.float32)


def ours(params, cfg, given: Inputs, *, route=None, span=None) -> dict:
  """The velocity, and the gradients of sum(velocity * cotangent) by parameter (their names) and input, as float32 numpy arrays."""
  direction = cotangent(cfg, given)
  reads = {name: value for name, value in given._asdict().items() if name != "mask" and value is not None}

  def loss(params, reads):
    velocity, _ = transformer.apply(
        params, cfg, reads["latents"], reads["t"], reads["text"], text_mask=given.mask, image=reads.get("image"),
        plan=plan.make_plan(cfg.depths, route=span) if span else None, route=route)
    return jnp.sum(velocity * direction), velocity

  (_, velocity), (by_parameter, by_input) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, reads)
  arrays = {"velocity": velocity, **by_input, **names.to_theirs(by_parameter, cfg)}
  return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def error(got: np.ndarray, want: np.ndarray) -> float:
  """The norm of the difference over the norm of what was wanted."""
  return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30))


def assert_equal(got: dict, want: dict, *, tolerance=TOLERANCE, zero: tuple[str, ...] = ()):
  """Every array of `got` is that of `want` to `tolerance`, and both are zero exactly where a name of `zero` says so."""
  assert sorted(got) == sorted(want)
  blind = sorted(name for name in want if not np.any(want[name]))
  assert blind == sorted(zero), f"the reference is blind to {blind}, expected {sorted(zero)}"
  assert not any(np.any(got[name]) for name in zero), f"one of {zero} is not zero in ours"
  errors = {name: error(got[name], want[name]) for name in want if name not in zero}
  wrong = {name: e for name, e in errors.items() if not e < tolerance}
  worst = sorted(wrong.items(), key=lambda item: -item[1])[:8]
  assert not wrong, f"{len(wrong)} of {len(errors)} tensors differ by more than {tolerance}; the worst: {worst}"
