"""Who may import whom (docs/map.md).  Reads the sources with `ast`; imports nothing of ours but tests/conftest.

Where one of these tests fails, the import stands on the wrong floor: move the function, not the line in the tables below.
"""

import ast
import fnmatch
import functools
import gc
import pathlib
import sys

import pytest

from tests import conftest

ROOT = pathlib.Path(__file__).parent.parent

# From the ground up.  A file imports files of lower layers, and of its own layer only where they share its folder.
LAYERS = (
    ("config", "config_dict", "config_fields", "config_rules", "compiled", "endings", "outside", "program_files",
     "flow/*"),
    ("model/plan", "model/rope", "model/conditioning", "model/observe", "data/record"),
    ("mesh", "distributed", "supervise", "model/sequence"),
    ("sharding", "model/routing", "model/layers", "model/attention", "data/*"),
    ("model/blocks", "model/alignment"),
    ("model/stack",),
    ("model/transformer", "encoders/*"),
    ("model/lora",),
    ("weights/*",),
    ("encoders/registry",),
    ("encoding", "encoding_ray"),
    ("train/state", "train/optimizer", "train/losses", "train/metrics", "train/telemetry", "train/average", "train/guard", "sample",
     "stepwise", "budget/*"),
    ("train/step", "train/checkpoint", "train/saved_config", "train/manifest", "train/retention", "train/stored", "train/damage",
     "train/partial", "train/conversion", "train/finetune", "train/evaluate", "train/report", "train/interrupt", "train/lock",
     "train/watchdog", "train/programs", "evaluate/*"),
    ("train/loop", "train/curriculum", "train/previews", "pipeline", "diagram", "bench/*"),
    ("profile/*",),
)
# Beyond the layers: (files, modules of ours that they never import, why).
NEVER = (
    ("motif_jax/flow/*", "motif_jax/[!f]*", "the mathematics of the flow stands on nothing"),
    ("motif_jax/model/*", "motif_jax/train/*", "a model does not know how it is trained"),
    ("motif_jax/model/*", "motif_jax/data/*", "a model does not know where its input comes from"),
    ("motif_jax/model/*", "motif_jax/sharding", "parameters are sharded from outside; activations through mesh.constrain"),
    ("motif_jax/data/*", "motif_jax/mesh", "data never touches a device"),
    ("motif_jax/*", "configs/*", "a config comes in as an argument, from launch/ or a checkpoint"),
    ("*", "launch/[!am]*", "launch/ reads flags and prints; what others need belongs in motif_jax/"),
    ("motif_jax/*", "launch/*", "only commands share launch/arguments and launch/model"),
)
# Each dependency and the files it may be imported in; the longest name that fits an import counts.
HOMES = {
    "numpy": ("*",),
    "jax": ("motif_jax/*", "launch/*"),
    "flax": ("motif_jax/*",),
    "flax.linen": ("motif_jax/model/*", "motif_jax/encoders/*"),
    "optax": ("motif_jax/train/optimizer", "motif_jax/train/state", "motif_jax/train/step",
              "motif_jax/train/partial"),
    "einops": ("motif_jax/model/*", "motif_jax/encoders/*", "motif_jax/weights/*"),
    "chex": ("motif_jax/data/record", "motif_jax/data/pipeline", "motif_jax/train/step", "motif_jax/model/transformer"),
    "ml_collections": ("motif_jax/config", "configs/*", "launch/*"),
    "grain": ("motif_jax/data/*",),
    "array_record": ("motif_jax/data/*",),
    "tensorflow_datasets": ("motif_jax/data/*",),
    "pyarrow": ("motif_jax/data/captions",),
    "av": ("motif_jax/data/film", "motif_jax/data/videos"),
    "PIL": ("motif_jax/data/videos", "motif_jax/train/metrics"),
    "orbax": ("motif_jax/train/checkpoint", "motif_jax/train/stored"),
    "clu": ("motif_jax/train/metrics",),
    "tensorboard": ("motif_jax/train/metrics",),
    "safetensors": ("motif_jax/weights/*",),
    "matplotlib": ("motif_jax/evaluate/plots",),
    "tokenizers": ("motif_jax/encoders/tokenizer",),
    "ray": ("motif_jax/encoding_ray",),
    "tokamax": ("motif_jax/model/attention",),
    "absl": ("launch/*", "motif_jax/data/pipeline"),
}
# The program that times the torch original (`launch.bench --reference`): a process of its own, and no file imports it.
ORIGINAL = {"launch/reference": ("torch", "diffusers")}
NO_JAX = ("motif_jax/data/*",)  # data never touches a device
# These, with all that they import, run on a bare GPU image with these packages.
BARE = ("motif_jax/model/*", "motif_jax/flow/*", "motif_jax/train/step", "motif_jax/budget/*", "motif_jax/profile/*",
        "motif_jax/bench/*", "launch/bench")
