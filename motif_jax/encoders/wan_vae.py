"""The Wan 2.1 VAE as a codec: videos to normalised latents and back, with published weights (`weights/wan_vae.py` loads them).

4 x 8 x 8 pixels become 16 channels, causal in time: frame 0 alone is one latent frame, and equals the same image's.  The only
place that normalises latents: what leaves `encode` and enters `decode` is (z - mean) / std by channel, of about unit variance.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from motif_jax.encoders import wan_network, wan_tiles
from motif_jax.encoders.causal_grid import CausalGrid
from motif_jax.encoders.wan_network import WanConfig
from motif_jax.mesh import constrain, parts_of


@struct.dataclass
class WanVAE(CausalGrid):
  """The codec.  Weights are the leaves of this tree, all else is static: hand it to a jitted function as an argument.

  As a static argument jax refuses it, and a jitted function that closed over it would hold 127 million constants.
  """

  params: dict
  cfg: WanConfig = struct.field(pytree_node=False)
  version: str = struct.field(pytree_node=False)
  name: str = struct.field(pytree_node=False, default="wan_vae")
  streamed: bool = struct.field(pytree_node=False, default=True)  # over time: the same numbers, in memory that does not grow
  tiling: wan_tiles.Tiling | None = struct.field(pytree_node=False, default=None)  # of decoding; None: whole frames

  @property
  def channels(self) -> int:
    return self.cfg.z_dim

  @property
  def strides(self) -> tuple[int, int, int]:
    return self.cfg.strides

  def encode(self, video: Array, *, key: Array | None = None) -> Array:
    """Normalised latents (B, F', H', W', C) float32 of a video (B, F, H, W, 3) in [-1, 1].

    The most likely ones; with a random `key` a sample, as the released model's image-to-video conditions are.
    """
    mean, log_variance = self.moments(video)
    latents = mean if key is None else mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
    return (latents - np.float32(self.cfg.latents_mean)) / np.float32(self.cfg.latents_std)

  def posterior(self, video: Array) -> tuple[Array, Array]:
    """Mean, which is `encode`'s, and log-variance (B, F', H', W', C) float32 of the normalised latents."""
    mean, log_variance = self.moments(video)
    deviation = np.float32(self.cfg.latents_std)
    return (mean - np.float32(self.cfg.latents_mean)) / deviation, log_variance - 2 * np.log(deviation)

  def moments(self, video: Array) -> tuple[Array, Array]:
    """Mean and log-variance (B, F', H', W', C) float32 of the latents, before normalisation."""
    _, _, columns = self.grid(*video.shape[1:4])
    return wan_network.encode(self.params, self.cfg, _spread(video, columns), streamed=self.streamed)

  def decode(self, latents: Array) -> Array:
    """The video (B, F, H, W, 3) float32 in [-1, 1] of normalised latents (B, F', H', W', C)."""
    latents = latents * np.float32(self.cfg.latents_std) + np.float32(self.cfg.latents_mean)
    whole = partial(wan_network.decode, self.params, self.cfg, streamed=self.streamed)
    if self.tiling is None:
      return whole(_spread(latents, latents.shape[3]))
    tile = partial(whole, clip=False)  # clipped after blending, as in the reference
    return jnp.clip(wan_tiles.decode(tile, _spread(latents, None), self.tiling, pixels=self.strides[1]), -1, 1)


def _spread(x, columns):
  """x (B, F, H, W, C) with rows and columns over the devices, where batch and `columns` of latents divide by their numbers.

  That is all that need be said: convolutions then send one column of pixels to each neighbour, and attention gathers a frame.
  """
  divides = lambda size, name: name if size and size % parts_of(name) == 0 else None
  return constrain(x, divides(len(x), "batch"), None, None, divides(columns, "video"), None)
