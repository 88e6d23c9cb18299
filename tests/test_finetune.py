"""Fine-tuning by an adapter: the same loop and checkpoints, a base that stays as it was, and files that fit no other base."""

import dataclasses
import itertools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motif_jax import config, mesh as meshes
from motif_jax.config import MeshConfig
from motif_jax.model import lora, transformer
from motif_jax.train import checkpoint, finetune, loop
from motif_jax.train.optimizer import make_optimizer
from tests import tiny
from tests.sensitive import sensitive

ONE = meshes.make_mesh(MeshConfig(1, 1, 1), devices=jax.devices()[:1])
STEPS = 3


def base_config():
  c = tiny.config_dict()
  c.model.update(dict(depths=dict(dual=0, single=1, decoder=1)))
  c.route.keep, c.alignment.weight = 1.0, 0.0
  return config.from_config_dict(c)


def weights(seed):
  return sensitive(jax.eval_shape(lambda key: transformer.init(key, base_config().model), jax.random.key(0)), seed)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A work directory with weights alone."""
  folder = tmp_path_factory.mktemp("base")
  checkpoint.save_weights(folder, weights(0), base_config())
  return folder


def job_of(base, workdir, *, stop_in=None):
  adapter = dataclasses.replace(base_config().adapter, rank=2, alpha=3.0, targets=("single/*", "text_embed/*"), base=str(base))
  train = dataclasses.replace(base_config().train, steps=STEPS, save_every=2, validate_every=9, sample_every=9)
  cfg = finetune.with_digest(dataclasses.replace(base_config(), adapter=adapter, train=train), ONE)

  def batches(step):
    for i in itertools.count(step):
      if i == stop_in:
        os.kill(os.getpid(), signal.SIGTERM)
      yield None, tiny.batch(cfg, i)

  return loop.Job(cfg, str(workdir), ONE, make_optimizer(cfg.optimizer, steps=STEPS), batches,
                  text_empty=np.zeros((1, 12), np.float32), frozen=checkpoint.restore_base(cfg, ONE))


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
  """(work directory, job, last state) of a whole run."""
  job = job_of(base, tmp_path_factory.mktemp("run"))
  return job.workdir, job, loop.run(job)


@jax.jit
def velocity(params):
  rng = np.random.default_rng(2)
  normal = lambda *shape: rng.standard_normal((2, *shape)).astype(np.float32)
  return transformer.apply(params, base_config().model, normal(2, 4, 4, 7), jnp.asarray([0.2, 0.7]), normal(5, 12))[0]


def error(got, want):
  return float(jnp.linalg.norm(got - want) / jnp.linalg.norm(want))


def test_a_run_resumes_to_the_same_bits_and_leaves_its_base_alone(base, run, tmp_path):
  loop.run(job_of(base, tmp_path, stop_in=1))
  resumed = loop.run(job_of(base, tmp_path))
  jax.tree.map(np.testing.assert_array_equal, resumed, run[2])
  jax.tree.map(np.testing.assert_array_equal, checkpoint.restore_for_sampling(base)[1], weights(0))
  moved = [float(jnp.abs(x).max()) for path, x in jax.tree_util.tree_leaves_with_path(run[2].params) if "up" in str(path)]
  assert min(moved) > 0  # every adapter learned


def test_checkpoint_merged_weights_and_file_are_one_network(base, run):
  workdir, job, state = run
  cfg, attached = checkpoint.restore_for_sampling(workdir)
  want = velocity(attached)
  assert error(velocity(weights(0)), want) > 1e-3
  alone, merged = checkpoint.restore_weights(workdir)
  assert alone.adapter.rank == 0 and error(velocity(merged), want) < 2e-6
  file = finetune.write_adapter(workdir, job.cfg, state.ema)
  assert error(velocity(finetune.applied(weights(0), cfg, file, weight=1.0)), want) < 2e-6
  np.testing.assert_array_equal(velocity(finetune.applied(weights(0), cfg, file, weight=0.0)), velocity(weights(0)))


def test_an_adapter_is_refused_by_weights_that_it_was_not_trained_on(run):
  workdir, job, state = run
  file = finetune.write_adapter(workdir, job.cfg, state.ema)
  with pytest.raises(ValueError, match="trained on other weights, those of .*--any_base"):
    finetune.applied(weights(1), job.cfg, file, weight=1.0)
  finetune.applied(weights(1), job.cfg, file, weight=1.0, any_base=True)
  with pytest.raises(ValueError, match="has an adapter already"):
    finetune.applied(checkpoint.restore_for_sampling(workdir)[1], job.cfg, file, weight=1.0)


def test_a_run_whose_base_has_changed_says_so(run, tmp_path):
  checkpoint.save_weights(tmp_path, weights(1), base_config())
  cfg = dataclasses.replace(run[1].cfg, adapter=dataclasses.replace(run[1].cfg.adapter, base=str(tmp_path)))
  with pytest.raises(ValueError, match="not those that the adapter was trained on"):
    checkpoint.restore_base(cfg, ONE)


def test_a_digest_is_of_values_and_places_and_of_no_mesh_or_dtype():
  params = weights(0)
  swapped = params | {"text_embed": params["text_embed"] | {"up": {
      "kernel": params["text_embed"]["up"]["kernel"][::-1], "bias": params["text_embed"]["up"]["bias"]}}}
  assert lora.digest(swapped) != lora.digest(params) == lora.digest(lora.frozen(params, "bfloat16"))
  eight = jax.device_put(params, jax.sharding.NamedSharding(jax.make_mesh((8,), ("x",)), jax.sharding.PartitionSpec()))
  assert lora.digest(eight) == lora.digest(params)
