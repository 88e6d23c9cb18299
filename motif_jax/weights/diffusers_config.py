"""Their config.json and our ModelConfig: strict in both directions, because a wrong value loads and gives noise.

The defaults of the diffusers class describe another model (24 heads, 20 + 40 layers, rope_theta 256), so nothing is taken from
them: every key must be there, and what the tensors show by their shapes must agree with it (model.md section 0).
"""

from collections import Counter
from collections.abc import Mapping
import re
from typing import Any

from motif_jax.config import Depths, ModelConfig
from motif_jax.weights.layout import Layout

CLASS, VERSION = "MotifVideoTransformer3DModel", "0.42.1"  # whose keys these are
# Key -> (value of the release, default of the class).
KEYS = {
    "in_channels": (33, 33), "out_channels": (16, 16), "num_attention_heads": (12, 24), "attention_head_dim": (128, 128),
    "num_layers": (12, 20), "num_single_layers": (24, 40), "num_decoder_layers": (8, 0), "mlp_ratio": (4.0, 4.0),
    "patch_size": (2, 2), "patch_size_t": (1, 1), "qk_norm": ("rms_norm",) * 2, "norm_type": ("layer_norm",) * 2,
    "text_embed_dim": (2560, 4096), "image_embed_dim": (1152, None), "rope_theta": (10000.0, 256.0),
    "rope_axes_dim": ((16, 56, 56),) * 2, "enable_text_cross_attention_dual": (False, False),
    "enable_text_cross_attention_single": (True, False),
}
LEGACY = ("pooled_projection_dim", "base_latent_size")  # of the first release, None in it: nothing here computes them
TRAP = 256.0


def to_theirs(cfg: ModelConfig) -> dict[str, Any]:
  """The config.json of a model of ours; ValueError where their class cannot express it."""
  time, height, width = cfg.patch
  if height != width:
    raise ValueError(f"model.patch is {cfg.patch}, but {CLASS} has one size for height and width; it cannot be exported.")
  return {
      "_class_name": CLASS, "_diffusers_version": VERSION,
      "in_channels": 2 * cfg.latent_channels + 1, "out_channels": cfg.latent_channels, "num_attention_heads": cfg.heads,
      "attention_head_dim": cfg.head_dim, "num_layers": cfg.depths.dual,
      "num_single_layers": cfg.depths.single + cfg.depths.decoder, "num_decoder_layers": cfg.depths.decoder,
      "mlp_ratio": float(cfg.mlp_ratio), "patch_size": height, "patch_size_t": time,
      "qk_norm": "rms_norm", "norm_type": "layer_norm", "text_embed_dim": cfg.text_dim, "image_embed_dim": cfg.image_dim or None,
      "rope_theta": cfg.rope_theta, "rope_axes_dim": list(cfg.rope_axes),
      "enable_text_cross_attention_dual": cfg.cross_attention.dual,
      "enable_text_cross_attention_single": cfg.cross_attention.kind != "none",
  }


def to_ours(theirs: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], layout: Layout, *,
            rope_theta: float | None = None) -> tuple[dict[str, Any], list[str]]:
  """(the architecture, as fields of ModelConfig, what is wrong) of a config.json beside tensors of these shapes.

  Where config and tensors differ the fields are the tensors', so that these can be checked too.  `rope_theta` stands in for
  theirs, which no tensor shows.
  """
  given = dict(theirs) if rope_theta is None else {**theirs, "rope_theta": rope_theta}
  shown = shown_by(shapes, layout)
  wrong = _unknown(given) + _missing(given, shown) + _other_than_shown(given, shown)
  values = {key: given.get(key, released) for key, (released, _) in KEYS.items()} | {k: v for k, (v, _) in shown.items()}
  wrong += _inexpressible(values)
  if rope_theta is None and given.get("rope_theta") == TRAP:
    wrong.append("rope_theta is 256.0, the default of the class, and the release has 10000.0: no tensor shows it and the wrong "
                 "one gives noise.  Write 10000.0 into config.json, or pass rope_theta=256.0 if these weights were trained so.")
  if len(wrong) > 1 and all(given.get(key) == _plain(default) or given.get(key) == default for key, (_, default) in KEYS.items()):
    wrong.insert(0, "every value is the default of the class, which describes another model; take the config.json that came "
                 "with the weights.")
  try:
    return _fields(values, layout), wrong
  except (ArithmeticError, AttributeError, TypeError, ValueError) as e:
    return {}, wrong + [f"no model can be made of it: {e}."]


