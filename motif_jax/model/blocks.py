"""The two block kinds of the backbone (paper section on the three-part backbone; model.md sections 1.5 to 1.7).

A block takes a tuple of token segments, applies its layers to each, and lets them meet only inside `attend`.  The first
segment is the one that RoPE turns and that cross-attention writes to; the last one of the encoder stage is the text:
  dual and single   (video, text) or (video, image, text)
  decoder           (decoder, encoder)
`read` says of how many segments, from the first, somebody reads the result, by default of all: the others give keys and values,
and no queries, no output, no MLP.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from motif_jax.config import ModelConfig
from motif_jax.model.attention import attend
from motif_jax.model.layers import EPS, Heads, Linear, Mlp, Modulation, RMSNorm, Triple, ZEROS
from motif_jax.model.rope import Rope, rotate

Tokens = tuple[Array, ...]  # each (B, length, D)
Masks = tuple[Array | None, ...]  # each (B, length), True = may be attended; None = all
ATTENDED = "attended"  # what attention gives, as `stack.REMAT` names it


class CrossAttention(nn.Module):
  """Shared Cross-Attention: new queries from the video's attention output, keys and values of the text.

  With `shared`, keys, values and both RMS norms are those of the block's self-attention, which has already computed them for
  the text; else the module has its own (the diffusers layout).  The output projection starts at zero.
  """

  cfg: ModelConfig
  shared: bool

  def setup(self):
    cfg = self.cfg
    shape = (cfg.heads, cfg.head_dim)
    self.query = Linear(shape, cfg.dtype)
    if self.shared and cfg.cross_attention.query_norm != "none":
      bias = cfg.cross_attention.query_norm == "scale_bias"
      self.query_layernorm = nn.LayerNorm(epsilon=EPS, use_bias=bias, use_fast_variance=False, dtype=jnp.float32)
    if not self.shared:
      self.key, self.value = Linear(shape, cfg.dtype), Linear(shape, cfg.dtype)
      self.query_norm, self.key_norm = RMSNorm(), RMSNorm()
    self.out = Linear(cfg.width, cfg.dtype, axes=2, kernel_init=ZEROS)

  def __call__(self, video: Array, text: Array, mask: Array | None, rope: Rope, own: tuple | None = None) -> Array:
    """What the text writes into `video` (B, L, D), from `text` (B, T, D); `own` is the block's (query norm, k, v) to share."""
    q = self.query(video)
    if self.shared:
      query_norm, k, v = own
      if self.cfg.cross_attention.query_norm != "none":
        flat = self.query_layernorm(q.reshape(video.shape))  # over all heads together
        q = flat.astype(q.dtype).reshape(q.shape)
    else:
      query_norm, k, v = self.query_norm, self.key_norm(self.key(text)), self.value(text)
    q = rotate(query_norm(q), rope)
    (attended,) = _attended((q,), (k,), (v,), (mask,), self.cfg, ("video",), (None,))
    return self.out(attended)


class Stream(nn.Module):
  """One modality's own layers in a dual-stream block."""

  cfg: ModelConfig

  def setup(self):
    self.modulation = Modulation(6, self.cfg.dtype)
    self.attention = Heads(self.cfg)
    self.mlp = Mlp(self.cfg)


