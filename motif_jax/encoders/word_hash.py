"""Text features without weights: each word is a fixed random vector, and each token also carries its neighbours.

Not a language model: it knows no meaning, only identity and adjacency.  Enough for captions from templates, and for tests.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Sequence

import numpy as np

BOS, EDGE = "<bos>", "<edge>"  # not words: the tokeniser splits off the brackets


@dataclasses.dataclass(frozen=True)
class WordHash:
  """Token i is [word i | word i-1 | word i+1], each in its own subspace.

  So "blue background" and "blue square" differ linearly, and an unseen combination of words is a sum of seen parts.
  """

  name: str = "word_hash"
  version: str = "1"
  word_dim: int = 64
  neighbour_dim: int = 32

  @property
  def dim(self) -> int:
    return self.word_dim + 2 * self.neighbour_dim

  def encode(self, captions: Sequence[str]) -> list[np.ndarray]:
    """One (T, dim) float32 array per caption, entries of unit variance; a first bos token, so that "" has T = 1."""
    return [self._encode(caption) for caption in captions]

  def beyond(self, caption: str, tokens: int) -> str:
    """What of `caption` lies beyond so many `tokens`, the bos among them."""
    return " ".join(words(caption)[tokens - 1:])

  def _encode(self, caption: str) -> np.ndarray:
    tokens = [EDGE, BOS, *words(caption), EDGE]
    vectors = np.stack([_vector(token, self.dim) for token in tokens])
    own, before = self.word_dim, self.word_dim + self.neighbour_dim
    return np.concatenate([vectors[1:-1, :own], vectors[:-2, own:before], vectors[2:, before:]], axis=1)


def words(caption: str) -> list[str]:
  """The lower-cased words and single punctuation marks of the caption."""
  return re.findall(r"\w+|[^\w\s]", caption.lower())


@functools.lru_cache(maxsize=65536)
def _vector(word: str, dim: int) -> np.ndarray:
  # sha256, not `hash`: Python salts that anew in every process.
  seed = int.from_bytes(hashlib.sha256(word.encode()).digest(), "big")
  vector = np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
  vector.flags.writeable = False  # cached: a caller that wrote into it would change the encoder
  return vector
