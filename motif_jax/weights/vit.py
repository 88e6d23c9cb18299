"""The tables and configs of V-JEPA 2, SigLIP and DINOv2, which share the parts of `encoders/vit.py` (model.md sections 7, 8)."""

from collections.abc import Mapping
import re
from typing import NamedTuple

import jax

from motif_jax.encoders import dinov2, vit
from motif_jax.encoders.vit import VitConfig
from motif_jax.weights.table import LINEAR, Row, SAME, Table, dense, norm, stack

TO_HEADS = "(N h) i -> i N h"
HEADS_BIAS = "(N h) -> N h"
FROM_HEADS = "o (N h) -> N h o"


class Names(NamedTuple):
  """What a family calls its parts."""

  patch: str
  patch_how: str
  block: str
  norms: tuple[str, str, str]  # before the attention, before the MLP, the last
  attention: tuple[str, str, str, str]  # query, key, value, out
  others: tuple[Row, ...] = ()
  block_others: tuple[Row, ...] = ()


VJEPA2 = Names(
    "encoder.embeddings.patch_embeddings.proj", "o c t y x -> (c t y x) o", "encoder.layer.{}.",
    ("norm1", "norm2", "encoder.layernorm"), tuple(f"attention.{name}" for name in ("query", "key", "value", "proj")))
