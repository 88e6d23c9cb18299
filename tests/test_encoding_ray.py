"""Encoding on a local Ray cluster: the bytes are those of one process, also where an actor is killed meanwhile."""

import contextlib
import functools
import os
import pathlib
import signal

import pytest

from configs import smoke
from motif_jax import config as config_lib, encoding
from motif_jax.data import encode, survey
from motif_jax.data.progress import Clock
from tests.test_encode import BUCKETS, contents, folder  # noqa: F401, a fixture

pytest.importorskip("ray")
from motif_jax import encoding_ray


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
  """A function (name, how shards are written, what to do when clips are done) -> (report, contents of the data set)."""
  monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or it writes a token into the home folder
  found = survey.survey(folder, BUCKETS)

  def make(name, write, made=lambda clips: None):
    setting = encoding.Setting(config_lib.from_config_dict(smoke.get_config()), str(folder), str(tmp_path / name), batch_size=2,
                               batch_pixels=1e6, decoders=1, limit=60)
    both = lambda shards, said: write(setting, shards, lambda clips: (made(clips), said(clips)), Clock())
    return encode.encode(folder, found, tmp_path / name, setting.encoders(), both, clips_per_shard=2), contents(tmp_path / name)

  return make


def actors():
  """The processes of this process's actors."""
  parents = {pid: int(stat.rpartition(")")[2].split()[1]) for pid, stat in processes("stat")}
  ours = lambda pid: pid == os.getpid() or pid in parents and ours(parents[pid])
  writers = {pid for pid, line in processes("cmdline") if line.startswith("ray::Writer") and ours(pid)}
  return {pid for pid in writers if parents[pid] not in writers}  # a decoder that is just starting has its actor's name


def processes(name):
  """(process, what its file `name` says) of all that are there."""
  for path in pathlib.Path("/proc").iterdir():
    if path.name.isdecimal():
      with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that has ended meanwhile
        yield int(path.name), (path / name).read_text()


def test_actors_of_which_one_is_killed_write_the_same_bytes_as_one_process(run):
  report, expected = run("plain", encoding.write)
  seen, killed = set(), []

  def kill_one(clips):
    seen.update(actors())
    if not killed:
      killed.append(min(seen))
      os.kill(killed[0], signal.SIGKILL)

  again, got = run("ray", functools.partial(encoding_ray.write, address="local", actors=2), kill_one)
  assert again == report and got == expected
  assert killed and len(seen) == 3, "the actor that was killed had a successor"


def test_an_actor_that_always_dies_ends_the_job_with_one_sentence(run, monkeypatch):
  monkeypatch.setattr(encoding_ray, "Writer", Doomed)
  monkeypatch.setattr(encoding_ray, "TRIES", 1)
  with pytest.raises(ValueError, match="(?s)an actor died 2 times.*run the same command"):
    run("doomed", functools.partial(encoding_ray.write, address="local", actors=1))


class Doomed:
  """An actor that dies of every shard."""

  def __init__(self, setting):
    pass

  def write(self, shard):
    os._exit(9)
