"""Compiled programs on disk, each whole: what jax's compilation cache lacks where processes are killed or share a folder.

jax writes an entry in place, and never one that is there (0.10.2 and 0.11.2, jax/_src/lru_cache.py).  So what a kill cut short
stays for ever: each start warns of it and compiles the program again.  And who reads while another process writes, as those of a
node or a cluster do that start together, finds a piece.
"""

import secrets

from jax._src import compilation_cache, lru_cache  # jax has no public way to say where it writes


class WholeEntries(lru_cache.LRUCache):
  """jax's cache, whose entries come in under their names when they are whole; one that is not is dropped, and made anew."""

  def get(self, key: str) -> bytes | None:
    """The entry, or None where there is none that can be unpacked."""
    found = super().get(key)
    try:
      if found is not None:
        compilation_cache.decompress_executable(found)
      return found
    except Exception:  # what a library of compression makes of a piece: jax's own is one of three
      self._drop(key)
      return None

  def put(self, key: str, value: bytes) -> None:
    """Writes an entry, unless it is there; of several processes that do so at once one has the last word, as a whole."""
    if self._files(key)[1].exists():
      return
    own = f"{key}.{secrets.token_hex(8)}"  # ends as all entries do, so a folder of limited size drops what a kill has left of it
    try:
      super().put(own, value)
      for ours, theirs in zip(self._files(own), self._files(key)):
        if ours.exists():  # there is no time without a limit, and nothing at all where the entry is larger than the limit
          ours.replace(theirs)
    finally:
      self._drop(own)

  def _files(self, key):
    """When an entry was read last, and the entry: in this order, as jax 0.10.2 evicts nothing where it finds the second alone."""
    return [self.path / f"{key}{suffix}" for suffix in (lru_cache._ATIME_SUFFIX, lru_cache._CACHE_SUFFIX)]

  def _drop(self, key):
    for file in self._files(key):
      file.unlink(missing_ok=True)


def keep_whole() -> None:
  """Makes `WholeEntries` what jax keeps programs in, wherever it keeps any; to be called before the first is compiled."""
  compilation_cache.LRUCache = WholeEntries
