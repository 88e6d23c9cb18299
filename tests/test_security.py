"""Claims about what comes from outside: one sentence for a hostile file, no memory for what it promises, and no code from it."""

import ast
import json
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from motif_jax import outside
from motif_jax.train import saved_config
from motif_jax.weights import folder, header, read
from tests import test_architecture

# What reads objects that may run code, and how it is called where a module does harmless things too.
CODE_READERS = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "msgpack",
                "flax.serialization", "jax.experimental.serialize_executable", "torch.load")
CALLS = ("eval", "exec", "compile", "__import__")
MEMORY = 40_000_000  # bytes that a hostile file may cost: a header of the largest size as text, and as little again


def _file(folder, said, data=b"", length=None):
  """A safetensors file with the header `said`, of text or to be JSON."""
  text = said if isinstance(said, bytes) else json.dumps(said).encode()
  path = folder / "model.safetensors"
  path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
  return path


def _entry(start=0, stop=8, shape=(2,), dtype="F32"):
  return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


HOSTILE = {
    "a header longer than the file": (dict(said={}, length=2**63), "no safetensors file"),
    "a giant header": (dict(said=b" " * (header.LARGEST + 1)), "a header of 10,000,001 bytes, expected at most 10,000,000"),
    "offsets behind the file": (dict(said={"a": _entry(0, 80, (20,))}, data=bytes(79)), "truncated: .* 1 tensors are cut: a"),
    "an offset of 2 ** 80": (dict(said={"a": _entry(0, 2**80)}, data=bytes(8)), "'a' has no dtype, shape and byte range"),
    "offsets before the data": (dict(said={"a": _entry(-8, 0)}, data=bytes(8)), "'a' has no dtype, shape and byte range"),
    "offsets in reverse": (dict(said={"a": _entry(8, 0)}, data=bytes(8)), "'a' has no dtype, shape and byte range"),
    "a tensor over another": (dict(said={"a": _entry(0, 8), "b": _entry(7, 15)}, data=bytes(15)), "over one another: a and b"),
    "negative sizes": (dict(said={"a": _entry(0, 8, (-1, -2))}, data=bytes(8)), "'a' has no dtype, shape and byte range"),
    "sizes that are no numbers": (dict(said={"a": _entry(0, 8, (True, 2))}, data=bytes(8)), "'a' has no dtype, shape and byte"),
    "huge sizes": (dict(said={"a": _entry(0, 8, (2**40, 2**40))}, data=bytes(8)), "other byte ranges than their shapes: a"),
    "as many axes as bytes": (dict(said={"a": _entry(0, 8, (1,) * 100)}, data=bytes(8)), "'a' has no dtype, shape and byte range"),
    "an unknown dtype": (dict(said={"a": _entry(dtype="PICKLE")}, data=bytes(8)), r"unknown dtypes: a \(PICKLE\)"),
    "a dtype that is a list": (dict(said={"a": _entry(dtype=["F32"])}, data=bytes(8)), "'a' has no dtype, shape and byte range"),
    "a name that stands twice": (dict(said=b'{"a": 1, "a": 2}'), "keys stand twice: a"),
    "a list": (dict(said=[1]), r"safetensors file \(a list\)"),
    "deep nesting": (dict(said=b'{"a": ' + b"[" * 200_000), "nested too deep"),
    "half a text": (dict(said=b'{"a": "\xff\xfe'), "not that of a safetensors file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_one_sentence_and_costs_no_memory(tmp_path, name):
  made, said = HOSTILE[name]
  path = _file(tmp_path, **made)
  tracemalloc.start()
  try:
    with pytest.raises(ValueError, match=said) as error:
      read.index(path)
    assert tracemalloc.get_traced_memory()[1] < MEMORY
  finally:
    tracemalloc.stop()
  assert len(str(error.value).splitlines()) == 2 and len(str(error.value)) < 600  # the folder, and its one fault


def test_empty_tensors_may_lie_anywhere(tmp_path):
  save_file({"a": np.zeros((0, 3), np.float32), "b": np.ones(2, np.float32), "c": np.zeros(0, np.float32)}, tmp_path / "a.safetensors")
  assert set(read.index(tmp_path)) == {"a", "b", "c"}


@pytest.mark.parametrize("part", ["../model.safetensors", "/etc/passwd", "", "..", "in/model.safetensors"])
def test_an_index_names_no_file_outside_its_folder(tmp_path, part):
  inside = tmp_path / "inside"
  inside.mkdir()
  _file(tmp_path, {"a": _entry()}, bytes(8))
  (inside / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": part}}))
  with pytest.raises(ValueError, match="is not the name of a file beside it"):
    read.index(inside)


@pytest.mark.parametrize("content, said", [
    (b"[" * 200_000, "nested too deep"),
    (b" " * (outside.LARGEST + 1), "more than 20,000,000 bytes"),
    (b'{"a": 1, "a": 2}', "keys stand twice: a"),
    (b"\xff\xfe\xff", "config.json is no JSON"),
    (b"", "config.json is no JSON"),
], ids=["deep", "large", "twice", "text", "empty"])
def test_hostile_json_is_one_sentence(tmp_path, content, said):
  path = tmp_path / "config.json"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=said) as error:
    saved_config.config_from_json(path)
  assert "\n" not in str(error.value) and len(str(error.value)) < 300
  _, faults = folder.examine(tmp_path)
  assert any(said.removeprefix("config.json ") in fault for fault in faults)


def test_json_without_an_end_is_not_read_to_it(tmp_path):
  path = tmp_path / "config.json"
  with open(path, "wb") as file:
    file.truncate(10 * outside.LARGEST)
  tracemalloc.start()
  try:
    with pytest.raises(ValueError, match="more than 20,000,000 bytes"):
      outside.read_json(path)
    assert tracemalloc.get_traced_memory()[1] < MEMORY
  finally:
    tracemalloc.stop()


def test_the_metadata_of_a_hostile_file_are_refused(tmp_path):
  with pytest.raises(ValueError, match="no texts"):
    header.metadata_of(_file(tmp_path, {"__metadata__": {"a": {}}}))
  with pytest.raises(ValueError, match="no safetensors file"):
    header.metadata_of(_file(tmp_path, {}, length=2**62))


def _code_faults(sources) -> list[str]:
  """Where something could be read that runs code."""
  faults = []
  for file, text in sources.items():
    for node in ast.walk(ast.parse(text)):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
      elif isinstance(node, ast.Attribute):
        names = [ast.unparse(node)]
      elif isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        faults += [f"{file}:{node.lineno} calls {called}." for name in CALLS if called == name]
        faults += [f"{file}:{node.lineno} calls {called} with {key}={value}." for key, value in given.items()
                   if (key, value) in (("allow_pickle", "True"), ("shell", "True"), ("weights_only", "False"))]
      faults += [f"{file}:{node.lineno} uses {name}." for name in names for reader in CODE_READERS
                 if f"{name}.".startswith(f"{reader}.")]
  return faults


def test_nothing_is_read_that_runs_code():
  faults = _code_faults(test_architecture._sources())
  assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("text", ["import pickle", "from pickle import loads", "from flax import serialization", "eval('1')",
                                  "import numpy as np\nnp.load('a', allow_pickle=True)", "subprocess.run('ls', shell=True)",
                                  "import torch\ntorch.load('a')"])
def test_the_check_catches_what_it_forbids(text):
  assert _code_faults({"motif_jax/mesh": text}) and not _code_faults({"motif_jax/mesh": "import json\njson.loads('1')"})
