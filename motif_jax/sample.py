"""Sampling as three pure functions: prompts -> features, features -> latents, latents -> frames; `videos_of` runs all three.

The interesting part is `_integrate`: the network with its conditions becomes a velocity (x, t) -> v, which guidance wraps and a
sampler follows from noise to data.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from motif_jax import mesh as meshes
from motif_jax.config import BucketConfig, Config, GuidanceConfig, ModelConfig, SampleConfig
from motif_jax.encoders import registry
from motif_jax.flow import caching, guidance as guidances, samplers, times
from motif_jax.model import transformer
from motif_jax.model.conditioning import network_input

TEXT_MULTIPLE = 32  # tokens


def encoders_of(cfg: Config, mesh: Mesh | None = None):
  """The codec and the text encoder that the model was trained with; their weights on `mesh`, or on the first device."""
  return check_encoders(cfg, *registry.named(cfg.encoders, ("codec", "text"), mesh=mesh))[:2]


def check_encoders(cfg: Config, codec, text, image=None) -> tuple:
  """The same encoders; ValueError unless they make what the model reads."""
  if (codec.channels, text.dim) != (cfg.model.latent_channels, cfg.model.text_dim):
    raise ValueError(f"model.latent_channels is {cfg.model.latent_channels} and model.text_dim {cfg.model.text_dim}, but codec "
                     f"{codec.name} makes {codec.channels} and text encoder {text.name} {text.dim}; make them agree.")
  if image is not None and image.dim != cfg.model.image_dim:
    raise ValueError(f"model.image_dim is {cfg.model.image_dim}, but image encoder {image.name} makes {image.dim}; make them "
                     "agree, or set encoders.image to 'none'.")
  return codec, text, image


def latent_grid(cfg: Config, codec, bucket: BucketConfig) -> tuple[int, int, int]:
  """The latent grid (F, H, W) of a bucket; ValueError with the nearest sizes where codec or patch do not divide it."""
  grid = codec.grid(bucket.frames, bucket.height, bucket.width)
  wrong = []
  for axis, size, stride, patch, last in zip(("frames", "height", "width"), grid, codec.strides, cfg.model.patch, (1, 0, 0)):
    if size % patch:
      # Of frames, the first is a latent of its own: n latents are stride * (n - 1) + 1 frames.
      near = [n * stride - last * (stride - 1) for n in (size // patch * patch, (size // patch + 1) * patch) if n]
      wrong.append(f"{axis} {getattr(bucket, axis)} (nearest: {', '.join(map(str, near))})")
  if wrong:
    raise ValueError(f"The latents {grid} of bucket {bucket.frames}x{bucket.height}x{bucket.width} do not divide by the model's "
                     f"patch {cfg.model.patch}: {'; '.join(wrong)}.")
  return grid


def encode_prompts(text_encoder, prompts: Sequence[str], text_tokens: int) -> tuple[np.ndarray, np.ndarray]:
  """Features (B, T, dim) float32 and mask (B, T), True for real tokens.  Longer prompts are cut to T tokens, as in training."""
  return padded(text_encoder.encode(prompts), text_tokens)


def padded(texts: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
  """(Features (B, length, dim) float32, mask (B, length), True for real tokens) of texts (T, dim), cut to `length` tokens."""
  features = np.zeros((len(texts), length, texts[0].shape[1]), np.float32)
  mask = np.zeros((len(texts), length), bool)
  for row, text in enumerate(texts):
    count = min(len(text), length)
    features[row, :count] = text[:count]
    mask[row, :count] = True
  return features, mask


def text_length(cfg: Config, texts: Sequence[np.ndarray]) -> int:
  """To how many tokens `texts` are padded: those of the longest, rounded up so that few lengths are ever compiled.

  In training it is data.text_tokens; padding changes nothing but the order of a sum, and costs attention and layers.
  """
  return min(cfg.data.text_tokens, -(-max(map(len, texts)) // TEXT_MULTIPLE) * TEXT_MULTIPLE)


def generate(params: dict, cfg: Config, text: Array, mask: Array, empty_text: Array, empty_mask: Array, *, key: Array,
             grid: tuple[int, int, int], indices: Array | None = None, first_frame: Array | None = None,
             image: Array | None = None) -> Array:
  """Latents (B, F, H, W, C) float32 for text features (B, T, dim) with their mask (B, T), sampled as `cfg.sample` says.

  Args:
    params: of the model alone, best its moving average.
    empty_text, empty_mask: (1, T, dim) and (1, T), the encoding of "": what guidance leads away from.  Where its pass has a turn
      of its own (sample.guidance.together is False), it may be of another length.
    grid: (F, H, W) of the latents, from the codec's `grid`.
    indices: (B,) number of each sample, by default 0 ... B - 1.  Key and number alone decide a sample's noise, so that it comes
      out the same in any batch.
    first_frame: (B, levels, H, W, C) latents of the given first frame as it gets blurrier, for image-to-video; one level: never.
    image: (B, I, image_dim) tokens of that frame, for models with an image embedder.
  """
  indices = np.arange(len(text)) if indices is None else np.asarray(indices)
  how = cfg.sample
  walk = samplers.rows_of(times_of(cfg, grid, picture=first_frame is not None), how.sampler)
  return _integrate(params, (text, mask), (empty_text, empty_mask), key, indices, walk, computed_steps(how), first_frame, image,
                    model=cfg.model, latent_grid=tuple(grid), sampler=how.sampler, guidance=how.guidance, order=how.cache.order)


def shift_of(cfg: Config, grid: tuple[int, int, int], *, picture: bool) -> float:
  """The shift of the sampling times for latents of `grid` (F, H, W), from a picture or from text alone."""
  how, tokens = cfg.sample, int(np.prod(grid)) // int(np.prod(cfg.model.patch))
  if how.token_shift.kind != "none":
    return times.shift_for(tokens, **dataclasses.asdict(how.token_shift))
  return how.image_shift if picture else how.shift


def times_of(cfg: Config, grid: tuple[int, int, int], *, picture: bool) -> np.ndarray:
  """The sampling times (steps + 1,), from 1 to 0, for latents of `grid` (F, H, W), from a picture or from text alone."""
  how = cfg.sample
  return times.explicit(how.sigmas) if how.sigmas else times.grid(how.steps, shift_of(cfg, grid, picture=picture))


def computed_steps(how: SampleConfig) -> np.ndarray | None:
  """Whether each step's velocity is computed, (steps,); None where all are."""
  return ~np.isin(np.arange(how.steps), how.cache.skip) if how.cache.skip else None


