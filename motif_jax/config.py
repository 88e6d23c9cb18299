"""The configuration inside the program: frozen dataclasses, made once from an ml_collections ConfigDict.

Defaults stand in `configs/base.py` and nowhere else: every field here is required.  Frozen dataclasses are hashable, so they
may be Linen fields and static arguments of `jax.jit`.
"""

import dataclasses
import typing

from motif_jax.config_fields import build
from motif_jax.config_rules import check

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
  mlp_ratio: float  # of the MLP's hidden layer to the width; together a whole number
  depths: Depths
  patch: tuple[int, int, int]  # (time, height, width)
  text_dim: int
  image_dim: int  # width of the image encoder's tokens; 0: no image tokens
  rope_axes: tuple[int, int, int]  # head features given to (time, height, width)
  rope_theta: float
  cross_attention: CrossAttentionConfig
  dtype: str  # of activations and matmuls; parameters are always float32
  remat: str  # a key of `model.stack.REMAT`
  unroll: int  # blocks of a stack in one iteration of the scan over its depth
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
  last_step: int  # from this step on routing is off, so that training ends on what sampling runs; 0: never


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
class AdapterConfig:
  """LoRA: the network of `base` stays as it is, and low-rank additions to its kernels are trained.  rank = 0: off."""

  rank: int
  alpha: float  # the addition is alpha / rank * down up
  targets: tuple[str, ...]  # paths of kernels in the parameter tree, * for any letters: "single/attention/*"
  base: str  # a checkpoint of ours, or a folder of released weights
  digest: str  # of the weights of the base, so that no other is taken for it


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
class EncoderWeights:
  """Folders of published weights: config.json, *.safetensors; "" for encoders that have none."""

  codec: str
  text: str
  teacher: str
  image: str


@dataclasses.dataclass(frozen=True)
class EncodersConfig:
  """Names of the frozen encoders that make (and must match) the data set, see `encoders/registry.py`."""

  codec: str
  text: str
  teacher: str
  image: str  # of the picture that a video starts from; "none": the model sees its latent alone
  weights: EncoderWeights
  teacher_grid: str  # of the features that a data set holds: "teacher" (its own) or "tokens" (the model's, where coarser)
  log_variance: bool  # whether a data set holds that of its latents, beside their mean; for codecs that have one


