"""How the commands read their flags: mistakes get one line, and libraries stay quiet."""

import argparse
import difflib
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Callable

from absl import flags, logging
import jax
from ml_collections import config_flags

from motif_jax import config, program_files
from motif_jax.config import Config
from motif_jax.config_rules import CHOICES
from motif_jax.weights import digest

program_files.keep_whole()  # before anything is compiled, by every command: they share a folder, and any may be killed

# Flags of how to sample: the key of `config.sample` that each one changes, its type, and what to say of it.
SAMPLING = {
    "sampler": ("sampler", str, ", ".join(CHOICES["sample.sampler"])),
    "steps": ("steps", int, None),
    "shift": ("shift", float, "of the sampling times towards noise; from a picture the config's default is another"),
    "token_shift": ("token_shift.kind", str, "by the number of video tokens: " + ", ".join(CHOICES["sample.token_shift.kind"])),
    "sigmas": ("sigmas", str, "the sampling times themselves, such as 1,0.9,0.6"),
    "rule": ("guidance.rule", str, "of guidance: " + ", ".join(CHOICES["sample.guidance.rule"])),
    "guidance": ("guidance.scale", float, "its scale; none is 1 with classifier_free and 0 with projected"),
    "rescale": ("guidance.rescale", float, "share of the result that gets the deviation of the conditional velocity"),
    "momentum": ("guidance.momentum", float, "of projected guidance"),
    "threshold": ("guidance.threshold", float, "of projected guidance; 0: none"),
    "eta": ("guidance.eta", float, "of projected guidance: share kept of the part along the conditional velocity"),
    "interval": ("guidance.interval", str, "FROM:TO, the times in which guidance acts, such as 0.1:0.9"),
    "together": ("guidance.together", int, "1: both passes of guidance as one batch; 0: in turn, in half the memory"),
}


def parser(command: str, about: str) -> argparse.ArgumentParser:
  """The parser of `python -m COMMAND`, whose help is the docstring of its file; flags are written in full."""
  return argparse.ArgumentParser(prog=f"python -m {command}", description=about, allow_abbrev=False,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)


