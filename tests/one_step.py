"""One training step of a tiny model by plain SGD, on any mesh and in any number of processes; for tests.

As a program it is one of several processes:
python -m tests.one_step PORT PROCESSES PROCESS_ID OUTPUT DATA FSDP SEQUENCE ACCUMULATE
"""

import pathlib
import pickle
import sys

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from motif_jax import config, distributed, mesh as meshes, sharding
from motif_jax.config import MeshConfig
from motif_jax.train.state import TrainState, abstract_state
from motif_jax.train.step import ABSTRACT_KEY, make_train_step, plan_at
from tests import tiny
from tests.sensitive import sensitive

SGD = optax.sgd(0.1, momentum=0.9)  # Adam magnifies gradients near zero; after one step the momentum is the gradient


def make_config(*, accumulate=1):
  """A block of each kind of weights, a route over both and alignment inside it: little to compile."""
  c = tiny.config_dict()
  c.model.depths = dict(dual=1, single=1, decoder=0)
  c.route.stop, c.alignment.tap, c.train.accumulate = 2, 1, accumulate
  return config.from_config_dict(c)


def run(mesh: Mesh, *, accumulate: int = 1):
  """(state after a step, what it measured, bytes beyond the arguments), on the host; every process passes its own rows."""
  cfg = make_config(accumulate=accumulate)
  abstract = abstract_state(cfg, SGD)
  shardings = sharding.state_shardings(abstract, mesh)
  params = jax.tree.map(np.asarray, sensitive(abstract.params, seed=0))
  state = TrainState(step=np.zeros((), np.int32), params=params, ema=params["model"],
                     opt_state=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract.opt_state))
  state = jax.tree.map(lambda x, s: jax.make_array_from_callback(x.shape, s, lambda index: x[index]), state, shardings)
  index, count = meshes.batch_share(mesh)
  size = cfg.data.batch_size // count
  batch = meshes.global_batch(mesh, {k: v[index * size:(index + 1) * size] for k, v in tiny.batch(cfg).items()})
  step = make_train_step(cfg, mesh, SGD, plan=plan_at(cfg, 0))
  with jax.set_mesh(mesh):
    compiled = step.jitted.lower(state, batch, ABSTRACT_KEY).compile()
    new, measured = compiled(state, batch, jax.random.key(cfg.seed))
  assert all(x.is_deleted() for x in jax.tree.leaves(state))  # donated
  assert all(jax.tree.leaves(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), new, shardings)))
  whole = lambda x: np.asarray(x) if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)
  return jax.tree.map(whole, new), jax.tree.map(whole, measured), compiled.memory_analysis().temp_size_in_bytes


def assert_same(got, expected) -> None:
  """Raises unless two results of `run` agree: losses per sample, gradients, and the updated state."""
  for name in ("t", "loss", "alignment"):
    np.testing.assert_allclose(got[1][name], expected[1][name], rtol=1e-5, err_msg=name)
  for (path, x), (_, y) in zip(sharding.paths_of(got[0]), sharding.paths_of(expected[0])):
    assert np.linalg.norm(y) > 0, f"{path} is zero, so the test is blind to it"
    assert np.linalg.norm(x - y) <= 2e-5 * np.linalg.norm(y), path


def main(port, processes, process_id, output, *sizes):
  distributed.join(coordinator=f"localhost:{port}", processes=int(processes), process_id=int(process_id))
  *sizes, accumulate = map(int, sizes)
  result = run(meshes.make_mesh(MeshConfig(*sizes)), accumulate=accumulate)
  if int(process_id) == 0:
    pathlib.Path(output).write_bytes(pickle.dumps(result))


if __name__ == "__main__":
  main(*sys.argv[1:])
