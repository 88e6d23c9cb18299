"""The encoders by name: what `config.encoders` may say.

Codec    name, version, channels, strides (t, h, w); encode(video (B, F, H, W, 3) in [-1, 1]) -> latents (B, F', H', W', C);
         decode(latents) -> video; grid(frames, height, width) -> (F', H', W'); latent_times(frames) -> F' pixel-frame times;
         posterior(video) -> latents and their log-variance, if it has one
Text     name, version, dim; encode(captions) -> a (T, dim) array for each; beyond(caption, tokens) -> what of it is cut off
Teacher  name, version, dim; encode(video (B, F, H, W, 3) in [-1, 1], times) -> (B, len(times), h, w, dim); grid(height, width)
         -> (h, w); there may be none
Image    name, version, dim, tokens; encode(pictures (B, H, W, 3) in [-1, 1]) -> (B, tokens, dim); there may be none

Every encoder but those of texts is a tree of its weights, and static beyond them: a jitted function takes it as an argument, so
that weights are no constants of the program.  Those with weights are read from the folders in `config.encoders.weights`.
"""

from functools import partial

from jax.sharding import Mesh

from motif_jax import config_rules
from motif_jax.config import Config, EncodersConfig
from motif_jax.encoders import siglip
from motif_jax.encoders.block_dct import BlockDCT
from motif_jax.encoders.gradients import Gradients
from motif_jax.encoders.reduced import Reduced
from motif_jax.encoders.sentence import Mean
from motif_jax.encoders.thumbnail import Thumbnail
from motif_jax.encoders.word_hash import WordHash
from motif_jax.weights import frozen

# Without weights; each is called without arguments.  `weights/frozen.py` has the others.
CODECS = {
    "block_dct": BlockDCT,  # 4 x 4 x 4 pixels in 24 channels
    "block_dct_16": partial(BlockDCT, "block_dct_16", channels=16),  # under 30 dB on some clips
    "block_dct_32": partial(BlockDCT, "block_dct_32", channels=32),
    "block_dct_48": partial(BlockDCT, "block_dct_48", channels=48),
    "block_dct_488": partial(BlockDCT, "block_dct_488", strides=(4, 8, 8), channels=64),
    # A latent holds 1/48 of the numbers of its pixels, as those of Wan's VAE do: 30 dB on clips of 33x64x64, 25 on 9x32x32.
    "block_dct_4_16_16": partial(BlockDCT, "block_dct_4_16_16", strides=(4, 16, 16), channels=64),
    "block_dct_244": partial(BlockDCT, "block_dct_244", strides=(2, 4, 4), channels=16),
}
TEXTS = {"word_hash": WordHash, "word_hash_mean": lambda: Mean(WordHash())}
TEACHERS = {"gradients": Gradients, "none": lambda: None}
IMAGES = {"thumbnail": Thumbnail, "none": lambda: None}
WEIGHTLESS = {"codec": CODECS, "text": TEXTS, "teacher": TEACHERS, "image": IMAGES}

MADE_DATA = ("codec", "text", "teacher", "image")  # the roles whose outputs a data set holds


def of_data(cfg: Config, *, mesh: Mesh | None = None, load: bool = True) -> tuple:
  """(codec, text, teacher, image), the latter two may be None, as `cfg` wants a data set made; without `load` no weights."""
  codec, text, teacher, image = named(cfg.encoders, mesh=mesh, load=load)
  if teacher and cfg.encoders.teacher_grid == "tokens":
    teacher = Reduced(teacher, cell=tuple(s * p for s, p in zip(codec.strides[1:], cfg.model.patch[1:])))
  return codec, text, teacher, image


def named(names: EncodersConfig, roles: tuple[str, ...] = MADE_DATA, *, mesh: Mesh | None = None, load: bool = True) -> tuple:
  """The encoders of these names, one for each of `roles`; ValueError with the known names, and with folders that are amiss.

  Weights are spread over fsdp and sequence of `mesh`, or lie on the first device.  Without `load` there are none: what is left
  tells names, sizes and versions.
  """
  wrong = _faults(names, roles)
  wrong += [f"encoders.{role} is {getattr(names, role)!r}, which needs the folder of its weights: set encoders.weights.{role}."
            for role in roles if _has_weights(names, role) and not getattr(names.weights, role)]
  if wrong:
    raise ValueError(f"The config needs an encoder that is not there: {' '.join(wrong)}")
  return tuple(_make(names, role, mesh=mesh, load=load) for role in roles)


def announced(names: EncodersConfig, roles: tuple[str, ...] = MADE_DATA) -> tuple:
  """The same without their weights, and without complaint of folders that are not given: None for those."""
  wrong = _faults(names, roles)
  if wrong:
    raise ValueError(f"The config needs an encoder that is not there: {' '.join(wrong)}")
  absent = {role for role in roles if _has_weights(names, role) and not getattr(names.weights, role)}
  return tuple(None if role in absent else _make(names, role, mesh=None, load=False) for role in roles)


def own_strides(cfg: Config) -> tuple[int, int, int] | None:
  """Pixels per latent of the config's codec; None where it has no folder yet, or other channels than the model."""
  codec, = announced(cfg.encoders, ("codec",))
  return tuple(codec.strides) if codec and codec.channels == cfg.model.latent_channels else None


def image_tokens(cfg: Config) -> int:
  """Tokens of a picture in the training batches that start from one; 0 where none has them.  Of an encoder whose folder is not
  given yet, those of the released one."""
  if not cfg.data.image_tokens:
    return 0
  image, = announced(cfg.encoders, ("image",))
  return image.tokens if image else siglip.RELEASED.grid**2


def _faults(names, roles):
  """Unknown names, and folders that nobody reads."""
  wrong = []
  for role in roles:
    config_rules.one_of(wrong, f"encoders.{role}", getattr(names, role), (*WEIGHTLESS[role], *frozen.ENCODERS[role]))
    if getattr(names, role) in WEIGHTLESS[role] and getattr(names.weights, role):
      wrong.append(f"encoders.weights.{role} is {getattr(names.weights, role)!r}, but encoders.{role} = "
                   f"{getattr(names, role)!r} has no weights; set it to '', or name an encoder of such weights: "
                   f"{', '.join(frozen.ENCODERS[role])}.")
  return wrong


def _has_weights(names, role):
  return getattr(names, role) in frozen.ENCODERS[role]


def _make(names, role, *, mesh, load):
  name = getattr(names, role)
  if not _has_weights(names, role):
    return WEIGHTLESS[role][name]()
  return frozen.ENCODERS[role][name](getattr(names.weights, role), mesh=mesh, load=load)
