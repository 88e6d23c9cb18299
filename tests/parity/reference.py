"""The torch side of the parity tests: diffusers' transformer under given weights, and what diffusers does not have.

Added here, from model.md: Shared Cross-Attention (section 2), token routing (section 4), a float64 run (section 1.9).
"""

import functools

import numpy as np
import torch
from diffusers import MotifVideoTransformer3DModel
from diffusers.utils import logging
from torch import nn

logging.set_verbosity_error()  # a warning about float32 modules, of which there are none
torch.set_num_threads(1)  # more threads are 100 times slower at these sizes


def build(cfg, weights: dict) -> MotifVideoTransformer3DModel:
  """The reference for our `cfg` with `weights`, a dict of numpy arrays by their names; every one must be used."""
  cross = cfg.cross_attention
  with torch.device("meta"):
    model = MotifVideoTransformer3DModel(
        in_channels=2 * cfg.latent_channels + 1, out_channels=cfg.latent_channels, num_attention_heads=cfg.heads,
        attention_head_dim=cfg.head_dim, num_layers=cfg.depths.dual, num_single_layers=cfg.depths.single + cfg.depths.decoder,
        num_decoder_layers=cfg.depths.decoder, mlp_ratio=cfg.mlp_ratio, patch_size=cfg.patch[1], patch_size_t=cfg.patch[0],
        text_embed_dim=cfg.text_dim, image_embed_dim=cfg.image_dim or None, rope_theta=cfg.rope_theta,
        rope_axes_dim=cfg.rope_axes, enable_text_cross_attention_dual=cross.dual,
        enable_text_cross_attention_single=cross.kind == "separate")
    if cross.kind == "shared":
      for block in model.single_transformer_blocks[:cfg.depths.single]:
        share(block, cfg.width, cross.query_norm)
  model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()}, strict=True, assign=True)
  return model


def share(block, width: int, query_norm: str):
  """Gives a single-stream block the legacy Shared Cross-Attention, under its legacy names."""
  block.cross_attn_query_proj = nn.Linear(width, width)
  if query_norm == "none":
    block.cross_attn_query_norm = nn.Identity()
  else:
    block.cross_attn_query_norm = nn.LayerNorm(width, eps=1e-6, bias=query_norm == "scale_bias")
  block.cross_attn_out_proj = nn.Linear(width, width)
  block.cross_attn = functools.partial(shared_cross_attention, block)


def shared_cross_attention(block, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb, image_embed_seq_len):
  """What is added to the self-attention output `hidden_states` (B, L, D): new queries, the block's own keys and values.

  `encoder_hidden_states` (B, I + T, D) are the block's modulated image and text tokens, of which only the text is attended;
  `attention_mask` (B, 1, 1, L + I + T) is the joint one.
  """
  attn = block.attn
  heads = lambda x: x.unflatten(2, (attn.heads, -1)).transpose(1, 2)  # (B, N, length, dh)
  text = encoder_hidden_states[:, image_embed_seq_len:]
  query = attn.norm_q(heads(block.cross_attn_query_norm(block.cross_attn_query_proj(hidden_states))))
  key, value = attn.norm_k(heads(attn.to_k(text))), heads(attn.to_v(text))
  cos, sin = image_rotary_emb
  first, second = query.unflatten(-1, (-1, 2)).unbind(-1)
  query = query * cos + torch.stack([-second, first], -1).flatten(-2) * sin
  logits = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
  if attention_mask is not None:
    logits = logits.masked_fill(~attention_mask[..., -text.shape[1]:], float("-inf"))
  return block.cross_attn_out_proj((logits.softmax(-1) @ value).transpose(1, 2).flatten(2))


class Routed(nn.Module):
  """A block that sees only the tokens `kept` (B, K) of the video.  The first of a route saves all of them, the last rejoins."""

  def __init__(self, block, kept, saved: dict, *, first: bool, last: bool):
    super().__init__()
    self.block, self.kept, self.saved, self.first, self.last = block, kept, saved, first, last

  def forward(self, video, context, temb, mask, rope, image_length):
    """One sample at a time, so that the reference's rotary embedding, which has no batch axis, can be gathered."""
    if self.first:
      self.saved["video"] = video
      video = torch.stack([sample[ids] for sample, ids in zip(video, self.kept)])
    cos, sin = rope
    parts = []
    for i, ids in enumerate(self.kept):
      one = slice(i, i + 1)
      # The video part of the joint mask is True throughout: any K entries of it are the gathered ones.
      short = None if mask is None else mask[one, ..., cos.shape[0] - len(ids):]
      parts.append(self.block(video[one], context[one], temb[one], short, (cos[ids], sin[ids]), image_length))
    video, context = (torch.cat(part) for part in zip(*parts))
    if self.last:
      whole = self.saved["video"].clone()
      for i, ids in enumerate(self.kept):
        whole[i, ids] = video[i]
      video = whole
    return video, context


def route(model, kept: np.ndarray, start: int, stop: int):
  """Makes the blocks [start, stop) of `model`, dual then single, see only the video tokens `kept` (B, K)."""
  saved = {}
  stacks = [(stack, i) for stack in (model.transformer_blocks, model.single_transformer_blocks) for i in range(len(stack))]
  for index in range(start, stop):
    stack, i = stacks[index]
    stack[i] = Routed(stack[i], torch.tensor(kept), saved, first=index == start, last=index == stop - 1)


def run(model, given, cotangent: np.ndarray, *, routed=None, by_parameter=True, dtype=torch.float32) -> dict:
  """The velocity, and the gradients of sum(velocity * cotangent), as `cases.ours` returns them.

  `routed` is (kept, start, stop) of `route`.  In float64 the rotary embedding alone stays float32, which the reference demands.
  """
  model = model.to(dtype).requires_grad_(by_parameter)
  if dtype == torch.float64:
    model.time_text_embed.timestep_embedder.register_forward_pre_hook(lambda module, args: (args[0].double(),))
  parameters = dict(model.named_parameters()) if by_parameter else {}
  if routed:
    route(model, *routed)
  leaf = lambda x, kind=dtype: None if x is None else torch.tensor(np.ascontiguousarray(x), dtype=kind).requires_grad_()
  latents, text, image = leaf(given.latents), leaf(given.text), leaf(given.image)
  t = leaf(given.t, torch.float32)  # float32 up to the sinusoid whatever the dtype of the rest
  velocity = model(
      latents.movedim(-1, 1), 1000 * t, text, None if given.mask is None else torch.tensor(given.mask), image,
      return_dict=False)[0].movedim(1, -1)
  (velocity * torch.tensor(cotangent, dtype=dtype)).sum().backward()
  gradients = {name: array.grad for name, array in (("latents", latents), ("t", t), ("text", text), ("image", image))
               if array is not None}
  gradients |= {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters.items()}
  return {name: array.detach().to(torch.float64 if dtype == torch.float64 else torch.float32).numpy()
          for name, array in {"velocity": velocity, **gradients}.items()}
