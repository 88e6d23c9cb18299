"""The notebooks: that they run, that they teach the package and define none of it, and that what is committed was run."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.run_notebooks import cells

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROCESSES = (("inside_a_block", "first_model", "released_weights"), ("shardings",))  # the last makes its own eight devices
PROMISED = {  # notebook -> (formats of what it displays, in order; what it prints)
    "first_model": (["png", "mp4", "png"], ["12 clips encoded", "trained to step 2", "background", "shuffled"]),
    "inside_a_block": (["png"] * 7, ["dual [2, 8), kept tokens, tap", "single [14, 16)", "weights: random"]),
    "released_weights": (["png"], ["the transformer can be used", "padding changed, the velocity moves by 0.00000",
                                   "'diffusion_pytorch_model.safetensors': 'the same bytes'",
                                   "a new adapter moves the velocity by 0.00000"]),
    "shardings": (["png"], ["8 devices", "x all-to-all", "products   closed form", "time by scope"]),
}
LINES = 4  # of a function, at most
LARGEST = 300_000  # bytes of a notebook
OUR_OWN = {"motif_jax", "configs", "launch"}
OTHERS = {"jax", "numpy", "IPython"}  # beside the standard library


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
  """Notebook -> what it printed and displayed, in the small mode."""
  folder, made = tmp_path_factory.mktemp("notebooks"), {}
  flags = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)  # of quick compilation
  environment = os.environ | dict(MOTIF_SMALL="1", PYTHONPATH=str(ROOT), XLA_FLAGS=flags)
  for names in PROCESSES:
    files = [str(ROOT / "notebooks" / f"{name}.ipynb") for name in names]
    done = subprocess.run([sys.executable, "-m", "tests.run_notebooks", str(folder / "result.json"), *files], cwd=folder,
                          env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    made |= json.loads((folder / "result.json").read_text())
  return made


@pytest.mark.parametrize("name", PROMISED)
def test_a_notebook_shows_what_it_promises(ran, name):
  shown, printed = PROMISED[name]
  assert ran[name]["shown"] == shown
  assert [said for said in printed if said not in ran[name]["printed"]] == []


def test_every_notebook_is_run():
  assert {path.stem for path in NOTEBOOKS} == set(PROMISED) == {name for names in PROCESSES for name in names}


def trees(notebook):
  return [ast.parse(source) for source in cells(notebook)]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_the_package_and_little_else(notebook):
  nodes = [node for tree in trees(notebook) for node in ast.walk(tree)]
  modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
  modules += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
  tops = {name.split(".")[0] for name in modules}
  assert "motif_jax" in tops and tops <= OUR_OWN | OTHERS | sys.stdlib_module_names


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_defines_nothing_that_belongs_in_the_package(notebook):
  nodes = [node for tree in trees(notebook) for node in ast.walk(tree)]
  assert not [node.name for node in nodes if isinstance(node, ast.ClassDef)]
  assert not [node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LINES]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_runtime_is_marked(notebook):
  text = cells(notebook, "markdown")[0]
  rows = dict(re.findall(r"^\| ([\w, ]+) \| ([^|]+) \|", text, re.MULTILINE))
  marks = {name: state for names, state in rows.items() for name in names.split(", ")}
  assert marks["CPU"].startswith("**tested**")
  assert [marks[name].strip() for name in ("T4", "H100", "TPU")] == ["untested"] * 3


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(notebook):
  links = re.findall(r"\]\(([^)]+)\)", "\n".join(cells(notebook, "markdown")))
  assert not [link for link in links if not (notebook.parent / link).exists()]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_was_run_from_top_to_bottom(notebook):
  text = notebook.read_text()
  code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
  assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
  outputs = [output for cell in code for output in cell["outputs"]]
  assert any("image/png" in output.get("data", {}) for output in outputs)
  assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
  assert len(text.encode()) < LARGEST


def first_cell(notebook, monkeypatch, folder):
  """The commands that the first cell runs in `folder`, where no clone is in reach."""
  commands = []
  monkeypatch.setattr(sys, "path", [path for path in sys.path if not (pathlib.Path(path) / "motif_jax").is_dir()])
  monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
  monkeypatch.setattr(os, "environ", os.environ | {"MOTIF_JAX_REPOSITORY": "an/address", "PATH": ""})
  monkeypatch.chdir(folder)
  exec(cells(notebook)[0], {})
  return commands


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_installs_on_a_bare_machine(notebook, monkeypatch, tmp_path):
  clone = tmp_path / "clone"
  assert first_cell(notebook, monkeypatch, tmp_path) == [
      ["git", "clone", "an/address", str(clone)],
      [sys.executable, "-m", "pip", "install", "-q", "-r", str(clone / "requirements.txt")]]


def test_the_first_cell_installs_nothing_in_a_clone(monkeypatch):
  assert first_cell(NOTEBOOKS[0], monkeypatch, ROOT / "notebooks") == []
