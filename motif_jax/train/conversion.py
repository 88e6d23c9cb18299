"""Released weights to a checkpoint of ours, and a checkpoint of ours to a folder that diffusers opens; for `launch.convert`."""

import dataclasses
import pathlib

import jax

from motif_jax import config
from motif_jax.train import checkpoint
from motif_jax.weights import export, fold, folder, read


def to_checkpoint(source: str, output: str, cfg: config.Config, *, dtype=None, rope_theta=None) -> list[str]:
  """What was read from a diffusers folder, in lines, after writing it as a checkpoint in the work directory `output`."""
  found = folder.find(source, rope_theta=rope_theta)
  cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, **found.fields))
  cfg = config.from_config_dict(config.to_dict(cfg))  # the rest of the config has to fit this model
  params = folder.read_params(found, dtype=dtype)
  written = checkpoint.save_weights(output, params, cfg)
  return [f"{found.path}: {found.layout}", f"{_counts(params)}: {written}"]


def to_folder(source: str, output: str, *, raw=False, layout=None, dtype=None, like=None, calibrate=False,
              file_gb=5.0) -> list[str]:
  """What was written to the diffusers folder `output`, in lines, from a checkpoint."""
  if like and (layout or dtype):
    raise ValueError("--like says layout and dtypes; leave --layout and --dtype out.")
  if like:
    model = folder.find(like)
    layout, dtype = model.layout.name, {name: read.DTYPES[tensor.dtype] for name, tensor in model.tensors.items()}
  cfg, params = checkpoint.restore_weights(source, raw=raw)
  biased = cfg.model.cross_attention.query_norm == "scale_bias"
  calibration = fold.random_inputs(cfg.model) if calibrate and biased else None
  said = export.export(output, params, cfg.model, layout=layout, dtype=dtype, calibration=calibration,
                       file_bytes=int(file_gb * 1e9))
  return [f"{source}: {'raw' if raw else 'averaged'} weights, {_counts(params)}", *said, f"wrote {output}"]


def _counts(params) -> str:
  leaves = jax.tree.leaves(params)
  size = sum(x.nbytes for x in leaves)
  return f"{sum(x.size for x in leaves):,} parameters, {size / 1e9:.3g} GB of {', '.join(sorted({str(x.dtype) for x in leaves}))}"


def is_ours(source: str) -> bool:
  """Whether `source` is a checkpoint, a folder of them, or a work directory."""
  path = pathlib.Path(source)
  return (path / checkpoint.FOLDER).is_dir() or (path / "ema").is_dir() or any(path.glob("*/ema"))
