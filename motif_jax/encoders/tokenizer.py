"""Token ids of prompts, by the rules of Gemma: a bos token first, no eos, padding at the end (model.md section 3.1)."""

from collections.abc import Sequence
import pathlib
from typing import NamedTuple
import warnings

import numpy as np
import tokenizers

MAX_TOKENS = 512  # of a prompt, its bos token included


class Tokens(NamedTuple):
  """Prompts as arrays."""

  ids: np.ndarray  # (B, T) int32
  mask: np.ndarray  # (B, T) bool, True for real tokens


class Tokenizer:
  """A tokenizer.json, read by the `tokenizers` library."""

  def __init__(self, file, *, max_tokens: int = MAX_TOKENS):
    file = pathlib.Path(file)
    if not file.is_file():
      raise ValueError(f"{file} does not exist; the tokenizer.json of a text encoder must lie in the folder of its weights, or "
                       "in a folder `tokenizer` beside that.")
    self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
    # What the file says about lengths was true for another use of it.
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    special = {token: self._tokenizer.token_to_id(token) for token in ("<bos>", "<pad>")}
    if None in special.values():
      raise ValueError(f"{file} has no token {' and no token '.join(t for t, i in special.items() if i is None)}; is it Gemma's?")
    self.bos, self.pad = special.values()
    self.max_tokens = max_tokens

  def __len__(self) -> int:
    return self._tokenizer.get_vocab_size()

  def __call__(self, prompts: Sequence[str]) -> list[list[int]]:
    """The ids of each prompt, bos first; warns of what is beyond `max_tokens`, and leaves it out."""
    # Special tokens are set here and not by the file: some add an eos, with which the model was not trained.
    encoded = self._tokenizer.encode_batch(list(prompts), add_special_tokens=False)
    kept = self.max_tokens - 1
    for prompt, made in zip(prompts, encoded):
      if len(made.ids) > kept:
        warnings.warn(f"a prompt has {len(made.ids) + 1} tokens; what goes beyond {self.max_tokens} is not seen: "
                      f"{prompt[made.offsets[kept][0]:]!r}")
    return [[self.bos, *made.ids[:kept]] for made in encoded]

  def beyond(self, prompt: str, tokens: int) -> str:
    """What of `prompt` lies beyond so many `tokens`, the bos among them, or beyond `max_tokens`."""
    offsets = self._tokenizer.encode(prompt, add_special_tokens=False).offsets
    kept = min(tokens, self.max_tokens) - 1
    return prompt[offsets[kept][0]:] if len(offsets) > kept else ""

  def padded(self, rows: Sequence[Sequence[int]], length: int) -> Tokens:
    """`rows` of ids as arrays of that `length`."""
    ids = np.full((len(rows), length), self.pad, np.int32)
    for row, given in zip(ids, rows):
      row[:len(given)] = given
    return Tokens(ids, np.arange(length) < np.array([len(given) for given in rows])[:, None])