BARE_PACKAGES = {"jax", "flax", "optax", "einops", "chex", "numpy", "tokamax"}  # tokamax: asked for by name, imported only then
# clu's writers and periodic actions import TensorFlow; its metrics and parameter overview do not.
BANNED = ("torch", "torchvision", "tensorflow", "transformers", "diffusers", "keras", "clu.metric_writers",
          "clu.periodic_actions")
BANNED_NAMES = ("utils", "util", "common", "helpers", "helper", "misc", "*_lib", "*_utils")
MAX_LINES, MAX_COLUMNS = 300, 130


@functools.cache
def _parsed(text: str) -> ast.Module:
  """The syntax tree of a source.  Parsed without garbage collection: CPython 3.11 raises a SystemError (AST constructor recursion
  depth mismatch) where something is finalised meanwhile, as other tests of the process may have left it."""
  gc.disable()
  try:
    return ast.parse(text)
  finally:
    gc.enable()


def _sources() -> dict[str, str]:
  """Path without suffix -> text, for each Python file of motif_jax, configs and launch."""
  files = [f for folder in ("motif_jax", "configs", "launch") for f in sorted((ROOT / folder).rglob("*.py"))]
  return {f.relative_to(ROOT).with_suffix("").as_posix(): f.read_text() for f in files}


def _imports(sources: dict[str, str]) -> dict[str, set[str]]:
  """File -> what it imports: our files as paths ("motif_jax/flow/path"), others as dotted names ("clu.metrics")."""
  return {file: {_of_ours(name, sources) for name in _imported(_parsed(text))} for file, text in sources.items()}


