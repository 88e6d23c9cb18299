"""GPU-hours of the ten-stage recipe (recipe.md section 1; report Table 1), from a table of what is assumed.

Tasks, resolutions, frames, texts and teachers of the stages are public; how many samples each stage sees is not.  The counts
below are this project's assumptions, made so that the whole recipe can be set against the paper's claim: fewer than 100,000
H200 hours and fewer than 10 million clips.
"""

import dataclasses
from typing import NamedTuple

from motif_jax.budget import flops
from motif_jax.budget.devices import Device, check_share
from motif_jax.budget.workload import latent_grid, tokens_of
from motif_jax.config import BucketConfig, Config
from motif_jax.data.buckets import PRESETS
from motif_jax.model.plan import make_plan

BUDGET = 100_000  # H200 hours, the paper's claim
KEEP = 0.5  # of the video tokens, in routed stages: recipe.md section 3


@dataclasses.dataclass(frozen=True)
class Stage:
  """What is public about a stage, and how many samples we assume."""

  name: str
  bucket: BucketConfig
  samples: float  # assumed; videos and images together
  images: float  # assumed share of the samples that are single frames of the same size: image, video, video
  text: int  # tokens: 1 for a sentence embedding
  routed: bool  # our default: in pretraining from 360p to 720p
  aligned: bool
  cross: bool  # Shared Cross-Attention is inserted in stage 9


def _stage(name, size, frames, samples, images, *, text=512, routed=False, aligned=False, cross=False):
  return Stage(name, BucketConfig(frames, *SIZES[size]), samples, images, text, routed, aligned, cross)


SIZES = {size: shapes[0] for size, shapes in PRESETS.items()}
STAGES = (
    _stage("1 images 144p", "144p", 1, 100e6, 1.0, text=1, aligned=True),
    _stage("2 144p x 33", "144p", 33, 30e6, 1 / 3, text=1, aligned=True),
    _stage("3 144p x 65", "144p", 65, 20e6, 1 / 3, text=1, aligned=True),
    _stage("4 360p x 65", "360p", 65, 10e6, 1 / 3, routed=True),
    _stage("5 480p x 65", "480p", 65, 6e6, 1 / 3, routed=True),
    _stage("6 480p x 121", "480p", 121, 4e6, 1 / 3, routed=True),
    _stage("7 480p x 121 SFT", "480p", 121, 0.3e6, 1 / 3),
    _stage("8 720p x 121", "720p", 121, 1e6, 1 / 3, routed=True),
    _stage("9 360p x 121, cross-attention", "360p", 121, 0.5e6, 1 / 3, cross=True),
    _stage("10 720p x 121 + SFT 2", "720p", 121, 1e6, 1 / 3, cross=True),
)
BUCKETS = tuple(dict.fromkeys(stage.bucket for stage in STAGES))


class Cost(NamedTuple):
  """Of a stage, all samples together."""

  stage: Stage
  tokens: int  # video tokens of one video
  model: float  # FLOPs: three dense forward passes
  executed: float  # FLOPs
  hours: float  # of one device


def costs(cfg: Config, device: Device, *, utilisation: float, strides: tuple[int, int, int],
          stages: tuple[Stage, ...] = STAGES) -> list[Cost]:
  """The cost of each stage with the model, remat and attention of `cfg`, where executed FLOPs reach `utilisation` of the peak."""
  check_share(utilisation)
  return [_cost(cfg, stage, device.flops * utilisation, strides) for stage in stages]


def _cost(cfg, stage, rate, strides):
  model = executed = 0.0
  video = tokens_of(cfg.model, latent_grid(stage.bucket, strides), stage.text)
  image = tokens_of(cfg.model, latent_grid(dataclasses.replace(stage.bucket, frames=1), strides), stage.text)
  cfg = _configured(cfg, stage)
  route = (cfg.route.start, cfg.route.stop)
  videos, images = stage.samples * (1 - stage.images), stage.samples * stage.images
  for tokens, samples, routed in ((video, videos, stage.routed), (image, images, False)):
    plan = make_plan(cfg.model.depths, route if routed else None, cfg.alignment.tap if stage.aligned else None)
    model += samples * flops.model_flops(cfg.model, tokens).total
    executed += samples * sum(part.total for part in flops.executed(cfg, tokens, plan).values())
  return Cost(stage, video.video, model, executed, executed / rate / 3600)


def _configured(cfg, stage):
  """`cfg` with the cross-attention and the routing of a stage."""
  cross = cfg.model.cross_attention if stage.cross else dataclasses.replace(cfg.model.cross_attention, kind="none", dual=False)
  return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, cross_attention=cross),
                             route=dataclasses.replace(cfg.route, keep=KEEP))
