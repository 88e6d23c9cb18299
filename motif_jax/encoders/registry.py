"""The encoders by name: what `config.encoders` may say.  Each entry is called without arguments.

Codec    name, version, channels, strides (t, h, w); encode(video (B, F, H, W, 3) in [-1, 1]) -> latents (B, F', H', W', C);
         decode(latents) -> video; grid(frames, height, width) -> (F', H', W'); latent_times(frames) -> F' pixel-frame times
Text     name, version, dim; encode(captions) -> a (T, dim) array for each
Teacher  name, version, dim; encode(video (B, F, H, W, 3) in [-1, 1], times) -> (B, len(times), h, w, dim)
"""

from functools import partial

from motif_jax import config_rules
from motif_jax.config import EncodersConfig
from motif_jax.encoders.block_dct import BlockDCT
from motif_jax.encoders.gradients import Gradients
from motif_jax.encoders.word_hash import WordHash

CODECS = {
    "block_dct": BlockDCT,  # 4 x 4 x 4 pixels in 24 channels
    "block_dct_16": partial(BlockDCT, "block_dct_16", channels=16),  # under 30 dB on some clips
    "block_dct_32": partial(BlockDCT, "block_dct_32", channels=32),
    "block_dct_48": partial(BlockDCT, "block_dct_48", channels=48),
    "block_dct_488": partial(BlockDCT, "block_dct_488", strides=(4, 8, 8), channels=64),
    "block_dct_244": partial(BlockDCT, "block_dct_244", strides=(2, 4, 4), channels=16),
}
TEXTS = {"word_hash": WordHash}
TEACHERS = {"gradients": Gradients}


def named(names: EncodersConfig) -> tuple:
  """The (codec, text encoder, teacher) of these names; ValueError with the known ones."""
  wrong = []
  for role, table in (("codec", CODECS), ("text", TEXTS), ("teacher", TEACHERS)):
    config_rules.one_of(wrong, f"encoders.{role}", getattr(names, role), table)
  if wrong:
    raise ValueError(f"The config needs an encoder that is not there: {' '.join(wrong)}")
  return CODECS[names.codec](), TEXTS[names.text](), TEACHERS[names.teacher]()