def add_sampling(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `SAMPLING`; what is not given is None and comes from the checkpoint's config."""
  parser.add_argument("--cache", help="a file of launch.calibrate: leaves out steps, and brings the flags that it holds for")
  for name, (_, kind, said) in SAMPLING.items():
    parser.add_argument(f"--{name}", type=kind, help=said)


def sampling(args: argparse.Namespace, cfg: Config, *, picture: bool = False) -> tuple[Config, dict]:
  """(`cfg` with those flags in it, all of them with every default filled in), for videos that start from a picture or not.

  ValueError for what cannot be.
  """
  values = config.to_dict(cfg)
  schedule = read_cache(args.cache) if args.cache else None
  given = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
  given = (schedule["holds_for"] if schedule else {}) | given
  given |= {name: kind(given[name]) for name, kind in READ.items() if name in given}
  if given.get("sigmas"):
    given = {"steps": len(given["sigmas"]) - (given["sigmas"][-1] == 0)} | given
  elif "steps" in given or "shift" in given:  # of a grid, so no longer the config's own times
    given = {"sigmas": ()} | given
  if "shift" in given:
    given = {"token_shift": "none"} | given
  settings = {}
  for name, (path, _, _) in SAMPLING.items():
    *above, key = ("image_shift" if picture and name == "shift" else path).split(".")
    section = values["sample"][above[0]] if above else values["sample"]
    section[key] = settings[name] = given.get(name, section[key])
  settings["interval"] = "{:g}:{:g}".format(*settings["interval"])
  settings["together"] = int(settings["together"])
  settings["sigmas"] = ",".join(map(str, settings["sigmas"]))
  values["sample"]["cache"] = dict(skip=(), order=1)  # exact, whatever the config says, unless the flag asks for less
  if schedule:
    other = [f"{name}={settings[name]} (it holds for {value})" for name, value in schedule["holds_for"].items()
             if settings[name] != value]
    if other:
      raise ValueError(f"--cache={args.cache} does not hold for {', '.join(other)}; leave these out, or calibrate anew.")
    values["sample"]["cache"] = dict(skip=tuple(schedule["skip"]), order=schedule["order"])
    settings["cache"] = str(pathlib.Path(args.cache).absolute())
  return config.from_config_dict(values), settings


def read_cache(file: str) -> dict:
  """What a file of launch.calibrate says."""
  try:
    said = json.loads(pathlib.Path(file).read_text())
    said["holds_for"].keys(), said["skip"], said["order"], said["error"]["latents"]
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise ValueError(f"--cache={file} is not a file that python -m launch.calibrate wrote.") from e
  return said


def read_prompts(file: str) -> list[str]:
  """The lines of --prompts that are not blank; ValueError where there is none."""
  try:
    prompts = [line.strip() for line in pathlib.Path(file).read_text().splitlines() if line.strip()]
  except (OSError, UnicodeDecodeError) as e:
    raise ValueError(f"--prompts={file} cannot be read ({e}); expected a text file with a prompt per line.") from e
  if not prompts:
    raise ValueError(f"There is no prompt in {file}, expected one per line.")
  return prompts


def cache_line(said: dict) -> str:
  """A line on what a file of launch.calibrate leaves out, and at which measured error."""
  error = said["error"]
  scores = f", score {error['scores']['all']:.1%} (exact {error['exact_scores']['all']:.1%})" if "scores" in error else ""
  return (f"{said['computed']} of {said['steps']} steps computed; against exact sampling of {error['prompts']} prompts: relative "
          f"error of latents {error['latents']:.2%}, PSNR of frames {error['psnr']:.1f} dB{scores}")


def numbers(flag: str, text: str, kind: type = float) -> list:
  """The numbers of a flag whose text has commas between them."""
  try:
    return [kind(part) for part in text.split(",")]
  except ValueError as e:
    said = "whole numbers such as 0,1,2" if kind is int else "numbers such as 0.5,1"
    raise ValueError(f"--{flag}={text}: expected {said}.") from e


def times(text: str) -> list[float]:
  """The times of the flow in --times."""
  found = numbers("times", text)
  if not all(0 <= t <= 1 for t in found):
    raise ValueError(f"--times={text}: expected times between 0 (data) and 1 (noise).")
  return found


def _sigmas(text):
  try:
    return tuple(float(part) for part in text.split(",") if part.strip())
  except ValueError as e:
    raise ValueError(f"--sigmas={text} is not a list of times that fall from 1 (noise) to 0 (data), such as 1,0.9,0.6.") from e


def _interval(text):
  try:
    low, high = map(float, text.split(":"))
  except ValueError as e:
    raise ValueError(f"--interval={text} is not FROM:TO, two times between 0 (data) and 1 (noise), such as 0.1:0.9.") from e
  return low, high


READ = {"interval": _interval, "together": bool, "sigmas": _sigmas}  # flags whose text is read further


def at_least(low: float, kind: type = int) -> Callable[[str], float]:
  """The `type` of a flag that is a number of at least `low`."""
  def read(text):
    try:
      value = kind(text)
    except ValueError:
      value = math.nan
    if not value >= low:
      raise argparse.ArgumentTypeError(f"{text!r}, expected a {'whole ' * (kind is int)}number of at least {low:g}")
    return value
  return read


def add_config(parser: argparse.ArgumentParser, *, default: str | None = None, about: str = "a file in configs/") -> None:
  """Adds --config=FILE, which `parse` reads."""
  parser.add_argument("--config", required=default is None, default=default, metavar="FILE",
                      help=f"{about}; --config.a.b=value changes one key of it")


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
  """The flags of a command with --config: there a locked ConfigDict, its keys changed by --config.a.b=value.

  ml_collections reads them, into a set that is ours alone: absl's own belongs to the process, and two commands would meet there.
  """
  args, others = parser.parse_known_args(argv)
  file = args.config.partition(":")[0]  # what follows is the argument of its get_config
  if not file.endswith(".py") or not pathlib.Path(file).is_file():
    known = ", ".join(sorted(map(str, pathlib.Path("configs").glob("[!_]*.py")))) or "none, from this folder"
    sys.exit(f"error: --config={args.config}: there is no such Python file; configs: {known}.")
  given, found = [parser.prog, f"--config={args.config}", *others], flags.FlagValues()
  config_flags.DEFINE_config_file("config", None, flag_values=found, sys_argv=given)
  try:
    _, *left = found(given)
  except flags.UnrecognizedFlagError as e:
    known = re.findall(r"--\w+", parser.format_usage())
    close = difflib.get_close_matches(f"--{e.flagname}", known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known flags: {', '.join(known)}, and --config.a.b=value."
    sys.exit(f"error: unknown flag --{e.flagname}; {hint}")
  except (AttributeError, KeyError) as e:  # of a config key, or a section, that does not exist; the message comes quoted
    if getattr(e, "name", None) == "get_config":
      sys.exit(f"error: --config={args.config} has no get_config(); expected a file like those in configs/.")
    said = str(e.args[0]).replace("\\n", "\n").replace("\\'", "'")
    sys.exit("error: no such config key: " + ". ".join(said.replace("'", "").splitlines()))
  except (flags.Error, OSError, SyntaxError, TypeError, ValueError) as e:
    sys.exit(f"error: {e}")
  if left:
    sys.exit(f"error: unknown arguments {' '.join(left)}; write --flag=value.")
  args.config = found.config
  return args


def keep_programs(folder: str | None = None) -> None:
  """Keeps compiled programs in `folder` for the next start, or where there is none in the user's cache; "none": nowhere.

  OSError where `folder` cannot be one: jax would warn, at each program, and keep none.
  What jax's own variables say (JAX_COMPILATION_CACHE_DIR, ...) stays.
  """
  if folder == "none":
    jax.config.update("jax_enable_compilation_cache", False)
    return
  if folder:
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  if folder or not jax.config.jax_compilation_cache_dir:
    jax.config.update("jax_compilation_cache_dir", folder or str(digest.cache_folder() / "programs"))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:  # 1 s by default, and a start compiles dozens of small ones
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def quiet() -> None:
  """Keeps orbax and its like, which tell of every step of a save, to errors."""
  logging.set_verbosity(logging.ERROR)
