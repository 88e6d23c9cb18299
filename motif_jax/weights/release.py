"""The folder of a released pipeline as a config of ours: which network, which frozen encoders, and where their weights lie."""

import dataclasses
import os
import pathlib

from motif_jax import config
from motif_jax.config import Config, EncoderWeights
from motif_jax.weights import folder as folders

# Role -> (the encoder of the release, the folder of its weights in a pipeline).  SigLIP lies inside the text encoder.
ENCODERS = {"codec": ("wan_vae", "vae"), "text": ("t5gemma2", "text_encoder"), "image": ("siglip", "text_encoder")}


def config_of(folder: str | os.PathLike, cfg: Config, *, rope_theta: float | None = None) -> tuple[Config, folders.Found]:
  """(`cfg` with the network and the encoders of a pipeline's folder, its transformer as found there).

  ValueError with all that is wrong with the transformer, or that the folder lacks.
  """
  path = pathlib.Path(folder).absolute()
  if not (path / folders.INDEX).is_file():
    ours = "  A training run is named by --checkpoint." if (path / "checkpoints").is_dir() else ""
    raise ValueError(f"{folder} is no pipeline's folder: expected {folders.INDEX} and, beside it, transformer/, vae/ and "
                     f"text_encoder/.  Weights of the transformer alone become a checkpoint by python -m launch.convert.{ours}")
  found = folders.find(path, rope_theta=rope_theta)
  roles = [role for role in ENCODERS if role != "image" or found.fields["image_dim"]]
  absent = sorted({ENCODERS[role][1] for role in roles if not (path / ENCODERS[role][1]).is_dir()})
  if absent:
    raise ValueError(f"{folder} lacks {', '.join(f'{name}/' for name in absent)}, which sampling needs; fetch all of it.")
  weights = {role: str(path / ENCODERS[role][1]) for role in roles}
  encoders = dataclasses.replace(
      cfg.encoders, **{role: ENCODERS[role][0] for role in roles}, **({} if "image" in roles else {"image": "none"}),
      weights=EncoderWeights(**{role: weights.get(role, "") for role in ("codec", "text", "image")}, teacher=""))
  cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, **found.fields), encoders=encoders)
  return config.from_config_dict(config.to_dict(cfg)), found
