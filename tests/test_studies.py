"""Claims about the experiments: arms that can be compared, differences by seed, tables of the committed results."""

import importlib
import json
import math
import pathlib

import pytest

from launch import experiments, results as command
from motif_jax import config
from motif_jax.bench import steps
from motif_jax.budget import memory, workload
from motif_jax.evaluate import studies
from motif_jax.train.step import plan_at

DOCS = pathlib.Path(__file__).parent.parent / "docs"


def _cost(arm):
  """(parameters, executed FLOPs of the whole run) of an arm, on clips of 9x32x32."""
  cfg = config.from_config_dict(importlib.import_module(f"configs.experiments.{arm}").get_config())
  assert cfg.train.steps % (cfg.train.sample_every) == 0  # judged at even distances
  tokens = workload.tokens_of(cfg.model, (3, 4, 4), cfg.data.text_tokens)
  plans = [plan_at(cfg, step) for step in range(cfg.train.steps)]
  work = {plan: steps.train_flops(cfg, tokens, plan, workload.Split(), cfg.data.batch_size)[1] for plan in set(plans)}
  return memory.network_size(cfg), sum(work[plan] for plan in plans)


def test_arms_have_as_many_parameters_and_execute_as_many_flops():
  (parameters, flops), *others = (_cost(arm) for arm in ("base", "joint", "single_stream"))
  for count, executed in others:
    assert count == pytest.approx(parameters, rel=0.005) and executed == pytest.approx(flops, rel=0.005)
  routed = _cost("routed")
  assert routed[0] == parameters and routed[1] < 1.02 * flops


def test_a_share_of_the_steps_ends_the_routing_as_much_earlier():
  whole, part = (experiments.config_of("routed", 3, "", changes=["train.judge=2"], share=share) for share in (1, 0.75))
  assert (part.train.steps, part.seed, part.train.judge) == (0.75 * whole.train.steps, 3, 2)
  assert part.route.last_step == 0.75 * whole.route.last_step > 0


def _result(arm, seed, loss, batch=10):
  """A result whose loss at 1 and 2 TFLOPs, after steps 5 and 10, is `loss`."""
  return dict(arm=arm, seed=seed, batch=batch, steps=10, parameters=7, flops={"5": 1e12, "10": 2e12},
              curves={name: dict(zip(("5", "10"), loss)) for name in studies.SHOWN})


@pytest.fixture
def folder(tmp_path):
  made = {("base", 0): (3.0, 1.0), ("base", 1): (5.0, 2.0), ("joint", 0): (4.0, 2.0), ("joint", 1): (6.0, 3.5)}
  for (arm, seed), loss in made.items():
    (tmp_path / f"{arm}-{seed}.json").write_text(json.dumps(_result(arm, seed, loss)))
  return tmp_path


def test_figures_between_two_moments_lie_on_a_line(folder):
  base = studies.read(folder)["base"][0]
  assert studies.at(base, "validation/loss", "flops", 1.5e12) == 2.0
  assert studies.at(base, "validation/loss", "samples", 75) == 2.0
  assert studies.at(base, "validation/loss", "samples", 1e9) == 1.0  # no further than the run came


def test_differences_are_taken_seed_by_seed_where_the_shorter_run_ended(folder):
  runs = studies.read(folder)
  assert studies.paired(runs, "base", "joint", "validation/loss", "flops") == [-1.0, -1.5]
  short = runs["joint"][1]
  short["flops"] = {5: 0.5e12, 10: 1.5e12}
  assert studies.paired(runs, "base", "joint", "validation/loss", "flops") == [-1.0, 3.5 - 3.5]
  del runs["joint"][0]
  assert studies.paired(runs, "base", "joint", "validation/loss", "samples") == [-1.5]


def test_time_is_that_of_the_measured_steps(folder):
  step = lambda *seconds: [dict(share=1 / len(seconds), seconds=[s]) for s in seconds]
  (folder / studies.TIMES).write_text(json.dumps(dict(arms=dict(base=step(2.0, 4.0), joint=step(2.0)))))
  runs = studies.read(folder)
  assert studies.end(runs["base"][0], "seconds") == 30 and studies.end(runs["joint"][0], "seconds") == 20
  # The base is asked after 20 of its 30 seconds: a third of the way from its first moment, after 15, to its last.
  assert studies.paired(runs, "base", "joint", "validation/loss", "seconds") == pytest.approx([7 / 3 - 2, 4 - 3.5])
  assert "at equal CPU time" in studies.tables(runs)


def test_a_mean_of_one_has_no_error():
  assert studies.mean_and_error([2.0]) == (2.0, None)
  mean, error = studies.mean_and_error([1.0, 2.0, 3.0])
  assert mean == 2.0 and error == pytest.approx(1 / math.sqrt(3))


def test_a_difference_is_marked_where_its_interval_excludes_zero():
  marked = lambda *values: studies.MARK in studies._difference(values, 1)
  around = lambda mean: (mean - 3**0.5, mean, mean + 3**0.5)  # three seeds, their standard error 1
  assert marked(*around(4.4)) and marked(*around(-4.4)) and not marked(*around(4.2)) and not marked(1.0)


def test_a_step_costs_the_mean_over_its_plans():
  parts = [dict(share=0.75, seconds=[1.0, 2.0, 9.0]), dict(share=0.25, seconds=[4.0])]
  assert studies.step_seconds(parts) == 2.5


def test_a_figure_that_a_run_lacks_is_left_out(folder):
  runs = studies.read(folder)
  del runs["joint"][1]["curves"]["validation/loss_t40_60"]
  assert "0.4 < t" not in studies.tables(runs) and "t > 0.8" in studies.tables(runs)
  assert len(studies.panels(runs)) == len(studies.DRAWN) - 1


def test_tables_stand_between_the_marks_and_curves_in_the_picture(folder, tmp_path):
  page = tmp_path / "page.md"
  page.write_text(f"before\n{command.BEGIN}\nold\n{command.END}\nafter\n")
  command.main([f"--folder={folder}", f"--into={page}", f"--picture={tmp_path / 'x.png'}"])
  text = page.read_text()
  assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
  assert "| loss | 1.5000 ± 0.5000 | 2.7500 ± 0.7500 |" in text and "| shape, % | 150.0 ± 50.0 |" in text
  assert (tmp_path / "x.png").stat().st_size > 5000


@pytest.mark.parametrize("content", ["cut {", "[]", '{"arm": "base", "seed": 0}'])
def test_a_folder_without_results_or_with_something_else_is_one_error(tmp_path, content):
  with pytest.raises(SystemExit, match="error: there is no result in"):
    command.main([f"--folder={tmp_path / 'nowhere'}"])
  (tmp_path / "base-0.json").write_text(content)
  with pytest.raises(SystemExit, match="error: .*base-0.json is not a result of launch.experiments"):
    command.main([f"--folder={tmp_path}"])


def test_the_page_says_what_the_committed_results_say():
  made = studies.tables(studies.read(DOCS / "results"))
  assert made in (DOCS / "results.md").read_text(), "python -m launch.results --into=docs/results.md --picture=docs/results.png"
