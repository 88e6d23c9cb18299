"""Claims about model.attention = "auto": it is what was measured on this device, or an error that says how to measure."""

import json

import jax
import pytest

from configs import base
from motif_jax import config
from motif_jax.bench import fastest
from tests.test_end_to_end import launch


def entry(backend, length, median, *, heads=12, where="padded/forward+backward", status="ok", **changes):
  settings = {"length": length, "heads": heads, "head_dim": 128, "dtype": "bfloat16"} | changes.pop("settings", {})
  return {"name": f"attention/{backend}/{length}/{heads} heads/{where}", "settings": settings, "status": status, "device": "cpu",
          "devices": 1, "jax": jax.__version__, "commit": "abc", "seconds": {"median": median}} | changes


FOUND = [entry("cudnn", 64, 0.5), entry("xla", 64, 0.1), entry("chunked", 128, 3.0), entry("cudnn", 128, 2.0)]


def resolved(tmp_path, entries, name="auto"):
  file = tmp_path / "bench.json"
  file.write_text(json.dumps({"entries": entries}))
  c = base.get_config()
  c.model.attention = name
  return fastest.resolve(c, file), c.model.attention


def test_auto_is_the_fastest_at_the_longest_length(tmp_path):
  said, name = resolved(tmp_path, FOUND)
  assert name == "cudnn" and said.startswith("model.attention: auto is 'cudnn' here")
  assert "(cudnn 2e+03 ms, chunked 3e+03 ms)" in said


@pytest.mark.parametrize("other", [
    entry("xla", 256, 0.1, status="failed"), entry("xla", 128, 0.1, device="NVIDIA H100"), entry("xla", 128, 0.1, jax="0.4.1"),
    entry("xla", 128, 0.1, where="padded/forward"), entry("xla", 128, 0.1, where="full/forward+backward"),
    entry("xla", 128, 0.1, where="padded/shard_map/forward+backward"), entry("xla", 128, 0.1, heads=3),
    entry("xla", 128, 0.1, settings={"dtype": "float32"}), entry("xla", 128, 0.1, settings={"head_dim": 64})],
    ids=["failed", "device", "jax", "forward", "full", "shard_map", "heads", "dtype", "head_dim"])
def test_what_was_measured_otherwise_does_not_count(tmp_path, other):
  assert resolved(tmp_path, [other, *FOUND, other])[1] == "cudnn"


def test_a_named_backend_stays(tmp_path):
  assert resolved(tmp_path, FOUND, "chunked") == (None, "chunked")


def test_auto_is_no_backend_below_the_command():
  c = base.get_config()
  c.model.attention = "auto"
  with pytest.raises(ValueError, match="model.attention is 'auto', expected one of 'xla', 'chunked', 'cudnn', 'tokamax'"):
    config.from_config_dict(c)


def test_training_asks_for_a_measurement(tmp_path):
  said = launch("train", "--config=configs/smoke.py", f"--workdir={tmp_path}", "--config.model.attention=auto",
                f"--bench={tmp_path}/none.json", fails=True)
  assert "no attention measured on 'cpu' with jax" in said
  assert f"launch.bench --only=attention --output={tmp_path}/none.json" in said
