"""Checkpoints of few arrays, for orbax takes its time for each, full of random numbers, for which nothing has to compile."""

import dataclasses

import jax
import numpy as np

from motif_jax import config, mesh as meshes, sharding
from motif_jax.config import MeshConfig
from motif_jax.train import checkpoint
from motif_jax.train.optimizer import make_optimizer
from motif_jax.train.state import abstract_state
from tests import tiny


def make_config(**model):
  """A config of one block without routing and alignment."""
  c = tiny.config_dict()
  c.route.keep, c.alignment.weight = 1.0, 0.0
  c.model.update(dict(depths=dict(dual=0, single=1, decoder=0)) | model)
  return config.from_config_dict(c)


CFG = make_config()
ABSTRACT = abstract_state(CFG, make_optimizer(CFG.optimizer, steps=4))


def mesh_of(*sizes):
  return meshes.make_mesh(MeshConfig(*sizes), devices=jax.devices()[:int(np.prod(sizes))])


ONE = mesh_of(1, 1, 1)


def random_state(step, mesh=ONE, seed=0):
  """The state after `step` steps, of random numbers."""
  rng = np.random.default_rng(seed)
  values = jax.tree.map(lambda x: np.asarray(rng.standard_normal(x.shape) * 100).astype(x.dtype), ABSTRACT)
  values = values.replace(step=np.asarray(step, np.int32))
  return jax.device_put(values, sharding.state_shardings(ABSTRACT, mesh))


def keeping(last, **changes):
  """The part of the config that says what stays."""
  return dataclasses.replace(CFG.train, keep=last, **changes)


def saved(folder, *steps, mesh=ONE, cfg=keeping(5)):
  """`folder`, with a checkpoint of each of `steps`, of random numbers with the step as seed."""
  with checkpoint.make_manager(folder, cfg) as manager:
    for step in steps:
      checkpoint.save(manager, random_state(step, mesh, seed=step), CFG)
  return folder


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)
