"""The configuration inside the program: frozen dataclasses, made once from an ml_collections ConfigDict.

Defaults stand in `configs/base.py` and nowhere else: every field here is required.  Frozen dataclasses are hashable, so they
may be Linen fields and static arguments of `jax.jit`.
"""

import dataclasses
import difflib
import math
import types
import typing

if typing.TYPE_CHECKING:  # for one annotation: the model also runs where ml_collections is not installed
  import ml_collections


@dataclasses.dataclass(frozen=True)
class Depths:
  """Number of blocks of each part of the backbone (paper: early fusion, joint representation, detail)."""

  dual: int
  single: int
  decoder: int


@dataclasses.dataclass(frozen=True)
class CrossAttentionConfig:
  """Text cross-attention of the single-stream blocks, and optionally of the dual-stream ones."""

  kind: str  # "shared" (keys and values of the block's self-attention), "separate" (own weights), "none"
  query_norm: str  # LayerNorm between the new query projection and the heads: "none", "scale", "scale_bias"
  dual: bool  # separate cross-attention in the dual-stream blocks too; off in the release


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """What the network is.  Released values: model.md section 0, `configs/motif_2b.py`."""

  latent_channels: int
  width: int
  heads: int
  mlp_ratio: int
  depths: Depths
  patch: tuple[int, int, int]  # (time, height, width)
  text_dim: int
  image_dim: int  # width of the image encoder's tokens; 0: no image tokens
  rope_axes: tuple[int, int, int]  # head features given to (time, height, width)
  rope_theta: float
  cross_attention: CrossAttentionConfig
  dtype: str  # of activations and matmuls; parameters are always float32
  remat: str  # a key of `model.stack.REMAT`
  attention: str  # a key of `model.attention.BACKENDS`

  @property
  def head_dim(self) -> int:
    return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class RouteConfig:
  """TREAD token routing: blocks [start, stop) see only `keep` of the video tokens, in training.  keep = 1: off."""

  start: int
  stop: int  # half-open, over dual then single blocks; the papers' configs write the last block, inclusive
  keep: float  # share kept; the papers' `selection_ratio` is the share dropped
  groups: int  # equal parts of the sequence, each of which keeps the same number of tokens
  policy: str  # a key of `model.routing.POLICIES`


@dataclasses.dataclass(frozen=True)
class AlignmentConfig:
  """REPA: features after `tap` blocks are aligned with a frozen encoder's.  weight = 0: off."""

  teacher: str  # name of the feature in the records, a key of `encoders.TEACHERS`
  teacher_dim: int
  tap: int
  hidden: int  # width of the projector's two hidden layers
  weight: float
  last_step: int  # from this step on the alignment is off; 0: never


@dataclasses.dataclass(frozen=True)
class TimesConfig:
  """Density of training times: logit-normal, then shifted towards noise."""

  mean: float
  std: float
  shift: float  # t <- shift t / (1 + (shift - 1) t)


@dataclasses.dataclass(frozen=True)
class BucketConfig:
  """One static shape of clips, in pixels."""

  frames: int
  height: int
  width: int


@dataclasses.dataclass(frozen=True)
class EncodersConfig:
  """Names of the frozen encoders that make (and must match) the data set: keys of the dicts in `encoders`."""

  codec: str
  text: str
  teacher: str


