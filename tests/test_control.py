"""Claims about the measure of control: none where prompts are the same, and what is left to joint attention alone."""

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from configs import base
from launch import control as command, model as launch_model
from motif_jax import config, mesh as meshes
from motif_jax.config import CrossAttentionConfig, MeshConfig
from motif_jax.evaluate import control
from motif_jax.model import transformer
from tests.sensitive import sensitive

DOCS = pathlib.Path(__file__).parent.parent / "docs"
FRAMES, HEIGHT, WIDTH, WORDS, CLIPS = 3, 4, 6, 5, 2
NONE = CrossAttentionConfig(kind="none", query_norm="none", dual=False)


@functools.cache
def _small():
  """(config, parameters) of a model of one block of each kind, whose weights all matter."""
  c = base.get_config()
  c.model.update(dict(latent_channels=24, width=16, heads=2, depths=dict(dual=1, single=1, decoder=1), text_dim=128,
                      rope_axes=(2, 2, 4), image_dim=0, dtype="float32", remat="none"))
  c.data.text_tokens, c.alignment.weight = 9, 0.0
  cfg = config.from_config_dict(c)
  return cfg, sensitive(jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg.model)), seed=2)


def _clips():
  normal = lambda *shape: np.random.default_rng(shape).standard_normal(shape, np.float32)
  mask = np.arange(WORDS) < np.array([[WORDS], [2]])
  return control.Clips(normal(CLIPS, FRAMES, HEIGHT, WIDTH, 24), (normal(CLIPS, WORDS, 128), mask),
                       (normal(CLIPS, WORDS, 128) * 0.5, mask[::-1]))


def test_the_same_prompt_changes_nothing_and_another_one_does():
  cfg, params = _small()
  clips = _clips()
  look = lambda clips: control.look(params, cfg.model, clips, [0.7], key=jax.random.key(1))
  same, other = look(clips._replace(other=clips.own)), look(clips)
  assert [(row["cross"], row["change"], row["gain"]) for row in same] == [("on", 0, 0), ("off", 0, 0)]
  assert other[0]["change"] > other[1]["change"] > 0.01 and 0 < other[0]["text"] < 1 and "text" not in other[1]


def test_change_and_gain_are_those_of_their_definition():
  own, other, target = np.array([[3.0, 4.0]]), np.array([[3.0, 1.0]]), np.array([[3.0, 3.0]])
  told = control.of_velocities(own, other, target)
  np.testing.assert_allclose(told["change"], 3 / 5)
  np.testing.assert_allclose(told["gain"], 4 / 1 - 1)


def test_clips_are_looked_at_one_by_one_or_together_with_the_same_result():
  cfg, params = _small()
  alone, together = (control.look(params, cfg.model, _clips(), [0.4], key=jax.random.key(3), batch=batch) for batch in (1, 2))
  for a, b in zip(alone, together):
    assert set(a) == set(b) and a["change_error"] > 0
    for name in set(a) - {"t", "cross"}:
      assert a[name] == pytest.approx(b[name], rel=1e-4)


def test_a_silenced_network_is_the_one_without_cross_attention():
  cfg, params = _small()
  clips, t = _clips(), np.full(CLIPS, 0.6, np.float32)
  noise = clips.latents[::-1] * 0.9
  velocity = lambda params, model: control.velocity(params, clips.latents, noise, t, *clips.own, model=model)
  none = dataclasses.replace(cfg.model, cross_attention=NONE)
  without = params | {"single": {name: tree for name, tree in params["single"].items() if name != "cross"}}
  np.testing.assert_allclose(velocity(control.silenced(params), cfg.model), velocity(without, none), rtol=1e-5, atol=1e-5)
  assert not np.allclose(velocity(params, cfg.model), velocity(without, none), rtol=1e-2)


def test_the_command_leaves_numbers_of_each_size(monkeypatch, tmp_path, capsys):
  mesh = meshes.make_mesh(MeshConfig(1, 1, 1), devices=jax.devices()[:1])
  monkeypatch.setattr(launch_model, "read", lambda args: launch_model.Model(*_small(), dict(checkpoint=args.checkpoint), mesh))
  command.main(["--checkpoint=run", "--times=0.9", "--buckets=5x16x24,9x16x24", "--counts=2,1", f"--output={tmp_path}"])
  said = json.loads((tmp_path / "control.json").read_text())["buckets"]
  assert {name: (size["tokens"], size["clips"]) for name, size in said.items()} == {"5x16x24": (12, 2), "9x16x24": (18, 1)}
  assert [row["cross"] for row in said["9x16x24"]["rows"]] == ["on", "off"]
  out = capsys.readouterr().out
  assert "| 9x16x24 | 18 | 1 | 0.9 |" in out and (tmp_path / "control.png").stat().st_size > 5000


@pytest.mark.parametrize("name", ["control", "control_long"])
def test_the_page_says_what_the_committed_results_say(name):
  made = command.table(json.loads((DOCS / "results" / f"{name}.json").read_text())).splitlines()
  assert len(made) > 3 and set(made) <= set((DOCS / "results.md").read_text().splitlines())


@pytest.mark.parametrize("flags, said", [
    (["--times=1.5"], "expected times between 0"),
    (["--times=early"], "--times=early: expected numbers"),
    (["--counts=0"], "at least 1 clip"),
    (["--counts=1,2"], "of each of 1 sizes"),
    (["--counts=1.5"], "expected whole numbers"),
    (["--buckets=9x32"], "not FRAMESxHEIGHTxWIDTH"),
])
def test_bad_flags_get_one_clear_error(tmp_path, flags, said):
  with pytest.raises(SystemExit, match=f"error: .*{said}"):
    command.main(["--checkpoint=nowhere", "--buckets=9x32x32", f"--output={tmp_path / 'out'}", *flags])
