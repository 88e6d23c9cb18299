"""Our parameters as a folder that `MotifVideoTransformer3DModel.from_pretrained` opens, or in one of the older layouts."""

from collections.abc import Mapping
import os

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from motif_jax.config import ModelConfig
from motif_jax.weights import diffusers_config, fold, names, save, table as tables


def export(folder: str | os.PathLike, params: Mapping, cfg: ModelConfig, *, layout: str | None = None, dtype=None,
           calibration: "fold.Calibration | None" = None, file_bytes: int = save.FILE_BYTES) -> list[str]:
  """What was written, in lines.

  Args:
    layout: of `names.LAYOUTS`.  By default diffusers where it can hold the model exactly, and else legacy.
    dtype: of all tensors, or a mapping from their names; None keeps each parameter's.
    calibration: the inputs on which a query LayerNorm with a bias, which has no exact form in the diffusers layout, is folded
      into it; the line says with what error.
  """
  said = []
  folds = cfg.cross_attention.kind == "shared" and cfg.cross_attention.query_norm != "none"
  exact = cfg.cross_attention.query_norm != "scale_bias"
  layout = layout or ("diffusers" if exact or calibration else "legacy")
  if folds and layout == "diffusers":
    if not exact and calibration is None:
      raise ValueError("the query LayerNorm has a bias, which the diffusers layout cannot hold exactly; write the legacy layout, "
                       "or ask for a calibrated fold, which prints its error.")
    params, cfg, line = fold.folded(params, cfg, calibration)
    said.append(line)
  table = names.table(cfg, layout)
  leaves, pieces = flatten_dict(params, sep="/"), tables.pieces_of(table)
  tables.check({path: leaf.shape for path, leaf in leaves.items()}, tables.our_shapes(table))
  shapes, dtypes = tables.their_shapes(table), _dtypes(pieces, leaves, dtype)
  fetch = lambda path, layer: np.asarray(leaves[path] if layer is None else leaves[path][layer])
  files = save.write_folder(folder, diffusers_config.to_theirs(cfg), {name: (dtypes[name], shapes[name]) for name in shapes},
                            lambda name: tables.their_tensor(pieces[name], fetch, table.sizes), file_bytes=file_bytes)
  size = sum(save.size_of(dtypes[name], shapes[name]) for name in shapes)
  return [*said, f"{len(shapes)} tensors, {size / 1e9:.3g} GB, in the {layout} layout: {', '.join(files)}"]


def _dtypes(pieces, leaves, dtype) -> dict[str, np.dtype]:
  if isinstance(dtype, Mapping):
    tables.check({name: () for name in dtype}, {name: () for name in pieces})
    return {name: np.dtype(kind) for name, kind in dtype.items()}
  return {name: np.dtype(dtype or jnp.result_type(*(leaves[row.ours].dtype for row, _ in made))) for name, made in pieces.items()}
