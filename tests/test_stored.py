"""What a data set may hold beyond latents and text: teacher features at the tokens' grid, log-variance, image tokens, or no teacher."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import smoke
from motif_jax import config as config_lib
from motif_jax.data import dataset, extract, pipeline, record
from motif_jax.encoders import registry
from motif_jax.encoders.reduced import Reduced
from motif_jax.model.alignment import to_token_grid
from motif_jax.train import losses
from tests import small_data
from tests.test_encode import ENCODERS, folder, run  # noqa: F401, a fixture


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A random feature for each cell of (8, 12)."""

  name: str = "random"
  version: str = "3"
  dim: int = 5

  def grid(self, height, width):
    return 8, 12

  def encode(self, video, times):
    return jax.random.normal(jax.random.key(0), (len(video), len(times), 8, 12, self.dim))


class Image:
  name, version, dim, tokens = "cells", "1", 6, 4

  def encode(self, pictures):
    return pictures.reshape(len(pictures), 2, 12, 2, 16, 3).mean((2, 4)).reshape(-1, 4, 3).repeat(2, axis=2)


class Random(small_data.Codec):
  def posterior(self, video):
    latents = self.encode(video)
    return latents, np.full_like(latents, -2.0)


@pytest.mark.parametrize("cell, grid", [((8, 8), (4, 6)), ((4, 2), (8, 12)), ((16, 8), (2, 6)), ((2, 16), (16, 3))])
def test_features_at_the_grid_of_the_tokens_are_the_same_targets(cell, grid):
  video, times = np.zeros((2, 5, 32, 48, 3)), (0.0, 2.5, 4.0)
  teacher = Reduced(Teacher(), cell=cell)
  stored = teacher.encode(video, times)
  tokens = (3, 32 // cell[0], 48 // cell[1])
  assert stored.shape == (2, 3, *grid, 5) and teacher.grid(32, 48) == grid
  full = to_token_grid(Teacher().encode(video, times), tokens)
  np.testing.assert_allclose(to_token_grid(stored, tokens), full, atol=1e-5)


def test_a_config_asks_for_reduced_features_by_the_patch_of_its_model():
  c = smoke.get_config()
  c.encoders.teacher_grid, c.model.patch, c.encoders.codec = "tokens", (1, 2, 4), "block_dct"
  teacher = registry.of_data(config_lib.from_config_dict(c))[2]
  assert (teacher.cell, teacher.name, teacher.grid(32, 32)) == ((8, 16), "gradients", (4, 2))
  c.encoders.teacher_grid = "teacher"
  assert registry.of_data(config_lib.from_config_dict(c))[2].grid(32, 32) == (8, 8)


@pytest.fixture(scope="module")
def rich(folder, tmp_path_factory):
  path = tmp_path_factory.mktemp("rich") / "set"
  run(folder, path, encoders=extract.Encoders(Random(), small_data.Text(), None, Image(), log_variance=True))
  return dataset.open_dataset(path)


def test_records_hold_what_was_asked_for_and_no_more(rich):
  for part, source in zip(rich.meta.parts, rich.sources):
    made = source[1]
    record.check(made, part.spec)
    assert "teacher" not in made and made["image"].shape == (4, 6)
    np.testing.assert_array_equal(made["log_variance"], np.full_like(made["latents"], -2), strict=True)
  assert rich.meta.teacher is None and rich.meta.image == dict(name="cells", version="1", dim=6)


def config_of(meta, **changes):
  c = smoke.get_config()
  c.encoders.update(codec="means", text="lengths", teacher="none", image="cells")
  c.alignment.update(weight=0.0, teacher="none")
  c.model.update(latent_channels=meta.codec["channels"], text_dim=meta.text["dim"])
  c.update_from_flattened_dict(changes)
  return config_lib.from_config_dict(c)


def test_training_without_alignment_needs_no_teacher_and_with_it_says_so(rich):
  dataset.check_encoders(rich.meta, config_of(rich.meta))
  with pytest.raises(ValueError, match="teacher: the data set has 'none', the config 'gradients'"):
    dataset.check_encoders(rich.meta, config_of(rich.meta, **{
        "alignment.weight": 0.5, "alignment.teacher": "gradients", "encoders.teacher": "gradients"}))
  with pytest.raises(ValueError, match="alignment.weight is 0.5, but encoders.teacher is 'none'"):
    config_of(rich.meta, **{"alignment.weight": 0.5})


def test_latents_can_only_be_sampled_where_their_log_variance_is_stored(rich, folder, tmp_path):
  sampled = {"data.sample_latents": True}
  dataset.check_encoders(rich.meta, config_of(rich.meta, **sampled))
  run(folder, tmp_path / "set")
  with pytest.raises(ValueError, match="log-variance of latents: the data set has False"):
    dataset.check_encoders(dataset.open_dataset(tmp_path / "set").meta, config_of(rich.meta, **sampled))
  with pytest.raises(ValueError, match="codec means is not a random one"):
    run(folder, tmp_path / "other", encoders=ENCODERS._replace(log_variance=True))


@pytest.mark.parametrize("sample", [True, False])
def test_batches_carry_log_variance_where_latents_are_sampled(rich, sample):
  batches = pipeline.batches(small_data.config(batch_size=2, sample_latents=sample), rich, seed=0)
  bucket, batch = next(batches)
  batches.close()
  assert ("log_variance" in batch) == sample and "teacher" not in batch and "image" not in batch
  if sample:
    assert batch["log_variance"].shape == batch["latents"].shape


def test_drawn_latents_are_spread_around_the_mean_by_the_variance():
  mean = np.random.default_rng(0).normal(size=(2, 3, 24, 40, 5)).astype(np.float16)
  log_variance = np.broadcast_to(np.float16([-4, -2, 0, 1, -60]), mean.shape)
  batch = dict(latents=mean, log_variance=log_variance)
  spread = np.asarray(losses.drawn_latents(jax.random.key(0), batch)) - mean
  np.testing.assert_allclose(spread.std(axis=(0, 1, 2, 3)), np.exp([-2, -1, 0, 0.5, -30]), rtol=0.03, atol=1e-6)
  np.testing.assert_allclose(spread.mean(axis=(0, 1, 2, 3)), 0, atol=0.05)
  other = np.asarray(losses.drawn_latents(jax.random.key(1), batch)) - mean
  assert abs(np.corrcoef(spread[..., 2].ravel(), other[..., 2].ravel())[0, 1]) < 0.05
  np.testing.assert_array_equal(losses.drawn_latents(jax.random.key(0), dict(latents=mean)), mean)


def test_an_older_data_set_keeps_the_version_it_recorded():
  assert dataset.same_version("1-float32-abc", "1-float32-abc-def") and dataset.same_version("1", "1")
  assert not dataset.same_version("1-float32-abc", "1-float32-abd-def") and not dataset.same_version("1", "11")
