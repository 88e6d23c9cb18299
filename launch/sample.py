"""Videos from prompts, with the averaged weights of a training run, or with released ones:

  python -m launch.sample --checkpoint=WORKDIR --prompt="a red square moves left" --output=DIR
  python -m launch.sample --weights=FOLDER --prompts=FILE --output=DIR [--image=PICTURE]

Writes an mp4 per prompt, contact_sheet.png (a row per prompt) and, last, samples.json: all that is needed to make them again.
With --previews=K it says after each step how long the rest takes, and shows every K steps where they lead, in NAME.steps.png.
A sample depends on its prompt, the seed and its number alone, up to rounding, not on the prompts beside it nor on the devices; so
the same command goes on where it was stopped.  First all prompts are encoded, then all latents made, then all frames, so that the
devices hold one model at a time; encoded prompts and latents wait on disk, in OUTPUT/prompts and OUTPUT/latents.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import shlex
import shutil
import sys
import time
from typing import NamedTuple

import jax
import numpy as np

from launch import arguments, model
from motif_jax import config, mesh as meshes, sample, stepwise
from motif_jax.data import buckets, videos
from motif_jax.encoders import registry
from motif_jax.pipeline import Pipeline
from motif_jax.train import metrics

REQUEST = "request.json"  # what the videos of a folder were asked to be, as long as some are missing too
LATENTS = "latents"  # folder of what is sampled and not decoded yet
COLUMNS, ROWS = 8, 16  # of the contact sheet
ROLES = ("codec", "text", "image")  # of the encoders that sampling needs
NAME_LENGTH = 40  # characters of the prompt in a file's name


class Job(NamedTuple):
  """A checked request, ready to run."""

  pipe: Pipeline
  prompts: list[str]
  settings: dict  # the flags that decide the result, with every default filled in
  output: pathlib.Path
  again: bool  # make what is there already once more
  previews: int  # steps between them; 0: none, and the whole walk in one program


def parse(argv=None) -> argparse.Namespace:
  """The flags; what is not given is None and comes from the checkpoint's config."""
  parser = arguments.parser("launch.sample", __doc__)
  add = parser.add_argument
  model.add_flags(parser)
  add("--prompt", action="append", default=[], help="may be given several times")
  add("--prompts", help="a text file with a prompt per line")
  add("--output", help="folder of the results; by default one in the work directory")
  add("--seed", type=int, default=0)
  add("--index", type=int, default=0, help="number of the first prompt: with --index=3, the fourth of a list comes out alone")
  arguments.add_sampling(parser)
  add("--bucket", help="FRAMESxHEIGHTxWIDTH in pixels, such as 9x32x32")
  add("--image", help="a picture or video file whose first frame the videos start from (image-to-video)")
  add("--batch", type=int, default=4, help="videos made at once; rounded up to what the mesh deals evenly")
  add("--previews", type=int, default=0, help="steps between previews of the videos while they are made; 0: none")
  add("--prompt_cache", help="folder of encoded prompts, by default in --output")
  add("--again", action="store_true", help="make all videos, also those that an earlier run of this command has left")
  for role in ROLES:
    add(f"--{role}_weights", help=f"folder of the {role} encoder's weights, where it is not the one of the training run")
  return parser.parse_args(argv)


def main(argv=None) -> None:
  arguments.quiet()
  arguments.keep_programs()
  try:
    job = prepare(parse(argv))
    made = run(job)
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  print(f"wrote {len(made['samples'])} videos, {made['contact_sheet']} and samples.json to {job.output}")


