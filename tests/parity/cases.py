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

TOLERANCE = 1e-5  # relative, per tensor, float32; the noise between the two is 1e-6 for velocities, up to 5e-6 for gradients
SEPARATE = config.CrossAttentionConfig("separate", "none", False)
TINY = dataclasses.replace(
    config.from_config_dict(base.get_config()).model, width=64, heads=2, depths=config.Depths(2, 2, 2), text_dim=48, image_dim=0,
    rope_axes=(8, 12, 12), cross_attention=SEPARATE, dtype="float32", remat="none")
# Keys of a cross-attention are not rotated, so their bias moves all logits of a query almost alike: the gradient is the small
# rest of a large sum, and each side's own float32 error in it is about 1e-5.
# The gradient of a time is one number, summed over all that time modulates and multiplied by up to 1000: in one case ours is 9.6e-6
# from a float64 run (torch 6e-7), and on which side of 1e-5 that falls depends on the processor.
LOOSER = {"cross_attn.to_k.bias": 1e-4, "t": 2e-5}


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
      t=np.array([0.40625, 0.03125], np.float32),  # 1000 t is exact in float32
      text=normal(text, cfg.text_dim),
      image=normal(image, cfg.image_dim) if image else None,
      mask=np.arange(text) < text - np.array(padded)[:, None] if padded else None)


def parameters(cfg, seed=0) -> dict:
  """Sensitive parameters of the model, by our paths."""
  return sensitive(jax.eval_shape(lambda key: transformer.init(key, cfg), jax.random.key(0)), seed)


def cotangent(cfg, given: Inputs) -> np.ndarray:
  """The fixed random numbers that the loss multiplies the velocity with."""
  return np.random.default_rng(12).standard_normal((*given.latents.shape[:-1], cfg.latent_channels), np.float32)


def ours(params, cfg, given: Inputs, *, route=None, span=None, by_parameter=True, direction=None) -> dict:
  """The velocity, and the gradients of sum(velocity * cotangent) by input and parameter (their names); float32 numpy arrays.

  `route` keeps tokens in the blocks [start, stop) = `span`; without `by_parameter` the parameters get no gradients.
  `direction` stands in for the cotangent.
  """
  direction = cotangent(cfg, given) if direction is None else direction
  reads = {name: value for name, value in given._asdict().items() if name != "mask" and value is not None}

  def loss(params, reads):
    velocity, _ = transformer.apply(
        params, cfg, reads["latents"], reads["t"], reads["text"], text_mask=given.mask, image=reads.get("image"),
        plan=plan.make_plan(cfg.depths, route=span) if span else None, route=route)
    return jnp.sum(velocity * direction), velocity

  gradient = jax.value_and_grad(loss, argnums=(1, 0) if by_parameter else (1,), has_aux=True)
  (_, velocity), (of_inputs, *of_parameters) = jax.jit(gradient)(params, reads)
  arrays = {"velocity": velocity, **of_inputs}
  for tree in of_parameters:
    arrays |= weights(tree, cfg)
  return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def weights(params, cfg) -> dict:
  """`params` by their names, as numpy arrays."""
  return {name: np.asarray(value) for name, value in names.to_theirs(params, cfg).items()}


def error(got: np.ndarray, want: np.ndarray) -> float:
  """The norm of the difference over the norm of what was wanted."""
  return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30))


def assert_equal(got: dict, want: dict, *, zero: tuple[str, ...] = ()):
  """Every array of `got` is that of `want` to TOLERANCE or LOOSER, and both are all zeros exactly where `zero` says so."""
  assert sorted(got) == sorted(want)
  blind = sorted(name for name in want if not np.any(want[name]))
  assert blind == sorted(zero), f"the reference is blind to {blind}, expected {sorted(zero)}"
  assert not any(np.any(got[name]) for name in zero), f"one of {zero} is not zero in ours"
  errors = {name: error(got[name], want[name]) for name in want if name not in zero}
  limits = {name: next((limit for end, limit in LOOSER.items() if f".{name}".endswith(f".{end}")), TOLERANCE) for name in want}
  wrong = {name: e for name, e in errors.items() if not e < limits[name]}
  worst = sorted(wrong.items(), key=lambda item: -item[1])[:8]
  assert not wrong, f"{len(wrong)} of {len(errors)} tensors differ by more than {TOLERANCE}; the worst: {worst}"
