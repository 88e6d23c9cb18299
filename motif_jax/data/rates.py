"""How fast a machine feeds: records per second through the pipeline, as training runs it, and the time of its parts."""

import itertools
import time
from typing import NamedTuple

import numpy as np

from motif_jax.config import BucketConfig, DataConfig
from motif_jax.data import dataset as datasets, pipeline, record as record_lib


class Rate(NamedTuple):
  """Of the pipeline, over some batches after the first ones."""

  records: float  # per second
  bytes: float  # per second, as they lie in a record
  cpu: float  # seconds of this process per record; of no use where workers do the work
  first: float  # seconds until the first batch, which a restart waits for


def write_random(path, bucket: BucketConfig, spec: record_lib.Spec, *, records: int, per_shard: int, seed: int = 0) -> None:
  """Writes a data set of one bucket with random content, which no compression makes smaller: as real latents, give or take."""
  rng = np.random.default_rng(seed)
  part = datasets.Part(bucket, spec, records)
  tokens = dict(zip(record_lib.TEXTS, (0.7, 0.15, 0.15)))  # of TYPICAL_TOKENS

  def make(number):
    arrays = {name: rng.standard_normal([round(tokens[name] * record_lib.TYPICAL_TOKENS) if n is None else n for n in shape],
                                        np.float32).astype(np.float16) for name, shape in spec.shapes.items()}
    return arrays | dict(key=str(number), caption_long="", caption_short="", source="", start=0.0, fps=24.0)

  shards = [range(first, min(first + per_shard, records)) for first in range(0, records, per_shard)]
  keys, checksums = [], []
  for index, numbers in enumerate(shards):
    file = datasets.shard_path(path, bucket, index, len(shards))
    file.parent.mkdir(parents=True, exist_ok=True)
    written = datasets.write_shard(file, map(make, numbers), spec)
    keys.append(written[0])
    checksums.append(written[1])
  datasets.write_part(path, part, keys, checksums)
  kinds = dict(codec=dict(name="random", version="1", channels=spec.channels, strides=[4, 8, 8]),
               text=dict(name="random", version="1", dim=spec.text_dim), teacher=None)
  empty = np.zeros((1, spec.text_dim), np.float16)
  datasets.write_meta(path, datasets.Meta(**kinds, text_empty=empty, parts=(part,), fingerprint="random"))


def measure(cfg: DataConfig, dataset: datasets.Dataset, *, batches: int, before: int = 3) -> Rate:
  """The `Rate` of `batches` batches after the first `before`, with nobody computing beside."""
  started = time.perf_counter()
  source = pipeline.batches(cfg, dataset, seed=0)
  try:
    next(source)
    first = time.perf_counter() - started
    for _ in itertools.islice(source, before - 1):
      pass
    started, cpu = time.perf_counter(), time.process_time()
    rows = taken = 0
    for bucket, batch in itertools.islice(source, batches):
      part = next(p for p in dataset.meta.parts if p.bucket == bucket)
      rows += len(batch["latents"])
      taken += len(batch["latents"]) * record_lib.bytes_of(part.spec)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
  finally:
    source.close()
  return Rate(rows / seconds, taken / seconds, cpu / rows, first)


def parts(cfg: DataConfig, dataset: datasets.Dataset, *, rows: int = 4, times: int = 5) -> dict[str, float]:
  """CPU seconds per record of the first bucket: to read its bytes, to unpack them, to make a batch of them."""
  source, part = dataset.sources[0], dataset.meta.parts[0]
  numbers = [i % len(source) for i in range(rows)]
  contents = [source.content(i) for i in numbers]
  records = [source.decode(content) for content in contents]
  texts = [record["text_long"] for record in records]
  timed = {
      "read": lambda: [source.content(i) for i in numbers],
      "unpack": lambda: [source.decode(content) for content in contents],
      "batch": lambda: pipeline.collate(records, texts, part.spec, tokens=cfg.text_tokens),
  }
  found = {}
  for name, run in timed.items():
    started = time.process_time()
    for _ in range(times):
      run()
    found[name] = (time.process_time() - started) / times / rows
  return found
