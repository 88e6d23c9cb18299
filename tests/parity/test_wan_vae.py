"""Our VAE is diffusers 0.42.1's AutoencoderKLWan, in float32, read from the folder of its `save_pretrained`."""

import numpy as np
import pytest

pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import jax
import torch

from motif_jax.encoders.wan_network import WanConfig
from motif_jax.encoders.wan_tiles import Tiling
from motif_jax.encoders.wan_vae import WanVAE
from motif_jax.weights import read, table as tables, wan_vae
from tests import tiny_wan
from tests.parity.cases import TOLERANCE, error

torch.set_num_threads(1)

RELEASED = WanConfig(base_dim=8, dtype="float32")  # the released structure, narrow
HEIGHT, WIDTH = 16, 24  # pixels


def reference(cfg):
  """Their VAE with the weights of `tiny_wan.vae(cfg)`."""
  vae = diffusers.AutoencoderKLWan(
      base_dim=cfg.base_dim, z_dim=cfg.z_dim, dim_mult=list(cfg.dim_mult), num_res_blocks=cfg.num_res_blocks,
      temperal_downsample=list(cfg.temporal_downsample), latents_mean=list(cfg.latents_mean), latents_std=list(cfg.latents_std),
      scale_factor_spatial=cfg.strides[1])
  weights = tables.to_theirs(tiny_wan.vae(cfg).params, wan_vae.table(cfg))
  vae.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()}, strict=True)
  return vae


@pytest.fixture(scope="module")
def both(tmp_path_factory):
  """Config -> (their VAE, ours read from the folder that theirs was saved in)."""
  made = {}

  def of(cfg):
    if cfg not in made:
      theirs, folder = reference(cfg), tmp_path_factory.mktemp("vae")
      theirs.save_pretrained(folder)
      content = diffusers.AutoencoderKLWan.load_config(folder)
      read_cfg = wan_vae.config_of(content, dtype="float32")
      made[cfg] = theirs, WanVAE(read.read_tree(folder, wan_vae.table(read_cfg)), read_cfg, "test")
    return made[cfg]

  return of


def normal(*shape):
  return np.random.default_rng(3).standard_normal(shape, np.float32)


def to_torch(x):
  return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def from_torch(x):
  return np.moveaxis(x.detach().numpy(), 1, -1)


def normalised(cfg, latents):
  return (latents - np.float32(cfg.latents_mean)) / np.float32(cfg.latents_std)


CASES = [(tiny_wan.CFG, 1), (tiny_wan.CFG, 5), (tiny_wan.CFG, 17), (RELEASED, 9)]
each_case = pytest.mark.parametrize("cfg, frames", CASES, ids=["1", "5", "17", "9, released structure"])


@each_case
def test_one_pass_and_stream_encode_as_the_reference(both, cfg, frames):
  theirs, ours = both(cfg)
  video = np.tanh(normal(2, frames, HEIGHT, WIDTH, 3))
  with torch.no_grad():
    want = theirs.encode(to_torch(video)).latent_dist
  for streamed in (True, False):
    mean, log_variance = tiny_wan.moments(ours.replace(streamed=streamed), video)
    assert error(mean, from_torch(want.mean)) < TOLERANCE
    assert error(log_variance, from_torch(want.logvar)) < TOLERANCE


@each_case
def test_one_pass_and_stream_decode_as_the_reference(both, cfg, frames):
  theirs, ours = both(cfg)
  latents = normal(2, *ours.grid(frames, HEIGHT, WIDTH), cfg.z_dim)
  with torch.no_grad():
    want = from_torch(theirs.decode(to_torch(latents)).sample)
  assert np.mean(np.abs(want) == 1) < 0.5, "clipping hides what it clips"
  for streamed in (True, False):
    got = tiny_wan.decode(ours.replace(streamed=streamed), normalised(cfg, latents))
    assert error(got, want) < TOLERANCE


def test_tiles_are_the_reference(both):
  """Three rows of them, the last one latent high, and three columns, the last two latents wide."""
  cfg = tiny_wan.CFG
  theirs, ours = both(cfg)
  latents = normal(2, 2, 7, 10, cfg.z_dim)
  theirs.enable_tiling(tile_sample_min_height=16, tile_sample_min_width=24, tile_sample_stride_height=12,
                       tile_sample_stride_width=16)
  with torch.no_grad():
    want = from_torch(theirs.decode(to_torch(latents)).sample)
  theirs.disable_tiling()
  got = tiny_wan.decode(ours.replace(tiling=Tiling((16, 24), (12, 16)), streamed=False), normalised(cfg, latents))
  assert error(got, want) < TOLERANCE
  assert error(tiny_wan.decode(ours, normalised(cfg, latents)), want) > 0.01, "the whole frame would have passed"


def test_bfloat16_is_as_far_from_float32_as_the_references(both):
  cfg = tiny_wan.CFG
  theirs, ours = both(cfg)
  latents = normal(2, 3, 4, 6, cfg.z_dim)
  with torch.no_grad():
    exact = from_torch(theirs.decode(to_torch(latents)).sample)
    half = from_torch(reference(cfg).bfloat16().decode(to_torch(latents).bfloat16()).sample.float())
  short = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), ours.params)
  short = WanVAE(short, wan_vae.config_of({**dict(theirs.config)}, dtype="bfloat16"), "test")
  got = tiny_wan.decode(short, normalised(cfg, latents))
  assert error(got, exact) < 1.2 * error(half, exact)
