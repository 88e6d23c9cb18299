"""The Motif-Video transformer: noisy latents, time and text in, velocity out (arXiv 2604.16503; model.md section 1).

Each job has its own part: dual-stream blocks fuse text and video early, single-stream blocks with Shared Cross-Attention build
the joint representation, and a decoder, which sees the embedded input again beside that representation, restores detail.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

from motif_jax.config import ModelConfig
from motif_jax.mesh import constrain
from motif_jax.model import routing
from motif_jax.model.layers import ZEROS, Linear, Modulation, layer_norm
from motif_jax.model.plan import Segment, make_plan
from motif_jax.model.rope import Rope, make_rope
from motif_jax.model.routing import Route
from motif_jax.model.stack import init_stack, kinds_of, run_span

TIME_FEATURES = 256


class Aux(NamedTuple):
  """What the forward pass computed beside the velocity."""

  tapped: Array | None  # (B, L, D), or (B, K, D) where the tap lies inside a route; None without a tap
  measured: dict | None = None  # kind of block -> {name: (B, blocks)}, of what `measure` made of each block


class Projection(nn.Module):
  """Linear, activation, linear: the text and the time embedder."""

  width: int
  dtype: str
  activation: str

  def setup(self):
    self.up, self.down = Linear(self.width, self.dtype), Linear(self.width, self.dtype)

  def __call__(self, x: Array) -> Array:
    return self.down(ACTIVATIONS[self.activation](self.up(x)))


class ImageEmbed(nn.Module):
  """Tokens of an image encoder (B, I, E) -> (B, I, D); the only affine layer norms and the only erf GELU of the network."""

  width: int
  dtype: str

  @nn.compact
  def __call__(self, image: Array) -> Array:
    norm = lambda name: nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32, name=name)
    x = norm("norm_in")(image).astype(self.dtype)
    x = Linear(image.shape[-1], self.dtype, name="up")(x)
    x = nn.gelu(x, approximate=False)
    x = Linear(self.width, self.dtype, name="down")(x)
    return norm("norm_out")(x).astype(self.dtype)


class Output(nn.Module):
  """Video tokens and condition -> patches of velocity; zero at initialisation.  Scale stands before shift, only here."""

  features: int
  dtype: str

  @nn.compact
  def __call__(self, video: Array, cond: Array) -> Array:
    scale, shift = Modulation(2, self.dtype, name="modulation")(cond)
    normed = (layer_norm(video) * (1 + scale) + shift).astype(self.dtype)
    return Linear(self.features, self.dtype, kernel_init=ZEROS, name="proj")(normed)


ACTIVATIONS = {"silu": nn.silu, "gelu_tanh": lambda x: nn.gelu(x, approximate=True)}


def _modules(cfg: ModelConfig) -> dict:
  """The modules outside the blocks, by their name in the parameter tree, each with the shapes of its inputs."""
  in_features = (2 * cfg.latent_channels + 1) * int(np.prod(cfg.patch))
  modules = {
      "video_embed": (Linear(cfg.width, cfg.dtype), [(1, 1, in_features)]),
      "text_embed": (Projection(cfg.width, cfg.dtype, "gelu_tanh"), [(1, 1, cfg.text_dim)]),
      "time_embed": (Projection(cfg.width, cfg.dtype, "silu"), [(1, TIME_FEATURES)]),
      "output": (Output(cfg.latent_channels * int(np.prod(cfg.patch)), cfg.dtype), [(1, 1, cfg.width), (1, cfg.width)]),
  }
  if cfg.image_dim:
    modules["image_embed"] = (ImageEmbed(cfg.width, cfg.dtype), [(1, 1, cfg.image_dim)])
  return modules


def init(key: Array, cfg: ModelConfig) -> dict:
  """Float32 parameters: Xavier-uniform; zero for modulations, cross-attention outputs and the last projection."""
  params = {}
  for i, (name, (module, shapes)) in enumerate(_modules(cfg).items()):
    params[name] = module.init(jax.random.fold_in(key, i), *map(jnp.zeros, shapes))["params"]
  for i, kind in enumerate(kinds_of(cfg)):
    params[kind] = init_stack(jax.random.fold_in(key, 100 + i), kind, cfg)
  return params


def apply(params: dict, cfg: ModelConfig, latents: Array, t: Array, text: Array, *, text_mask: Array | None = None,
          image: Array | None = None, plan: tuple[Segment, ...] | None = None, route: Route | None = None,
          measure: Callable | None = None) -> tuple[Array, Aux]:
  """Velocity (B, F, H, W, C) float32 at time t (B,) in [0, 1], and `Aux`.

  Args:
    latents: (B, F, H, W, 2C + 1), channels [noisy latent C | first-frame latent C | mask 1].
    text: (B, T, text_dim) features; `text_mask` (B, T) True for real tokens, which stand first.
    image: (B, I, image_dim) features of the first frame, optional.
    plan: from `make_plan`; the dense forward pass if not given.
    route: the kept tokens where the plan routes; indices from `routing.draw`.
    measure: of each block, see `stack.run_span`.
  """
  _check_inputs(cfg, latents, t, text, text_mask, image)
  plan = make_plan(cfg.depths) if plan is None else plan
  if any(segment.routed for segment in plan) != (route is not None):
    raise ValueError("The plan routes tokens and no route was given, or the other way round; pass both or neither.")
  modules = _modules(cfg)
  embed = lambda name, *inputs: jax.named_scope(name)(modules[name][0].apply)({"params": params[name]}, *inputs)

  grid = tuple(size // p for size, p in zip(latents.shape[1:4], cfg.patch))
  video = embedded = constrain(embed("video_embed", patchify(latents, cfg)), "batch", "video", None)
  cond = constrain(embed("time_embed", time_features(t)), "batch", None)
  context = (embed("text_embed", text),) if image is None else (embed("image_embed", image), embed("text_embed", text))
  context = tuple(constrain(tokens, "batch", None, None) for tokens in context)
  masks = (None,) * len(context) + (text_mask,)
  full_rope = rope = Rope(*(constrain(part, "video", None) for part in make_rope(grid, cfg.rope_axes, cfg.rope_theta)))

  bypass, tapped, measured = None, None, {}
  for kind, start, stop, routed, tap, final in plan:
    run = partial(run_span, params[kind], cfg, kind, start, stop, final=final, measure=measure)
    if routed and bypass is None:
      video, bypass = routing.leave(video, route)
      rope = gather_rope(full_rope, route)
    elif bypass is not None and not routed:
      video, bypass, rope = routing.rejoin(video, bypass, route), None, full_rope
    if kind == "decoder":  # starts from the embedded input; attends to the encoder stage's video tokens; text is gone
      (video, _), seen = run((embedded, video), (None, None), cond, full_rope)
    else:
      (video, *context), seen = run((video, *context), masks, cond, rope)
    measured.setdefault(kind, []).append(seen)
    video = constrain(video, "batch", "video", None)
    tapped = video if tap else tapped
  if bypass is not None:  # a model without decoder may be routed up to its last block
    video = routing.rejoin(video, bypass, route)
  # From (blocks of a span, B) each, to one row per sample.
  joined = lambda spans: jax.tree.map(lambda *parts: jnp.concatenate(parts).T, *spans)
  aux = Aux(tapped, {kind: joined(spans) for kind, spans in measured.items()} if measure else None)
  return unpatchify(embed("output", video, cond), grid, cfg), aux


@jax.named_scope("patchify")
def patchify(latents: Array, cfg: ModelConfig) -> Array:
  """(B, F, H, W, 2C + 1) -> (B, L, features) with the channel as the slowest feature."""
  pt, ph, pw = cfg.patch
  return rearrange(latents, "b (f pt) (h ph) (w pw) c -> b (f h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw)


@jax.named_scope("unpatchify")
def unpatchify(patches: Array, grid: tuple[int, int, int], cfg: ModelConfig) -> Array:
  """(B, L, features) -> (B, F, H, W, C) float32."""
  (f, h, w), (pt, ph, pw) = grid, cfg.patch
  out = rearrange(patches, "b (f h w) (c pt ph pw) -> b (f pt) (h ph) (w pw) c", f=f, h=h, w=w, pt=pt, ph=ph, pw=pw)
  return out.astype(jnp.float32)


@jax.named_scope("time_embed")
def time_features(t: Array) -> Array:
  """[cos | sin] features (B, 256) float32 of 1000 t; float32 up to here, because bfloat16 would round 998.64 to 1000."""
  half = TIME_FEATURES // 2
  # The exponent is rounded to float32 before `exp`, as in the reference: at 1000 t = 900 the last bit of it moves angles by 5e-4.
  exponent = np.float32(-np.log(10000.0)) * np.arange(half, dtype=np.float32) / np.float32(half)
  frequency = np.exp(exponent.astype(np.float64)).astype(np.float32)
  angle = 1000 * t.astype(jnp.float32)[:, None] * frequency
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


@jax.named_scope("routing")
def gather_rope(rope: Rope, route: Route) -> Rope:
  """The rotations of the kept tokens, (B, K, dh / 2)."""
  batch = route.kept.shape[0]
  return Rope(*(routing.take(jnp.broadcast_to(part, (batch, *part.shape)), route.kept) for part in rope))


def _check_inputs(cfg, latents, t, text, text_mask, image):
  """One of the three doors where shapes are asserted."""
  channels = 2 * cfg.latent_channels + 1
  if latents.ndim != 5 or latents.shape[-1] != channels:
    raise ValueError(f"latents {latents.shape} must be (B, F, H, W, {channels}): noisy latent, first-frame latent and mask.")
  if any(size % p for size, p in zip(latents.shape[1:4], cfg.patch)):
    raise ValueError(f"The latent grid {latents.shape[1:4]} does not divide by the patch {cfg.patch}; choose another video size.")
  batch = latents.shape[0]
  if t.shape != (batch,):
    raise ValueError(f"t {t.shape} must be ({batch},), one time in [0, 1] per sample.")
  if text.ndim != 3 or text.shape[0] != batch or text.shape[-1] != cfg.text_dim:
    raise ValueError(f"text {text.shape} must be ({batch}, T, model.text_dim = {cfg.text_dim}).")
  if text_mask is not None and text_mask.shape != text.shape[:2]:
    raise ValueError(f"text_mask {text_mask.shape} must be {text.shape[:2]}.")
  if image is not None and not cfg.image_dim:
    raise ValueError("Image tokens were given to a model without an image embedder; set model.image_dim.")
