"""A data set on disk: array_record shards with TensorFlow Datasets metadata, one folder per bucket, and what made them.

  PATH/dataset.json                 `Meta`: encoders, buckets, counts.  Written last: without it the data set is not whole
  PATH/report.json                  what encoding skipped, and why
  PATH/9x32x32/dataset_info.json    of tfds: read by `tfds.builder_from_directory(PATH/9x32x32).as_data_source("clips")`
  PATH/9x32x32/digests.npy          uint64 (N,), `record.digest` of each key, in record order: decides train or validation
  PATH/9x32x32/checksums.npy        uint32 (N,), CRC-32 of each record's bytes: what `launch.verify` checks
  PATH/9x32x32/motif-clips.array_record-00000-of-00004

How records are read: `data/sources.py`.  TensorFlow is never imported: tfds writes and reads all of this without.
"""

import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import tempfile
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from motif_jax import outside
from motif_jax.config import BucketConfig, Config, DataConfig
from motif_jax.data import buckets as buckets_lib
from motif_jax.data import record as record_lib
from motif_jax.data.progress import Clock
from motif_jax.data.sources import SOURCES, SPLIT
from motif_jax.data.videos import PARTIAL, replacing

FORMAT = 1  # of the folder; raised when a change makes older data sets unreadable
_NAME = "motif"
# One record per group: the only layout in which reading one record costs one record.
_WRITER_OPTIONS = "group_size:1,zstd:3"
_WAITING = 32  # records that may wait to be written


@dataclasses.dataclass(frozen=True)
class Part:
  """What the data set holds of one bucket."""

  bucket: BucketConfig
  spec: record_lib.Spec
  records: int


