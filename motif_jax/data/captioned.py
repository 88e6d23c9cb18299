"""What the embedded data sets share: even draws of what clips may show, and folders of rendered clips with their captions."""

from collections.abc import Callable, Sequence
from concurrent import futures
import json
import pathlib

import numpy as np

from motif_jax.data import videos


def spread(shown: Sequence, count: int, rng: np.random.Generator) -> list:
  """`count` of what clips may show, as evenly as can be: each pass over all of it is shuffled anew."""
  turns = [rng.permutation(len(shown)) for _ in range(-(-count // len(shown)))]
  return [shown[i] for i in np.concatenate(turns)[:count]]


def write_folder(path, shown: Sequence, count: int, render: Callable, captions: Callable, *, seed: int, fps: int) -> pathlib.Path:
  """The folder `path`, filled with `count` H.264 clips and captions.jsonl; clip i depends on (seed, i) alone.

  `shown` is what clips may show: each pass over it is shuffled anew, so that any `count` covers it evenly.  `render(one, rng)`
  gives the frames of a clip, `captions(one, rng)` its captions by their column.
  """
  path = pathlib.Path(path)
  path.mkdir(parents=True, exist_ok=True)
  turns = [np.random.default_rng([seed, 0, turn]).permutation(len(shown)) for turn in range(-(-count // len(shown)))]

  def write(i):
    turn, place = divmod(i, len(shown))
    one, rng, name = shown[turns[turn][place]], np.random.default_rng([seed, 1, i]), f"clip_{i:06d}.mp4"
    videos.write_mp4(path / name, render(one, rng), fps=fps)
    return json.dumps({"file": name, **captions(one, rng)})

  with futures.ThreadPoolExecutor() as pool:  # each file waits for the disk; threads wait side by side
    lines = list(pool.map(write, range(count)))
  (path / "captions.jsonl").write_text("\n".join(lines) + "\n")
  return path
