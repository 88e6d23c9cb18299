"""Feature alignment (REPA, arXiv 2410.06940): early in training, inner features are drawn to a frozen encoder's.

The teacher's features come with the data, already at the times of the latent frames; here they are brought to the grid of the
video tokens in space, and compared on the tokens that the tapped block saw.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from motif_jax.config import AlignmentConfig
from motif_jax.model import routing
from motif_jax.model.layers import Linear
from motif_jax.model.routing import Route


class Projector(nn.Module):
  """Tapped features (B, K, D) -> (B, K, teacher_dim): three linear layers with SiLU between."""

  hidden: int
  teacher_dim: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for name in ("first", "second"):
      x = nn.silu(Linear(self.hidden, "float32", name=name)(x))
    return Linear(self.teacher_dim, "float32", name="third")(x)


def init_projector(key: Array, cfg: AlignmentConfig, width: int) -> dict:
  """Float32 parameters of the projector from model width to teacher width."""
  return Projector(cfg.hidden, cfg.teacher_dim).init(key, jnp.zeros((1, 1, width)))["params"]


@jax.named_scope("alignment")
def alignment_loss(params: dict, cfg: AlignmentConfig, tapped: Array, teacher: Array, grid: tuple[int, int, int],
                   route: Route | None) -> Array:
  """1 - cosine of projected and teacher features, mean over tokens, (B,) float32 (REPA eq. 8 with cosine similarity).

  Args:
    tapped: (B, L, D), or (B, K, D) where the tap lies inside `route`, which must then be given.
    teacher: (B, F, h, w, teacher_dim), F the latent frames.
    grid: (F, H, W) of the video tokens.
  """
  targets = to_token_grid(teacher, grid)
  if route is not None:
    targets = routing.take(targets, route.kept)
  projected = Projector(cfg.hidden, cfg.teacher_dim).apply({"params": params}, tapped.astype(jnp.float32))
  return jnp.mean(1 - jnp.sum(unit(projected) * unit(targets), axis=-1), axis=-1)


def to_token_grid(teacher: Array, grid: tuple[int, int, int]) -> Array:
  """(B, F, h, w, E) -> (B, L, E): linear in space (half-pixel centres, clamped at the border) to the grid of the tokens."""
  batch, frames, _, _, dim = teacher.shape
  if frames % grid[0]:
    raise ValueError(f"Teacher features of {frames} frames cannot align with {grid[0]} latent frames; encode the data set again.")
  resized = jax.image.resize(teacher.astype(jnp.float32), (batch, frames, *grid[1:], dim), "linear", antialias=True)
  return resized.reshape(batch, grid[0], frames // grid[0], -1, dim).mean(2).reshape(batch, -1, dim)


def unit(x: Array) -> Array:
  """x with its last axis at length 1 (a zero vector stays zero)."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))
