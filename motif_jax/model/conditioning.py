"""What the network reads beside the noisy latents: the first frame of image-to-video, blurred the more the nearer to noise.

Training and sampling meet here, so that a model is asked what it was taught.
"""

import jax
import jax.numpy as jnp
from jax import Array


def blur_level(t: Array, levels: int) -> Array:
  """(B,) int32, which of the stored blurs of the first frame a sample at time t (B,) is conditioned on.

  [0, 1] is cut into equal parts, the first of them unblurred: the nearer to noise, the blurrier.  The model card names
  "timestep-aware blur" without a formula; this one keeps fine detail of the picture out where only layout is being decided.
  """
  return jnp.clip((t * levels).astype(jnp.int32), 0, levels - 1)


@jax.named_scope("input")
def network_input(noisy: Array, first_frame: Array, t: Array, conditioned: Array) -> Array:
  """(B, F, H, W, 2C + 1): [noisy | first-frame latent at frame 0, zeros elsewhere | 1 at frame 0, zeros elsewhere].

  Text-to-video samples, where `conditioned` (B,) is False, have zeros in both.  first_frame is (B, levels, H, W, C).
  """
  level = blur_level(t, first_frame.shape[1])
  picked = jnp.take_along_axis(first_frame, level[:, None, None, None, None], axis=1)  # (B, 1, H, W, C)
  ones = jnp.ones((*picked.shape[:-1], 1), noisy.dtype)
  frame = jnp.concatenate([picked, ones], axis=-1) * conditioned[:, None, None, None, None]
  later = jnp.zeros((noisy.shape[0], noisy.shape[1] - 1, *frame.shape[2:]), noisy.dtype)
  return jnp.concatenate([noisy, jnp.concatenate([frame, later], axis=1)], axis=-1)
