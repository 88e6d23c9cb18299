"""Encoded prompts on disk: what is there need not be encoded again, and where all of it is, no text encoder need be loaded."""

from collections.abc import Callable, Sequence
import hashlib
import io
import pathlib

import numpy as np

from motif_jax.data import videos

DIGEST = hashlib.sha256().digest_size


def encoded(folder: pathlib.Path | None, version: str, prompts: Sequence[str], encode: Callable) -> list[np.ndarray]:
  """A (T, dim) array for each prompt, from `folder`, or by `encode` (prompts -> arrays), which is called once, or not at all.

  Entries go by prompt and `version`, which tells of the encoder and its weights.  One that is damaged is made again.  Without a
  `folder` all are encoded.
  """
  if folder is None:
    return list(encode(prompts))
  name = lambda prompt: hashlib.sha256(f"{version}\n{prompt}".encode()).hexdigest()[:32] + ".npy"
  files = {prompt: folder / name(prompt) for prompt in prompts}
  found = {prompt: features for prompt, file in files.items() if (features := read(file)) is not None}
  missing = [prompt for prompt in files if prompt not in found]
  if missing:
    folder.mkdir(parents=True, exist_ok=True)
    for prompt, features in zip(missing, encode(missing), strict=True):
      write(files[prompt], features)
      found[prompt] = features
  return [found[prompt] for prompt in prompts]


def read(file: pathlib.Path) -> np.ndarray | None:
  """The array in `file`; None where there is none, or where it is not what was written."""
  try:
    content = file.read_bytes()
  except OSError:
    return None
  if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
    return None
  return np.load(io.BytesIO(content[DIGEST:]))


def write(file: pathlib.Path, features: np.ndarray) -> None:
  """Writes `features` behind a digest of their bytes; whole or not at all."""
  content = io.BytesIO()
  np.save(content, features)
  with videos.replacing(file) as temporary:
    temporary.write_bytes(hashlib.sha256(content.getvalue()).digest() + content.getvalue())
