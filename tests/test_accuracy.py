"""The study of sampling, on a network in closed form: what is far from the solution and what is near, and the files it leaves."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from launch import accuracy as launch, judge as launch_judge, model as launch_model
from motif_jax import config, mesh, sample, stepwise
from motif_jax.data import shapes
from motif_jax.evaluate import accuracy, calibration, shapes as judge
from motif_jax.model import transformer
from motif_jax.pipeline import Pipeline

EVALUATIONS = (6, 12)
ONE = mesh.make_mesh(config.MeshConfig(1, 1, 1), devices=jax.devices()[:1])


def _config():
  c = base.get_config()
  c.model.update(dict(latent_channels=24, patch=(1, 1, 1), text_dim=128, image_dim=0))
  c.data.text_tokens = 9
  c.sample.update(dict(steps=8, shift=3.0, image_shift=3.0, bucket=dict(frames=5, height=16, width=24)))
  c.sample.guidance.update(dict(rule="classifier_free", scale=1.5))
  return config.from_config_dict(c)


@pytest.fixture(scope="module")
def subject():
  """Curved in x, in t and in the prompt; a first frame is what the velocity leads to."""
  patch = pytest.MonkeyPatch()

  def apply(params, cfg, latents, t, text, *, text_mask, image):
    c = cfg.latent_channels
    x, first, given, t = latents[..., :c], latents[..., c:-1], latents[..., -1:], t.reshape(-1, 1, 1, 1, 1)
    prompt = jnp.where(text_mask[..., None], text, 0).mean((1, 2)).reshape(t.shape)
    free = 0.4 * jnp.sin(2 * x) + x * t + 20 * prompt * (1 - t)
    return jnp.where(given > 0, (x - first) / t, free), None

  patch.setattr(transformer, "apply", apply)
  for compiled in (sample._integrate, stepwise._start, stepwise._advance):
    compiled.clear_cache()
  cfg = _config()
  _, prompts = judge.held_out_prompts(3, 0)
  score = lambda made: {"all": float(made.mean() / 255)}
  yield launch_model.subject_of(Pipeline(cfg, dict, ONE), prompts, seed=0, batch=2)._replace(judge=score)
  patch.undo()
  for compiled in (sample._integrate, stepwise._start, stepwise._advance):
    compiled.clear_cache()


@pytest.fixture(autouse=True, scope="module")
def short():
  """A study of seconds."""
  patch = pytest.MonkeyPatch()
  patch.setattr(accuracy, "SOLUTION", dict(sampler="heun", steps=60))
  patch.setattr(launch, "EVALUATIONS", EVALUATIONS)
  patch.setattr(launch, "SCALES", (1.0, 2.0))
  yield
  patch.undo()


def test_more_evaluations_come_nearer_to_the_solution(subject):
  rows = accuracy.solvers(subject, EVALUATIONS, exact=accuracy.solution(subject))
  assert [(r["sampler"], r["steps"], r["evaluations"]) for r in rows[:4]] == [
      ("euler", 6, 6), ("euler", 12, 12), ("heun", 3, 6), ("heun", 6, 12)]
  for few, many in zip(rows[::2], rows[1::2]):
    assert 0 < many["latents"] < few["latents"] < 1 and many["psnr"] > few["psnr"], (few, many)


def test_guidance_in_an_interval_takes_fewer_passes_and_leads_elsewhere(subject):
  always, part = accuracy.intervals(subject, ((0.0, 1.0), (0.7, 1.0)))
  times = sample.times_of(subject.cfg, subject.grid, picture=False)[:-1]
  assert (always["passes"], always["latents"]) == (16, 0)
  assert part["passes"] == 8 + (times >= 0.7).sum() < 16 and part["latents"] > 0 and part["psnr"] < 60


def test_steps_left_out_cost_less_than_steps_that_are_not_there(subject):
  rows = accuracy.caches(subject, subject, (2.0,), few=2)
  assert [(r["way"], r["computed"]) for r in rows] == [("exact", 8), ("reuse", 4), ("line", 4), ("fewer steps", 4)]
  exact, _, line, fewer = rows
  assert exact["latents"] == 0 < line["latents"] < fewer["latents"] and exact["to_solution"] > 0


def test_a_video_from_a_picture_begins_with_it(subject):
  _, prompts = judge.held_out_prompts(3, 0)
  rows = {row["start"]: row for row in accuracy.pictures(subject, judge.held_out_prompts(3, 0)[0], shapes.render, seed=1)}
  assert rows["picture"]["psnr_kept"] > 30 > 15 > rows["text alone"]["psnr_kept"]
  assert rows["codec alone"]["psnr_given"] > rows["text alone"]["psnr_given"]


def test_a_prompt_that_fills_up_a_batch_is_calibrated_on_once(subject):
  whole = calibration.products_of(subject._replace(batch=3))
  np.testing.assert_allclose(calibration.products_of(subject), whole, rtol=1e-5)  # in twos, the third one twice


def test_models_are_in_memory_in_turn(subject):
  read = []

  class Watched(Pipeline):

    def _named(self, role):
      read.append(role)
      return super()._named(role)

  pipe = Watched(subject.cfg, lambda: read.append("network") or {"any": np.zeros(1, np.float32)}, ONE)
  launch_model.subject_of(pipe, subject.prompts, seed=0, batch=2)
  assert read == ["text", "network"]
  read.clear()
  made = list(launch_judge.make(pipe, subject.prompts, seed=0, batch=2))
  assert read == ["text", "network", "codec"] and [video.shape for video in made] == [(5, 16, 24, 3)] * 3


def test_the_command_writes_part_by_part_and_goes_on(subject, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(launch_model, "find", lambda args: (Pipeline(subject.cfg, dict, ONE), dict(checkpoint="here")))
  flags = ["--checkpoint=here", "--solved=2", "--count=2", "--batch=2", f"--output={tmp_path}"]
  launch.main([*flags, "--only=guidance"])
  first = json.loads((tmp_path / "accuracy.json").read_text())
  assert [row["scale"] for row in first["guidance"]["rows"]] == [1.0, 2.0] and set(first) == {"guidance"}
  monkeypatch.setattr(accuracy, "guidance", lambda *args: 1 / 0)  # is there already
  launch.main([*flags, "--only=guidance,solvers"])
  both = json.loads((tmp_path / "accuracy.json").read_text())
  assert both["guidance"] == first["guidance"] and len(both["solvers"]["rows"]) == 8
  assert "sampler unipc  steps 6" in capsys.readouterr().out and (tmp_path / "accuracy.png").stat().st_size > 1000
  with pytest.raises(SystemExit, match="error: --only=speed names speed, expected some of solvers"):
    launch.main([*flags, "--only=speed"])
