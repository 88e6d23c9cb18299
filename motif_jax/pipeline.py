"""Videos from prompts in Python, with the averaged weights of a training run:

  from motif_jax import pipeline
  pipe = pipeline.load(WORKDIR)
  videos = pipe(["a red square moves left"], seed=3)  # a list of uint8 arrays (F, H, W, 3)

or with released ones, whose folder leaves to a config how to sample: `pipeline.load(FOLDER, motif_2b.get_config())`, after `from
configs import motif_2b`.  `launch.sample` is the same with files around it.

First all texts are encoded, then all latents sampled, then all of them decoded.  Each phase reads its own model and lets go of
it, so that devices need room for the largest of the models and not for all together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
import itertools
import os
import pathlib

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from motif_jax import config, mesh as meshes, sample, sharding
from motif_jax.budget import devices, sampling, workload
from motif_jax.config import BucketConfig, Config, MeshConfig
from motif_jax.data import extract, videos
from motif_jax.encoders import prompt_cache, registry
from motif_jax.train import checkpoint, saved_config
from motif_jax.weights import folder as folders, release


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """What to sample with, read when it is needed."""

  cfg: Config
  read_params: Callable[[], dict]  # of the network, in their places on the mesh
  mesh: Mesh
  cache: pathlib.Path | None = None  # folder of encoded prompts; None: each call encodes them

  def __call__(self, prompts: str | Sequence[str], *, seed: int = 0, image: str | os.PathLike | None = None,
               batch: int = 1) -> list[np.ndarray]:
    """Frames (F, H, W, 3) uint8 of a video for each prompt, as `cfg.sample` says.

    A video depends on its prompt, the seed and its place among the prompts alone, up to rounding.

    Args:
      image: a picture or video file whose first frame the videos start from.
      batch: videos made at once; rounded up to what the mesh deals evenly.
    """
    texts = self.texts([prompts] if isinstance(prompts, str) else prompts)
    given = self.picture(image) if image is not None else {}
    made = list(self.latents(texts, range(len(texts) - 1), seed=seed, batch=batch, **given))
    return list(self.frames(made, batch=batch))

  @functools.cached_property
  def announced(self) -> dict:
    """Role -> the codec, the text encoder and the image encoder, if any, without their weights."""
    roles = ("codec", "text", "image")
    found = registry.announced(self.cfg.encoders, roles)
    if None in found[:2]:
      registry.named(self.cfg.encoders, roles)  # says which folder is not given
    return dict(zip(roles, sample.check_encoders(self.cfg, *found)))

  def grid(self, bucket: BucketConfig) -> tuple[int, int, int]:
    """(F, H, W) of the latents; ValueError with the nearest sizes where codec or patch do not divide the bucket's."""
    return sample.latent_grid(self.cfg, self.announced["codec"], bucket)

  def texts(self, prompts: Sequence[str]) -> list[np.ndarray]:
    """Features (T, dim) of each prompt and, last, of "", from which guidance leads away."""
    def encode(missing):
      phase, change = (functools.partial(f, self.cfg, self._split) for f in (sampling.texts, sampling.nearest_texts))
      self._check("encoding texts", phase, change)
      return self._named("text").encode(missing)

    cached = self.cache if self.cfg.encoders.weights.text else None  # without weights encoding costs less than reading
    encoder = self.announced["text"]
    return prompt_cache.encoded(cached, f"{encoder.name} {encoder.version}", [*prompts, ""], encode)

  def unseen(self, prompt: str) -> str:
    """The end of `prompt` that no model sees, because it lies beyond the tokens that there is room for; "" of a shorter one."""
    return self.announced["text"].beyond(prompt, self.cfg.data.text_tokens)

  def picture(self, file: str | os.PathLike) -> dict:
    """first_frame: latents (1, levels, H, W, C) of the first frame of `file`, at the blur levels of training; image: its tokens
    (1, I, dim), or None where the config names no image encoder."""
    bucket = self.cfg.sample.bucket
    frame = extract.signed(videos.read_clip(file, BucketConfig(1, bucket.height, bucket.width)))  # (1, H, W, 3)
    latents = np.swapaxes(_encode(self._named("codec"), np.swapaxes(extract.blurred(frame), 0, 1)), 0, 1)
    encoder = self._named("image")
    return dict(first_frame=latents, image=None if encoder is None else _encode(encoder, frame))

  def latents(self, texts: Sequence[np.ndarray], numbers: Sequence[int], *, seed: int, batch: int, first: int = 0,
              first_frame=None, image=None, make: Callable = sample.generate) -> Iterator[np.ndarray]:
    """Yields latents (F, H, W, C) for these `numbers` of `texts`, of which the first is sample number `first`.

    All `texts` together decide how long their padding is, so that what is made of some of them is what is made of all.
    """
    if not numbers:
      return
    params, *texts, empty = (self.read_params(), *texts)
    self.check_memory(params, texts, rows=min(self._rows(batch), self._rows(len(numbers))), image=image)
    with jax.set_mesh(self.mesh):
      for made, count in sample.latents_of(
          params, self.cfg, [texts[i] for i in numbers], empty, key=jax.random.key(seed),
          grid=self.grid(self.cfg.sample.bucket), batch=self._rows(batch), indices=[first + i for i in numbers],
          length=sample.text_length(self.cfg, texts), first_frame=first_frame, image=image, make=make):
        yield from np.asarray(made)[:count]

  def check_memory(self, params: dict, texts: Sequence[np.ndarray], *, rows: int, image=None) -> None:
    """ValueError with what would fit, if sampling `rows` videos at once, or decoding them, needs more than a device says that it
    has.

    `texts` checks its own phase.  Of encoders, budget/ knows the released ones of texts and of videos; that of pictures, smaller
    than that of texts, is not counted.
    """
    cfg, split = self.cfg, self._split
    tokens = workload.tokens_of(cfg.model, self.grid(cfg.sample.bucket), sample.text_length(cfg, texts))
    tokens = dataclasses.replace(tokens, image=0 if image is None else image.shape[1])
    weights = max((leaf.dtype for leaf in jax.tree.leaves(params)), key=lambda dtype: dtype.itemsize).name
    phase, change = (functools.partial(f, cfg, tokens, split, rows // split.batch, weights=weights)
                     for f in (sampling.network, sampling.nearest_fit))
    self._check(f"sampling {rows} videos of {cfg.sample.bucket} at once", phase, change)
    self._check_frames(rows)

  def _check_frames(self, rows):
    cfg, bucket, split = self.cfg, self.cfg.sample.bucket, self._split
    phase = functools.partial(sampling.frames, cfg, bucket, split, rows // split.batch)
    change = functools.partial(sampling.nearest_frames, cfg, bucket, split)
    self._check(f"decoding {rows} videos of {bucket} at once", phase, change)

  def _check(self, what, phase, change):
    """ValueError where the bytes of `phase()` are more than a device has; `change(device)` says what would fit."""
    limit = device_memory(self.mesh)
    if limit is not None and (need := sampling.total(phase())) > devices.USABLE * limit:
      raise ValueError(f"{what} needs about {need / 1e9:.3g} GB on each device, of {limit / 1e9:.3g} GB; what would fit: "
                       f"{change(devices.Device(limit, 0, 0, 0)) or 'more devices, or for videos a smaller bucket'}.")

  @property
  def _split(self):
    return workload.make_split(tuple(self.mesh.shape.values()), self.cfg.model.heads)

  def frames(self, latents: Iterable[np.ndarray], *, batch: int) -> Iterator[np.ndarray]:
    """Yields the frames (F, H, W, 3) uint8 of each of `latents`."""
    codec, latents, size = None, iter(latents), self._rows(batch)
    while now := list(itertools.islice(latents, size)):
      if codec is None:
        self._check_frames(size)
        codec = self._named("codec")
      with jax.set_mesh(self.mesh):
        rows = meshes.global_batch(self.mesh, np.stack([*now, *now[-1:] * (size - len(now))]))
        yield from np.asarray(sample.decode(codec, rows))[:len(now)]

  def _rows(self, batch):
    parts = meshes.degree(self.mesh, "batch")
    return -(-batch // parts) * parts

  def _named(self, role):
    encoder, = registry.named(self.cfg.encoders, (role,), mesh=self.mesh)
    return encoder


def load(path: str | os.PathLike, cfg=None, *, mesh: Mesh | None = None, cache: str | os.PathLike | None = None) -> Pipeline:
  """The `Pipeline` of a run's work directory, of one of its checkpoints, or of the folder of a released pipeline.

  Args:
    cfg: a file's of configs/, which says of a release what its folder does not: how to sample; not for a checkpoint's.
    mesh: the devices, from `motif_jax.mesh.make_mesh`; by default the first one.
    cache: folder in which encoded prompts are kept.
  """
  mesh = mesh or meshes.make_mesh(MeshConfig(1, 1, 1), devices=jax.devices()[:1])
  cache = pathlib.Path(cache) if cache else None
  if not (pathlib.Path(path) / folders.INDEX).is_file():
    if cfg is not None:
      raise ValueError(f"{path} is no released pipeline's folder, and a checkpoint has a config of its own; leave cfg out.")
    return of_checkpoint(*checkpoint.find(path), mesh, cache)
  if cfg is None:
    raise ValueError(f"{path} is a released pipeline's folder, which does not say how to sample; pass a config, such as "
                     "motif_2b.get_config() after `from configs import motif_2b`.")
  return of_release(path, config.from_config_dict(cfg), mesh, cache)


def of_checkpoint(runs: pathlib.Path, step: int, mesh: Mesh, cache: pathlib.Path | None = None) -> Pipeline:
  """The `Pipeline` of the checkpoint of that step in the folder `runs`."""
  path = runs / str(step)
  read = lambda: checkpoint.restore_for_sampling(path, mesh)[1]
  return Pipeline(saved_config.config_from_json(path / "config" / "metadata"), read, mesh, cache)


def of_release(path: str | os.PathLike, cfg: Config, mesh: Mesh, cache: pathlib.Path | None = None) -> Pipeline:
  """The `Pipeline` of a released folder; what that does not say, `cfg` does."""
  cfg, found = release.config_of(path, cfg)
  places = sharding.parameter_shardings(folders.table_of(found).abstract, mesh)
  return Pipeline(cfg, lambda: folders.read_params(found, shardings=places), mesh, cache)


def device_memory(mesh: Mesh) -> int | None:
  """Bytes that a device of `mesh` may hold; None where it does not say, as on CPU."""
  return (mesh.devices.flat[0].memory_stats() or {}).get("bytes_limit")


@jax.jit
def _features(encoder, pixels):
  return encoder.encode(pixels)


def _encode(encoder, pixels):
  return np.asarray(_features(encoder, jnp.asarray(pixels)))
