"""FLOPs of the network, in closed form: a product of (m, k) with (k, n) is 2 m n k; what is elementwise counts nothing.

Model FLOPs are three dense forward passes: the usual measure of what a step achieves.  Executed FLOPs are what the devices do:
routed spans see fewer tokens, rematerialisation repeats, attention backends repeat and pad, the alignment projector adds; of the
text of the last single block and the encoder tokens of the last decoder block only keys and values are computed.  Text, which is
whole on every device of the sequence axis, counts on each of them: an upper bound, because XLA (seen on CPU) may cut the text's
layers over the devices and gather what they give.
"""

import dataclasses

from motif_jax.budget.workload import Split, Tokens, kept
from motif_jax.config import AlignmentConfig, Config, ModelConfig
from motif_jax.model import lora
from motif_jax.model.attention import CHUNK
from motif_jax.model.plan import Segment, make_plan
from motif_jax.model.transformer import TIME_FEATURES

ONE = Split()  # one device


@dataclasses.dataclass(frozen=True)
class Flops:
  """Of dense layers and of attention's two products, apart, because hardware runs them at different rates."""

  dense: float = 0
  attention: float = 0

  @property
  def total(self) -> float:
    return self.dense + self.attention

  def __add__(self, other: "Flops") -> "Flops":
    return Flops(self.dense + other.dense, self.attention + other.attention)

  def __mul__(self, times: float) -> "Flops":
    return Flops(self.dense * times, self.attention * times)


def dual(cfg: ModelConfig, tokens: Tokens, split: Split = ONE, *, final: bool = False) -> Flops:
  """A dual-stream block on one sample: for each stream q, k, v, out, MLP and modulation; one joint attention.

  `final`, here and below: the last block of a final segment (`model.plan`), of which only the first half is read.
  """
  modulation = 2 * 2 * cfg.width * 6 * cfg.width
  block = _joint(cfg, tokens, split, final) + Flops(modulation)
  return block + (_cross(cfg, tokens, split, shared=False) if cfg.cross_attention.dual else Flops())


def single(cfg: ModelConfig, tokens: Tokens, split: Split = ONE, *, final: bool = False) -> Flops:
  """A single-stream block of the encoder stage on one sample, with its cross-attention."""
  block = _joint(cfg, tokens, split, final) + Flops(2 * cfg.width * 3 * cfg.width)
  kind = cfg.cross_attention.kind
  return block + (Flops() if kind == "none" else _cross(cfg, tokens, split, shared=kind == "shared"))


def decoder(cfg: ModelConfig, tokens: Tokens, split: Split = ONE, *, final: bool = False) -> Flops:
  """A decoder block on one sample: a single-stream block over twice the video tokens, without text and cross-attention."""
  unread = tokens.video if final else 0
  dense = _keys_values(cfg) * 2 * tokens.video + _answers(cfg) * (2 * tokens.video - unread)
  return Flops(dense / split.sequence + 2 * cfg.width * 3 * cfg.width,
               attention(cfg, 2 * tokens.video, 0, split, unread=unread / split.keys))


def _joint(cfg, tokens, split, final):
  """Layers and attention of video and context."""
  video, unread = tokens.video / split.sequence, tokens.context if final else 0
  dense = _keys_values(cfg) * (video + tokens.context) + _answers(cfg) * (video + tokens.context - unread)
  return Flops(dense, attention(cfg, tokens.video, tokens.context, split, unread=unread))


def _keys_values(cfg):
  """Per token."""
  return 2 * 2 * cfg.width**2


def _answers(cfg):
  """Per token that somebody reads: q, out, and the two layers of the MLP."""
  return 2 * (2 + 2 * cfg.mlp_ratio) * cfg.width**2


def attention(cfg: ModelConfig, video: float, context: float, split: Split = ONE, *, unread: float = 0) -> float:
  """Of queries times keys and weights times values, of one sample.

  A device holds 1 / heads of the heads and 1 / keys of the video's queries; the context, replicated over the sequence axis, gives
  all its queries on each of the devices that share keys.  Of all these, `unread` have keys and values, and no queries.
  """
  queries = _padded(cfg, video / split.keys + context - unread)
  return 2 * 2 * queries * (video + context) * cfg.width / split.heads


