"""Videos from prompts, with the averaged weights of a training run:

  python -m launch.sample --checkpoint=WORKDIR --prompt="a red square moves left" --output=DIR

Writes an mp4 per prompt, contact_sheet.png (a row per prompt) and, last, samples.json: all that is needed to make them again.
A sample depends on its prompt, the seed and its number alone, not on the prompts beside it.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import shlex
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from launch import arguments
from motif_jax import config, sample
from motif_jax.config import BucketConfig, Config
from motif_jax.data import buckets, extract, videos
from motif_jax.train import checkpoint

COLUMNS, ROWS = 8, 16  # of the contact sheet
ROLES = ("codec", "text", "image")  # of the encoders that sampling needs
NAME_LENGTH = 40  # characters of the prompt in a file's name


class Job(NamedTuple):
  """A checked request, ready to run."""

  cfg: Config
  params: dict
  codec: Any
  text: Any
  prompts: list[str]
  bucket: BucketConfig
  settings: dict  # the flags that decide the result, with every default filled in
  first_frame: jax.Array | None  # (1, levels, H, W, C)
  image: jax.Array | None  # (1, I, image_dim)
  output: pathlib.Path


def parse(argv=None) -> argparse.Namespace:
  """The flags; what is not given is None and comes from the checkpoint's config."""
  parser = argparse.ArgumentParser(prog="python -m launch.sample", description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add("--checkpoint", required=True, help="work directory of a training run, or the folder of one of its checkpoints")
  add("--prompt", action="append", default=[], help="may be given several times")
  add("--prompts", help="a text file with a prompt per line")
  add("--output", help="folder of the results; by default one in the work directory")
  add("--seed", type=int, default=0)
  add("--index", type=int, default=0, help="number of the first prompt: with --index=3, the fourth of a list comes out alone")
  arguments.add_sampling(parser)
  add("--bucket", help="FRAMESxHEIGHTxWIDTH in pixels, such as 9x32x32")
  add("--image", help="a picture or video file whose first frame the videos start from (image-to-video)")
  add("--batch", type=int, default=4, help="videos made at once")
  for role in ROLES:
    add(f"--{role}_weights", help=f"folder of the {role} encoder's weights, where it is not the one of the training run")
  return parser.parse_args(argv)


def main(argv=None) -> None:
  arguments.quiet()
  try:
    job = prepare(parse(argv))
  except (ValueError, OSError) as e:
    sys.exit(f"error: {e}")
  made = run(job)
  print(f"wrote {len(made['samples'])} videos, {made['contact_sheet']} and samples.json to {job.output}")


def prepare(args: argparse.Namespace) -> Job:
  """The `Job` that the flags ask for; ValueError for what cannot be."""
  prompts = read_prompts(args.prompt, args.prompts)
  folder, step = checkpoint.find(args.checkpoint)
  cfg, params = checkpoint.restore_for_sampling(folder / str(step))
  moved = {role: getattr(args, f"{role}_weights") for role in ROLES if getattr(args, f"{role}_weights") is not None}
  weights = dataclasses.replace(cfg.encoders.weights, **moved)
  cfg = dataclasses.replace(cfg, encoders=dataclasses.replace(cfg.encoders, weights=weights))
  codec, text = sample.encoders_of(cfg)
  bucket = one_bucket(args.bucket) if args.bucket else cfg.sample.bucket
  settings = dict(checkpoint=str(folder / str(step)), seed=args.seed, index=args.index, batch=args.batch,
                  bucket=buckets.name(bucket))
  cfg, how = arguments.sampling(args, cfg)
  settings |= how
  settings |= {f"{role}_weights": str(pathlib.Path(path).absolute()) for role, path in moved.items()}
  if args.image:
    settings["image"] = str(pathlib.Path(args.image).absolute())
  if args.batch < 1 or args.index < 0:
    raise ValueError(f"--batch={args.batch} --index={args.index}: expected at least 1 video at once and no negative number.")
  sample.latent_grid(cfg, codec, bucket)
  first_frame, image = encode_image(args.image, bucket, codec, sample.image_encoder_of(cfg)) if args.image else (None, None)
  if args.image and not cfg.data.image_to_video:
    print("note: data.image_to_video was 0, so this model was never trained to start from a picture")
  output = pathlib.Path(args.output) if args.output else folder.parent / "samples" / f"step-{step}-seed-{args.seed}"
  return Job(cfg, params, codec, text, prompts, bucket, settings, first_frame, image, output)


def one_bucket(text: str) -> BucketConfig:
  """The bucket that `text` names."""
  found = buckets.parse(text)
  if len(found) > 1:
    raise ValueError(f"--bucket={text} names {len(found)} buckets; all videos of a run have one size.")
  return found[0]


def read_prompts(given: list[str], file: str | None) -> list[str]:
  """The prompts of --prompt and then of the lines of --prompts, blank ones left out."""
  lines = pathlib.Path(file).read_text().splitlines() if file else []
  prompts = [prompt.strip() for prompt in (*given, *lines) if prompt.strip()]
  if not prompts:
    where = f" in {file}" if file else ""
    raise ValueError(f'There is no prompt{where}; pass --prompt="..." or --prompts=FILE with a prompt per line.')
  return prompts


def encode_image(file: str, bucket: BucketConfig, codec, encoder) -> tuple[jax.Array, jax.Array | None]:
  """Latents (1, levels, H, W, C) of the first frame of `file`, at the blur levels of training, and its tokens (1, I, dim)."""
  frame = extract.signed(videos.read_clip(file, BucketConfig(1, bucket.height, bucket.width)))  # (1, H, W, 3)
  encode = jax.jit(lambda encoder, pixels: encoder.encode(pixels))
  latents = jnp.swapaxes(encode(codec, jnp.swapaxes(extract.blurred(frame), 0, 1)), 0, 1)
  return latents, None if encoder is None else encode(encoder, frame)


def run(job: Job) -> dict:
  """What samples.json says, after writing it and all that it speaks of."""
  job.output.mkdir(parents=True, exist_ok=True)
  (job.output / "samples.json").unlink(missing_ok=True)  # of an earlier run, whose videos are about to be replaced
  files, rows, began = [], [], time.perf_counter()
  for frames in generate(job):
    files.append(f"{job.settings['index'] + len(files):04d}-{file_name(job.prompts[len(files)])}.mp4")
    videos.write_mp4(job.output / files[-1], frames, fps=job.cfg.sample.fps)
    if len(rows) < ROWS:
      rows.append(frames[np.unique(np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int))])
    print(f"{len(files)} of {len(job.prompts)} videos after {time.perf_counter() - began:.1f} s: {job.output / files[-1]}")
  videos.write_contact_sheet(job.output / "contact_sheet.png", rows, columns=COLUMNS)
  made = describe(job, files)
  with videos.replacing(job.output / "samples.json") as temporary:
    temporary.write_text(json.dumps(made, indent=1))
  return made


