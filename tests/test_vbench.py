"""Claims about VBench: the files that its evaluator looks for are made, once, and its results add up as on the leaderboard."""

import functools
import json

import jax
import pytest

from configs import base
from launch import model as launch_model, vbench as launch
from motif_jax import config, mesh as meshes
from motif_jax.config import BucketConfig, MeshConfig
from motif_jax.data import videos
from motif_jax.evaluate import vbench
from motif_jax.model import transformer
from motif_jax.pipeline import Pipeline
from tests.sensitive import sensitive

STOP, CAT, DOG = "In a still frame, a stop sign", "a cat, on the left of a dog. Front view", "A dog runs"
SUITE = [
    {"prompt_en": CAT, "dimension": ["spatial_relationship"], "auxiliary_info": {}},
    {"prompt_en": STOP, "dimension": ["temporal_flickering"]},
    {"prompt_en": DOG, "dimension": ["human_action"]},
    {"prompt_en": CAT, "dimension": ["object_class"]},  # the official suite has such, too
]
# The row of ModelScope on the leaderboard of Vchitect/VBench: scores of dimensions, then its quality, semantic and total score.
LEADERBOARD = dict(zip(vbench.DIMENSIONS, (89.87, 95.29, 98.28, 95.79, 66.39, 52.06, 58.57, 82.25, 38.98, 92.4, 81.72, 33.68,
                                           39.26, 23.39, 25.37, 25.67)))
ADDED = dict(quality=78.05, semantic=66.54, total=75.75)


@pytest.fixture
def suite(tmp_path):
  path = tmp_path / "suite.json"
  path.write_text(json.dumps(SUITE))
  return path


def test_scores_add_up_to_those_of_the_leaderboard():
  made = vbench.totals({name: score / 100 for name, score in LEADERBOARD.items()})
  assert {name: 100 * value for name, value in made.items()} == pytest.approx(ADDED, abs=0.01)


def test_the_report_adds_up():
  published = vbench.PUBLISHED
  assert (4 * published["quality"] + published["semantic"]) / 5 == pytest.approx(published["total"], abs=0.005)


def test_each_prompt_gets_the_files_that_the_evaluator_looks_for(suite):
  prompts = vbench.read_suite(suite)
  assert [(p.name, p.dimensions) for p in prompts] == [
      (CAT, ("spatial_relationship", "object_class")), (STOP, ("temporal_flickering",)), (DOG, ("human_action",))]
  files = [video.file for video in vbench.videos_of(prompts)]
  assert len(files) == 5 + 25 + 5 == len(set(files))
  assert files[:6] == [f"{CAT}-{i}.mp4" for i in range(5)] + [f"{STOP}-0.mp4"] and files[29] == f"{STOP}-24.mp4"


def test_a_video_is_the_same_whichever_dimensions_are_made(suite):
  prompts = vbench.read_suite(suite)
  everything, some = (vbench.videos_of(prompts, wanted) for wanted in ((), ("human_action", "object_class")))
  assert len({video.number for video in everything}) == len(everything)
  assert len(some) == 10 and set(some) < set(everything)


def test_lines_are_a_suite_of_the_dimension_that_names_their_file(tmp_path):
  for name, count in (("temporal_flickering", 25), ("mine", 5)):
    file = tmp_path / f"{name}.txt"
    file.write_text(f"{STOP}\n\n {DOG} \n")
    assert len(vbench.videos_of(vbench.read_suite(file))) == 2 * count


def test_the_model_may_be_given_rewritten_prompts(suite, tmp_path):
  (tmp_path / "longer.txt").write_text("one\ntwo\nthree\nfour\n")
  assert [(p.name, p.text) for p in vbench.read_suite(suite, tmp_path / "longer.txt")] == [
      (CAT, "one"), (STOP, "two"), (DOG, "three")]


def test_the_installed_package_brings_its_suite_and_is_not_imported(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match="no installed package vbench .*pass --suite"):
    vbench.installed_suite()
  (tmp_path / "vbench").mkdir()
  (tmp_path / "vbench" / "__init__.py").write_text("raise ImportError('torch')")
  (tmp_path / "vbench" / "VBench_full_info.json").write_text(json.dumps(SUITE))
  monkeypatch.syspath_prepend(tmp_path)
  assert len(vbench.read_suite(vbench.installed_suite())) == 3


def _results(folder, time, **scores):
  folder.mkdir(exist_ok=True)
  said = {name: [score, [{"video_path": "x", "video_results": score}]] for name, score in scores.items()}
  (folder / f"results_{time}_eval_results.json").write_text(json.dumps(said))
  (folder / f"results_{time}_full_info.json").write_text("[]")  # lies beside it


def test_results_of_several_runs_are_one_table(tmp_path, capsys):
  first, *rest = LEADERBOARD
  _results(tmp_path / "r", "2026-03-01", **{first: 0.5}, **{name: LEADERBOARD[name] / 100 for name in rest[:-1]})
  _results(tmp_path / "r", "2026-03-02", **{first: LEADERBOARD[first] / 100})
  launch.main([f"--table={tmp_path / 'r'}"])
  lines = {line[:24].strip(): line.split()[-3:] for line in capsys.readouterr().out.splitlines()}
  assert lines["subject consistency"] == ["89.87", "88.14", "95.38"]
  assert lines["quality score"][-2:] == ["78.06", "84.59"]
  assert lines["semantic score"][-2:] == ["-", "80.44"] and lines["total score"][-2:] == ["-", "83.76"]  # a dimension is missing
  _results(tmp_path / "r", "2026-03-03", **{rest[-1]: LEADERBOARD[rest[-1]] / 100})
  launch.main([f"--table={tmp_path / 'r'}"])
  assert "75.75       83.76" in capsys.readouterr().out


