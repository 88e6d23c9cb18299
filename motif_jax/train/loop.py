"""Training from a config and a folder: data, mesh, state, and then steps until the last one or an interrupt.

The interesting part is `run`.  It knows no data set: batches come from a function.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from motif_jax import endings, mesh as meshes, sharding
from motif_jax.budget import throughput
from motif_jax.config import Config
from motif_jax.data import buckets, dataset as datasets, pipeline
from motif_jax.encoders import registry
from motif_jax.model import routing
from motif_jax.train import checkpoint, metrics, programs, retention, telemetry
from motif_jax.train.evaluate import make_validation_step, validate
from motif_jax.train.guard import Guard
from motif_jax.train.interrupt import Interrupt
from motif_jax.train.losses import token_grid
from motif_jax.train.optimizer import make_optimizer
from motif_jax.train.previews import Judge, Previews
from motif_jax.train.report import Report, say
from motif_jax.train.state import TrainState, abstract_state, init_state, network
from motif_jax.train.step import make_train_step, plan_at
from motif_jax.train.watchdog import Watchdog


@dataclasses.dataclass(frozen=True)
class Job:
  """All that a run needs."""

  cfg: Config
  workdir: str
  mesh: Mesh
  optimizer: Any  # an optax.GradientTransformation
  batches: Callable[[int], Iterator]  # step -> iterator of (bucket, host batch) from that step on
  held_out: Sequence = ()  # (bucket, host batch) pairs for validation
  lost: Mapping[str, str] = dataclasses.field(default_factory=dict)  # name -> why, of records that `batches` could not read
  previews: Callable | None = None  # EMA parameters -> {name: video (F, H, W, 3) uint8}
  frozen: dict | None = None  # the network that an adapter is trained on
  judge: Callable | None = None  # EMA parameters -> {name: score}
  start: Callable | None = None  # () -> (state, `partial.Changes`), where there is no checkpoint yet; None: random weights
  text_empty: np.ndarray | None = None  # (1, text_dim), the features of a dropped caption
  programs: Callable | None = None  # step -> the `programs.Program`s that a run from there compiles


def train(cfg: Config, workdir: str) -> TrainState:
  """The state after training; goes on from the newest checkpoint in `workdir` if there is one."""
  return run(prepare(cfg, workdir))


def prepare(cfg: Config, workdir: str, *, dataset: datasets.Dataset | None = None) -> Job:
  """The `Job` of a config.  What a user can get wrong is a ValueError here, and not in `run`.

  `dataset`: one that is at hand, in the place of `data.path`.
  """
  mesh = meshes.make_mesh(cfg.mesh)
  meshes.check_batch_size(mesh, cfg.data.batch_size, accumulate=cfg.train.accumulate)
  checkpoint.check_architecture(workdir, cfg)
  dataset = dataset or datasets.open_data(cfg.data)
  datasets.check_encoders(dataset.meta, cfg, encoders=registry.announced(cfg.encoders))
  for part in dataset.meta.parts:
    check_bucket(cfg, mesh, buckets.name(part.bucket), part.spec.grid)
  optimizer = make_optimizer(cfg.optimizer, steps=cfg.train.steps)
  abstract_state(cfg, optimizer)  # raises where a pattern of the optimizer fits no parameter
  index, count = meshes.batch_share(mesh)
  lost: dict[str, str] = {}
  share = dict(process_index=index, process_count=count)
  held_out = pipeline.validation_batches(cfg.data, dataset, count=cfg.train.validation_batches, **share)
  return Job(
      cfg, workdir, mesh, optimizer,
      batches=lambda step: pipeline.batches(cfg.data, dataset, seed=cfg.seed, start_step=step, patch=cfg.model.patch,
                                            lost=lost, **share),
      lost=lost,
      held_out=held_out,
      previews=Previews(cfg, mesh) if cfg.sample.prompts else None, judge=Judge(cfg, mesh) if cfg.train.judge else None,
      frozen=checkpoint.restore_base(cfg, mesh) if cfg.adapter.rank else None,
      text_empty=np.asarray(dataset.meta.text_empty, np.float32),
      programs=lambda start: programs.of_run(cfg, dataset, [bucket for bucket, _ in held_out], start=start),
  )


def check_bucket(cfg: Config, mesh: Mesh, name: str, latent_grid: tuple[int, int, int]) -> None:
  """Raises ValueError unless the video tokens of a bucket divide by the patch, the sequence degree and the route's groups."""
  if any(size % p for size, p in zip(latent_grid, cfg.model.patch)):
    raise ValueError(f"bucket {name} has a latent grid of {latent_grid}, which does not divide by model.patch {cfg.model.patch}.")
  length, degree = math.prod(token_grid(cfg, (0, *latent_grid))), mesh.shape["sequence"]
  if length % degree:
    raise ValueError(f"bucket {name} has {length} video tokens, which do not divide by mesh.sequence = {degree}.")
  if cfg.route.keep < 1:
    routing.kept_per_group(length, cfg.route.keep, cfg.route.groups)
    if cfg.route.groups % degree:
      raise ValueError(f"route.groups {cfg.route.groups} is not a multiple of mesh.sequence = {degree}; the nearest are "
                       f"{max(cfg.route.groups // degree, 1) * degree} and {(cfg.route.groups // degree + 1) * degree}.")


