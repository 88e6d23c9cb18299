"""Claims about training on the tokens of a picture: whole batches start from theirs, and what they hold reaches the network."""

import collections
import dataclasses
import json

import jax
import numpy as np
import pytest

from motif_jax import config, mesh as meshes
from motif_jax.bench.case import lively
from motif_jax.config import MeshConfig
from motif_jax.data import dataset as datasets, pipeline, schedule as schedules
from motif_jax.encoders import registry
from motif_jax.model import transformer
from motif_jax.train import loop, losses, programs
from motif_jax.train.optimizer import make_optimizer
from motif_jax.train.step import plan_at
from tests import small_data, tiny

TOKENS, DIM = 3, 11


def _config(**data):
  c = tiny.config_dict()
  c.model.update(dict(latent_channels=5, text_dim=7, image_dim=DIM, depths=dict(dual=0, single=1, decoder=0)))
  c.encoders.image = "thumbnail"
  c.route.keep, c.alignment.weight = 1.0, 0.0
  c.data.update(dict(batch_size=4, validation=0.3, text_tokens=6, image_tokens=True) | data)
  c.train.update(dict(steps=3, telemetry_every=3, save_every=3, log_every=1))
  return config.from_config_dict(c)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  folder = small_data.write(tmp_path_factory.mktemp("data"), {small_data.VIDEO: 12, small_data.IMAGE: 14}, image=(TOKENS, DIM))
  return datasets.open_dataset(folder)


@pytest.mark.parametrize("every", [1, 2, 3, 4, 7, 10, 100])
def test_batches_from_a_picture_are_a_share_of_every_rhythm(every):
  schedule = schedules.Schedule((4, 4), (0.5, 0.5), ((0, 1),), (0.25, 0.0))
  assert np.mean(schedule.pictured(0, np.arange(0, 2000 * every, every))) == pytest.approx(0.25, abs=0.01)
  assert not schedule.pictured(1, np.arange(100)).any()


def test_a_batch_holds_the_tokens_of_its_records_where_the_schedule_says_so_and_is_otherwise_the_same(dataset):
  with_tokens, without = (small_data.config(image_to_video=0.5, image_tokens=on) for on in (True, False))
  batches, plain = (pipeline.batches(cfg, dataset, seed=0) for cfg in (with_tokens, without))
  tokens_of = {(bucket.frames, number): small_data.record(bucket, number, (TOKENS, DIM))["image"]
               for bucket in (small_data.VIDEO, small_data.IMAGE) for number in range(14)}
  kinds, before = collections.Counter(), collections.Counter()
  for _ in range(24):
    (bucket, batch), (_, same) = next(batches), next(plain)
    kinds[bucket.frames, "image" in batch] += 1
    assert ("image" in batch) == (bucket.frames > 1 and before[bucket] * schedules.GOLDEN % 1 < 0.5)  # whatever other buckets do
    before[bucket] += 1
    if "image" in batch:
      expected = [tokens_of[bucket.frames, int(latents[0, 0, 0, 0])] for latents in batch["latents"]]
      np.testing.assert_array_equal(batch.pop("image"), expected)
    assert batch.keys() == same.keys()
    for name in same:
      np.testing.assert_array_equal(batch[name], same[name])
  batches.close(), plain.close()
  assert kinds[1, True] == 0 and kinds[5, True] >= 4 and kinds[5, False] >= 4


@pytest.mark.parametrize("pictured", [True, False])
def test_all_samples_of_a_batch_start_from_their_pictures_or_none_does_and_nothing_else_is_drawn_anew(pictured):
  cfg = _config(image_to_video=0.5)
  plain = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, image_tokens=False))
  shape = (64, 3, 6, 8, 5)
  ours, theirs = losses.draw(jax.random.key(0), cfg, shape, routed=False, pictured=pictured), losses.draw(
      jax.random.key(0), plain, shape, routed=False)
  assert np.all(np.asarray(ours.conditioned) == pictured) and 0 < np.mean(theirs.conditioned) < 1
  np.testing.assert_array_equal(ours.noise, theirs.noise)
  np.testing.assert_array_equal(ours.t, theirs.t)