@pytest.mark.parametrize("said", [
    [], {"speed": [1.0, []]}, {"color": 0.5}, {"color": []}, {"color": ["high"]}, {"color": [float("nan")]}])
def test_what_the_evaluator_did_not_write_is_no_result(tmp_path, said):
  (tmp_path / "a_eval_results.json").write_text(json.dumps(said))
  with pytest.raises(SystemExit, match="error: .*is not what VBench's evaluator writes"):
    launch.main([f"--table={tmp_path}"])


def test_a_folder_without_results_is_an_error(tmp_path):
  with pytest.raises(SystemExit, match="error: There is no .*_eval_results.json"):
    launch.main([f"--table={tmp_path}"])


@functools.cache
def _small():
  """(config, parameters) of an untrained model of one block."""
  c = base.get_config()
  c.model.update(dict(latent_channels=24, width=16, heads=2, depths=dict(dual=0, single=1, decoder=0), text_dim=128,
                      rope_axes=(2, 2, 4), image_dim=0, dtype="float32", remat="none"))
  c.data.text_tokens, c.route.keep, c.alignment.weight = 9, 1.0, 0.0
  c.sample.guidance.update(dict(rule="classifier_free", scale=1.0))
  c.sample.update(dict(steps=1, bucket=dict(frames=5, height=16, width=24)))
  cfg = config.from_config_dict(c)
  return cfg, sensitive(jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg.model)), seed=2)


@pytest.fixture
def run(monkeypatch, suite, tmp_path):
  """The command, with two videos of each prompt and three against flicker; gives the folder."""
  mesh = meshes.make_mesh(MeshConfig(1, 1, 1), devices=jax.devices()[:1])
  cfg, params = _small()
  monkeypatch.setattr(launch_model, "find", lambda args: (Pipeline(cfg, lambda: params, mesh), dict(checkpoint=args.checkpoint)))
  monkeypatch.setattr(vbench, "SAMPLES", 2)
  monkeypatch.setattr(vbench, "FLICKER_SAMPLES", 3)

  def main(*flags, output="out"):
    launch.main(["--checkpoint=run", f"--suite={suite}", "--batch=2", f"--output={tmp_path / output}", *flags])
    return tmp_path / output

  return main


def _bytes(output):
  return {file.name: file.read_bytes() for file in (output / "videos").iterdir()}


def test_the_command_goes_on_where_it_stopped_and_parts_make_the_same_videos(run, monkeypatch, tmp_path, capsys):
  write, count = videos.write_mp4, []

  def three(path, frames, **how):
    count.append(1 / (3 - len(count)))
    write(path, frames, **how)

  monkeypatch.setattr(videos, "write_mp4", three)
  with pytest.raises(ZeroDivisionError):
    run()
  monkeypatch.setattr(videos, "write_mp4", write)
  made = _bytes(run())
  said = capsys.readouterr().out
  assert "3 of 7 videos are there" in said and "4 of 4 after" in said
  assert made.keys() == {f"{CAT}-0.mp4", f"{CAT}-1.mp4", f"{DOG}-0.mp4", f"{DOG}-1.mp4", *(f"{STOP}-{i}.mp4" for i in range(3))}
  assert len(set(made.values())) == 7
  assert videos.read_clip(tmp_path / "out/videos" / f"{CAT}-1.mp4", BucketConfig(5, 16, 24)).shape == (5, 16, 24, 3)
  run("--part=2/2", output="parts")
  assert len(_bytes(tmp_path / "parts")) == 3
  assert _bytes(run("--part=1/2", output="parts")) == made
  with pytest.raises(SystemExit, match=r"error: .*made otherwise: seed=1 \(before: 0\)"):
    run("--seed=1")


def test_the_evaluator_gets_still_videos_against_flicker(run, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(videos, "write_mp4", lambda path, frames, **how: path.write_bytes(b""))
  out = run("--dimensions=temporal_flickering,human_action")
  (out / "videos" / "notes.txt").touch()
  run("--dimensions=temporal_flickering,human_action")
  said = capsys.readouterr().out.splitlines()[-5:]
  assert said[0] == f"vbench static_filter --videos_path {out}/videos --result_path {out}/static"
  assert said[1].startswith(f"vbench evaluate --videos_path {out}/static/filtered_videos --dimension temporal_flickering ")
  assert said[2].startswith(f"vbench evaluate --videos_path {out}/videos --dimension human_action ")
  assert said[4].endswith("notes.txt")


@pytest.mark.parametrize("flags, said", [
    (["--dimensions=speed"], "no prompt for speed; it has some for spatial_relationship"),
    (["--part=3/2"], "not I/N with I from 1 to N"),
    (["--batch=0"], "at least 1 video at once"),
    (["--rewritten={tmp}/a.txt"], "a.txt has 1 lines and .*suite.json 4 prompts"),
    (["--suite={tmp}/a.txt"], "1 prompts of .*a.txt cannot be names of files"),
    (["--suite={tmp}/b.json"], "is not a suite of VBench"),
    (["--suite={tmp}/c.json"], 'an entry without "prompt_en" or "dimension"'),
    (["--suite={tmp}/d.json"], "dimensions that VBench does not have"),
    (["--suite={tmp}/e.txt"], "There is no prompt"),
])
def test_bad_flags_get_one_clear_error(run, tmp_path, flags, said):
  for name, text in {"a.txt": "left/right", "b.json": "{}", "c.json": '["a"]', "e.txt": "\n",
                     "d.json": '[{"prompt_en": "a", "dimension": ["speed"]}]'}.items():
    (tmp_path / name).write_text(text)
  with pytest.raises(SystemExit, match=f"(?s)error: .*{said}"):
    run(*(flag.format(tmp=tmp_path) for flag in flags))
  assert not (tmp_path / "out").exists()
