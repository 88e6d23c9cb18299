"""Claims about `launch.curves`: panels by name or pattern, runs over each other, wrong names answered."""

import json

import pytest

from launch import curves


def _run(folder, values):
  folder.mkdir()
  (folder / curves.FILE).write_text("".join(json.dumps({"step": step, **line}) + "\n" for step, line in values))
  return folder


@pytest.fixture
def runs(tmp_path):
  one = _run(tmp_path / "one", [(1, {"a/b/00": 1.0, "a/b/01": 5.0}), (2, {"a/b/00": 2.0}), (2, {"a/b/00": 3.0})])
  two = _run(tmp_path / "two", [(1, {"a/b/00": 4.0})])
  return {"one": curves.read(one), "other": curves.read(two)}


def test_a_panel_has_all_curves_that_fit_and_the_later_value_of_a_step(runs):
  panel = curves.panel(runs, "a/b/*", log=True)
  assert panel.log_y and panel.curves == {"one 00": ((1, 2), (1.0, 3.0)), "one 01": ((1,), (5.0,)), "other 00": ((1,), (4.0,))}
  assert curves.panel(runs, "a/b/01", log=False).curves == {"one": ((1,), (5.0,))}


def test_stages_are_drawn_one_after_another(runs):
  chained = curves.chained({"first": runs["one"], "second": runs["other"]})
  assert curves.panel(chained, "a/b/00", log=False).curves == {"first": ((1, 2), (1.0, 3.0)), "second": ((3,), (4.0,))}


def test_an_unknown_name_is_answered_with_the_known_ones(runs):
  with pytest.raises(ValueError, match="no curve is called loss; there are a/b/00, a/b/01"):
    curves.panel(runs, "loss", log=False)


def test_curves_become_a_picture(tmp_path, runs, capsys):
  curves.main([f"--runs=x={tmp_path / 'one'},{tmp_path / 'two'}", "--names=a/b/00", f"--output={tmp_path / 'x.png'}"])
  assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
  with pytest.raises(SystemExit, match="error: there is no .*nowhere"):
    curves.main(["--runs=nowhere", "--output=x.png"])
