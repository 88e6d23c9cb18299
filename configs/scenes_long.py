"""The model of `configs/scenes.py` on clips of 33 frames of 64x64, from the weights that it ends with.

A coarser codec, of 16x16 pixels, keeps the frame at 4 x 4 tokens, so that 15 times the pixels are 3 times the tokens, and what
is new is time: 9 latent frames instead of 3.  docs/scenes.md has the commands and what came of it.
"""

from configs import scenes


def get_config():
  c = scenes.get_config()
  c.encoders.codec = "block_dct_4_16_16"
  c.data.batch_size = 32
  c.train.update(dict(steps=4000, save_every=500, sample_every=1000))
  c.sample.bucket = dict(frames=33, height=64, width=64)
  return c
