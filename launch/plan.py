"""What a run will cost, before it is launched: python -m launch.plan --config=configs/motif_2b.py --devices=8 --device_kind=h200

Tokens, FLOPs, bytes, what fits, collectives and shardings by closed forms (`motif_jax/budget`), on any machine, in seconds; with
--compile the compiler's own figures beside them, from the step compiled for as many virtual CPU devices.
"""

import argparse
import dataclasses
import math
import os
import sys
import time

import jax

from launch import arguments
from motif_jax import compiled, config, mesh as meshes, sharding
from motif_jax.bench import compiling, sizes
from motif_jax.budget import devices, exposure, flops, memory, recipe, sampling, traffic, workload
from motif_jax.budget.memory import size
from motif_jax.data import buckets
from motif_jax.encoders import registry
from motif_jax.train import step

SMALL = 0.01  # share of all time on the wire below which messages are summed up


def parse(argv=None) -> argparse.Namespace:
  parser = arguments.parser("launch.plan", __doc__)
  add = parser.add_argument
  arguments.add_config(parser)
  add("--devices", type=int, default=8, help="devices of the run")
  add("--device_kind", default="h200", help=f"one of {', '.join(devices.DEVICES)}")
  add("--buckets", help="FRAMESxHEIGHTxWIDTH,...; by default the recipe's, or sample.bucket if it is no such")
  add("--strides", help="pixels per latent in (time, height, width); by default the codec's or Wan 2.1's")
  add("--utilisation", type=float, default=0.4, help="assumed share of the device's peak that executed FLOPs reach")
  add("--compile", action="store_true", help="compile each executable for virtual CPU devices and compare; takes minutes")
  add("--norecipe", action="store_true", help="do not print the hours of the ten-stage recipe")
  add("--sampling", action="store_true", help="print what sampling one video needs, phase by phase, and nothing of training")
  return arguments.parse(parser, argv)


@dataclasses.dataclass(frozen=True)
class Job:
  """Flags, read and checked."""

  cfg: config.Config
  mesh: jax.sharding.Mesh
  split: workload.Split
  kind: str
  device: devices.Device
  buckets: tuple[config.BucketConfig, ...]
  strides: tuple[int, int, int]
  utilisation: float

  def rows(self, tokens: workload.Tokens) -> int:
    """Of the batch of a bucket, per device."""
    return self.cfg.data.rows(tokens.video) // self.split.batch


def prepare(cfg, *, count, kind, names, strides, utilisation) -> Job:
  """The `Job` of the flags; ValueError says what is wrong with them."""
  if count < 1:
    raise ValueError(f"--devices={count}: expected at least 1 device.")
  device = devices.device_of(kind)
  mesh = meshes.make_mesh(cfg.mesh, devices=virtual_devices(count))
  meshes.check_batch_size(mesh, cfg.data.batch_size, accumulate=cfg.train.accumulate)
  split = workload.make_split(tuple(mesh.shape.values()), cfg.model.heads, accumulate=cfg.train.accumulate)
  usual = recipe.BUCKETS if cfg.sample.bucket in recipe.BUCKETS else (cfg.sample.bucket,)
  job = Job(cfg, mesh, split, kind, device, buckets.parse(names)[::-1] if names else usual, strides_of(cfg, strides), utilisation)
  recipe.costs(cfg, device, utilisation=utilisation, strides=job.strides, stages=())
  for bucket in job.buckets:
    workload.check_split(cfg, split, tokens := tokens_of(job, bucket))
    buckets.rows(cfg.data, bucket, tokens.video)  # raises
  return job


def virtual_devices(count: int) -> list:
  """That many CPU devices; they stand for those of the run, so that the checks of meshes are the run's own."""
  if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", count)
  found = jax.devices("cpu")
  if len(found) < count:
    raise ValueError(f"--devices={count}, but XLA_FLAGS makes {len(found)} virtual devices; unset XLA_FLAGS.")
  return found[:count]


def strides_of(cfg, given) -> tuple[int, int, int]:
  """The codec's strides: as given, or of the config's codec where its channels are the model's, or of the released one."""
  if given:
    if len(given) != 3 or not all(s.isdigit() and int(s) for s in given):
      raise ValueError(f"--strides={','.join(given)}: expected three positive whole numbers (time, height, width) such as 4,8,8.")
    return tuple(map(int, given))
  return registry.own_strides(cfg) or sizes.STRIDES


def tokens_of(job: Job, bucket) -> workload.Tokens:
  """Of a sample; where some batches start from pictures, of those."""
  return workload.tokens_of(job.cfg.model, workload.latent_grid(bucket, job.strides), job.cfg.data.text_tokens,
                            registry.image_tokens(job.cfg) if bucket.frames > 1 else 0)


