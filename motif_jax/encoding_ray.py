"""Encoding on a Ray cluster: actors with one device each write shards, which are those of any other job.  The home of Ray.

What Ray does: it finds places for the actors, deals out shards, starts an actor that died again and gives it its shard again.  A
shard is whole or not there, and its bytes do not depend on who wrote it (`data/shards.py`), so a second try does no harm.
Source and output must be the same folders on every machine, and this program stand at the same path.
"""

import os
import sys
from collections.abc import Callable, Sequence

import ray
from ray.util import ActorPool

from motif_jax.data.progress import Clock
from motif_jax.data.shards import Shard
from motif_jax.encoding import Process, Setting

TRIES = 3  # of an actor to start again, and of a shard to be written


class Writer:
  """An actor: a process with one device, and its decoders."""

  def __init__(self, setting: Setting):
    self._process = Process(setting)

  def write(self, shard: Shard) -> tuple[int, Clock, int]:
    """(clips done, where the time went, devices) once `shard` is written."""
    self._process.write(shard)
    return len(shard.clips), *self._process.spent()


def write(setting: Setting, shards: Sequence[Shard], made: Callable[[int], None], clock: Clock, *, address: str,
          actors: int) -> None:
  """Writes `shards` with `actors` actors on the cluster at `address`; "local" starts one on this machine, for this job."""
  ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False,
           num_cpus=max(actors * (setting.decoders + 1), os.cpu_count()) if address == "local" else None,
           runtime_env=dict(env_vars=dict(PYTHONPATH=os.pathsep.join(filter(None, sys.path)))))
  try:
    actor = ray.remote(num_cpus=setting.decoders + 1, num_gpus=int(ray.cluster_resources().get("GPU", 0) > 0),
                       max_restarts=TRIES, max_task_retries=TRIES)(Writer)
    pool = ActorPool([actor.remote(setting) for _ in range(min(actors, len(shards)))])
    for clips, spent, devices in pool.map_unordered(lambda writer, shard: writer.write.remote(shard), shards):
      clock.merge(spent, devices)
      made(clips)
  except ray.exceptions.RayActorError as e:
    raise ValueError(f"an actor died {TRIES + 1} times, the last time because: {e}\nFinished files are kept; run the same "
                     "command again to go on.") from e
  finally:
    ray.shutdown()