def _padded(cfg, queries):
  """The chunked backend fills up its last block of queries."""
  size = min(CHUNK, queries)
  return -(-queries // size) * size if cfg.attention == "chunked" else queries


def _cross(cfg, tokens, split, *, shared):
  """New queries and an output for the video; keys and values of the text only where they are not the block's own."""
  video, width = tokens.video / split.sequence, cfg.width
  dense = 2 * 2 * video * width**2 + (0 if shared else 2 * 2 * tokens.text * width**2)
  return Flops(dense, 2 * 2 * _padded(cfg, tokens.video / split.sequence) * tokens.text * width)


FORWARD = {"dual": dual, "single": single, "decoder": decoder}


def span(cfg: ModelConfig, segment: Segment, tokens: Tokens, split: Split = ONE) -> Flops:
  """Of the blocks of a segment on one sample, forward, without what nobody reads."""
  block, count = FORWARD[segment.kind], segment.stop - segment.start
  return block(cfg, tokens, split) * (count - segment.final) + block(cfg, tokens, split, final=True) * segment.final


def embedders(cfg: ModelConfig, tokens: Tokens, split: Split = ONE) -> dict[str, float]:
  """Of one sample, by name: what stands before the blocks and after them."""
  width, patch = cfg.width, cfg.patch[0] * cfg.patch[1] * cfg.patch[2]
  video = tokens.video / split.sequence
  parts = {
      "video_embed": 2 * video * (2 * cfg.latent_channels + 1) * patch * width,
      "text_embed": 2 * tokens.text * (cfg.text_dim + width) * width,
      "time_embed": 2 * (TIME_FEATURES + width) * width,
      "output": 2 * video * width * cfg.latent_channels * patch + 2 * width * 2 * width,
  }
  if tokens.image:
    parts["image_embed"] = 2 * tokens.image * (cfg.image_dim + width) * cfg.image_dim
  return parts


def forward(cfg: ModelConfig, tokens: Tokens) -> Flops:
  """Of one dense forward pass on one sample, as the paper writes it: every block on all of its tokens."""
  blocks = [FORWARD[segment.kind](cfg, tokens) * (segment.stop - segment.start) for segment in make_plan(cfg.depths)]
  return sum(blocks, Flops(sum(embedders(cfg, tokens).values())))


def evaluated(cfg: ModelConfig, tokens: Tokens, split: Split = ONE) -> Flops:
  """Of one forward pass on one sample as it is executed, on one device."""
  blocks = [span(cfg, segment, tokens, split) for segment in make_plan(cfg.depths)]
  return sum(blocks, Flops(sum(embedders(cfg, tokens, split).values())))


def model_flops(cfg: ModelConfig, tokens: Tokens) -> Flops:
  """Of training on one sample, as papers count: the backward pass is twice the dense forward pass."""
  return forward(dataclasses.replace(cfg, attention="xla"), tokens) * 3  # no padding


def executed(cfg: Config, tokens: Tokens, plan: tuple[Segment, ...], split: Split = ONE) -> dict[str, Flops]:
  """Of training on one sample on one device, by part: each kind of block, routed or not, the embedders, the projector."""
  parts: dict[str, Flops] = {}
  for segment in plan:
    seen = kept(cfg, tokens) if segment.routed else tokens
    name = segment.kind + (" routed" if segment.routed else "")
    once = span(cfg.model, segment, seen, split)
    parts[name] = parts.get(name, Flops()) + trained(cfg.model, once, frozen=cfg.adapter.rank > 0)
    if _gates_are_frozen(cfg):  # nobody asks what came out of the two layers in front of a gate, so they are not computed again
      again = REPEATED[cfg.model.remat].dense * _before_gates(cfg.model, segment, seen, split)
      parts[name] += Flops(-again)
    if segment.tap:
      parts["alignment"] = Flops(3 * projector(cfg.alignment, cfg.model.width) * seen.video / split.sequence)
  if cfg.adapter.rank:  # no gradient goes further back than the first block
    before = embedders(cfg.model, tokens, split)
    return parts | {"embedders": Flops(sum(before.values()) + before["output"]), "adapter": Flops(adapter(cfg, tokens, split))}
  parts["embedders"] = Flops(_trained_embedders(cfg.model, tokens, split))
  return parts


def trained(cfg: ModelConfig, once: Flops, *, frozen: bool = False) -> Flops:
  """What a block costs in training that costs `once` forward: forward, recomputed and backward passes.

  The backward pass has two products for each of the forward's, of layers with `frozen` weights one; every backend of attention
  but the plain one keeps no weights, so it repeats queries times keys, half of its forward, in the backward pass.
  """
  again = REPEATED[cfg.remat]
  if cfg.attention == "xla":
    attention = 3 + again.plain
  else:
    # Nothing saves what tokamax's kernel keeps for its backward pass, so it runs again wherever its inputs are recomputed.
    attention = 3 + (again.dense if cfg.attention == "tokamax" else again.fused) + 0.5
  return Flops(once.dense * (3 - frozen + again.dense), once.attention * attention)


def _gates_are_frozen(cfg):
  return cfg.adapter.rank > 0 and not any("modulation" in path for path in lora.matching(cfg.model, cfg.adapter.targets))


def _before_gates(cfg, segment, tokens, split):
  """Forward, of the layers out of attention and out of the MLP: half of what answers cost."""
  video, others = tokens.video / split.sequence, tokens.context
  others = video if segment.kind == "decoder" else others
  return _answers(cfg) / 2 * ((segment.stop - segment.start) * (video + others) - segment.final * others)


def adapter(cfg: Config, tokens: Tokens, split: Split = ONE) -> float:
  """Of a low-rank adapter in training on one sample, on one device: two small products in place of each large one."""
  return (3 + REPEATED[cfg.model.remat].dense) * sum(
      2 * cfg.adapter.rank * (inputs + outputs) * max(layers, 1) * _seen(path, tokens, split)
      for path, (layers, inputs, outputs) in lora.kernels(cfg.model).items()
      if path in lora.matching(cfg.model, cfg.adapter.targets))


def _seen(path, tokens, split):
  """Tokens that the layer of this kernel is applied to."""
  video = tokens.video / split.sequence
  if "modulation" in path or path.startswith("time_embed"):
    return 1
  if "/cross/" in path or path.startswith(("dual/video", "output")):
    return video
  if path.startswith(("dual/text", "text_embed")):
    return tokens.context
  return 2 * video if path.startswith("decoder") else tokens.image if path.startswith("image") else video + tokens.context


@dataclasses.dataclass(frozen=True)
class Repeated:
  """Forward passes that a policy of rematerialisation repeats, as shares of one."""

  dense: float
  plain: float  # of attention that keeps its weights for the backward pass ("xla")
  fused: float  # of attention that does not ("chunked", "cudnn"), beyond its own


# By the names of `model.stack.REMAT`.  With attention's output saved, the plain backend needs its weights again, but not their
# product with the values.
REPEATED = {
    "none": Repeated(dense=0, plain=0, fused=0),
    "attention": Repeated(dense=1, plain=0.5, fused=0),
    "block": Repeated(dense=1, plain=1, fused=1),
    "offload": Repeated(dense=1, plain=1, fused=1),
}


def projector(cfg: AlignmentConfig, width: int) -> float:
  """Of the alignment projector's three layers, forward, per token."""
  return 2 * (width * cfg.hidden + cfg.hidden**2 + cfg.hidden * cfg.teacher_dim)


def _trained_embedders(cfg, tokens, split):
  """Three times forward, but nobody asks for the gradient of what they read: the first layer of each has one product less."""
  parts = embedders(cfg, tokens, split)
  first = parts["video_embed"] + 2 * tokens.text * cfg.text_dim * cfg.width + 2 * TIME_FEATURES * cfg.width
  return 3 * sum(parts.values()) - first


def muon(matrices: list[tuple[int, int]], steps: int = 5) -> float:
  """Of Muon's update of matrices (rows, columns), once per step: each of its `steps` Newton-Schulz iterations is X Xᵀ, its
  square, and their product with X, with the smaller side first (Jordan et al. 2024; `optax.contrib.scale_by_muon`)."""
  sides = [(min(m), max(m)) for m in matrices]
  return steps * sum(2 * 2 * a * a * b + 2 * a**3 for a, b in sides)