@dataclasses.dataclass(frozen=True)
class Meta:
  """What made a data set, and what is in it."""

  codec: dict  # name, version, channels, strides
  text: dict  # name, version, dim
  teacher: dict | None  # name, version, dim, where records hold a teacher's features
  text_empty: np.ndarray  # (1, dim) float16: the encoding of "", which stands for a dropped caption
  parts: tuple[Part, ...]  # sorted by bucket name
  fingerprint: str  # of the source files, captions, buckets and encoders
  image: dict | None = None  # name, version, dim, where records hold image tokens

  def to_json(self) -> str:
    content = dataclasses.asdict(self) | dict(format=FORMAT, text_empty=self.text_empty.tolist())
    return json.dumps(content)

  @classmethod
  def from_json(cls, content: str) -> "Meta":
    c = outside.parsed(content)
    if (given := c.pop("format", None)) != FORMAT:
      raise ValueError(f"the data set has format {given}, this program reads format {FORMAT}; encode it again.")
    parts = tuple(Part(BucketConfig(**p["bucket"]), record_lib.Spec.from_dict(p["spec"]), p["records"]) for p in c["parts"])
    return cls(**c | dict(parts=parts, text_empty=np.asarray(c["text_empty"], np.float16)))


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set opened for reading, or several: `sources` and `origins` in the order of `meta.parts`."""

  meta: Meta
  sources: tuple
  origins: tuple[int, ...]  # of each part: the number of its data set in `data.mixture`, 0 where there is but one


def open_data(cfg: DataConfig) -> Dataset:
  """The `Dataset` of a config: the folder `data.path`, or the parts of all those in `data.mixture`, one after another."""
  if bool(cfg.path) == bool(cfg.mixture):
    raise ValueError(f"data.path is {cfg.path!r} and data.mixture {cfg.mixture}; set one of them: the folder of a data set, or a "
                     "folder and a weight of each of several.")
  opened = [open_dataset(path, cfg.source) for path in ([cfg.path] if cfg.path else [path for path, _ in cfg.mixture])]
  metas = [dataset.meta for dataset in opened]
  for what in ("codec", "text", "teacher", "image"):
    for (path, _), meta in zip(cfg.mixture, metas):
      if getattr(meta, what) != getattr(metas[0], what):
        raise ValueError(f"the data sets of data.mixture do not mix: the {what} encoder of {path} is {getattr(meta, what)}, that "
                         f"of {cfg.mixture[0][0]} {getattr(metas[0], what)}; encode one of them again.")
  together = dataclasses.replace(metas[0], parts=tuple(part for meta in metas for part in meta.parts),
                                 fingerprint=" ".join(meta.fingerprint for meta in metas))
  return Dataset(meta=together, sources=tuple(source for dataset in opened for source in dataset.sources),
                 origins=tuple(number for number, meta in enumerate(metas) for _ in meta.parts))


def open_dataset(path, source: str = "array_record") -> Dataset:
  """The `Dataset` in a folder that `launch.encode` filled, read through `SOURCES[source]`."""
  path = pathlib.Path(path)
  if source not in SOURCES:
    raise ValueError(f"data.source is {source!r}, expected one of {', '.join(sorted(SOURCES))}.")
  if not (path / "dataset.json").exists():
    begun = "encoding was interrupted" if unfinished(path).exists() else "nothing was encoded there"
    found = begun if path.is_dir() else "the folder does not exist"
    raise ValueError(f"data.path {str(path)!r} holds no whole data set ({found}); "
                     f"run `python -m launch.encode --source=FOLDER --output={path}`, "
                     "which goes on where an interrupted run stopped.")
  meta = Meta.from_json((path / "dataset.json").read_text())
  sources = tuple(SOURCES[source](path / buckets_lib.name(part.bucket)) for part in meta.parts)
  for part, opened in zip(meta.parts, sources):
    if len(opened) != part.records:
      raise ValueError(f"{path / buckets_lib.name(part.bucket)} holds {len(opened)} records, dataset.json says {part.records}; "
                       "files were lost or mixed up: encode into a new folder.")
  return Dataset(meta=meta, sources=sources, origins=(0,) * len(sources))


def unfinished(path) -> pathlib.Path:
  """The folder that is there only while encoding into `path` has not come to its end."""
  return pathlib.Path(path) / "unfinished"


def check_encoders(meta: Meta, cfg: Config, *, encoders: Sequence = ()) -> None:
  """Raises a ValueError unless `cfg` trains on what made this data set.  `encoders`, where at hand: the (codec, text, teacher,
  image) of the program, whose versions are compared too; None for one whose weights are not at hand."""
  aligned = cfg.alignment.weight > 0
  teacher, image = meta.teacher or dict(name="none", dim=0), meta.image or dict(name="none", dim=0)
  expected = [  # what, the data set's, the config's, and the key to change
      ("codec", meta.codec["name"], cfg.encoders.codec, "encoders.codec"),
      ("text encoder", meta.text["name"], cfg.encoders.text, "encoders.text"),
      ("teacher", teacher["name"], cfg.encoders.teacher if aligned else None, "encoders.teacher"),
      ("latent channels", meta.codec["channels"], cfg.model.latent_channels, "model.latent_channels"),
      ("text features", meta.text["dim"], cfg.model.text_dim, "model.text_dim"),
      ("teacher features", teacher["dim"], cfg.alignment.teacher_dim if aligned else None, "alignment.teacher_dim"),
      ("image encoder", image["name"], cfg.encoders.image if cfg.data.image_tokens else None, "encoders.image"),
      ("image tokens", image["dim"], cfg.model.image_dim if cfg.data.image_tokens else None, "model.image_dim"),
      ("log-variance of latents", all(part.spec.log_variance for part in meta.parts), cfg.data.sample_latents or None,
       "data.sample_latents"),
  ]
  read = [meta.codec, meta.text, aligned and teacher, image]
  for made, encoder in zip(read, encoders):
    if made and encoder is not None and made["name"] == encoder.name and not same_version(made["version"], encoder.version):
      expected.append((f"version of {made['name']}", made["version"], encoder.version, "the encoder, or encoders.weights"))
  wrong = [f"{what}: the data set has {given!r}, the config {want!r} ({key})"
           for what, given, want, key in expected if want is not None and given != want]
  if wrong:
    raise ValueError("the data set does not fit the config:\n" + "\n".join(f"  - {w}" for w in wrong) +
                     "\nChange the config to what the data set was made with, or encode again with what the config names.")


def same_version(recorded: str, ours: str) -> bool:
  """Whether an encoder of version `ours` makes what one of version `recorded` made: what came to say more of weights was appended
  with "-", so an older data set's version is the beginning of today's."""
  return ours == recorded or ours.startswith(f"{recorded}-")


def shard_path(path, bucket: BucketConfig, index: int, count: int) -> pathlib.Path:
  """Where shard `index` of `count` lies, named as tfds expects."""
  return pathlib.Path(path) / buckets_lib.name(bucket) / f"{_NAME}-{SPLIT}.array_record-{index:05d}-of-{count:05d}"


def shard_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """All shards in the folder of a bucket, of whichever plan; not those half written, which another job may be at."""
  return [file for file in folder.iterdir() if ".array_record-" in file.name and not file.name.endswith(PARTIAL)]


def write_shard(path: pathlib.Path, records: Iterable[dict], spec: record_lib.Spec, *,
                clock: Clock | None = None) -> tuple[list[str], list[int]]:
  """The keys and checksums of what was written, in order.  The shard appears whole or not at all; it may be empty.

  Records are packed and compressed in a thread, while the next are made.
  """
  clock, keys, checksums, waiting = clock or Clock(), [], [], collections.deque()

  def write(record):
    with clock.phase("write", 1):
      content = record_lib.to_bytes(record, spec)
      writer.write(content)
    return zlib.crc32(content)

  with replacing(path) as temporary, concurrent.futures.ThreadPoolExecutor(1) as pool:
    writer = array_record_module.ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
    try:
      for record in records:
        keys.append(record["key"])
        waiting.append(pool.submit(write, record))
        if len(waiting) > _WAITING:
          checksums.append(waiting.popleft().result())
      checksums += [future.result() for future in waiting]
    finally:
      pool.shutdown(cancel_futures=True)
      writer.close()
  return keys, checksums


def write_part(path, part: Part, keys: Sequence[Sequence[str]], checksums: Sequence[Sequence[int]]) -> None:
  """Writes what reads the shards of one bucket: digests, checksums and tfds metadata.  One entry per shard."""
  folder = pathlib.Path(path) / buckets_lib.name(part.bucket)
  digests = [record_lib.digest(key) for shard in keys for key in shard]
  write_array(folder / "digests.npy", np.array(digests, np.uint64))
  write_array(folder / "checksums.npy", np.array([checksum for shard in checksums for checksum in shard], np.uint32))
  info = tfds.core.DatasetInfo(
      builder=tfds.core.dataset_info.DatasetIdentity(
          name=_NAME, version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name="",
          config_name=buckets_lib.name(part.bucket)),
      description="Captioned clips as latents and features, for training a video diffusion transformer.",
      features=record_lib.features(part.spec),
  )
  info.set_file_format("array_record")
  template = tfds.core.ShardedFileTemplate(dataset_name=_NAME, data_dir=folder, filetype_suffix="array_record", split=SPLIT)
  size = sum(shard_path(path, part.bucket, i, len(keys)).stat().st_size for i in range(len(keys)))
  split = tfds.core.splits.SplitInfo(name=SPLIT, shard_lengths=[len(shard) for shard in keys], num_bytes=size,
                                     filename_template=template)
  info.set_splits(tfds.core.splits.SplitDict([split]))
  with tempfile.TemporaryDirectory(dir=folder, suffix=PARTIAL) as scratch:  # tfds writes in place
    info.write_to_directory(scratch)
    for file in pathlib.Path(scratch).iterdir():
      os.replace(file, folder / file.name)


def write_meta(path, meta: Meta) -> None:
  """Writes dataset.json, which makes the data set whole: call it last."""
  write_text(pathlib.Path(path) / "dataset.json", meta.to_json())


def write_array(path: pathlib.Path, array: np.ndarray) -> None:
  """Writes a .npy file that appears whole or not at all."""
  with replacing(path) as temporary, open(temporary, "wb") as file:
    np.save(file, array)


def write_text(path: pathlib.Path, content: str) -> None:
  """Writes a text file that appears whole or not at all."""
  with replacing(path) as temporary:
    temporary.write_text(content)