def shown_by(shapes: Mapping[str, tuple[int, ...]], layout: Layout) -> dict[str, tuple[Any, str]]:
  """Key -> (its value, the tensor that shows it), of what the shapes show; the most frequent value of several tensors."""
  seen: dict[str, Counter] = {}
  witness = {}

  def see(key, value, name):
    seen.setdefault(key, Counter())[value] += 1
    witness.setdefault((key, value), name)

  for name, shape in shapes.items():
    if name.endswith(".attn.to_q.weight"):
      see("width", shape[0], name)
    elif name.endswith(".attn.norm_q.weight"):
      see("attention_head_dim", shape[0], name)
    elif name.endswith((".proj_mlp.weight", ".ff.net.0.proj.weight")):
      see("mlp_ratio", shape[0] / shape[-1], name)
    elif name == "x_embedder.proj.weight" and len(shape) == 5:
      for key, value in zip(("in_channels", "patch_size_t", "patch_size"), shape[1:]):
        see(key, value, name)
    elif name in ("context_embedder.linear_1.weight", "image_embedder.linear_1.weight"):
      see({"c": "text_embed_dim", "i": "image_embed_dim"}[name[0]], shape[-1], name)
  most = {key: counts.most_common(1)[0][0] for key, counts in seen.items()}
  shown = {key: (value, witness[key, value]) for key, value in most.items() if key != "width"}
  if "width" in most and most.get("attention_head_dim"):
    shown["num_attention_heads"] = most["width"] // most["attention_head_dim"], witness["width", most["width"]]
  if shapes and "image_embed_dim" not in shown:
    shown["image_embed_dim"] = None, "no image_embedder"
  return shown | _shown_depths(shapes, layout)


def _shown_depths(shapes, layout):
  """What the numbers of the blocks show; of the decoder only where the other single-stream blocks have a cross-attention."""
  shown = {}
  for key, stack in (("num_layers", "transformer_blocks"), ("num_single_layers", "single_transformer_blocks")):
    numbers = {int(m[1]) for m in (re.match(rf"{stack}\.(\d+)\.", name) for name in shapes) if m}
    if shapes:
      shown[key] = max(numbers, default=-1) + 1, f"{stack}.{max(numbers)}" if numbers else f"no {stack}"
  if shapes:
    shown["enable_text_cross_attention_single"] = layout.name is not None, f"{layout}"
    shown["enable_text_cross_attention_dual"] = layout.dual, f"{layout}"
  if layout.blocks:
    last = max(layout.blocks)
    shown["num_decoder_layers"] = (shown["num_single_layers"][0] - last - 1,
                                   f"the last cross-attention stands in single_transformer_blocks.{last}")
  return shown


def _unknown(given) -> list[str]:
  wrong = []
  if given.get("_class_name", CLASS) != CLASS:
    wrong.append(f"_class_name is {given['_class_name']!r}, expected {CLASS!r}: this is the config of another model.")
  for key in sorted(k for k in given if k not in KEYS and not k.startswith("_")):
    if key not in LEGACY:
      wrong.append(f"{key} is no key of {CLASS} ({VERSION}); remove it if it changes nothing in the network.")
    elif given[key] is not None:
      wrong.append(f"{key} is {given[key]!r}, expected null: it switches on a part of the first code that is not here.")
  return wrong


def _missing(given, shown) -> list[str]:
  return [f"{key} is missing, and diffusers would take {default!r}; write {_plain(shown[key][0] if key in shown else released)!r}"
          + ("." if key in shown else ", the value of the release.")
          for key, (released, default) in KEYS.items() if key not in given]


def _other_than_shown(given, shown) -> list[str]:
  return [f"{key} is {given[key]!r}, but the tensors have {value!r} ({witness}); write that, or take the right config.json."
          for key, (value, witness) in shown.items() if key in given and given[key] != value]


def _inexpressible(values) -> list[str]:
  """What of the values this network does not compute."""
  wrong = [f"{key} is {values[key]!r}, expected {KEYS[key][0]!r}: nothing else is implemented."
           for key in ("qk_norm", "norm_type") if values[key] != KEYS[key][0]]
  outs, ins, axes = values["out_channels"], values["in_channels"], values["rope_axes_dim"]
  if not isinstance(outs, int) or ins != 2 * outs + 1:
    wrong.append(f"in_channels is {ins!r} and out_channels {outs!r}, expected in = 2 * out + 1: noisy latent, first frame, mask.")
  three = isinstance(axes, (list, tuple)) and len(axes) == 3
  if not three or sum(axes) != values["attention_head_dim"] or any(a % 2 for a in axes):
    wrong.append(f"rope_axes_dim is {axes!r}, expected three even numbers that sum to attention_head_dim = "
                 f"{values['attention_head_dim']}.")
  if not isinstance(values["mlp_ratio"], (int, float)) or values["mlp_ratio"] != int(values["mlp_ratio"]):
    wrong.append(f"mlp_ratio is {values['mlp_ratio']!r}, expected a whole number.")
  return wrong


def _fields(values, layout) -> dict[str, Any]:
  decoder = values["num_decoder_layers"]
  return dict(
      latent_channels=(values["in_channels"] - 1) // 2, width=values["num_attention_heads"] * values["attention_head_dim"],
      heads=values["num_attention_heads"], mlp_ratio=float(values["mlp_ratio"]),
      depths=Depths(values["num_layers"], values["num_single_layers"] - decoder, decoder),
      patch=(values["patch_size_t"], values["patch_size"], values["patch_size"]), text_dim=values["text_embed_dim"],
      image_dim=values["image_embed_dim"] or 0, rope_axes=tuple(values["rope_axes_dim"]), rope_theta=float(values["rope_theta"]),
      cross_attention=layout.cross_attention)


def _plain(value):
  """As JSON has it."""
  return list(value) if isinstance(value, tuple) else value
