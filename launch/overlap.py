"""What XLA makes of a training step for GPUs that are not here, and what of its communication it puts work beside:

  . launch/gpu_env.sh
  python -m launch.overlap --config=configs/motif_2b.py --devices=8 --bucket=33x144x256 [--config.a.b=value ...]

Needs no GPU but XLA's compiler for them (motif_jax/bench/absent.py says how to install it), and minutes.  --text=FILE keeps the
module.  Attention is "chunked" unless a flag says otherwise; cuDNN's kernel is a single call, and its products count all keys.
"""

import dataclasses
import os
import pathlib
import sys
import time

from absl import app, flags
from ml_collections import config_flags

from launch import arguments
from motif_jax import compiled, config, mesh as meshes
from motif_jax.bench import absent, compiling, overlap, sizes
from motif_jax.budget import devices, workload
from motif_jax.data import buckets
from motif_jax.train import step

CONFIG = config_flags.DEFINE_config_file("config", None, "A file in configs/; --config.a.b=value changes one key of it.")
DEVICES = flags.DEFINE_integer("devices", 8, "GPUs of the run.", lower_bound=1)
KIND = flags.DEFINE_string("device_kind", "h200", f"One of {', '.join(absent.KINDS)}.")
BUCKET = flags.DEFINE_string("bucket", "33x144x256", "FRAMESxHEIGHTxWIDTH.")
UTILISATION = flags.DEFINE_float("utilisation", 0.4, "Assumed share of the device's peak at which products run beside it.")
TEXT = flags.DEFINE_string("text", None, "Where to keep the compiled module.")


def main(argv: list[str]) -> None:
  try:
    arguments.check_no_others(argv)
    cfg, device = config.from_config_dict(CONFIG.value), devices.device_of(KIND.value)
    if cfg.model.attention == "xla":
      cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, attention="chunked"))
    mesh = meshes.make_mesh(cfg.mesh, devices=absent.devices(KIND.value, DEVICES.value))
    grid, plan = workload.latent_grid(buckets.one(BUCKET.value), sizes.STRIDES), step.plan_at(cfg, 0)
    meshes.check_batch_size(mesh, cfg.data.batch_size, accumulate=cfg.train.accumulate)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  with absent.believed():
    lowered = compiling.lowered(cfg, mesh, grid, plan)
  began = time.process_time()
  executable = lowered.compile()
  text = executable.as_text()
  if TEXT.value:
    pathlib.Path(TEXT.value).write_text(text)
  planned = compiled.memory(executable)
  print(f"compiled for {DEVICES.value} x {KIND.value} in {time.process_time() - began:.0f} s of a CPU; mesh {dict(mesh.shape)}; "
        f"{cfg.model.dtype}, attention {cfg.model.attention}, remat {cfg.model.remat}; {os.environ.get('XLA_FLAGS', '')}")
  print(f"of a device: memory {planned.total / 1e9:.3g} GB, {planned.temporary / 1e9:.3g} of it temporary; products "
        f"{compiled.matmul_flops(text):.4g} FLOPs")
  print("\n".join(overlap.lines(text, device, utilisation=UTILISATION.value)))


if __name__ == "__main__":
  flags.mark_flags_as_required(["config"])
  app.run(main, flags_parser=arguments.parse)
