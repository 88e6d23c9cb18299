"""The frozen encoders that have weights, made from folders: what `encoders/registry.py` offers beside the weightless ones.

Each function takes the folder, the mesh that the weights are spread over (None: the first device), and whether to load them at
all: a data set is checked against an encoder's version, which its headers tell.
"""

from functools import partial
import hashlib

from jax.sharding import Mesh

from motif_jax.encoders.dinov2 import DinoV2
from motif_jax.encoders.prompts import T5Gemma2
from motif_jax.encoders.sentence import Mean
from motif_jax.encoders.siglip import Siglip
from motif_jax.encoders.tokenizer import Tokenizer
from motif_jax.encoders.vjepa2 import VJepa2
from motif_jax.encoders.wan_vae import WanVAE
from motif_jax.weights import encoder_folder, t5gemma2, vit, wan_vae

# What `encoder_folder.find` has to know of each.
KINDS = {
    "wan_vae": dict(config_of=wan_vae.config_of, table=wan_vae.table, own_names=lambda names: {name: name for name in names}),
    "t5gemma2": dict(config_of=t5gemma2.config_of, table=t5gemma2.table, own_names=t5gemma2.own_names),
    "vjepa2": dict(config_of=vit.vjepa2_config, table=partial(vit.table, names=vit.VJEPA2), own_names=vit.vjepa2_names),
    "dinov2": dict(config_of=vit.dinov2_config, table=partial(vit.table, names=vit.DINOV2), own_names=vit.dinov2_names),
    "siglip": dict(config_of=vit.siglip_config, table=partial(vit.table, names=vit.SIGLIP), own_names=vit.siglip_names),
}
# Of what this program makes of an encoder's weights and inputs; raised when a change makes other features of them.
VERSION = "1"


def text(path, *, mesh: Mesh | None, load: bool) -> T5Gemma2:
  """The text encoder in a folder; its tokenizer.json lies in it, or in the folder `tokenizer` beside it."""
  found = encoder_folder.find(path, **KINDS["t5gemma2"])
  near = [found.path / "tokenizer.json", found.path.parent / "tokenizer" / "tokenizer.json"]
  file = next((file for file in near if file.is_file()), near[0])
  tokenizer = Tokenizer(file)
  if len(tokenizer) > found.cfg.vocabulary:
    raise ValueError(f"{file} knows {len(tokenizer)} tokens, the weights in {path} {found.cfg.vocabulary}; they do not belong "
                     "together.")
  words = hashlib.sha256(file.read_bytes()).hexdigest()[:6]
  return T5Gemma2(_params(found, mesh, load), found.cfg, tokenizer, _version(found, words))


def pixels(path, *, name: str, encoder, mesh: Mesh | None, load: bool):
  """The encoder of videos or pictures called `name` in a folder."""
  found = encoder_folder.find(path, **KINDS[name])
  return encoder(_params(found, mesh, load), found.cfg, _version(found))


def _params(found, mesh, load):
  return encoder_folder.load(found, mesh) if load else None


def _version(found, *more):
  glance, whole = found.digests
  # What older data sets recorded stands first (`dataset.same_version`).
  return "-".join([VERSION, found.cfg.dtype, glance, *more, whole])


# Role -> name -> what makes the encoder of a folder.
ENCODERS = {
    "codec": {"wan_vae": partial(pixels, name="wan_vae", encoder=WanVAE)},
    "text": {"t5gemma2": text, "t5gemma2_mean": lambda path, *, mesh, load: Mean(text(path, mesh=mesh, load=load))},
    "teacher": {"vjepa2": partial(pixels, name="vjepa2", encoder=VJepa2),
                "dinov2": partial(pixels, name="dinov2", encoder=DinoV2)},
    "image": {"siglip": partial(pixels, name="siglip", encoder=Siglip)},
}
