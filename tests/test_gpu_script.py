"""Claims about launch/gpu.sh: it knows its pieces, and runs them on a CPU at reduced size."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def script(*arguments):
  environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"} | {"PYTHON": sys.executable}
  return subprocess.run(["bash", "launch/gpu.sh", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_piece_runs_on_a_cpu_and_goes_on_where_it_was(tmp_path):
  done = script("--cpu", "--output", str(tmp_path), "ceilings")
  assert done.returncode == 0, done.stdout + done.stderr
  assert "== ceilings: matrix products" in done.stdout and "7 of 7 cases" in done.stdout and "failed" not in done.stdout
  found = json.loads((tmp_path / "bench.json").read_text())["entries"]
  assert len(found) == 7 and all(entry["status"] == "ok" for entry in found)
  assert (tmp_path / "ceilings.txt").read_text() in done.stdout


def test_the_pieces_are_listed_in_the_order_in_which_they_run():
  listed = [line.split()[0] for line in script("--list").stdout.splitlines()]
  assert listed[:3] == ["smoke", "ceilings", "attention"] and listed[-1] == "reference" and len(set(listed)) == 13


@pytest.mark.parametrize("arguments", [["bloks"], ["ceilings", "bloks"]])
def test_an_unknown_piece_is_told_the_known_ones_before_anything_runs(arguments):
  done = script(*arguments)
  assert done.returncode == 2 and done.stdout == "" and "no piece is called 'bloks'; pieces: smoke ceilings" in done.stderr