def prepare(args: argparse.Namespace) -> Job:
  """The `Job` that the flags ask for; ValueError for what cannot be."""
  prompts = read_prompts(args.prompt, args.prompts)
  if args.batch < 1 or args.index < 0 or args.previews < 0:
    raise ValueError(f"--batch={args.batch} --index={args.index} --previews={args.previews}: expected at least 1 video at once "
                     "and no negative number.")
  pipe, source = model.find(args)
  cfg = pipe.cfg
  moved = {role: getattr(args, f"{role}_weights") for role in ROLES if getattr(args, f"{role}_weights") is not None}
  weights = dataclasses.replace(cfg.encoders.weights, **moved)
  cfg = dataclasses.replace(cfg, encoders=dataclasses.replace(cfg.encoders, weights=weights))
  cfg, how = arguments.sampling(args, cfg, picture=args.image is not None)
  bucket = buckets.one(args.bucket) if args.bucket else cfg.sample.bucket
  output = pathlib.Path(args.output) if args.output else default_output(source, args.seed)
  pipe = dataclasses.replace(pipe, cfg=dataclasses.replace(cfg, sample=dataclasses.replace(cfg.sample, bucket=bucket)),
                             cache=pathlib.Path(args.prompt_cache or output / "prompts"))
  pipe.grid(bucket)  # raises
  parts = meshes.degree(pipe.mesh, "batch")
  batch = -(-args.batch // parts) * parts
  settings = source | dict(seed=args.seed, index=args.index, batch=batch, bucket=buckets.name(bucket)) | how
  settings |= {f"{role}_weights": str(pathlib.Path(path).absolute()) for role, path in moved.items()}
  if args.image:
    settings["image"] = str(pathlib.Path(args.image).absolute())
    videos.probe(args.image)  # raises
  if args.image and not cfg.data.image_to_video:
    print("note: data.image_to_video was 0, so this model was never trained to start from a picture")
  elif args.image and args.checkpoint and cfg.encoders.image != "none" and not cfg.data.image_tokens:
    print("note: data.image_tokens was off, so this model makes of a picture's tokens what it had learned before, if anything")
  return Job(pipe, prompts, settings, output, args.again, args.previews)


def default_output(source: dict, seed: int) -> pathlib.Path:
  """Beside the checkpoints of a run; for released weights where the command runs."""
  if "checkpoint" not in source:
    return pathlib.Path("samples") / f"seed-{seed}"
  path = pathlib.Path(source["checkpoint"])
  return path.parent.parent / "samples" / f"step-{path.name}-seed-{seed}"


def read_prompts(given: list[str], file: str | None) -> list[str]:
  """The prompts of --prompt and then of the lines of --prompts, blank ones left out."""
  prompts = [prompt.strip() for prompt in given if prompt.strip()] + (arguments.read_prompts(file) if file else [])
  if not prompts:
    raise ValueError('There is no prompt; pass --prompt="..." or --prompts=FILE with a prompt per line.')
  return prompts


def run(job: Job) -> dict:
  """What samples.json says, after writing it and all that it speaks of; files that an earlier run left are kept."""
  files = [f"{job.settings['index'] + i:04d}-{file_name(prompt)}.mp4" for i, prompt in enumerate(job.prompts)]
  made, waiting = describe(job, files), job.output / LATENTS
  missing = [i for i, file in enumerate(files) if not (job.output / file).exists()]
  if job.again or not asked_before(job.output, made):
    missing = list(range(len(files)))
    shutil.rmtree(waiting, ignore_errors=True)
  waiting.mkdir(parents=True, exist_ok=True)
  (job.output / "samples.json").unlink(missing_ok=True)  # until all of it is true
  write_json(job.output / REQUEST, made)
  if len(missing) < len(files):
    print(f"{len(files) - len(missing)} of {len(files)} videos are there from an earlier run")
  if "cache" in made:
    print(f"inexact: {arguments.cache_line(made['cache'])}", flush=True)
  sample_latents(job, [i for i in missing if not (waiting / f"{i}.npy").exists()], files)
  began = time.perf_counter()
  latents = (np.load(waiting / f"{i}.npy") for i in missing)
  for done, (i, frames) in enumerate(zip(missing, job.pipe.frames(latents, batch=job.settings["batch"])), start=1):
    videos.write_mp4(job.output / files[i], frames, fps=job.pipe.cfg.sample.fps)
    tell(f"{done} of {len(missing)} videos", done, len(missing), began, job.output / files[i])
  rows = [videos.read_clip(job.output / file, job.pipe.cfg.sample.bucket) for file in files[:ROWS]]
  videos.write_contact_sheet(job.output / "contact_sheet.png", rows, columns=COLUMNS)
  write_json(job.output / "samples.json", made)
  (job.output / REQUEST).unlink()
  shutil.rmtree(waiting)
  return made


def sample_latents(job: Job, numbers: list[int], files: list[str]) -> None:
  """Writes the latents of the prompts of these numbers, a file each."""
  if not numbers:
    return
  for prompt in job.prompts:
    if unseen := job.pipe.unseen(prompt):
      print(f"note: {file_name(prompt)}... has more than {job.pipe.cfg.data.text_tokens} text tokens; not seen: {unseen!r}")
  texts = job.pipe.texts(job.prompts)
  given = job.pipe.picture(job.settings["image"]) if "image" in job.settings else {}
  make = stepwise.watched(Previews(job, files)) if job.previews else sample.generate
  began = time.perf_counter()
  made = job.pipe.latents(texts, numbers, seed=job.settings["seed"], batch=job.settings["batch"], first=job.settings["index"],
                          make=make, **given)
  for done, (i, latents) in enumerate(zip(numbers, made), start=1):
    with videos.replacing(job.output / LATENTS / f"{i}.npy") as file, open(file, "wb") as opened:
      np.save(opened, latents)
    tell(f"latents of {done} of {len(numbers)}", done, len(numbers), began, files[i])


def tell(what: str, done: int, of: int, began: float, file) -> None:
  took = time.perf_counter() - began
  print(f"{what} after {metrics.duration(took)}, {metrics.duration(took / done * (of - done))} left: {file}", flush=True)


def asked_before(output: pathlib.Path, made: dict) -> bool:
  """Whether an earlier run into this folder was asked for the same."""
  said = next((output / name for name in (REQUEST, "samples.json") if (output / name).exists()), None)
  try:
    return said is not None and json.loads(said.read_text()) == json.loads(json.dumps(made))
  except ValueError:  # no JSON, so not of this command
    return False


def write_json(path: pathlib.Path, value: dict) -> None:
  with videos.replacing(path) as temporary:
    temporary.write_text(json.dumps(value, indent=1))


class Previews:
  """Watches videos being made: says after each step how long the rest takes, and shows every so many steps where it leads."""

  def __init__(self, job: Job, files: list[str]):
    self._job, self._files = job, files
    self._codec, = registry.named(job.pipe.cfg.encoders, ("codec",), mesh=job.pipe.mesh)
    self._shown, self._began = [], 0.0

  def __call__(self, step: stepwise.Step, indices: list[int]) -> None:
    jax.block_until_ready(step.x)
    if step.number == 1:  # which also took the time to compile
      self._shown, self._began = [], time.perf_counter()
    else:
      left = (time.perf_counter() - self._began) / (step.number - 1) * (step.of - step.number)
      print(f"  step {step.number} of {step.of}, {metrics.duration(left)} left for these {len(set(indices))} videos", flush=True)
    if step.number % self._job.previews == 0 or step.number == step.of:
      self._shown.append(stepwise.preview(self._codec, step.data))
      for i, rows in zip(indices, zip(*self._shown)):
        file = self._job.output / self._files[i - self._job.settings["index"]]
        videos.write_contact_sheet(file.with_suffix(".steps.png"), rows, columns=COLUMNS)


def describe(job: Job, files: list[str]) -> dict:
  """All that is needed to make the videos again."""
  flags = [*(f"--{k}={v}" for k, v in job.settings.items()), *(f"--prompt={prompt}" for prompt in job.prompts)]
  first = job.settings["index"]
  step = {"step": int(pathlib.Path(job.settings["checkpoint"]).name)} if "checkpoint" in job.settings else {}
  return dict(
      command=shlex.join(["python", "-m", "launch.sample", *flags]),
      settings=job.settings,
      **step,
      samples=[dict(file=f, prompt=p, index=first + i) for i, (f, p) in enumerate(zip(files, job.prompts))],
      contact_sheet="contact_sheet.png",
      fps=job.pipe.cfg.sample.fps,
      **({"cache": arguments.read_cache(job.settings["cache"])} if "cache" in job.settings else {}),
      encoders={role: dict(name=e.name, version=e.version) for role in ("codec", "text") if (e := job.pipe.announced[role])},
      versions=dict(python=platform.python_version(), **{p: importlib.metadata.version(p) for p in ("jax", "flax", "numpy")}),
      device=jax.devices()[0].device_kind,
      config=config.to_dict(job.pipe.cfg),
  )


def file_name(prompt: str) -> str:
  """The beginning of `prompt` in lower-case letters, digits and dashes."""
  words = "".join(c if c.isascii() and c.isalnum() else " " for c in prompt.lower()).split()
  return "-".join(words)[:NAME_LENGTH].strip("-") or "prompt"


if __name__ == "__main__":
  main()
