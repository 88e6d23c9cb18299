"""The table and config of T5Gemma2's text encoder, as transformers and the released files name them (model.md section 6)."""

from collections.abc import Mapping
import re

import jax

from motif_jax.encoders import t5gemma2
from motif_jax.encoders.t5gemma2 import T5Gemma2Config
from motif_jax.weights.table import LINEAR, Row, SAME, Table, stack

TO_HEADS = "(N h) i -> i N h"
FROM_HEADS = "o (N h) -> N h o"

# `encoder.layers...` (first release), `layers...`, `text_model.layers...` (transformers 5), and the same inside a whole T5Gemma2.
_OURS = re.compile(r"(?:model\.)?(?:encoder\.)?(?:text_model\.)?((?:embed_tokens|layers|norm)\..*)")
_OTHERS = re.compile(r"(?:.*\.)?(?:vision_tower|multi_modal_projector|decoder|lm_head)\..*")


def table(cfg: T5Gemma2Config) -> Table:
  """Every parameter beside its name, without the prefixes that `own_names` takes off."""
  offset = lambda theirs, ours: Row(theirs + ".weight", ours + "/offset", SAME)
  kernel = lambda theirs, ours, how=LINEAR: Row(theirs + ".weight", ours + "/kernel", how)
  layer = [
      kernel("self_attn.q_proj", "attention/query", TO_HEADS), kernel("self_attn.k_proj", "attention/key", TO_HEADS),
      kernel("self_attn.v_proj", "attention/value", TO_HEADS), kernel("self_attn.o_proj", "attention/out", FROM_HEADS),
      offset("self_attn.q_norm", "attention/query_norm"), offset("self_attn.k_norm", "attention/key_norm"),
      *(kernel(f"mlp.{name}_proj", f"mlp/{name}") for name in ("gate", "up", "down")),
      offset("pre_self_attn_layernorm", "before_attention"), offset("post_self_attn_layernorm", "after_attention"),
      offset("pre_feedforward_layernorm", "before_mlp"), offset("post_feedforward_layernorm", "after_mlp"),
  ]
  rows = [Row("embed_tokens.weight", "embed/table", "v d -> v d"), Row("embed_tokens.eoi_embedding", "embed/image_end", SAME),
          offset("norm", "norm"), *stack("layers.{}.", "layers/", cfg.depth, layer)]
  return Table(rows, dict(h=cfg.head_dim), jax.eval_shape(lambda key: t5gemma2.init(key, cfg), jax.random.key(0)))


def own_names(names) -> dict[str, str]:
  """Name in a file -> name in `table`, of all `names` but those of the parts that the text path does not read."""
  found = {name: _OURS.fullmatch(name) for name in names if not _OTHERS.fullmatch(name)}
  return {name: match[1] if match else name for name, match in found.items()}


def config_of(content: Mapping, *, dtype: str) -> T5Gemma2Config:
  """The config in a config.json; ValueError for what this encoder cannot be."""
  whole = content.get("encoder", content)
  c = whole.get("text_config", whole)
  pattern = c.get("sliding_window_pattern", 6)
  kinds = c.get("layer_types") or [
      "sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(c["num_hidden_layers"])]
  ropes = c.get("rope_parameters") or {}
  windowed = {"rope_theta": c.get("rope_local_base_freq", 1e4)} | ropes.get("sliding_attention", {})
  full = {"rope_theta": c.get("rope_theta", 1e6)} | (c.get("rope_scaling") or {}) | ropes.get("full_attention", {})
  _check(c, kinds, windowed, full)
  return T5Gemma2Config(
      vocabulary=c["vocab_size"], width=c["hidden_size"], hidden=c["intermediate_size"], heads=c["num_attention_heads"],
      key_heads=c["num_key_value_heads"], head_dim=c["head_dim"], full=tuple(kind == "full_attention" for kind in kinds),
      window=c["sliding_window"], query_scale=float(c["query_pre_attn_scalar"]), theta=float(windowed["rope_theta"]),
      full_theta=float(full["rope_theta"]), full_stretch=float(full.get("factor", 1.0)),
      image_end=whole.get("eoi_token_index", 256000), dtype=dtype)


def _check(c, kinds, windowed, full):
  expected = [("model_type", c.get("model_type"), ("t5gemma2_text",)),
              ("hidden_activation", c.get("hidden_activation"), ("gelu_pytorch_tanh",)),
              ("rms_norm_eps", c.get("rms_norm_eps"), (t5gemma2.EPS,)),
              ("attention_bias", c.get("attention_bias"), (False, None)),
              ("attn_logit_softcapping", c.get("attn_logit_softcapping"), (None,)),
              ("num_hidden_layers", c.get("num_hidden_layers"), (len(kinds),)),
              ("rope_type of windowed layers", windowed.get("rope_type", "default"), ("default",)),
              ("rope_type of full layers", full.get("rope_type", "default"), ("default", "linear"))]
  expected += [(f"layer_types[{i}]", kind, ("sliding_attention", "full_attention")) for i, kind in enumerate(kinds)]
  wrong = [f"{name} is {given!r}, expected {' or '.join(map(repr, known))}"
           for name, given, known in expected if given not in known]
  if wrong:
    raise ValueError(f"config.json is not that of a T5Gemma2 encoder that can be run: {'; '.join(wrong)}.")
