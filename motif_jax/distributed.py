"""Several processes as one: every process runs the same program on its own devices and sees the whole mesh.

One process per node, or one per device: both work.  Under SLURM jax gives each task the one device of its local rank, so start
as many tasks per node as it has devices, or set JAX_LOCAL_DEVICE_IDS=0,1,...
"""

import os

import jax


def join(*, coordinator: str | None, processes: int | None, process_id: int | None, detect: bool = False) -> None:
  """Makes this process one of several; does nothing where none of that is asked for.  Before jax touches a device.

  Args:
    coordinator: host:port of process 0, the same for all.
    processes: how many there are.
    process_id: which one this is.
    detect: let jax find all three from the cluster (SLURM, Open MPI, Kubernetes) instead.
  """
  given = {"--coordinator": coordinator, "--processes": processes, "--process_id": process_id}
  missing = [flag for flag, value in given.items() if value is None]
  if len(missing) < 3 and (missing or detect):
    present = ", ".join(flag for flag in given if flag not in missing)
    wanted = f"without {', '.join(missing)}" if missing else "with --distributed, which finds them by itself"
    raise ValueError(f"{present} came {wanted}; give {', '.join(given)}, all three, or --distributed alone, or none of them.")
  if not missing:
    _check(coordinator, processes, process_id)
  elif not detect:
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks > 1:
      raise ValueError(f"This is one of {tasks} tasks of a SLURM step, and each would train by itself in the same work "
                       "directory; add --distributed to make them one, or start one task.")
    return
  # jax's preemption service would take SIGTERM for itself; `train/interrupt.py` does that work, for SIGINT too.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(coordinator, processes, process_id)
  except ValueError as e:
    raise ValueError(f"jax cannot tell which process this is ({e}) --distributed works under SLURM (srun), Open MPI and "
                     f"Kubernetes; elsewhere give {', '.join(given)}.") from e


def _check(coordinator, processes, process_id):
  """Raises ValueError unless the three can be meant."""
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdigit():
    raise ValueError(f"--coordinator is {coordinator!r}, expected host:port of process 0, for example node001:12345.")
  if not 0 <= process_id < processes:
    raise ValueError(f"--process_id is {process_id}, expected 0 to --processes - 1 = {processes - 1}.")