def run(job: Job, *, heartbeat: str | None = None) -> TrainState:
  """The state after the last step, or after an interrupt; saved in the work directory either way.

  A step is done or not: its microbatches are one compiled call, and an interrupt is looked at behind it.  So a run that goes on
  has the parameters, the optimizer, the position in the data and the merged metrics of one that was never interrupted.

  `heartbeat`: see `Watchdog`.
  """
  cfg, mesh, optimizer = job.cfg, job.mesh, job.optimizer
  abstract = abstract_state(cfg, optimizer)
  steps = {}  # by plan and whether they measure closely, each compiled when it is first needed
  seen = set()  # (plan, whether closely, bucket, image tokens) that were compiled
  with endings.of_disk(job.workdir), contextlib.ExitStack() as stack:
    watchdog = stack.enter_context(Watchdog(cfg.train.stall_seconds, heartbeat))
    manager = stack.enter_context(checkpoint.make_manager(job.workdir, cfg.train))
    interrupt = stack.enter_context(Interrupt(mesh))
    state = _newest(job, manager, abstract)
    step = int(state.step)
    beside = checkpoint.beside(manager, step)
    writer = stack.enter_context(contextlib.closing(metrics.Writer(job.workdir, since=step)))
    foretold = [programs.line(job.programs(step))] if job.programs and step < cfg.train.steps else []
    say(*describe(cfg, mesh, abstract, job.frozen), *foretold, f"from step {step} to {cfg.train.steps} in {job.workdir}")
    source = job.batches(step)
    stack.callback(lambda: source.close())  # whichever it is by then
    guard = Guard(cfg.train, left_out=beside.get("left_out", ()))
    report = Report(cfg, writer, guard, lost=job.lost, peak=throughput.peak_of(mesh.devices.flat[0].device_kind),
                    saved=beside.get("metrics", {}))
    save = _saving(job, writer, manager, guard, report)
    tasks = [*_tasks(job, writer), (cfg.train.save_every, save)]
    if not beside.get("attended", True):  # an interrupt left them to this run
      _attend(tasks, step, state, report, watchdog, stop=cfg.train.steps)
    interrupted = False
    if job.start and job.held_out and not step:  # what the stage starts from, to hold against what the last one ended with
      tasks[0][1](0, state)
    while step < cfg.train.steps:
      plan = plan_at(cfg, step)
      closely = cfg.train.telemetry_every > 0 and (step + 1) % cfg.train.telemetry_every == 0
      if (plan, closely) not in steps:
        how = telemetry.closely(job.text_empty) if closely else telemetry.LIGHTLY
        steps[plan, closely] = make_train_step(cfg, mesh, optimizer, plan=plan, frozen=job.frozen, **how)
      with report.waiting():
        bucket, batch = next(source)
      image = batch["image"].shape[1] if "image" in batch else 0
      watchdog.beat(slow=(plan, closely, bucket, image) not in seen)
      seen.add((plan, closely, bucket, image))
      state, measured = steps[plan, closely](state, meshes.global_batch(mesh, batch))
      report.add(step + 1, bucket, measured, throughput.step_work(cfg, batch["latents"].shape[1:4], batch["text"].shape[1], plan,
                                                                  tuple(mesh.shape.values()), image=image))
      checkpoint.check(manager)  # to hear of a full disk now, and not at the next save
      interrupted = interrupt.agreed()
      if interrupted:
        break
      if guard.calls():
        watchdog.beat(slow=True)
        state = None  # there is memory for one
        manager.wait_until_finished()
        state = guard.moved(_newest(job, manager, abstract))
        checkpoint.save(manager, state, cfg, beside={"left_out": guard.left_out})
        say(guard.said())
        report.forget()
        source.close()
        step = int(state.step)
        source = job.batches(step)
        continue
      step += 1
      _attend(tasks, step, state, report, watchdog, stop=cfg.train.steps)
    watchdog.beat(slow=True)
    report.flush()
    if not interrupted:
      say(f"done: step {step} is saved in {job.workdir}")
    elif guard.streak:
      say("interrupted: " + guard.unsaved(int(state.step)))
    else:
      save(step := int(state.step), state, attended=False)
      say(f"interrupted: step {step} is saved in {job.workdir}")
  return state