@dataclasses.dataclass(frozen=True)
class DataConfig:
  path: str  # folder of the encoded data set
  source: str  # a key of `data.dataset.SOURCES`
  batch_size: int  # global, per step
  workers: int  # grain worker processes; 0: in the training process
  caption_drop: float
  captions: tuple[float, float, float]  # probabilities of the (long, short, truncated) caption
  image_to_video: float  # share of video samples conditioned on their first frame
  validation: float  # share of records held out, chosen by digest of the key
  text_tokens: int  # static length that text features are padded or cut to


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  kind: str  # a key of `train.optimizer.OPTIMIZERS`
  rate: float
  warmup: int  # steps of linear warm-up
  decay: str  # after warm-up: "constant", "cosine", "linear" (both down to 0)
  betas: tuple[float, float]
  weight_decay: float
  clip: float  # global norm of the gradient
  ema: float  # decay of the exponential moving average of the parameters


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices per mesh axis; exactly one may be -1, which takes what is left."""

  data: int
  fsdp: int
  sequence: int


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  steps: int
  log_every: int
  validate_every: int
  validation_batches: int
  sample_every: int
  save_every: int
  keep: int  # checkpoints kept


@dataclasses.dataclass(frozen=True)
class SampleConfig:
  sampler: str  # a key of `flow.samplers.SAMPLERS`
  steps: int
  shift: float
  guidance: float  # classifier-free guidance scale; 1: none
  prompts: tuple[str, ...]  # shown in TensorBoard during training
  bucket: BucketConfig
  fps: int


@dataclasses.dataclass(frozen=True)
class Config:
  seed: int
  model: ModelConfig
  route: RouteConfig
  alignment: AlignmentConfig
  times: TimesConfig
  encoders: EncodersConfig
  data: DataConfig
  optimizer: OptimizerConfig
  mesh: MeshConfig
  train: TrainConfig
  sample: SampleConfig


def from_config_dict(c: "ml_collections.ConfigDict | dict") -> Config:
  """The frozen `Config` of a ConfigDict.  ValueError names every unknown, missing or mistyped key, and every bad combination."""
  problems: list[str] = []
  built = _build(Config, dict(c), "", problems)
  problems = problems or check(built)
  if problems:
    raise ValueError(f"{len(problems)} problem(s) in the config:\n" + "\n".join(f"  - {p}" for p in problems))
  return built


def to_dict(cfg) -> dict:
  """`cfg` as plain nested dicts and lists, for JSON."""
  return dataclasses.asdict(cfg)


def _build(kind, values, path, problems):
  """An instance of `kind` from the mapping `values`, or None where `problems` grew."""
  before = len(problems)
  hints = typing.get_type_hints(kind)
  for key in sorted(set(values) - set(hints)):
    close = difflib.get_close_matches(key, hints, n=1)
    hint = f"did you mean {path}{close[0]}?" if close else f"known keys: {', '.join(hints)}."
    problems.append(f"{path}{key} is not a config key; {hint}")
  for key in [k for k in hints if k not in values]:
    problems.append(f"{path}{key} is missing; start from configs/base.py, which sets every key.")
  made = {k: _value(hint, values[k], path + k, problems) for k, hint in hints.items() if k in values}
  return kind(**made) if len(problems) == before else None


def _value(hint, value, path, problems):
  if dataclasses.is_dataclass(hint):
    try:
      return _build(hint, dict(value), path + ".", problems)
    except (TypeError, ValueError):
      problems.append(f"{path} is {value!r}, expected a section with the keys {', '.join(typing.get_type_hints(hint))}.")
      return None
  if isinstance(hint, types.GenericAlias):
    inner = hint.__args__
    items = list(value) if isinstance(value, (list, tuple)) else None
    kind = inner[0]
    if items is None or (inner[-1] is not Ellipsis and len(items) != len(inner)):
      count = "any number of" if inner[-1] is Ellipsis else len(inner)
      problems.append(f"{path} is {value!r}, expected {count} values of type {kind.__name__}.")
      return None
    return tuple(_value(kind, v, f"{path}[{i}]", problems) for i, v in enumerate(items))
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if type(value) is not hint:
    problems.append(f"{path} is {value!r} of type {type(value).__name__}, expected {hint.__name__}.")
    return None
  return value


def _nearest(value: int, divisor: int) -> str:
  """The multiples of `divisor` around `value`, for an error."""
  low = value // divisor * divisor
  return f"{low}, {low + divisor}" if low else f"{divisor}"


def check(cfg: Config) -> list[str]:
  """All that is wrong with `cfg` as a whole, one sentence each; empty if nothing is."""
  return _check_model(cfg.model) + _check_training(cfg)


def _check_model(model: ModelConfig) -> list[str]:
  wrong = []
  if model.width % model.heads:
    wrong.append(f"model.width {model.width} is not divisible by model.heads {model.heads}; "
                 f"the nearest widths that are: {_nearest(model.width, model.heads)}.")
  elif sum(model.rope_axes) != model.head_dim or any(a % 2 for a in model.rope_axes):
    wrong.append(f"model.rope_axes {model.rope_axes} sum to {sum(model.rope_axes)}; expected three even numbers that sum to "
                 f"the head width, model.width / model.heads = {model.head_dim}.")
  one_of(wrong, "model.cross_attention.kind", model.cross_attention.kind, ("shared", "separate", "none"))
  one_of(wrong, "model.cross_attention.query_norm", model.cross_attention.query_norm, ("none", "scale", "scale_bias"))
  one_of(wrong, "model.dtype", model.dtype, ("float32", "bfloat16"))
  if min(dataclasses.astuple(model.depths)) < 0 or sum(dataclasses.astuple(model.depths)) == 0:
    wrong.append(f"model.depths {model.depths} must not be negative, and at least one must be positive.")
  for name in ("latent_channels", "width", "heads", "mlp_ratio", "text_dim"):
    if getattr(model, name) < 1:
      wrong.append(f"model.{name} is {getattr(model, name)}, expected a positive number.")
  return wrong


def _check_training(cfg: Config) -> list[str]:
  wrong = []
  routable = cfg.model.depths.dual + cfg.model.depths.single
  route, alignment = cfg.route, cfg.alignment
  if not 0 < route.keep <= 1:
    wrong.append(f"route.keep is {route.keep}, expected a share in (0, 1]; 1 switches routing off.")
  if route.keep < 1 and not 0 <= route.start < route.stop <= routable:
    wrong.append(f"route [start, stop) = [{route.start}, {route.stop}) must lie in [0, {routable}): dual and single blocks only, "
                 "because the decoder always sees every token.")
  if alignment.weight > 0 and not 1 <= alignment.tap <= routable:
    wrong.append(f"alignment.tap is {alignment.tap}, expected 1 to {routable} (after that many dual and single blocks).")
  if alignment.weight > 0 and alignment.teacher != cfg.encoders.teacher:
    wrong.append(f"alignment.teacher is {alignment.teacher!r} but encoders.teacher is {cfg.encoders.teacher!r}; make them equal.")
  for path, share in (("data.caption_drop", cfg.data.caption_drop), ("data.image_to_video", cfg.data.image_to_video),
                      ("data.validation", cfg.data.validation)):
    if not 0 <= share <= 1:
      wrong.append(f"{path} is {share}, expected a share between 0 and 1.")
  if min(cfg.data.captions) < 0 or not math.isclose(sum(cfg.data.captions), 1, abs_tol=1e-6):
    wrong.append(f"data.captions {cfg.data.captions} must be three probabilities that sum to 1.")
  if not 0 <= cfg.optimizer.ema < 1:
    wrong.append(f"optimizer.ema is {cfg.optimizer.ema}, expected a decay in [0, 1).")
  one_of(wrong, "optimizer.decay", cfg.optimizer.decay, ("constant", "cosine", "linear"))
  sizes = dataclasses.astuple(cfg.mesh)
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    wrong.append(f"mesh (data, fsdp, sequence) = {sizes}: each must be positive, and at most one -1 (takes what is left).")
  for name in ("steps", "log_every", "validate_every", "validation_batches", "sample_every", "save_every", "keep"):
    if getattr(cfg.train, name) < 1:
      wrong.append(f"train.{name} is {getattr(cfg.train, name)}, expected at least 1.")
  return wrong


def one_of(wrong: list[str], path: str, value: str, known) -> None:
  """Appends a sentence to `wrong` unless `value` is one of `known`."""
  if value not in known:
    close = difflib.get_close_matches(value, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    wrong.append(f"{path} is {value!r}, expected one of {', '.join(map(repr, known))}{hint}")
