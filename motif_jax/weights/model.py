"""The released model for a script or a notebook, in three lines:

  from motif_jax import weights
  model = weights.load(folder)
  velocity = model(latents, t, text, text_mask)
"""

import contextlib
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from motif_jax import sharding
from motif_jax.config import ModelConfig
from motif_jax.model import transformer
from motif_jax.weights import folder as folders


class Model:
  """Parameters with their config, to be called like a function."""

  def __init__(self, params: dict, cfg: ModelConfig, mesh: Mesh | None = None):
    self.params, self.cfg, self._mesh = params, cfg, mesh

  def __call__(self, latents: Array, t: Array, text: Array, text_mask: Array | None = None, *,
               image: Array | None = None) -> Array:
    """Velocity = noise - data, (B, F, H, W, C) float32, at time t in [0, 1]: 0 is data, 1 is noise.

    Args:
      latents: (B, F, H, W, 2C + 1), channels [noisy latent C | first-frame latent C | mask 1]; zeros in the last two for
        text-to-video.
      t: (B,), or one number for all.
      text: (B, T, text_dim) features; `text_mask` (B, T) True for real tokens, which stand first.
      image: (B, I, image_dim) features of the first frame, optional.
    """
    if not isinstance(t, jax.core.Tracer) and not np.all((0 <= np.asarray(t)) & (np.asarray(t) <= 1)):
      raise ValueError(f"t is {t}, expected [0, 1]: 0 is data, 1 is noise.  The timesteps of diffusers are 1000 times that; "
                       "divide them.")
    t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), (len(latents),))
    text_mask = None if text_mask is None else jnp.asarray(text_mask).astype(bool)
    # Inside somebody's jit the mesh is theirs to set.
    own = self._mesh is not None and not isinstance(latents, jax.core.Tracer)
    with jax.set_mesh(self._mesh) if own else contextlib.nullcontext():
      return _velocity(self.params, self.cfg, latents, t, text, text_mask, image)


def load(folder: str | os.PathLike, *, dtype: str | None = None, keep_dtypes: bool = True, mesh: Mesh | None = None,
         attention: str = "xla", rope_theta: float | None = None) -> Model:
  """The model in a folder that diffusers wrote, or `launch.convert`: in any layout, of one file or many.

  Args:
    dtype: of activations and products; by default that of the files, or bfloat16 for other than float32.
    keep_dtypes: whether parameters stay in the dtypes of the files; else they become float32.
    mesh: the devices that the parameters are split over, from `motif_jax.mesh.make_mesh`; by default the first device.
    attention: a key of `model.attention.BACKENDS`; "cudnn" on GPUs, "chunked" for little memory.
    rope_theta: stands in for that of config.json.
  """
  found = folders.find(folder, rope_theta=rope_theta)
  dtype = dtype or ("float32" if folders.main_dtype(found.tensors) == "float32" else "bfloat16")
  cfg = folders.model_config(found, dtype=dtype, remat="none", unroll=1, attention=attention)
  places = None if mesh is None else sharding.parameter_shardings(folders.table_of(found).abstract, mesh)
  return Model(folders.read_params(found, shardings=places, dtype=None if keep_dtypes else "float32"), cfg, mesh)


@functools.partial(jax.jit, static_argnames="cfg")
def _velocity(params, cfg, latents, t, text, text_mask, image):
  return transformer.apply(params, cfg, latents, t, text, text_mask=text_mask, image=image)[0]