def head(job: Job) -> list[str]:
  """What was given and what is assumed."""
  split, device, cfg = job.split, job.device, job.cfg
  inner = split.fsdp * split.sequence
  lines = [
      f"{split.devices} x {job.kind}: {size(device.memory)}, {devices.USABLE:.0%} of it assumed usable; peak "
      f"{device.flops / 1e12:.0f} TFLOP/s bfloat16, of which executed FLOPs are assumed to reach {job.utilisation:.0%}",
      f"mesh: data {split.data} x fsdp {split.fsdp} x sequence {split.sequence} (heads {split.heads} x keys {split.keys})",
      f"batch: {cfg.data.batch_size}, {cfg.data.batch_size // split.batch} per device and step, "
      + (f"times as often as fits into {cfg.data.batch_tokens:,} video tokens, " if cfg.data.batch_tokens else "")
      + f"in {split.accumulate} microbatches",
      f"model: attention {cfg.model.attention}, remat {cfg.model.remat}, {cfg.model.dtype}; optimizer {cfg.optimizer.kind}; "
      f"{cfg.data.text_tokens} text tokens; latents {'x'.join(map(str, job.strides))} pixels",
      f"parameters: {memory.network_size(cfg):,}"
      + (f", frozen; of the adapter {sum(map(math.prod, memory.adapters(cfg).values())):,}" if cfg.adapter.rank else ""),
  ]
  if inner > device.node:
    lines.append(f"fsdp x sequence = {inner} is more than the {device.node} devices of a node: weights travel over the network"
                 + (f"; {flags} keeps them inside." if (flags := devices.within_nodes(split, device)) else "."))
  return lines


def counts_of(cfg) -> dict[str, int]:
  """Numbers in each parameter."""
  return {path: math.prod(shape) for path, shape in memory.parameters(cfg).items()}


def of_bucket(job: Job, bucket, plan) -> list[str]:
  """FLOPs, bytes, what fits and what is sent, of one executable."""
  cfg, split, tokens = job.cfg, job.split, tokens_of(job, bucket)
  rows = job.rows(tokens)
  model = flops.model_flops(cfg.model, tokens)
  parts = flops.executed(cfg, tokens, plan, split)
  # Cut like the parameters: on CPU XLA divides Newton-Schulz's products nearly evenly.
  muon = flops.muon(memory.muon_matrices(cfg)) / split.state if cfg.optimizer.kind == "muon" else 0
  work = rows * sum(part.total for part in parts.values()) + muon
  bytes_ = memory.step_bytes(cfg, tokens, plan, split, rows)
  total, usable = sum(bytes_.values()), devices.USABLE * job.device.memory
  seconds = work / (job.utilisation * job.device.flops)
  lines = [
      f"bucket {buckets.name(bucket)}: {tokens.video:,} video tokens; " + " | ".join(map(str, plan))
      + (f"; from a picture of {tokens.image:,} tokens" if tokens.image else "")
      + (f"; batch {rows * split.batch}, {rows} per device" if cfg.data.batch_tokens else ""),
      f"  FLOPs per sample: model {model.total:.4g} (attention {model.attention / model.total:.0%})",
      "  executed per sample and device: " + ", ".join(f"{name} {part.total:.3g}" for name, part in parts.items())
      + (f"; Muon {muon:.3g} a step" if muon else ""),
      f"  step: {work:.4g} FLOPs per device, {seconds:.3g} s at {job.utilisation:.0%}; in model FLOPs "
      f"{rows * model.total / split.sequence / seconds / job.device.flops:.0%} of the peak",
      *(f"  {name:<20}{size(value):>10}" for name, value in bytes_.items() if value),
      f"  {'all':<20}{size(total):>10} of {size(usable)} usable: {'fits' if total <= usable else 'DOES NOT FIT'}; "
      f"largest: {devices.dominant(bytes_)}",
      f"  largest batch per device: {devices.largest_rows(cfg, tokens, plan, split, job.device)}",
  ]
  lines.append(rematerialisation(job, tokens, plan))
  if host := memory.host_bytes(cfg, tokens, plan, split, rows):
    lines.append(f"  in the host's memory, for each device: {size(host)}")
  if total > usable:
    least = cfg.data.batch_size * max(tokens_of(job, other).video for other in job.buckets)
    change = devices.nearest_fit(cfg, tokens, plan, split, rows, job.device, least=least)
    lines.append(f"  nearest change that fits: {change or 'none known on these devices; take more, along sequence'}")
  return lines + communication(job, tokens, plan, seconds)