def test_only_a_batch_with_tokens_teaches_the_image_embedder():
  cfg = _config()
  batch = tiny.batch(cfg) | dict(image=np.random.default_rng(3).standard_normal((4, TOKENS, DIM), np.float32))
  params = lively(jax.jit(lambda: transformer.init(jax.random.key(0), cfg.model))())

  @jax.jit
  def gradient(batch):
    draws = losses.draw(jax.random.key(1), cfg, batch["latents"].shape, routed=False, pictured="image" in batch)
    loss = lambda params: losses.objective({"model": params}, cfg, batch, draws, plan_at(cfg, 0))[0]
    return jax.tree.map(lambda g: abs(g).max(), jax.grad(loss)(params)["image_embed"])

  assert min(jax.tree.leaves(gradient(batch))) > 0
  batch.pop("image")
  assert max(jax.tree.leaves(gradient(batch))) == 0


def test_a_run_compiles_the_steps_with_and_without_tokens_that_were_foretold(dataset, tmp_path):
  cfg = _config(image_to_video=0.5, weights=(("video", 1.0), ("image", 0.0)))
  batches = lambda step: pipeline.batches(cfg.data, dataset, seed=0, start_step=step, patch=cfg.model.patch)
  foretold = programs.of_steps(cfg, dataset)
  found = collections.Counter()
  for step, (bucket, batch) in zip(range(3), batches(0)):
    found[bucket, programs.MEASURED if step == 2 else programs.STEP, "image" in batch] += 1
  assert {(p.bucket, p.name.removesuffix(programs.PICTURED), p.name.endswith(programs.PICTURED)) for p in foretold} == set(found)
  assert len(foretold) == len(found) == 3
  cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, telemetry_every=1))
  state = loop.run(loop.Job(cfg, str(tmp_path), meshes.make_mesh(MeshConfig(1, 1, 1), devices=jax.devices()[:1]),
                            make_optimizer(cfg.optimizer, steps=cfg.train.steps), batches=batches))
  assert int(state.step) == 3
  shares = [line["telemetry/share/image_to_video"] for line in map(json.loads, (tmp_path / "scalars.jsonl").read_text().splitlines())
            if "telemetry/share/image_to_video" in line]
  assert shares == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_what_is_foretold_from_any_step_is_what_the_batches_from_there_hold(dataset, start):
  cfg = _config(image_to_video=0.5, weights=(("video", 1.0), ("image", 0.0)))
  cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, steps=6, telemetry_every=0))
  batches = pipeline.batches(cfg.data, dataset, seed=0, start_step=start, patch=cfg.model.patch)
  found = {"image" in batch for _, (_, batch) in zip(range(start, 6), batches)}
  batches.close()
  assert {program.name.endswith(programs.PICTURED) for program in programs.of_steps(cfg, dataset, start=start)} == found


def test_tokens_that_a_data_set_does_not_hold_are_missed_before_training(dataset, tmp_path):
  cfg = _config()
  datasets_without = datasets.open_dataset(small_data.write(tmp_path, {small_data.VIDEO: 3}))
  for meta, said in ((datasets_without.meta, "image tokens: the data set has 0, the config 11"),
                     (dataset.meta, "image encoder: the data set has 'pictures', the config 'thumbnail'")):
    with pytest.raises(ValueError, match=said):
      datasets.check_encoders(meta, cfg)
  off = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, image_tokens=False))
  with pytest.raises(ValueError, match="codec") as raised:  # of another one; tokens that nobody trains on are not missed
    datasets.check_encoders(datasets_without.meta, off)
  assert "image" not in str(raised.value)


def test_the_tokens_of_a_picture_are_those_of_its_encoder_or_none():
  cfg = _config()
  off = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, image_tokens=False))
  announced = dataclasses.replace(cfg, encoders=dataclasses.replace(cfg.encoders, image="siglip"))  # whose folder is not given
  assert [registry.image_tokens(one) for one in (cfg, off, announced)] == [16, 0, 4096]


@pytest.mark.parametrize("section, key, value", [("model", "image_dim", 0), ("data", "image_to_video", 0.0),
                                                 ("encoders", "image", "none")])
def test_a_config_of_image_tokens_without_what_it_takes_is_refused(section, key, value):
  c = tiny.config_dict()
  c.model.image_dim, c.encoders.image, c.data.image_tokens = DIM, "thumbnail", True
  c[section][key] = value
  with pytest.raises(ValueError, match=rf"data.image_tokens is on, but .*{key} (is )?'?{value}"):
    config.from_config_dict(c)
