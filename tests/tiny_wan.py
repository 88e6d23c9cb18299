"""A Wan VAE small enough for unit tests: time is halved twice, so that its pieces are of 4 frames as the released one's."""

import jax

from motif_jax.encoders import wan_network
from motif_jax.encoders.wan_network import WanConfig
from motif_jax.encoders.wan_vae import WanVAE
from tests.sensitive import sensitive

CFG = WanConfig(base_dim=8, z_dim=5, dim_mult=(1, 2, 3), num_res_blocks=1, temporal_downsample=(True, True), dtype="float32",
                latents_mean=(-0.7, 0.1, 0.3, 1.2, -0.4), latents_std=(2.8, 1.4, 0.7, 1.1, 2.1))


def vae(cfg=CFG, **how) -> WanVAE:
  """The VAE with sensitive weights."""
  return WanVAE(sensitive(wan_network.abstract(cfg), 0), cfg, "test", **how)


encode = jax.jit(lambda vae, video: vae.encode(video))
moments = jax.jit(lambda vae, video: vae.moments(video))
posterior = jax.jit(lambda vae, video: vae.posterior(video))
decode = jax.jit(lambda vae, latents: vae.decode(latents))
