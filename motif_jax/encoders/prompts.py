"""The text encoder as a whole: prompts -> features, a row per token."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from flax import struct

from motif_jax.encoders import t5gemma2
from motif_jax.encoders.t5gemma2 import T5Gemma2Config
from motif_jax.encoders.tokenizer import Tokenizer
from motif_jax.mesh import constrain

ROWS = 16  # prompts at once
LENGTHS = (32, 64, 128, 256)  # that prompts are padded to, and the longest: one compilation for each, and little waste


@struct.dataclass
class T5Gemma2:
  """Weights are the leaves of this tree, all else is static."""

  params: dict
  cfg: T5Gemma2Config = struct.field(pytree_node=False)
  tokenizer: Tokenizer = struct.field(pytree_node=False)
  version: str = struct.field(pytree_node=False)
  name: str = struct.field(pytree_node=False, default="t5gemma2")

  @property
  def dim(self) -> int:
    return self.cfg.width

  def encode(self, captions: Sequence[str], *, trim: bool = True) -> list[np.ndarray]:
    """A (T, dim) float32 array for each caption, T its number of tokens; without `trim` always the longest, with zeros after."""
    rows, made = self.tokenizer(captions), []
    for start in range(0, len(rows), ROWS):
      now = rows[start:start + ROWS]
      longest = max(map(len, now))
      length = next((n for n in LENGTHS if longest <= n < self.tokenizer.max_tokens), self.tokenizer.max_tokens)
      filled = [*now, *now[-1:] * (min(ROWS, _power_of_two(len(now))) - len(now))]  # few shapes, so few compilations
      features = np.asarray(_features(self.params, *self.tokenizer.padded(filled, length), cfg=self.cfg), np.float32)
      made += [row[:len(ids)] for row, ids in zip(features, now)]
    if trim:
      return made
    return [np.pad(row, ((0, self.tokenizer.max_tokens - len(row)), (0, 0))) for row in made]

  def beyond(self, caption: str, tokens: int) -> str:
    """What of `caption` lies beyond so many `tokens`, the bos among them, or beyond the most that this encoder reads."""
    return self.tokenizer.beyond(caption, tokens)


@functools.partial(jax.jit, static_argnames="cfg")
def _features(params, ids, mask, *, cfg):
  return constrain(t5gemma2.apply(params, cfg, ids, mask), None, None, None)  # whole on every host, which takes its copy


def _power_of_two(count):
  return 1 << (count - 1).bit_length()
