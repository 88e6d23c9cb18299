"""A decoder that does what the name of a file says; imported by processes that decode, so it imports little."""

import os
import time

from motif_jax.data import reader

real = reader.decode  # before a test puts `decode` in its place


def decode(folder, clip, bucket):
  """As `reader.decode`, unless the clip is called otherwise."""
  if clip.key == "hangs":
    time.sleep(600)
  if clip.key == "crashes":
    os._exit(7)
  if clip.key == "fails":
    raise IndexError("a fault of the decoder")
  return real(folder, clip, bucket)