def generate(job: Job):
  """Yields the frames, uint8 (F, H, W, 3), of one prompt after another."""
  tokens = job.cfg.data.text_tokens
  for prompt, features in zip(job.prompts, job.text.encode(job.prompts)):
    if len(features) > tokens:
      print(f"note: {prompt!r} has {len(features)} text tokens; what goes beyond {tokens} is not seen")
  yield from sample.videos_of(
      job.params, job.cfg, job.codec, job.text, job.prompts, key=jax.random.key(job.settings["seed"]),
      batch=job.settings["batch"], grid=sample.latent_grid(job.cfg, job.codec, job.bucket), index=job.settings["index"],
      first_frame=job.first_frame, image=job.image)


def describe(job: Job, files: list[str]) -> dict:
  """All that is needed to make the videos again."""
  flags = [*(f"--{k}={v}" for k, v in job.settings.items()), *(f"--prompt={prompt}" for prompt in job.prompts)]
  first = job.settings["index"]
  return dict(
      command=shlex.join(["python", "-m", "launch.sample", *flags]),
      settings=job.settings,
      step=int(pathlib.Path(job.settings["checkpoint"]).name),
      samples=[dict(file=f, prompt=p, index=first + i) for i, (f, p) in enumerate(zip(files, job.prompts))],
      contact_sheet="contact_sheet.png",
      fps=job.cfg.sample.fps,
      encoders={kind: dict(name=e.name, version=e.version) for kind, e in (("codec", job.codec), ("text", job.text))},
      versions=dict(python=platform.python_version(), **{p: importlib.metadata.version(p) for p in ("jax", "flax", "numpy")}),
      device=jax.devices()[0].device_kind,
      config=config.to_dict(job.cfg),
  )


def file_name(prompt: str) -> str:
  """The beginning of `prompt` in lower-case letters, digits and dashes."""
  words = "".join(c if c.isascii() and c.isalnum() else " " for c in prompt.lower()).split()
  return "-".join(words)[:NAME_LENGTH].strip("-") or "prompt"


if __name__ == "__main__":
  main()