def decode(codec, latents: Array) -> Array:
  """Frames (B, F, H, W, 3) uint8 of latents (B, F', H', W', C)."""
  return _decode(codec, latents)


def videos_of(params: dict, cfg: Config, codec, text_encoder, prompts: Sequence[str], *, key: Array, grid: tuple[int, int, int],
              batch: int, indices: Sequence[int] | None = None, first_frame: Array | None = None,
              image: Array | None = None, make: Callable = generate) -> Iterator[np.ndarray]:
  """Yields the frames, uint8 (F, H, W, 3), of one prompt after another; the arguments are those of `latents_of`."""
  *texts, empty = text_encoder.encode([*prompts, ""])
  for latents, count in latents_of(params, cfg, texts, empty, key=key, grid=grid, batch=batch, indices=indices,
                                   first_frame=first_frame, image=image, make=make):
    yield from np.asarray(decode(codec, latents))[:count]


def latents_of(params: dict, cfg: Config, texts: Sequence[np.ndarray], empty: np.ndarray, *, key: Array,
               grid: tuple[int, int, int], batch: int, indices: Sequence[int] | None = None, length: int | None = None,
               first_frame: Array | None = None, image: Array | None = None,
               make: Callable = generate) -> Iterator[tuple[Array, int]]:
  """Yields (latents (b, F, H, W, C), how many of their rows are wanted) for texts (T, dim), in order, made `batch` at once.

  On a mesh the rows of a batch are dealt to its devices, of which `batch` is a multiple.

  Args:
    empty: (T, dim), the encoding of "".
    indices: number of each text, by default 0, 1, ..., which with `key` decides its noise.
    length: that texts are padded to; by default `text_length` of them.
    first_frame: (1, levels, H, W, C) that all videos start from.
    image: (1, I, image_dim) tokens of that frame.
    make: what makes the latents; `stepwise.watched` also tells of each step.
  """
  parts, length = meshes.parts_of("batch"), length or text_length(cfg, texts)
  size = min(batch, -(-len(texts) // parts) * parts)
  uncond = padded([empty], length if cfg.sample.guidance.together else text_length(cfg, [empty]))
  first_frame, image = (None if x is None else jnp.repeat(x, size, axis=0) for x in (first_frame, image))
  numbered = list(zip(texts, range(len(texts)) if indices is None else indices, strict=True))
  for start in range(0, len(texts), size):
    now = numbered[start:start + size]
    full = [*now, *now[-1:] * (size - len(now))]  # one shape for all batches, so one compilation
    features = padded([text for text, _ in full], length)
    yield make(params, cfg, *features, *uncond, key=key, grid=grid, first_frame=first_frame, image=image,
               indices=[index for _, index in full]), len(now)


@jax.named_scope("noise")
def initial_noise(key: Array, indices: Array, shape: tuple[int, ...]) -> Array:
  """Normal noise (B, *shape) float32 in which row i depends on `key` and indices[i] (B,) alone."""
  return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape, jnp.float32))(indices)