class DualBlock(nn.Module):
  """Early fusion: video and text keep their own weights and meet in one joint attention.  Image tokens use the text's."""

  cfg: ModelConfig

  def setup(self):
    self.video, self.text = Stream(self.cfg), Stream(self.cfg)
    if self.cfg.cross_attention.dual:
      self.cross = CrossAttention(self.cfg, shared=False)

  def __call__(self, tokens: Tokens, masks: Masks, cond: Array, rope: Rope, *, read: int | None = None) -> Tokens:
    context = len(tokens) - 1
    streams = (self.video,) + (self.text,) * context
    modulations = [self.video.modulation(cond)] + [self.text.modulation(cond)] * context
    attention_mods = [Triple(*m[:3]) for m in modulations]
    mlp_mods = [Triple(*m[3:]) for m in modulations]
    ropes = (rope,) + (None,) * context

    normed = [mod.apply(x) for mod, x in zip(attention_mods, tokens)]
    asks = [read is None or i < read for i in range(len(tokens))]
    q, k, v = zip(*(s.attention(x, r, asks=a) for s, x, r, a in zip(streams, normed, ropes, asks)))
    with jax.named_scope("attention"):
      attended = _attended(q, k, v, masks, self.cfg, ("video",) + (None,) * context)
    attended = [s.attention.merge(a) for s, a in zip(streams, attended)]
    tokens = [mod.add(x, a) for mod, x, a in zip(attention_mods, tokens, attended)]
    if self.cfg.cross_attention.dual:
      tokens[0] += self.cross(attended[0], normed[-1], masks[-1], rope)  # not gated
    return tuple(mod.add(x, s.mlp(mod.apply(x))) for mod, x, s in zip(mlp_mods, tokens, streams))


class SingleBlock(nn.Module):
  """Joint representation, or detail: one set of weights for all segments, attention and MLP in parallel.

  The reference's `proj_out` over the concatenation [attention, mlp] is the sum of two projections here.
  """

  cfg: ModelConfig
  cross_kind: str = "none"
  decoder: bool = False  # both segments are video tokens

  def setup(self):
    self.modulation = Modulation(3, self.cfg.dtype)
    self.attention = Heads(self.cfg, out_bias=False)
    self.mlp = Mlp(self.cfg)
    if self.cross_kind != "none":
      self.cross = CrossAttention(self.cfg, shared=self.cross_kind == "shared")

  def __call__(self, tokens: Tokens, masks: Masks, cond: Array, rope: Rope, *, read: int | None = None) -> Tokens:
    mod = Triple(*self.modulation(cond))
    ropes = (rope,) + (None,) * (len(tokens) - 1)
    names = ("video", "video") if self.decoder else ("video",) + (None,) * (len(tokens) - 1)

    normed = [mod.apply(x) for x in tokens]
    asks = [read is None or i < read for i in range(len(tokens))]
    q, k, v = zip(*(self.attention(x, r, asks=a) for x, r, a in zip(normed, ropes, asks)))
    with jax.named_scope("attention"):
      attended = list(_attended(q, k, v, masks, self.cfg, names))
    if self.cross_kind != "none":  # before the projection, so the block's gate acts on it
      video = attended[0].reshape(tokens[0].shape)
      own = (self.attention.query_norm, k[-1], v[-1])
      attended[0] += self.cross(video, normed[-1], masks[-1], rope, own).reshape(attended[0].shape)
    return tuple(mod.add(x, self.attention.merge(a) + self.mlp(n)) for x, a, n in zip(tokens, attended, normed))


@jax.named_scope("attend")
def _attended(queries: Tokens, keys: Tokens, values: Tokens, masks: Masks, cfg: ModelConfig, names: tuple,
              key_names: tuple | None = None) -> Tokens:
  """What `attend` gives, under the name by which rematerialisation may save it.

  Not for cuDNN: its backward pass reads the kernel's own outputs, so `stack.REMAT` saves those, and this would be a second copy.
  """
  queries = tuple(q for q in queries if q is not None)
  attended = attend(queries, keys, values, masks, backend=cfg.attention, names=names, key_names=key_names)
  return attended if cfg.attention == "cudnn" else tuple(checkpoint_name(a, ATTENDED) for a in attended)


def block_of(kind: str, cfg: ModelConfig) -> nn.Module:
  """The block module of a kind of segment in the plan."""
  return BLOCKS[kind](cfg)


BLOCKS = {
    "dual": DualBlock,
    "single": lambda cfg: SingleBlock(cfg, cfg.cross_attention.kind),
    "decoder": lambda cfg: SingleBlock(cfg, decoder=True),
}
