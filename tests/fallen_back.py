"""One of several processes that save, damage and restore checkpoints together: PORT PROCESSES PROCESS_ID WORKDIR."""

import dataclasses
import pathlib
import sys

import jax
from jax.experimental import multihost_utils

from motif_jax import distributed


def main(port, processes, process_id, workdir):
  distributed.join(coordinator=f"localhost:{port}", processes=int(processes), process_id=int(process_id))
  from motif_jax.train import checkpoint  # jax must have joined before the helpers make a mesh of its devices
  from tests.small_checkpoints import ABSTRACT, CFG, keeping, mesh_of, saved

  mesh = mesh_of(1, jax.device_count(), 1)
  cfg = dataclasses.replace(CFG, train=keeping(5, verify=True))
  saved(workdir, 1, 2, 3, mesh=mesh)
  if jax.process_index() == 0:
    files = sorted((pathlib.Path(workdir) / "checkpoints").glob("[23]/config/metadata"))
    for file, content in zip(files, (b"", files[1].read_bytes().replace(b"0", b"1", 1))):
      file.write_bytes(content)  # one is found by its size, the other by its digest, each by one of the processes
  multihost_utils.sync_global_devices("damaged")
  with checkpoint.make_manager(workdir, cfg.train) as manager:
    state = checkpoint.restore(manager, ABSTRACT, cfg, mesh)
  print(f"went on from step {int(state.step)} with {sorted(checkpoint.folders(workdir))}", flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