@dataclasses.dataclass(frozen=True)
class DataConfig:
  path: str  # folder of the encoded data set; "" where there is a mixture
  mixture: tuple[tuple[str, float], ...]  # (folder, share of the samples) of several data sets instead of `path`
  source: str  # a key of `data.dataset.SOURCES`
  buckets: tuple[str, ...]  # names of the shapes that clips are encoded in, see `data.buckets`; (): that of `sample.bucket`
  batch_size: int  # global, per step
  batch_tokens: int  # of video, global, per step: smaller clips come in more rows, multiples of batch_size; 0: all in batch_size
  pattern: tuple[str, ...]  # which buckets each step takes, repeated: "image", "video", or names such as "33x*"; (): evenly mixed
  order: str  # "random", or "shards": each read from first record to last, for object stores
  window: int  # records of a bucket, in all processes, that order="shards" holds and draws from
  weights: tuple[tuple[str, float], ...]  # (buckets, share of the steps), or planned steps; (): all data equally often
  workers: int  # grain worker processes; 0: in the training process
  caption_drop: float
  captions: tuple[float, float, float]  # probabilities of the (long, short, truncated) caption
  sample_latents: bool  # drawn anew at each step from their mean and log-variance; else the mean
  image_to_video: float  # share of video samples conditioned on their first frame
  image_tokens: bool  # and on its tokens, which data sets may hold: then whole batches are, that share of them
  lost_records: float  # share of records that may turn out unreadable; the next of the bucket takes the place of each
  validation: float  # share of records held out, chosen by digest of the key
  text_tokens: int  # static length that text features are padded or cut to

  def rows(self, tokens: int) -> int:
    """Rows of the global batch of a bucket of clips with so many video tokens."""
    return self.batch_size * max(1, self.batch_tokens // (self.batch_size * tokens))


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  kind: str  # a key of `train.optimizer.OPTIMIZERS`
  rate: float
  warmup: int  # steps of linear warm-up
  decay: str  # after warm-up, a key of `train.optimizer.DECAYS`
  decay_share: float  # of the steps, the last ones: before, the rate is constant
  betas: tuple[float, float]
  weight_decay: float
  clip: float  # global norm of the gradient
  rates: tuple[tuple[str, float], ...]  # (regular expression for whole paths of parameters, factor of their rate); 0: frozen
  undecayed: tuple[str, ...]  # regular expressions for paths of kernels without weight decay
  average: str  # of the parameters, a key of `train.average.DECAYS`
  ema: float  # decay of the "constant" average
  ema_width: float  # of the "power" average, relative to the length of the run


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices per mesh axis; exactly one may be -1, which takes what is left."""

  data: int
  fsdp: int
  sequence: int


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  steps: int
  accumulate: int  # microbatches that a batch is cut into, one after another; their gradients are averaged
  log_every: int
  validate_every: int
  validation_batches: int
  judge: int  # held-out prompts whose samples are scored every `sample_every` steps, on embedded data; 0: none
  benchmark: str  # which embedded data: a key of `evaluate.benchmarks.BENCHMARKS`
  telemetry_every: int  # steps that also measure gradients by group, blocks and more (train/telemetry.py); 0: none
  sample_every: int
  save_every: int
  keep: int  # the newest checkpoints that stay
  keep_every: int  # those of its multiples stay for ever; 0: none
  keep_best: int  # the best that stay, of those saved at a step that was also evaluated
  best_by: str  # the figure that says which is best, as TensorBoard calls it: "validation/loss"
  best_is: str  # "lowest" or "highest"
  verify: bool  # read every byte of a checkpoint against its digests before going on from it
  skips_in_row: int  # batches without a finite loss or gradient: each is skipped, so many in a row are a reason to roll back
  rollbacks: int  # to the newest checkpoint and past those batches; after so many the run ends
  stall_seconds: float  # without a finished step end the process; ten times as long where it compiles, saves or starts; 0: never


@dataclasses.dataclass(frozen=True)
class GuidanceConfig:
  rule: str  # a key of `flow.guidance.RULES`
  scale: float
  rescale: float
  momentum: float
  threshold: float
  eta: float
  interval: tuple[float, float]  # (from, to) of the times in which it acts; outside the conditional pass runs alone
  together: bool  # the two passes as one batch; else one after the other, in half the memory


@dataclasses.dataclass(frozen=True)
class TokenShiftConfig:
  """A shift that grows with the clip: mu is linear in its video tokens, through (between[0], mu[0]) and (between[1], mu[1])."""

  kind: str  # "exponential": the shift is exp(mu); "linear": mu; "none": it does not depend on tokens
  between: tuple[int, int]
  mu: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class CacheConfig:
  """Steps whose velocity is foretold and not computed: inexact (`flow/caching.py`).  None: exact."""

  skip: tuple[int, ...]  # numbers of these steps, the first of all being 0
  order: int  # 0: the velocity last computed; 1: along the line through the last two


@dataclasses.dataclass(frozen=True)
class SampleConfig:
  sampler: str  # a key of `flow.samplers.SAMPLERS`
  steps: int
  shift: float  # of the times, from text alone
  image_shift: float  # the same from a picture
  token_shift: TokenShiftConfig  # takes the place of both unless it is "none"
  sigmas: tuple[float, ...]  # the times themselves, `steps` of them and the last 0; (): by the shift
  cache: CacheConfig
  guidance: GuidanceConfig
  prompts: tuple[str, ...]  # shown in TensorBoard during training
  bucket: BucketConfig
  fps: int


@dataclasses.dataclass(frozen=True)
class Config:
  seed: int
  model: ModelConfig
  route: RouteConfig
  alignment: AlignmentConfig
  adapter: AdapterConfig
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
  built = build(Config, dict(c), "", problems)
  if problems := problems or check(built):
    raise ValueError(f"{len(problems)} problem(s) in the config:\n" + "\n".join(f"  - {p}" for p in problems))
  return built


def to_dict(cfg) -> dict:
  """`cfg` as plain nested dicts and lists, for JSON."""
  return dataclasses.asdict(cfg)
