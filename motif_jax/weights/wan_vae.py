"""The table and config of the Wan 2.1 VAE: diffusers' AutoencoderKLWan, as its folders name it (model.md section 5)."""

from collections.abc import Mapping
import dataclasses

from motif_jax.encoders import wan_network
from motif_jax.encoders.wan_network import WanConfig
from motif_jax.weights.table import Row, SAME, Table, dense

POINT = "o i 1 1 1 -> i o"  # a convolution of one pixel, as a linear layer
POINT_OF_FRAME = "o i 1 1 -> i o"
CONV = "o i t y x -> t y x i o"
CONV_OF_FRAME = "o i y x -> y x i o"
SCALE = "c 1 1 1 -> c"
SCALE_OF_FRAME = "c 1 1 -> c"

CLASS = "AutoencoderKLWan"
# What else their config.json may say, and the only value that this network has.
FIXED = dict(decoder_base_dim=None, attn_scales=[], is_residual=False, in_channels=3, out_channels=3, patch_size=None)
RENAMED = {"temperal_downsample": "temporal_downsample"}
UNUSED = ("dropout",)  # there is none at inference


def config_of(content: Mapping, *, dtype: str) -> WanConfig:
  """The config in a config.json, where what it leaves out is as released; ValueError for all that this VAE cannot be."""
  if content.get("_class_name", CLASS) != CLASS:
    raise ValueError(f"config.json is of a {content['_class_name']}, expected {CLASS}; is it the folder of another model?")
  said = {RENAMED.get(key, key): tuple(value) if isinstance(value, list) else value for key, value in content.items()}
  sizes = [field.name for field in dataclasses.fields(WanConfig) if field.name != "dtype"]
  cfg = WanConfig(**{name: said[name] for name in sizes if name in said}, dtype=dtype)
  known = FIXED | dict(zip(("scale_factor_temporal", "scale_factor_spatial"), cfg.strides))
  counts = dict(temporal_downsample=len(cfg.dim_mult) - 1, latents_mean=cfg.z_dim, latents_std=cfg.z_dim)
  faults = [f"{key} is {content[key]!r}, expected {value!r}" for key, value in known.items() if content.get(key, value) != value]
  faults += [f"{name} has {len(getattr(cfg, name))} entries, expected {count}" for name, count in counts.items()
             if len(getattr(cfg, name)) != count]
  faults += [f"{key} is not known" for key in content
             if not key.startswith("_") and key not in {*known, *RENAMED, *UNUSED, *sizes}]
  if faults:
    raise ValueError(f"config.json is not that of a Wan 2.1 VAE: {'; '.join(faults)}.")
  return cfg


def table(cfg: WanConfig) -> Table:
  """Every parameter of the VAE, beside its name in the checkpoint."""
  rows = [*dense("quant_conv", "encoder/quant/linear", POINT), *dense("post_quant_conv", "decoder/quant/linear", POINT)]
  for part in ("encoder", "decoder"):
    rows += [*dense(f"{part}.conv_in", f"{part}/stem/conv", CONV),
             *_active(f"{part}.norm_out", f"{part}.conv_out", f"{part}/head"),
             *_block(f"{part}.mid_block.resnets.0", f"{part}/middle_block0"),
             *_block(f"{part}.mid_block.resnets.1", f"{part}/middle_block1"),
             *_attention(f"{part}.mid_block.attentions.0", f"{part}/middle_attention")]
  return Table(rows + _down_blocks(cfg) + _up_blocks(cfg), {}, wan_network.abstract(cfg))


def _down_blocks(cfg):
  """The levels of the encoder, which they number through: blocks, then what halves the size, of one level after another."""
  rows, index, width = [], 0, cfg.base_dim
  for level, multiple in enumerate(cfg.dim_mult):
    for i in range(cfg.num_res_blocks):
      rows += _block(f"encoder.down_blocks.{index}", f"encoder/level{level}_block{i}", width != multiple * cfg.base_dim)
      index, width = index + 1, multiple * cfg.base_dim
    if level < len(cfg.temporal_downsample):
      rows += _resample(f"encoder.down_blocks.{index}", f"encoder/level{level}_down", cfg.temporal_downsample[level])
      index += 1
  return rows


def _up_blocks(cfg):
  """The levels of the decoder; what doubles the size halves the width."""
  rows, width = [], cfg.base_dim * cfg.dim_mult[-1]
  for level, multiple in enumerate(reversed(cfg.dim_mult)):
    for i in range(cfg.num_res_blocks + 1):
      rows += _block(f"decoder.up_blocks.{level}.resnets.{i}", f"decoder/level{level}_block{i}", width != multiple * cfg.base_dim)
      width = multiple * cfg.base_dim
    if level < len(cfg.temporal_downsample):
      rows += _resample(f"decoder.up_blocks.{level}.upsamplers.0", f"decoder/level{level}_up",
                        cfg.temporal_downsample[-1 - level])
      width //= 2
  return rows


def _block(theirs, ours, widens=False):
  rows = [*_active(f"{theirs}.norm1", f"{theirs}.conv1", f"{ours}/first"),
          *_active(f"{theirs}.norm2", f"{theirs}.conv2", f"{ours}/second")]
  return rows + (dense(f"{theirs}.conv_shortcut", f"{ours}/shortcut", POINT) if widens else [])


def _active(norm, conv, ours):
  return [Row(f"{norm}.gamma", f"{ours}/norm/scale", SCALE), *dense(conv, f"{ours}/causal/conv", CONV)]


def _attention(theirs, ours):
  return [Row(f"{theirs}.norm.gamma", f"{ours}/norm/scale", SCALE_OF_FRAME),
          *dense(f"{theirs}.to_qkv", f"{ours}/qkv", POINT_OF_FRAME), *dense(f"{theirs}.proj", f"{ours}/out", POINT_OF_FRAME)]


def _resample(theirs, ours, time):
  rows = dense(f"{theirs}.resample.1", f"{ours}/space", CONV_OF_FRAME)
  return rows + (dense(f"{theirs}.time_conv", f"{ours}/time", CONV) if time else [])
