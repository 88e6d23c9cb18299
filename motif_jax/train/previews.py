"""Samples of the averaged weights while training goes on: to look at, and to be judged."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from motif_jax import mesh as meshes, sample
from motif_jax.config import Config
from motif_jax.evaluate.benchmarks import BENCHMARKS

ROWS = 32  # videos judged at once
SEED = 4321  # of the judged prompts and their noise: the same in every run


class Previews:
  """EMA parameters -> {prompt: video (F, H, W, 3) uint8} for the prompts of the config, always from the same noise."""

  def __init__(self, cfg: Config, mesh: Mesh):
    self._cfg, self._mesh = cfg, mesh
    self._codec, text = sample.encoders_of(cfg, mesh)
    self._grid = sample.latent_grid(cfg, self._codec, cfg.sample.bucket)
    # Rows are dealt to the mesh like a batch: filled up with the last prompt, whose repetitions nobody sees.
    missing = -len(cfg.sample.prompts) % meshes.degree(mesh, "batch")
    with jax.set_mesh(mesh):
      self._text = sample.encode_prompts(text, cfg.sample.prompts + cfg.sample.prompts[-1:] * missing, cfg.data.text_tokens)
      self._empty = sample.encode_prompts(text, [""], cfg.data.text_tokens)

  def __call__(self, ema: dict) -> dict[str, np.ndarray]:
    cfg = self._cfg.sample
    with jax.set_mesh(self._mesh):
      latents = sample.generate(ema, self._cfg, *self._text, *self._empty, key=jax.random.key(self._cfg.seed), grid=self._grid)
      frames = multihost_utils.process_allgather(sample.decode(self._codec, latents), tiled=True)
    return {f"{i:02d} {prompt}": frames[i] for i, prompt in enumerate(cfg.prompts)}


class Judge:
  """EMA parameters -> {name: score}, of videos of `train.judge` held-out prompts, always the same and from the same noise.

  Where the data are those of `train.benchmark`.  In several processes each makes all videos: there are few.
  """

  def __init__(self, cfg: Config, mesh: Mesh):
    self._cfg, self._mesh = cfg, mesh
    self._codec, self._text = sample.encoders_of(cfg, mesh)
    self._grid = sample.latent_grid(cfg, self._codec, cfg.sample.bucket)
    self._benchmark = BENCHMARKS[cfg.train.benchmark]
    self._clips, self._prompts = self._benchmark.held_out_prompts(cfg.train.judge, SEED)

  def __call__(self, ema: dict) -> dict[str, float]:
    rows = meshes.degree(self._mesh, "batch")
    batch = -(-min(ROWS, len(self._prompts)) // rows) * rows
    with jax.set_mesh(self._mesh):
      made = list(sample.videos_of(ema, self._cfg, self._codec, self._text, self._prompts, key=jax.random.key(SEED),
                                   grid=self._grid, batch=batch))
    return self._benchmark.score(made, self._clips)
