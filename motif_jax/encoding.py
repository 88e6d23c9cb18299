"""Encoding on the devices of one process: what a job of `launch.encode` and an actor on Ray have in common."""

import dataclasses
from collections.abc import Callable, Sequence

import jax

from motif_jax import mesh as meshes
from motif_jax.config import Config, MeshConfig
from motif_jax.data import buckets as buckets_lib
from motif_jax.data.extract import Devices, Encoders
from motif_jax.data.progress import Clock
from motif_jax.data.shards import Note, Shard, Stage
from motif_jax.encoders import registry


@dataclasses.dataclass(frozen=True)
class Setting:
  """All that a process needs to know; plain values, so that it travels."""

  cfg: Config
  source: str
  output: str
  batch_size: int  # clips that a device encodes at once, at most
  batch_pixels: float  # the same in pixels: in large buckets, fewer clips
  decoders: int
  limit: float  # seconds that decoding a clip may take

  def encoders(self, *, mesh=None, load: bool = False) -> Encoders:
    """The config's encoders, by default without their weights."""
    return Encoders(*registry.of_data(self.cfg, mesh=mesh, load=load), log_variance=self.cfg.encoders.log_variance)

  def rows(self, bucket) -> int:
    """Clips of a bucket that a device encodes at once."""
    return max(1, min(self.batch_size, int(self.batch_pixels // buckets_lib.volume(bucket))))


class Process:
  """Writes shards with all devices of this process; the rows of each batch are spread over them.  Use it in a `with`."""

  def __init__(self, setting: Setting):
    alone = len(jax.local_devices()) == 1
    self._mesh = meshes.make_mesh(MeshConfig(1, 1, 1) if alone else setting.cfg.mesh, devices=jax.local_devices())
    rows = meshes.batch_sharding(self._mesh)
    devices = Devices(jit=jax.jit, place=lambda x: jax.device_put(x, rows),
                      rows=lambda bucket: setting.rows(bucket) * meshes.degree(self._mesh, "batch"))
    with jax.set_mesh(self._mesh):
      encoders = setting.encoders(mesh=self._mesh, load=True)
    self._stage = Stage(setting.source, setting.output, encoders, devices, decoders=setting.decoders, limit=setting.limit)

  def __enter__(self) -> "Process":
    return self

  def __exit__(self, *error) -> None:
    self._stage.close()

  def write(self, shard: Shard, *, after: Shard | None = None, made: Callable[[int], None] = lambda clips: None) -> Note:
    """As of `Stage`."""
    with jax.set_mesh(self._mesh):
      return self._stage.write(shard, after=after, made=made)

  def spent(self) -> tuple[Clock, int]:
    """(where the time went since this was last asked, the number of devices)."""
    return self._stage.clock.taken(), self._mesh.devices.size


def write(setting: Setting, shards: Sequence[Shard], made: Callable[[int], None], clock: Clock) -> None:
  """Writes `shards`, one after another, in this process."""
  with Process(setting) as process:
    try:
      for shard, after in zip(shards, [*shards[1:], None]):
        if Note.of(shard, setting.output) is None:  # another job may have been given the same
          process.write(shard, after=after, made=made)
    finally:
      clock.merge(*process.spent())
