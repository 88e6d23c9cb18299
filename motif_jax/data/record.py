"""One training record: the frozen encoders' view of one captioned clip, as a dict of numpy arrays and strings.

  key            str, unique: the file within its folder (and "@seconds" where a clip starts later)
  latents        (F, H, W, C) float16
  first_frame    (LEVELS, H, W, C) float16: latent of the first frame at rising Gaussian blur; level 0 is unblurred
  text_long, text_short, text_truncated    (T, dim) float16, any T >= 1: each at its true length
  caption_long, caption_short, source      str
  start, fps     float: seconds into the source, frames per second of the clip

Where the data set was made with them (`Spec`):
  teacher        (F, h, w, dim) float16: the alignment teacher's features at the latents' times
  log_variance   (F, H, W, C) float16: of the latents, whose mean `latents` then are
  image          (I, dim) float16: tokens of the first frame.  A batch holds them for all of its samples or for none (`schedule`):
                 fused attention masks keys at the tail alone, so that no sample of a batch could do without
  tags           str, with commas; data sets made before there were tags have none
"""

import dataclasses
import functools
import hashlib
import math

import numpy as np
import tensorflow_datasets as tfds

LEVELS = 4
TEXTS = ("text_long", "text_short", "text_truncated")
STRINGS = ("key", "caption_long", "caption_short", "source")
NUMBERS = ("start", "fps")
TYPICAL_TOKENS = 160  # of the three captions of a clip together: a paragraph, a sentence, a sentence


@dataclasses.dataclass(frozen=True)
class Spec:
  """The sizes that all records of one bucket share.  Defaults are what older data sets have."""

  grid: tuple[int, int, int]  # latent (F, H, W)
  channels: int
  text_dim: int
  teacher_grid: tuple[int, int]  # (h, w)
  teacher_dim: int  # 0: no features of a teacher
  image: tuple[int, int] = (0, 0)  # (tokens, dim); (0, 0): no image tokens
  log_variance: bool = False
  tags: bool = False

  @classmethod
  def from_dict(cls, content: dict) -> "Spec":
    """The `Spec` that JSON holds as `dataclasses.asdict` of it."""
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in content.items()})

  @property
  def shapes(self) -> dict[str, tuple[int | None, ...]]:
    """Array name -> shape; None: any length."""
    frames, height, width = self.grid
    latents = (frames, height, width, self.channels)
    shapes = dict(latents=latents, first_frame=(LEVELS, *latents[1:]), **{text: (None, self.text_dim) for text in TEXTS})
    if self.teacher_dim:
      shapes["teacher"] = (frames, *self.teacher_grid, self.teacher_dim)
    if self.log_variance:
      shapes["log_variance"] = latents
    if all(self.image):
      shapes["image"] = self.image
    return shapes


def strings_of(spec: Spec) -> tuple[str, ...]:
  """The names of what is text in a record."""
  return STRINGS + ("tags",) * spec.tags


def bytes_of(spec: Spec, *, text_tokens: int = TYPICAL_TOKENS) -> int:
  """The size of the arrays of a record, two bytes a number, with captions of `text_tokens` in sum: what it takes on disk before
  compression, which saves nothing on the features of real encoders, and without the few hundred bytes of its strings."""
  return 2 * sum(math.prod(shape) for name, shape in spec.shapes.items() if name not in TEXTS) + 2 * text_tokens * spec.text_dim


def check(record: dict, spec: Spec) -> None:
  """Raises a ValueError that names all that is wrong with `record`.  One of the three doors where shapes are asserted."""
  wrong = []
  for name, shape in spec.shapes.items():
    array = record.get(name)
    if not isinstance(array, np.ndarray) or array.dtype != np.float16 or not _fits(array.shape, shape):
      given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
      wrong.append(f"{name} is {given}, expected float16 {tuple('T' if n is None else n for n in shape)}")
    elif not np.isfinite(array).all():
      wrong.append(f"{name} holds values that are not finite in float16")
  strings = strings_of(spec)
  wrong += [f"{name} is {record.get(name)!r}, expected a string" for name in strings if not isinstance(record.get(name), str)]
  wrong += [f"{name} is {record.get(name)!r}, expected a float" for name in NUMBERS if not isinstance(record.get(name), float)]
  if unknown := sorted(set(record) - {*spec.shapes, *strings, *NUMBERS}):
    wrong.append(f"unknown entries {unknown}")
  if wrong:
    raise ValueError(f"record {record.get('key')!r} does not fit its bucket: " + "; ".join(wrong) + ".")


@functools.cache
def features(spec: Spec) -> tfds.features.FeaturesDict:
  """The tfds features of records of `spec`."""
  # Arrays as raw bytes: the default encoding of tfds knows no float16 and would store every number as a float32 in a list.
  arrays = {name: tfds.features.Tensor(shape=shape, dtype=np.float16, encoding="bytes") for name, shape in spec.shapes.items()}
  strings = {name: tfds.features.Text() for name in strings_of(spec)}
  numbers = {name: tfds.features.Scalar(np.float32) for name in NUMBERS}
  return tfds.features.FeaturesDict({**arrays, **strings, **numbers})


def to_bytes(record: dict, spec: Spec) -> bytes:
  """`record` as a serialized tf.Example, checked: the same bytes in every process."""
  check(record, spec)
  kinds = features(spec)
  example = _serializer(spec).get_tf_example(kinds.encode_example(record))
  return example.SerializeToString(deterministic=True)  # `kinds.serialize_example` leaves the order of entries to chance


@functools.cache
def _serializer(spec: Spec):
  return tfds.core.example_serializer.ExampleSerializer(features(spec).get_serialized_info())


def from_example(example: dict) -> dict:
  """The record of what tfds reads: strings instead of bytes, Python floats."""
  strings = {name: value.decode() for name, value in example.items() if isinstance(value, bytes)}
  return {**example, **strings, **{name: float(example[name]) for name in NUMBERS}}


def from_bytes(content: bytes, spec: Spec) -> dict:
  """The record that `to_bytes` made."""
  return from_example(features(spec).deserialize_example_np(content))


def digest(key: str) -> int:
  """An evenly spread number in [0, 2**64) of a record's key: the same on every machine and in every run."""
  return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def _fits(given, expected) -> bool:
  return len(given) == len(expected) and all(n == m if m is not None else n >= 1 for n, m in zip(given, expected))