def _imported(tree) -> set[tuple[str, str]]:
  names = set()
  for node in _walk(tree):
    if isinstance(node, ast.Import):
      names |= {(alias.name, "") for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names |= {("." * node.level + (node.module or ""), alias.name) for alias in node.names}
  return names


def _walk(node):
  # What stands under `if TYPE_CHECKING:` is read by tools, never run.
  if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
    return
  yield node
  for child in ast.iter_child_nodes(node):
    yield from _walk(child)


def _of_ours(name: tuple[str, str], sources) -> str:
  module, member = name
  dotted = f"{module}.{member}" if member else module
  for path in (dotted.replace(".", "/"), module.replace(".", "/")):
    if path in sources:
      return path
    if f"{path}/__init__" in sources:
      return f"{path}/__init__"
  return dotted


def _matches(file: str, patterns) -> bool:
  return any(fnmatch.fnmatch(file, p) for p in patterns)


def _layer(file: str) -> int | None:
  """The floor of a file of motif_jax; None where no line of LAYERS names it.  An exact name goes before a pattern."""
  name = file.removeprefix("motif_jax/")
  exact = [i for i, layer in enumerate(LAYERS) if name in layer]
  return next(iter(exact + [i for i, layer in enumerate(LAYERS) if _matches(name, layer)]), None)


def layer_faults(imports) -> list[str]:
  faults = []
  inside = {f: used for f, used in imports.items() if f.startswith("motif_jax/") and not f.endswith("__init__")}
  for file, used in inside.items():
    if _layer(file) is None:
      faults.append(f"{file} stands in no layer; give it one in LAYERS and in docs/map.md.")
      continue
    for other in sorted(used & set(inside)):
      low, high = _layer(other), _layer(file)
      same_folder = other.rpartition("/")[0] == file.rpartition("/")[0]
      if low is not None and (low > high or low == high and not same_folder):
        faults.append(f"{file} (layer {high}) imports {other} (layer {low}); a file imports lower layers, or its own folder's.")
  return faults


def never_faults(imports) -> list[str]:
  return [f"{file} imports {other}: {why}."
          for file, used in imports.items() for other in sorted(used & set(imports)) for files, modules, why in NEVER
          if fnmatch.fnmatch(file, files) and fnmatch.fnmatch(other, modules)]


def home_faults(imports) -> list[str]:
  faults = []
  for file, used in imports.items():
    for name in sorted(n for n in used if n not in imports):
      if name.split(".")[0] in sys.stdlib_module_names or name.split(".")[0] in ORIGINAL.get(file, ()):
        continue
      package = max((p for p in HOMES if f"{name}.".startswith(f"{p}.")), key=len, default=None)
      if _matches(name, BANNED + tuple(f"{b}.*" for b in BANNED)):
        faults.append(f"{file} imports {name}, which does not belong at run time.")
      elif package is None:
        faults.append(f"{file} imports {name}, which is neither ours nor in HOMES.")
      elif not _matches(file, HOMES[package]) or package == "jax" and _matches(file, NO_JAX):
        faults.append(f"{file} imports {name}, whose home is {', '.join(HOMES[package])}.")
  return faults


def bare_faults(imports) -> list[str]:
  faults = []
  for file in (f for f in imports if _matches(f, BARE)):
    seen, queue = {file}, [file]
    while queue:
      for name in imports[queue.pop()] & set(imports) - seen:
        seen.add(name)
        queue.append(name)
    others = {(f, n) for f in seen for n in imports[f] - set(imports) if n.split(".")[0] not in sys.stdlib_module_names}
    faults += [f"{file} cannot run on a bare GPU image: {f} imports {n}."
               for f, n in sorted(others) if n.split(".")[0] not in BARE_PACKAGES]
  return faults


def cycles(imports) -> list[str]:
  """The files that import themselves, through others."""
  def reached(file):
    seen, queue = set(), [file]
    while queue:
      new = imports[queue.pop()] & set(imports) - seen
      seen |= new
      queue += new
    return seen
  return [f"{file} imports itself through others." for file in imports if file in reached(file)]


CHECKS = (layer_faults, never_faults, home_faults, bare_faults, cycles)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_imports_follow_the_house(check):
  faults = check(_imports(_sources()))
  assert not faults, "\n" + "\n".join(faults)


def test_files_are_short_and_named_as_nouns():
  faults = []
  for file, text in _sources().items():
    lines = text.splitlines()
    if _matches(file.rpartition("/")[2], BANNED_NAMES):
      faults.append(f"{file}: a name that says nothing; name the file after the noun it holds.")
    if len(lines) > MAX_LINES:
      faults.append(f"{file} has {len(lines)} lines, at most {MAX_LINES}: which noun has it swallowed?")
    faults += [f"{file}:{i} has {len(line)} columns, at most {MAX_COLUMNS}."
               for i, line in enumerate(lines, 1) if len(line) > MAX_COLUMNS]
  assert not faults, "\n" + "\n".join(faults)


def test_the_sources_are_found():
  assert {"motif_jax/config", "motif_jax/flow/path", "configs/base"} <= set(_sources())


@pytest.mark.parametrize("check, file, text, said", [
    (layer_faults, "motif_jax/mesh", "from motif_jax import sharding", "imports motif_jax/sharding"),
    (layer_faults, "motif_jax/model/blocks", "import motif_jax.model.stack", "imports motif_jax/model/stack"),
    (layer_faults, "motif_jax/model/stack", "def f():\n  from motif_jax.weights import load", "imports motif_jax/weights/load"),
    (layer_faults, "motif_jax/model/novel", "", "stands in no layer"),
    (never_faults, "motif_jax/flow/path", "from motif_jax.config import Config", "stands on nothing"),
    (never_faults, "motif_jax/model/blocks", "from motif_jax.data import record", "imports motif_jax/data/record"),
    (never_faults, "motif_jax/train/loop", "import launch.train", "imports launch/train"),
    (home_faults, "motif_jax/train/loop", "import optax", "whose home is motif_jax/train/optimizer"),
    (home_faults, "motif_jax/train/losses", "from flax import linen as nn", "whose home is motif_jax/model/*"),
    (home_faults, "motif_jax/data/videos", "import jax.numpy as jnp", "imports jax.numpy"),
    (home_faults, "motif_jax/weights/load", "import torch.nn", "does not belong at run time"),
    (home_faults, "motif_jax/train/metrics", "from clu import metric_writers", "does not belong at run time"),
    (home_faults, "launch/train", "import pandas", "neither ours nor in HOMES"),
    (home_faults, "launch/bench", "import torch", "does not belong at run time"),
    (never_faults, "launch/bench", "from launch import reference", "imports launch/reference"),
    (home_faults, "launch/train", "from . import sample", "neither ours nor in HOMES"),
    (bare_faults, "motif_jax/mesh", "import orbax", "motif_jax/model/blocks cannot run on a bare GPU image"),
    (cycles, "motif_jax/mesh", "import motif_jax.model.blocks", "imports itself"),
], ids=lambda x: getattr(x, "__name__", str(x)))
def test_the_checks_catch_what_they_forbid(check, file, text, said):
  tree = {f: "" for f in ("motif_jax/config", "motif_jax/mesh", "motif_jax/sharding", "motif_jax/model/stack", "launch/train",
                          "launch/reference", "motif_jax/data/record", "motif_jax/weights/load", "motif_jax/flow/path")}
  tree["motif_jax/model/blocks"] = "from motif_jax import mesh"
  assert check(_imports(tree)) == []
  assert any(said in fault for fault in check(_imports(tree | {file: text})))


def test_what_the_second_interpreter_leaves_out_is_there():
  for name in conftest.FIRST_ONLY:
    file, _, test = name.partition("::")
    assert f"def {test.partition('[')[0]}" in (ROOT / "tests" / file).read_text(), name
