"""python -m tests.encode_slowly SOURCE OUTPUT: encodes as tests/test_encode.py does, in a process that can be killed meanwhile."""

import contextlib
import sys
import time

from motif_jax.data import encode, extract, shards, survey
from tests import small_data


def slowly(function):
  """`function`, which takes a little time, so that a kill finds it at work."""
  def program(*arguments):
    time.sleep(0.03)
    return function(*arguments)
  return program


if __name__ == "__main__":
  source, output = sys.argv[1:]
  encoders = extract.Encoders(small_data.Codec(), small_data.Text(), small_data.Teacher())
  devices = extract.Devices(jit=slowly, place=lambda x: x, rows=lambda _: 2)
  stage = shards.Stage(source, output, encoders, devices, decoders=2, limit=60)
  found = survey.survey(source, (small_data.VIDEO, small_data.IMAGE))
  print("it begins", flush=True)
  with contextlib.closing(stage):
    write = lambda missing, made: [stage.write(shard, made=made) for shard in missing]
    encode.encode(source, found, output, encoders, write, clips_per_shard=4)