SIGLIP = Names(
    "embeddings.patch_embedding", "o c y x -> (c y x) o", "encoder.layers.{}.", ("layer_norm1", "layer_norm2", "post_layernorm"),
    tuple(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
    (Row("embeddings.position_embedding.weight", "places/table", "l d -> l d"),))
DINOV2 = Names(
    "embeddings.patch_embeddings.projection", "o c y x -> (c y x) o", "encoder.layer.{}.", ("norm1", "norm2", "layernorm"),
    tuple(f"attention.{name}_proj" for name in "qkvo"),
    (Row("embeddings.position_embeddings", "places/table", "1 l d -> l d"),
     Row("embeddings.cls_token", "class_token/value", "1 1 d -> d")),
    (Row("layer_scale1.lambda1", "attention_scale", SAME), Row("layer_scale2.lambda1", "mlp_scale", SAME)))


def table(cfg: VitConfig, names: Names) -> Table:
  """Every parameter beside its name, without the prefixes that the `..._names` below take off."""
  attention = [row for theirs, ours in zip(names.attention, ("query", "key", "value"))
               for row in dense(theirs, f"attention/{ours}", TO_HEADS, HEADS_BIAS)]
  block = [*norm(names.norms[0], "attention_norm"), *attention, *dense(names.attention[3], "attention/out", FROM_HEADS),
           *norm(names.norms[1], "mlp_norm"), *dense("mlp.fc1", "mlp/up", LINEAR), *dense("mlp.fc2", "mlp/down", LINEAR),
           *names.block_others]
  rows = [*dense(names.patch, "patch_embed", names.patch_how), *norm(names.norms[2], "norm"), *names.others,
          *stack(names.block, "blocks/", cfg.depth, block)]
  sizes = dict(zip("htyx", (cfg.head_dim, *cfg.patch)), c=3)
  return Table(rows, sizes, jax.eval_shape(lambda key: vit.init(key, cfg), jax.random.key(0)))


def vjepa2_names(names) -> dict[str, str]:
  """Name in a file -> name in `table`, of all `names` but the predictor's and a classifier's."""
  return _stripped(names, r"(?:vjepa2\.)?(encoder\..*)", r"(?:vjepa2\.)?(?:predictor|pooler|classifier)\..*")


def siglip_names(names) -> dict[str, str]:
  """Name in a file -> name in `table`: of a vision tower, alone or inside a text encoder's checkpoint, whose rest is left."""
  if any("vision_tower." in name for name in names):
    return _stripped(names, r"(?:.*\.)?vision_tower\.(?:vision_model\.)?(.*)", r"(?!.*vision_tower\.).*")
  return _stripped(names, r"(?:vision_model\.)?((?:embeddings|encoder|post_layernorm)\..*)",
                   r"text_model\..*|(?:vision_model\.)?head\..*|logit_(?:scale|bias)")


def dinov2_names(names) -> dict[str, str]:
  """Name in a file -> name in `table`; the token for masking and a classifier are left."""
  found = _stripped(names, r"(?:dinov2\.)?((?:embeddings|encoder|layernorm)\..*)",
                    r"(?:dinov2\.)?embeddings\.mask_token|classifier\..*")
  # The published files keep the names of before transformers 5.
  for old, new in (("attention.attention.query", "attention.q_proj"), ("attention.attention.key", "attention.k_proj"),
                   ("attention.attention.value", "attention.v_proj"), ("attention.output.dense", "attention.o_proj")):
    found = {name: own.replace(old, new) for name, own in found.items()}
  return found


def _stripped(names, ours, others):
  """Name -> the group of pattern `ours`, or the name itself, which nothing expects; names that `others` matches are left out."""
  found = {name: re.fullmatch(ours, name) for name in names if not re.fullmatch(others, name)}
  return {name: match[1] if match else name for name, match in found.items()}


def vjepa2_config(content: Mapping, *, dtype: str) -> VitConfig:
  """The config in a config.json."""
  _check(content, "vjepa2", hidden_act=("gelu",), in_chans=(3,), qkv_bias=(True,))
  side, patch, width = content["crop_size"], content["patch_size"], content["hidden_size"]
  # int, as the reference cuts: the ratio of ViT-g, 48 / 11, is written as a rounded decimal.
  return VitConfig(width=width, depth=content["num_hidden_layers"], heads=content["num_attention_heads"],
                   hidden=int(width * content["mlp_ratio"]), patch=(content["tubelet_size"], patch, patch), side=side, table=0,
                   class_token=False, layer_scale=False, tanh_gelu=False, eps=content["layer_norm_eps"], dtype=dtype)


def siglip_config(content: Mapping, *, dtype: str) -> VitConfig:
  """The config in a config.json, of a vision tower or of a text encoder that holds one."""
  content = content.get("encoder", content)
  content = content.get("vision_config", content)
  _check(content, "siglip_vision_model", hidden_act=("gelu_pytorch_tanh",), num_channels=(3,))
  side, patch = content["image_size"], content["patch_size"]
  return VitConfig(width=content["hidden_size"], depth=content["num_hidden_layers"], heads=content["num_attention_heads"],
                   hidden=content["intermediate_size"], patch=(1, patch, patch), side=side, table=side // patch,
                   class_token=False, layer_scale=False, tanh_gelu=True, eps=content["layer_norm_eps"], dtype=dtype)


def dinov2_config(content: Mapping, *, dtype: str, side: int = dinov2.SIDE) -> VitConfig:
  """The config in a config.json; `side`: pixels of the pictures, which its places are resized to."""
  _check(content, "dinov2", hidden_act=("gelu",), num_channels=(3,), qkv_bias=(True,), use_swiglu_ffn=(False,))
  patch, width = content["patch_size"], content["hidden_size"]
  side = min(side, content["image_size"])
  return VitConfig(width=width, depth=content["num_hidden_layers"], heads=content["num_attention_heads"],
                   hidden=int(width * content["mlp_ratio"]), patch=(1, patch, patch), side=side,
                   table=content["image_size"] // patch, class_token=True, layer_scale=True, tanh_gelu=False,
                   eps=content["layer_norm_eps"], dtype=dtype)


def _check(content, kind, **expected):
  """ValueError unless config.json is of that model_type, and of a kind that is written here."""
  wrong = [f"model_type is {content.get('model_type')!r}, expected {kind!r}"] if content.get("model_type") != kind else []
  wrong += [f"{key} is {content[key]!r}, expected {known[0]!r}" for key, known in expected.items()
            if key in content and content[key] not in known]
  if wrong:
    raise ValueError(f"config.json is not that of a {kind} that can be run: {'; '.join(wrong)}.")
