"""GPUs that are not here: what XLA compiles for needs no driver and no GPU, only a description of them.

    pip install --no-deps jax-cuda12-plugin==JAX jax-cuda12-pjrt==JAX nvidia-cuda-nvcc-cu12      JAX: the version of jax here

XLA's compiler for GPUs then makes the module that would run: fused, scheduled, cut over the devices.  What differs from a
compilation on the machine itself: nothing is tuned by trying it, so matrix products keep the first algorithm.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import importlib
import os
from unittest import mock

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from motif_jax.bench import measure
from motif_jax.bench.case import Case

# What XLA asks of a GPU to compile for it, by the file of that name in openxla/xla, xla/backends/gpu/target_config/specs, which
# has what the driver says of the device.  Rates: (key of a primitive type, GHz, units in a multiprocessor, operations a clock).
SCALAR = ((4, 1.98, 64, 1), (8, 1.98, 64, 1), (10, 1.98, 128, 2), (11, 1.98, 128, 1), (12, 1.98, 64, 1), (16, 1.98, 128, 2))
MATRIX = ((2, 1.83, 4, 1024), (10, 1.83, 4, 512), (11, 1.83, 4, 256), (12, 1.98, 4, 32), (16, 1.83, 4, 512))
KINDS = {"h100": ("NVIDIA H100 80GB HBM3", 84942979072, 3352320000000, 2619000),
         "h200": ("NVIDIA H200 141GB HBM3e", 151397597184, 4800000000000, 3750000)}  # name, memory, bytes a second, kHz of memory
NODE = 8
SHARE = 0.92  # of the memory, which programs may use: as launch/gpu_env.sh sets it
CUDNN = 91000  # what is said of its version where it is asked for


def devices(kind: str, count: int) -> list:
  """`count` GPUs of a kind, in nodes of 8, to make a mesh of and compile for; ValueError where the compiler is not installed."""
  if kind not in KINDS:
    raise ValueError(f"--device_kind={kind}: XLA's description is at hand for {', '.join(KINDS)}.")
  if count > NODE and count % NODE:
    raise ValueError(f"--devices={count}: expected up to {NODE}, or whole nodes of {NODE}.")
  try:
    nvcc = importlib.import_module("nvidia.cuda_nvcc")
    importlib.import_module("jax_plugins.xla_cuda12")
  except ImportError as e:
    version = jax.__version__
    raise ValueError(f"XLA's compiler for GPUs is not installed ({e}): pip install --no-deps jax-cuda12-plugin=={version} "
                     f"jax-cuda12-pjrt=={version} nvidia-cuda-nvcc-cu12; no GPU is needed.") from e
  given = os.environ.get("XLA_FLAGS", "")
  if "xla_gpu_cuda_data_dir" not in given:
    os.environ["XLA_FLAGS"] = f"{given} --xla_gpu_cuda_data_dir={nvcc.__path__[0]}".strip()
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # its libraries are not here, and not needed
  jax.config.update("jax_platforms", "cpu")  # before jax looks for devices: nothing runs on a GPU that may be here
  topology = f"1x{max(1, count // NODE)}x{min(count, NODE)}"
  return list(topologies.get_topology_desc(platform="cuda", topology=topology, target_config=description(kind)).devices)


def memory_of(kind: str) -> float:
  """Bytes that a program may use on a GPU of a kind."""
  return SHARE * KINDS[kind][1]


@contextlib.contextmanager
def believed(device: jax.Device | None = None) -> Iterator[None]:
  """Inside, whoever asks whether a GPU with cuDNN is here hears yes: `model/attention` and jax ask while they trace.

  With a `device`, whoever asks for all of them hears of that one.
  """
  from jax._src.cudnn import fused_attention_stablehlo as asked  # jax has no public way to say it
  with contextlib.ExitStack() as stack:
    replace = lambda *what: stack.enter_context(mock.patch.object(*what))
    replace(jax, "default_backend", lambda: "gpu")
    replace(asked, "check_cudnn_version", lambda: CUDNN)
    replace(asked, "check_compute_capability", lambda capability: True)
    if device is not None:
      replace(jax, "devices", lambda: [device])
    yield


def only_compiled(case: Case, device: jax.Device, room: float) -> Case:
  """`case`, of which only the compiling is measured, for a `device` that is not here; it fails where it needs more than `room`.

  It is compiled from the shapes of its inputs: no array is made, and nothing runs.
  """
  place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=SingleDeviceSharding(device))

  def measure_() -> dict:
    kept = []
    with jax.disable_jit():  # of what makes the inputs: options of a compiler are not for a function within another
      shapes = jax.eval_shape(lambda: kept.append(case.prepare()) or kept[0].inputs[0])
    prepared = kept[0]._replace(inputs=[jax.tree.map(place, shapes)])
    return measure.compile_within(prepared, room)[1]

  return dataclasses.replace(case, prepare=None, measure=measure_)


def description(kind: str) -> str:
  """XLA's GpuTargetConfigProto of a kind of GPU, as text."""
  name, memory, bandwidth, clock = KINDS[kind]
  rates = lambda unit, found: f"{unit} {{ " + " ".join(
      f"rate_infos {{ key: {key} value {{ clock_rate_ghz: {ghz} units_per_core: {units} ops_per_clock: {operations} }} }}"
      for key, ghz, units, operations in found) + " }"
  return f"""gpu_device_info {{
    threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
    threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
    block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: 52428800 clock_rate_ghz: 1.98
    device_memory_size: {memory} shared_memory_per_block_optin: 232448
    cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
    registers_per_core_limit: 65536 registers_per_block_limit: 65536
    {rates("scalar_unit_description", SCALAR)} {rates("matrix_unit_description", MATRIX)}
    thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64 device_vendor: "NVIDIA Corporation"
    platform_version: "Compute Capability 9.0a" device_address_bits: 64 pcie_bandwidth: 34359738368 ecc_enabled: true
    model_str: "sm_9.0a with {memory}B RAM, 132 cores, 1980000KHz clock, {clock}KHz mem clock, 52428800B L2$"
    name: "{name}" driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
    dnn_version: "9.10.0" cub_version: "3.1.2" device_interconnect_info {{ active_links: 18 }} }}
  platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 0 }} device_description_str: "{name}" """
