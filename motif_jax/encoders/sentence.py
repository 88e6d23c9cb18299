"""One token for a whole caption: the mean of another text encoder's, for stages that read a sentence embedding.

The features have the same width as the tokens that later stages read, so the text embedder of the model goes on with them.
"""

from collections.abc import Sequence
import dataclasses
import sys

import numpy as np


@dataclasses.dataclass(frozen=True)
class Mean:
  """The mean over the tokens of each caption, those of "" included."""

  tokens: object  # a text encoder

  @property
  def name(self) -> str:
    return f"{self.tokens.name}_mean"

  @property
  def version(self) -> str:
    return self.tokens.version

  @property
  def dim(self) -> int:
    return self.tokens.dim

  def encode(self, captions: Sequence[str]) -> list[np.ndarray]:
    """A (1, dim) float32 array for each caption."""
    return [rows.mean(axis=0, keepdims=True) for rows in self.tokens.encode(captions)]

  def beyond(self, caption: str, tokens: int) -> str:
    """The end of `caption` that does not enter the mean, whatever room there is for `tokens`."""
    return self.tokens.beyond(caption, sys.maxsize)