def rematerialisation(job: Job, tokens, plan) -> str:
  """Bytes and FLOPs of each policy, and which to take."""
  found = devices.policies(job.cfg, tokens, plan, job.split, job.rows(tokens), job.device)
  best = next((policy.name for policy in found if policy.fits), None)
  told = ", ".join(f"{p.name} {size(p.bytes)} and {p.flops / found[0].flops:.2f}" for p in found)
  flag = "" if best == job.cfg.model.remat else f": --config.model.remat={best}"
  advice = f"the fastest that fits is {best!r}{flag}" if best else "none fits"
  return f"  remat, memory and FLOPs beside the least: {told}; {advice}"


def communication(job: Job, tokens, plan, step_seconds: float) -> list[str]:
  """What a device sends, most exposed first: bytes, seconds at line rate, and how many of them nothing can hide."""
  found = exposure.rows_of(job.cfg, tokens, plan, job.split, job.rows(tokens), job.device, utilisation=job.utilisation)
  if not found:
    return []
  sent, seconds, exposed = (sum(getattr(row, name) for row in found) for name in ("sent", "seconds", "exposed"))
  lines = [f"  sent: {size(sent)} per device and step, {seconds:.3g} s at line rate ({size(job.device.link)}/s in a node, "
           f"{size(job.device.network)}/s between nodes); exposed {exposed:.3g} s, {exposed / step_seconds:.2%} of the step, "
           f"where work beside it runs at {job.utilisation:.0%}:"]
  lines += [f"    {row.what:<39}{row.count:>5} x {row.kind:<15} {size(row.sent):>8} in groups of {row.group} "
            f"{'between nodes' if row.network else 'in a node':<13}{1e3 * row.seconds:>7.3g} ms, exposed {1e3 * row.exposed:.3g}"
            for row in found if row.seconds >= SMALL * seconds]
  few = sum(row.exposed for row in found if row.seconds < SMALL * seconds)
  return [*lines, f"    messages of less than 1 % of the time each: exposed {1e3 * few:.3g} ms"]


def of_sampling(job: Job, bucket) -> list[str]:
  """Bytes of each phase of sampling one video on each part of the batch, with released weights in bfloat16."""
  tokens, usable = tokens_of(job, bucket), devices.USABLE * job.device.memory
  lines = [f"sampling a video of {buckets.name(bucket)}, both passes of guidance "
           f"{'together' if job.cfg.sample.guidance.together else 'in turn'}; bytes of a device, a phase after the other:"]
  for name, parts in sampling.phases(job.cfg, bucket, tokens, job.split, 1, weights="bfloat16").items():
    need = sampling.total(parts)
    lines.append(f"  {name:<10}{size(need):>10}, {'fits' if need <= usable else 'DOES NOT FIT'}: "
                 + ", ".join(f"{part} {size(value)}" for part, value in parts.items() if value))
    if name == "latents" and need > usable:
      change = sampling.nearest_fit(job.cfg, tokens, job.split, 1, job.device, weights="bfloat16")
      lines.append(f"  what would fit: {change or 'none known'}")
  return lines


def shardings(job: Job) -> list[str]:
  """Where the large parameters lie; the moving average and the moments lie where their parameter does."""
  counts = counts_of(job.cfg)
  small = [path for path, count in counts.items() if count < 1e-3 * sum(counts.values())]
  lines = [f"sharding of the parameters; the moving average, gradients and moments lie alike.  Left out: {len(small)} of less "
           f"than 0.1 %, together {size(4 * sum(map(counts.get, small)))}."]
  for path, shape in memory.parameters(job.cfg).items():
    if path not in small:
      spec = sharding.fitted_spec(path, shape, job.split.state)
      held = 4 * memory.held(path, shape, job.split.state)
      lines.append(f"  {path:<40}{str(shape):<24}{str(tuple(spec)):<52}{size(held):>10}")
  return lines + [f"  batch arrays (B, ...): {tuple(meshes.batch_sharding(job.mesh).spec)}; video tokens (B, L, D): "
                  f"{meshes.ACTIVATION_AXES['batch']}, {meshes.ACTIVATION_AXES['video']}; text whole along sequence"]