def _newest(job, manager, abstract) -> TrainState:
  """The state of the newest checkpoint, or a new one where there is none."""
  state = checkpoint.restore(manager, abstract, job.cfg, job.mesh)
  if state is not None:
    return state
  if job.start:
    state, changes = job.start()
    say(*changes.lines())
    return state
  weights = checkpoint.restore_start(manager, job.cfg, job.mesh)
  return init_state(jax.random.key(job.cfg.seed), job.cfg, job.mesh, job.optimizer, weights)


def _attend(tasks, step, state, report, watchdog, *, stop):
  """What is due after `step`, with the clock of training stopped."""
  for every, task in tasks:
    if step % every == 0 or step == stop:
      watchdog.beat(slow=True)
      with report.pause():
        task(step, state)


def _saving(job, writer, manager, guard, report) -> Callable:
  """(step, state) -> None, which saves; `attended=False` where what else is due after that step has not been done."""

  def save(step, state, *, attended=True):
    if guard.streak and step < job.cfg.train.steps:
      say(guard.unsaved(step))
      return
    began, figures = time.perf_counter(), writer.figures(step)
    beside = {"metrics": report.state(), "attended": attended, "left_out": guard.left_out}
    if checkpoint.save(manager, state, job.cfg, figures=figures, beside=beside):
      writer.scalars(step, {"blocked_seconds": time.perf_counter() - began}, prefix="checkpoint")
    if said := retention.unknown(figures, job.cfg.train):
      say(said)

  return save


def _tasks(job, writer) -> list[tuple[int, Callable]]:
  """(every how many steps, (step, state) -> None) of what looks at the model while it is trained."""
  cfg = job.cfg
  validation_step = make_validation_step(cfg, job.mesh)

  averaged = lambda state: network(cfg, state.ema, job.frozen)

  def validation(step, state):
    values = validate(validation_step, averaged(state), job.held_out, job.mesh)
    writer.scalars(step, values, prefix="validation")
    say(f"step {step}/{cfg.train.steps}  validation loss {values['loss']:.4g}")

  def samples(step, state):
    writer.clips(step, job.previews(averaged(state)), fps=cfg.sample.fps)

  def judge(step, state):
    scores = job.judge(averaged(state))
    writer.scalars(step, scores, prefix="judge")
    say(f"step {step}/{cfg.train.steps}  judged " + "  ".join(f"{name} {value:.0%}" for name, value in scores.items()))

  tasks = [(cfg.train.validate_every, validation)] if job.held_out else []
  tasks += [(cfg.train.sample_every, samples)] if job.previews else []
  tasks += [(cfg.train.sample_every, judge)] if job.judge else []
  return tasks


def describe(cfg: Config, mesh: Mesh, state: TrainState, frozen: dict | None = None) -> list[str]:
  """What is about to run, in lines: mesh, plan, parameters by part, batch and state per device."""
  size = lambda tree: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
  parts = state.params["model"] | {name: tree for name, tree in state.params.items() if name != "model"}
  held = sharding.bytes_per_device(state, sharding.state_shardings(state, mesh))
  axes = ", ".join(f"{name} {count}" for name, count in mesh.shape.items())
  nodes = meshes.nodes_of(mesh)
  return [
      f"mesh: {axes}, of {mesh.devices.size} {mesh.devices.flat[0].device_kind} device(s) in {jax.process_count()} process(es) "
      f"on {nodes} node(s)",
      *(["mesh: fsdp and sequence reach across nodes, so weights and tokens travel the slow network in every block"]
        if meshes.crosses_nodes(mesh) else []),
      "plan: " + " | ".join(map(str, plan_at(cfg, 0))),
      *(f"parameters: {size(tree):>13,} {name}" for name, tree in parts.items()),
      f"parameters: {size(state.params):>13,} in all",
      *([f"parameters: {size(frozen):>13,} frozen, of {cfg.adapter.base}"] if frozen else []),
      f"batch: {cfg.data.batch_size}, {cfg.data.batch_size // meshes.degree(mesh, 'batch')} per device"
      + (f" in {cfg.train.accumulate} microbatches" if cfg.train.accumulate > 1 else "")
      + (f", times as often as fits into {cfg.data.batch_tokens} tokens" if cfg.data.batch_tokens else ""),
      f"state: {held / 1e9:.3g} GB per device (weights, average, optimizer)",
  ]
