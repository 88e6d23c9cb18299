"""Claims about compiled programs on disk: they are whole, whoever was killed and whoever else writes."""

import importlib
import warnings
import zlib

import jax
import jax.numpy as jnp
from jax._src import compilation_cache as theirs, lru_cache
from jax.experimental.compilation_cache import compilation_cache
import pytest

from launch import arguments
from motif_jax.program_files import WholeEntries
from tests.test_programs import CACHE

ONE, OTHER = zlib.compress(b"one" * 100), zlib.compress(b"other" * 100)


@pytest.fixture
def cache(tmp_path):
  return WholeEntries(str(tmp_path), max_size=-1)


def _halfway(monkeypatch, cache, look):
  """Calls `look` when half of the next entry is written."""

  def write(path, value, written=type(cache.path).write_bytes):
    written(path, value[:len(value) // 2])
    monkeypatch.undo()
    look()
    written(path, value)

  monkeypatch.setattr(type(cache.path), "write_bytes", write)


def test_a_program_that_a_kill_cut_short_is_compiled_once_more_and_no_more(tmp_path, monkeypatch):
  before = {key: getattr(jax.config, key) for key in CACHE}
  for key, value in (CACHE | {"jax_compilation_cache_dir": str(tmp_path)}).items():
    jax.config.update(key, value)
  compilation_cache.reset_cache()
  try:
    program = lambda: jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((3, 4)))
    program()
    (entry,) = tmp_path.glob("jit__lambda*-cache")
    whole = entry.read_bytes()
    entry.write_bytes(whole[:len(whole) // 2])
    jax.clear_caches()
    with warnings.catch_warnings(action="error"):
      program()
    zlib.decompress(entry.read_bytes())
  finally:
    for key, value in before.items():
      jax.config.update(key, value)
    compilation_cache.reset_cache()


def test_a_program_has_its_name_when_it_is_whole(cache, monkeypatch):
  seen = []
  _halfway(monkeypatch, cache, lambda: seen.append((cache.get("a"), (cache.path / "a-cache").exists())))
  cache.put("a", ONE)
  cache.put("a", OTHER)  # is there
  assert seen == [(None, False)] and cache.get("a") == ONE and len(list(cache.path.iterdir())) == 1


def test_of_two_that_write_one_program_at_once_each_reads_a_whole_one(cache, monkeypatch):
  second = lambda: (WholeEntries(str(cache.path), max_size=-1).put("a", OTHER), seen.append(cache.get("a")))
  seen = []
  _halfway(monkeypatch, cache, second)
  cache.put("a", ONE)
  assert seen == [OTHER] and cache.get("a") == ONE and len(list(cache.path.iterdir())) == 1


def test_a_write_that_fails_leaves_nothing(cache, monkeypatch):
  def full():
    raise OSError("no space left")

  _halfway(monkeypatch, cache, full)
  with pytest.raises(OSError, match="no space"):
    cache.put("a", ONE)
  assert not list(cache.path.iterdir())


def test_a_limited_folder_still_drops_what_was_read_longest_ago(tmp_path):
  pytest.importorskip("filelock")  # jax's, for a limit
  cache = WholeEntries(str(tmp_path), max_size=2 * len(OTHER))
  cache.put("a", ONE)
  cache.put("b", OTHER)
  cache.get("a")
  cache.put("c", ONE)
  cache.put("d", b" " * 1000)  # larger than the folder may be
  assert {file.name for file in tmp_path.iterdir()} - {".lockfile"} == {"a-cache", "a-atime", "c-cache", "c-atime"}


def test_every_command_keeps_its_programs_whole(monkeypatch):
  monkeypatch.setattr(theirs, "LRUCache", lru_cache.LRUCache)
  importlib.reload(arguments)
  assert theirs.LRUCache is WholeEntries