@functools.partial(jax.jit, static_argnames=("model", "latent_grid", "sampler", "guidance", "order"))
def _integrate(params, text, empty, key, indices, walk, computed, first_frame, image, *, model: ModelConfig, latent_grid, sampler,
               guidance: GuidanceConfig, order: int):
  """Latents (B, F, H, W, C) at the end of `walk`, the sampler's rows; `text` and `empty` are pairs of features and mask."""
  noise = initial_noise(key, indices, (*latent_grid, model.latent_channels))
  v, memory = velocity_of(params, text, empty, first_frame, image, computed, noise=noise, model=model, guidance=guidance,
                          order=order)
  return samplers.follow(v, noise, walk, sampler, memory=memory)


def velocity_of(params: dict, text: tuple, empty: tuple, first_frame: Array | None, image: Array | None, computed: Array | None,
                *, noise: Array, model: ModelConfig, guidance: GuidanceConfig, order: int) -> tuple[Callable, Any]:
  """(The velocity (x, t, memory) -> (v, memory) that a sampler follows, its memory at `noise`).

  That of the network with all its conditions, guided, and on the steps that are not `computed` (None: all are) foretold.
  """
  v, memory = _guided(params, text, empty, first_frame, image, noise, model=model, guidance=guidance)
  if computed is None:
    return v, memory
  return caching.cached(v, computed, order=order), caching.start(noise, memory)


def _guided(params, text, empty, first_frame, image, noise, *, model, guidance):
  # A clip of one frame is never conditioned: nothing would be left to generate (model.md section 3.3).
  conditioned = jnp.full(len(noise), first_frame is not None and noise.shape[1] > 1)
  first_frame = jnp.zeros_like(noise[:, :1]) if first_frame is None else first_frame
  empty = tuple(jnp.broadcast_to(row, (len(noise), *row.shape[1:])) for row in empty)

  def velocity(x, t, texts):
    """A velocity like x for each of `texts`, all made in one batch."""
    copies = lambda rows: rows if rows is None else jnp.concatenate([rows] * len(texts))
    features, mask = (jnp.concatenate(parts) for parts in zip(*texts))
    t = jnp.full(len(x), t)
    latents = network_input(x, first_frame, t, conditioned)
    v, _ = transformer.apply(params, model, copies(latents), copies(t), features, text_mask=mask, image=copies(image))
    return jnp.split(v, len(texts))

  def alone(x, t, of=text):
    (v,) = velocity(x, t, (of,))
    return v

  rule = guidances.rule_of(guidance)
  if rule is None:
    return lambda x, t, memory: (alone(x, t), memory), ()
  together = lambda x, t: velocity(x, t, (text, empty))
  in_turn = lambda x, t: (alone(x, t), alone(x, t, of=empty))
  guided = guidances.guided(together if guidance.together else in_turn, rule)
  return guidances.within(guidance.interval, guided, alone), rule.start(noise)


@jax.jit
def _decode(codec, latents):
  return jnp.round(jnp.clip(codec.decode(latents) * 0.5 + 0.5, 0, 1) * 255).astype(jnp.uint8)