def of_recipe(job: Job) -> list[str]:
  """The hours of the ten stages, with every assumption."""
  found = recipe.costs(job.cfg, job.device, utilisation=job.utilisation, strides=job.strides)
  lines = [f"recipe on {job.kind}, this config's model, remat and attention; assumed: samples and the share of images (the paper "
           f"has neither), {recipe.KEEP:.0%} of tokens kept where routed, executed FLOPs at {job.utilisation:.0%} of the peak:",
           f"  {'stage':<31}{'tokens':>8}{'samples':>10}{'images':>8}{'text':>6} {'routed':<7}{'aligned':<8}{'model':>9}"
           f"{'executed':>10}{'hours':>9}"]
  for c in found:
    s, mark = c.stage, lambda on: "yes" if on else "-"
    lines.append(f"  {s.name:<31}{c.tokens:>8,}{s.samples / 1e6:>9.3g}M{s.images:>8.0%}{s.text:>6} {mark(s.routed):<7}"
                 f"{mark(s.aligned):<8}{c.model:>9.2g}{c.executed:>10.2g}{c.hours:>9,.0f}")
  hours, model, executed = (sum(column) for column in zip(*((c.hours, c.model, c.executed) for c in found)))
  return lines + [f"  all: {model:.3g} model FLOPs, {executed:.3g} executed, {hours:,.0f} hours of one {job.kind}: "
                  f"{hours / recipe.BUDGET:.0%} of the paper's {recipe.BUDGET:,}; not in it: encoding of data, validation, "
                  "failed runs"]


def compiled_lines(job: Job, bucket, plan) -> list[str]:
  """The compiler's memory, products and collectives beside the closed form's."""
  cfg = job.cfg
  if cfg.model.attention in ("cudnn", "tokamax"):  # they need a GPU
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, attention="chunked"))
  started = time.perf_counter()
  executable = compile_step(cfg, job, bucket, plan)
  seconds = time.perf_counter() - started
  tokens, text = tokens_of(job, bucket), executable.as_text()
  ours = sum(memory.step_bytes(cfg, tokens, plan, job.split, job.rows(tokens)).values())
  work = job.rows(tokens) * sum(part.total for part in flops.executed(cfg, tokens, plan, job.split).values())
  planned = compiled.memory(executable)
  sent = sum(c.sent for c in compiled.collectives(text))
  expected = sum(traffic.sent(traffic.step_traffic(cfg, tokens, plan, job.split, job.rows(tokens))).values())
  return [
      f"  compiled on CPU in {seconds:.0f} s, attention {cfg.model.attention}; bfloat16 may be computed and sent as float32",
      f"    memory: {size(planned.total)} ({size(planned.arguments)} arguments, {size(planned.temporary)} temporary); "
      f"closed form {size(ours)}",
      f"    products: {compiled.matmul_flops(text):.4g} FLOPs per device; closed form {work:.4g}, Muon's left out",
      f"    sent: {size(sent)}; closed form {size(expected)}",
      *(f"    {c.count} x {c.kind} of {size(c.bytes)} in groups of {c.group}" for c in compiled.collectives(text)[:12]),
      *(f"    buffer of {size(b.bytes)}: {b.shape[:40]} {b.op} {b.source[-80:]}" for b in compiled.largest_buffers(text, 3)),
  ]


def compile_step(cfg, job: Job, bucket, plan):
  """The training step of a bucket and plan, compiled for the job's mesh from shapes alone."""
  lowered = compiling.lowered(cfg, job.mesh, workload.latent_grid(bucket, job.strides), plan, image=tokens_of(job, bucket).image)
  return lowered.compile(compiler_options={"xla_backend_optimization_level": 0})  # of the machine code, which nobody runs


def main(argv=None) -> None:
  args = parse(argv)
  jax.config.update("jax_platforms", "cpu")
  try:
    job = prepare(config.from_config_dict(args.config), count=args.devices, kind=args.device_kind, names=args.buckets,
                  strides=args.strides and args.strides.split(","), utilisation=args.utilisation)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  print("\n".join(head(job)))
  if args.sampling:
    print("\n".join(line for bucket in job.buckets for line in of_sampling(job, bucket)))
    return
  plans = step.plans_of(job.cfg)
  for bucket in job.buckets:
    for plan in plans:
      print("\n" + "\n".join(of_bucket(job, bucket, plan)))
      if args.compile:
        print("\n".join(compiled_lines(job, bucket, plan)), flush=True)
  print("\n" + "\n".join(shardings(job)))
  print(f"\nexecutables: {len(job.buckets)} buckets x {len(plans)} plans = {len(job.buckets) * len(plans)} training steps"
        + ", and as many with telemetry" * (job.cfg.train.telemetry_every > 0) + "; launch.train counts those of its data")
  for plan, first in plans.items():
    print(f"  from step {first}: " + " | ".join(map(str, plan)))
  if not args.norecipe and set(recipe.BUCKETS) & set(job.buckets):
    print("\n" + "\n".join(of_recipe(job)))


if __name__ == "__main__":
  main()
