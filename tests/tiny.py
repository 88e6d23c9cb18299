"""A config and batches small enough for unit tests: width 16, 6 blocks, 32 video tokens; every part and feature present."""

import numpy as np

from configs import base
from motif_jax import config

FRAMES, HEIGHT, WIDTH = 2, 8, 8  # of the latent grid: 2 * 4 * 4 = 32 tokens with patch (1, 2, 2)


def config_dict():
  """The ConfigDict, for a test that changes it."""
  c = base.get_config()
  c.model.update(dict(latent_channels=3, width=16, heads=2, mlp_ratio=2, depths=dict(dual=2, single=2, decoder=2), text_dim=12,
                      image_dim=0, rope_axes=(2, 2, 4), dtype="float32"))
  c.route.update(dict(start=0, stop=4, keep=0.5, groups=8))
  c.alignment.update(dict(teacher_dim=6, tap=2, hidden=20, weight=0.5))
  c.data.update(dict(batch_size=8, workers=0, image_to_video=0.5, text_tokens=5))
  c.optimizer.update(dict(rate=1e-2, warmup=2, ema=0.9))
  c.train.update(dict(steps=4, log_every=2, validate_every=2, validation_batches=1, sample_every=2, save_every=2, keep=2))
  c.sample.update(dict(steps=2, bucket=dict(frames=5, height=64, width=64)))
  return c


def make_config():
  """The frozen Config."""
  return config.from_config_dict(config_dict())


def batch(cfg, index=0):
  """Batch number `index` of an endless sequence of random ones, as the pipeline would yield it."""
  rng = np.random.default_rng([index, 7])
  rows, channels = cfg.data.batch_size, cfg.model.latent_channels
  normal = lambda *shape: rng.standard_normal((rows, *shape), np.float32)
  lengths = rng.integers(1, cfg.data.text_tokens + 1, (rows, 1))
  return {
      "latents": normal(FRAMES, HEIGHT, WIDTH, channels),
      "first_frame": normal(4, HEIGHT, WIDTH, channels),
      "text": normal(cfg.data.text_tokens, cfg.model.text_dim),
      "text_mask": np.arange(cfg.data.text_tokens)[None] < lengths,
      "teacher": normal(FRAMES, 3, 5, cfg.alignment.teacher_dim),
  }
