"""What XLA makes of a training step for GPUs that are not here, and what of its communication it puts work beside:

  . launch/gpu_env.sh
  python -m launch.overlap --config=configs/motif_2b.py --devices=8 --bucket=33x144x256 [--config.a.b=value ...]

Needs no GPU but XLA's compiler for them (motif_jax/bench/absent.py says how to install it), and minutes.  --text=FILE keeps the
module.  Attention is "chunked" unless a flag says otherwise; cuDNN's kernel is a single call, and its products count all keys.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import time

from launch import arguments
from motif_jax import compiled, config, mesh as meshes
from motif_jax.bench import absent, compiling, overlap, sizes
from motif_jax.budget import devices, workload
from motif_jax.data import buckets
from motif_jax.train import step


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.overlap", __doc__)
  add = parser.add_argument
  arguments.add_config(parser)
  add("--devices", type=arguments.at_least(1), default=8, help="GPUs of the run")
  add("--device_kind", default="h200", help=f"one of {', '.join(absent.KINDS)}")
  add("--bucket", default="33x144x256", help="FRAMESxHEIGHTxWIDTH in pixels")
  add("--utilisation", type=float, default=0.4, help="assumed share of the device's peak at which products run beside it")
  add("--text", help="where to keep the compiled module")
  return arguments.parse(parser, argv)


def main(argv=None) -> None:
  args = parse(argv)
  try:
    cfg, device = config.from_config_dict(args.config), devices.device_of(args.device_kind)
    devices.check_share(args.utilisation)
    if cfg.model.attention == "xla":
      cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, attention="chunked"))
    mesh = meshes.make_mesh(cfg.mesh, devices=absent.devices(args.device_kind, args.devices))
    grid, plan = workload.latent_grid(buckets.one(args.bucket), sizes.STRIDES), step.plan_at(cfg, 0)
    meshes.check_batch_size(mesh, cfg.data.batch_size, accumulate=cfg.train.accumulate)
    if args.text:
      pathlib.Path(args.text).touch()  # raises now, and not after minutes
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  with absent.believed():
    lowered = compiling.lowered(cfg, mesh, grid, plan)
  began = time.process_time()
  executable = lowered.compile()
  text = executable.as_text()
  if args.text:
    pathlib.Path(args.text).write_text(text)
  planned = compiled.memory(executable)
  print(f"compiled for {args.devices} x {args.device_kind} in {time.process_time() - began:.0f} s of a CPU; mesh "
        f"{dict(mesh.shape)}; {cfg.model.dtype}, attention {cfg.model.attention}, remat {cfg.model.remat}; "
        f"{os.environ.get('XLA_FLAGS', '')}")
  print(f"of a device: memory {planned.total / 1e9:.3g} GB, {planned.temporary / 1e9:.3g} of it temporary; products "
        f"{compiled.matmul_flops(text):.4g} FLOPs")
  print("\n".join(overlap.lines(text, device, utilisation=args.utilisation)))


if __name__ == "__main__":
  main()
