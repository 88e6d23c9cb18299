"""Tiny frozen models in folders, as they are published: config.json, safetensors, tokenizer.json.  Without torch.

Every size differs, so that a transposed axis cannot pass; windows are shorter than texts, head widths leave features unrotated.
"""

import functools
import json
import pathlib

import jax
import numpy as np
import tokenizers
from safetensors.numpy import save_file

from motif_jax.weights import t5gemma2 as text_weights, vit as vit_weights, wan_vae as wan_weights
from motif_jax.weights.table import to_theirs
from tests.sensitive import sensitive

TEXT = dict(
    model_type="t5gemma2_text", vocab_size=300, hidden_size=24, intermediate_size=40, num_hidden_layers=7, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, sliding_window=6, query_pre_attn_scalar=12, hidden_activation="gelu_pytorch_tanh",
    rms_norm_eps=1e-6, max_position_embeddings=64, dropout_rate=0.0,
    rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                         sliding_attention=dict(rope_type="default", rope_theta=1e4)))
VISION = dict(model_type="siglip_vision_model", hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
              image_size=12, patch_size=4, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, vision_use_head=False)
TEXT_ENCODER = dict(model_type="t5gemma2_encoder", text_config=TEXT, vision_config=VISION, eoi_token_index=297,
                    boi_token_index=296, image_token_index=298, mm_tokens_per_image=1)
VJEPA2 = dict(model_type="vjepa2", hidden_size=40, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=1.4, crop_size=12,
              patch_size=4, tubelet_size=2, frames_per_clip=4, layer_norm_eps=1e-6, pred_hidden_size=12,
              pred_num_attention_heads=2, pred_num_hidden_layers=1)
DINOV2 = dict(model_type="dinov2", hidden_size=24, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=20,
              patch_size=4, layer_norm_eps=1e-6)

WAN = dict(_class_name="AutoencoderKLWan", base_dim=8, z_dim=5, dim_mult=[1, 2, 3], num_res_blocks=1,
           temperal_downsample=[True, True], latents_mean=[-0.7, 0.1, 0.3, 1.2, -0.4], latents_std=[2.8, 1.4, 0.7, 1.1, 2.1])

# Name -> (config.json, the config in it, its table).
MODELS = {
    "wan_vae": (WAN, wan_weights.config_of, wan_weights.table),
    "t5gemma2": (TEXT_ENCODER, text_weights.config_of, text_weights.table),
    "siglip": (VISION, vit_weights.siglip_config, functools.partial(vit_weights.table, names=vit_weights.SIGLIP)),
    "vjepa2": (VJEPA2, vit_weights.vjepa2_config, functools.partial(vit_weights.table, names=vit_weights.VJEPA2)),
    "dinov2": (DINOV2, vit_weights.dinov2_config, functools.partial(vit_weights.table, names=vit_weights.DINOV2)),
}


def config(name: str, dtype: str = "float32"):
  """Our config of a tiny model."""
  content, config_of, _ = MODELS[name]
  return config_of(content, dtype=dtype)


def params(name: str, seed: int = 0) -> dict:
  """Sensitive parameters, by our paths."""
  return sensitive(MODELS[name][2](config(name)).abstract, seed)


def weights(name: str, seed: int = 0) -> dict[str, np.ndarray]:
  """The same by their names."""
  return {k: np.asarray(v) for k, v in to_theirs(params(name, seed), MODELS[name][2](config(name))).items()}


def write(folder, name: str, *, prefix: str = "", dtype=np.float32, seed: int = 0, others: dict | None = None) -> pathlib.Path:
  """A folder with a tiny model; `others`: tensors beside it.  A text encoder gets its tokenizer.json."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(MODELS[name][0]))
  tensors = {prefix + k: np.ascontiguousarray(v, dtype) for k, v in weights(name, seed).items()}
  save_file(tensors | (others or {}), folder / "model.safetensors")
  if name == "t5gemma2":
    write_tokenizer(folder / "tokenizer.json")
  return folder


def write_tokenizer(file) -> None:
  """A tokenizer.json of Gemma's kind: special tokens first, then bytes, then letters and two merges; it adds bos by itself."""
  special = ["<pad>", "<eos>", "<bos>", "<unk>"]
  tokens = [*special, *(f"<0x{i:02X}>" for i in range(256)), "▁", *"abcdefghi", "ab", "abc"]
  vocabulary = {token: i for i, token in enumerate(tokens)}
  made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("a", "b"), ("ab", "c")], byte_fallback=True, unk_token="<unk>",
                                                    fuse_unk=True))
  made.normalizer = tokenizers.normalizers.Replace(" ", "▁")
  made.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special])
  bos = [("<bos>", tokens.index("<bos>"))]
  made.post_processor = tokenizers.processors.TemplateProcessing(single="<bos> $A", special_tokens=bos)
  made.save(str(file))
