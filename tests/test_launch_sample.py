"""`python -m launch.sample` from a checkpoint on disk to files, and what it says to bad input."""

import json
import shlex

import jax
import numpy as np
import pytest
from PIL import Image

from configs import base
from launch import calibrate, loop, sample as launch
from motif_jax import config
from motif_jax.config import BucketConfig
from motif_jax.data import videos
from motif_jax.encoders.registry import CODECS, TEXTS
from motif_jax.train import checkpoint, optimizer, state
from tests.sensitive import sensitive

BUCKET = BucketConfig(5, 16, 24)
PROMPTS = ("a red square", "a blue disc!")
MESH = "--mesh=1x1x1"  # compiles in less time than eight devices take


def _config_dict():
  c = base.get_config()
  c.model.update(dict(latent_channels=CODECS["block_dct"]().channels, width=16, heads=2, depths=dict(dual=0, single=1, decoder=0),
                      text_dim=TEXTS["word_hash"]().dim, rope_axes=(2, 2, 4), image_dim=0, dtype="float32", remat="none"))
  c.data.text_tokens = 6
  c.sample.guidance.update(dict(rule="classifier_free", scale=2.0))
  c.sample.update(dict(steps=2, shift=2.0, fps=8, bucket=dict(frames=5, height=16, width=24)))
  return c


def _save(workdir, c, step=7):
  cfg = config.from_config_dict(c)
  made = state.create(jax.random.key(0), cfg, optimizer.make_optimizer(cfg.optimizer, steps=10))
  with checkpoint.make_manager(workdir, cfg.train) as manager:
    checkpoint.save(manager, made.replace(step=jax.numpy.int32(step), ema=sensitive(made.ema, seed=0)), cfg)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  _save(folder, _config_dict())
  return folder


@pytest.fixture(scope="module")
def made(workdir, tmp_path_factory):
  """The folder that sampling PROMPTS fills."""
  output = tmp_path_factory.mktemp("samples")
  launch.main([MESH, f"--checkpoint={workdir}", f"--output={output}", "--seed=3", *(f"--prompt={p}" for p in PROMPTS)])
  return output


def _bytes(folder):
  return {file.name: file.read_bytes() for file in folder.glob("*.mp4")}


def test_each_prompt_gets_a_video_of_the_bucket(made):
  assert sorted(_bytes(made)) == ["0000-a-red-square.mp4", "0001-a-blue-disc.mp4"]
  clips = [videos.read_clip(file, BUCKET) for file in sorted(made.glob("*.mp4"))]
  assert all(clip.shape == (5, 16, 24, 3) for clip in clips)
  assert np.abs(clips[0].astype(int) - clips[1]).max() > 10
  assert videos.probe(made / "0000-a-red-square.mp4").fps == 8


def test_the_contact_sheet_has_a_row_per_prompt(made):
  width, height = Image.open(made / "contact_sheet.png").size
  assert height >= 2 * 16 and width >= 5 * 24


def test_a_loop_is_made_of_what_was_sampled(made, tmp_path, capsys):
  loop.main([f"--samples={made}", f"--output={tmp_path}/loop.webp", "--columns=1"])
  assert "loop.webp: 2 clips" in capsys.readouterr().out
  picture = Image.open(tmp_path / "loop.webp")
  assert picture.n_frames == 5 and picture.size[1] > 2 * 16 * (160 // 24)


@pytest.mark.parametrize("flags, said", [
    (("--samples={tmp}", "--output={tmp}/a.webp"), "that launch.sample wrote to its end"),
    (("--samples={made}", "--output={tmp}/a.gif"), "ends in .webp")])
def test_a_loop_of_nothing_is_refused(made, tmp_path, flags, said):
  with pytest.raises(SystemExit, match=said):
    loop.main([flag.format(made=made, tmp=tmp_path) for flag in flags])
  assert not list(tmp_path.iterdir())


def test_the_json_says_what_was_done(made, workdir):
  said = json.loads((made / "samples.json").read_text())
  assert [(s["file"], s["prompt"], s["index"]) for s in said["samples"]] == [
      ("0000-a-red-square.mp4", PROMPTS[0], 0), ("0001-a-blue-disc.mp4", PROMPTS[1], 1)]
  assert said["settings"] == dict(checkpoint=str(workdir / "checkpoints/7"), seed=3, index=0, bucket="5x16x24", batch=4,
                                  sampler="euler", steps=2, shift=2.0, token_shift="none", sigmas="", rule="classifier_free", guidance=2.0, rescale=0.0,
                                  momentum=0.1, threshold=12.0, eta=0.0, interval="0:1", together=1)
  assert said["step"] == 7 and said["config"]["model"]["width"] == 16
  assert said["encoders"]["codec"]["name"] == "block_dct" and said["versions"]["jax"] == jax.__version__


def test_the_command_in_the_json_makes_the_same_videos_again(made, tmp_path):
  command = shlex.split(json.loads((made / "samples.json").read_text())["command"])
  assert command[:3] == ["python", "-m", "launch.sample"]
  launch.main([MESH, *command[3:], f"--output={tmp_path}"])
  assert _bytes(tmp_path) == _bytes(made)


def test_another_seed_makes_other_videos(made, workdir, tmp_path):
  launch.main([MESH, f"--checkpoint={workdir}", f"--output={tmp_path}", "--seed=4", *(f"--prompt={p}" for p in PROMPTS)])
  assert not _bytes(tmp_path).items() & _bytes(made).items()


def test_prompts_come_from_a_file_in_batches_and_a_later_one_alone_is_the_same(made, workdir, tmp_path, capsys):
  (tmp_path / "prompts.txt").write_text(f"{PROMPTS[0]}\n\n{PROMPTS[1]}\n  a star that shines on and on\n")
  flags = [f"--checkpoint={workdir}", "--seed=3", "--batch=2"]
  launch.main([MESH, *flags, f"--output={tmp_path}", f"--prompts={tmp_path / 'prompts.txt'}"])
  files = _bytes(tmp_path)
  assert len(files) == 3 and files.items() >= _bytes(made).items()
  assert "a-star-that-shines-on-and-on... has more than 6 text tokens; not seen: 'and on'" in capsys.readouterr().out
  launch.main([MESH, *flags, f"--output={tmp_path / 'one'}", "--index=1", *[f"--prompt={PROMPTS[1]}"] * 2])
  assert _bytes(tmp_path / "one")["0001-a-blue-disc.mp4"] == files["0001-a-blue-disc.mp4"]


def test_an_image_steers_the_video(made, workdir, tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
  Image.fromarray(picture).save(tmp_path / "first.png")
  launch.main([MESH, f"--checkpoint={workdir}", f"--output={tmp_path}", "--seed=3", f"--image={tmp_path / 'first.png'}",
               *(f"--prompt={p}" for p in PROMPTS)])
  settings = json.loads((tmp_path / "samples.json").read_text())["settings"]
  assert (settings["image"], settings["shift"]) == (str(tmp_path / "first.png"), 8.0)  # the shift of pictures
  assert _bytes(tmp_path).keys() == _bytes(made).keys() and _bytes(tmp_path) != _bytes(made)


def test_a_calibration_says_what_to_leave_out_and_sampling_records_its_error(made, workdir, tmp_path, capsys):
  (tmp_path / "prompts.txt").write_text("\n".join((*PROMPTS, "a star", "a green ring")))
  calibrate.main([MESH, f"--checkpoint={workdir}", f"--prompts={tmp_path / 'prompts.txt'}", "--speedup=1,2.5", "--steps=5",
                  f"--output={tmp_path}"])
  exact, cached = (json.loads((tmp_path / f"cache-{n}x.json").read_text()) for n in ("1", "2.5"))
  assert exact["skip"] == [] and exact["error"]["latents"] == 0
  assert cached["computed"] == 2 and len(cached["skip"]) == 3 and 0 < cached["error"]["latents"] < 1
  output, flags = tmp_path / "samples", [MESH, f"--checkpoint={workdir}", f"--cache={tmp_path / 'cache-2.5x.json'}"]
  launch.main([*flags, f"--prompt={PROMPTS[0]}", f"--output={output}", "--previews=2"])
  said = json.loads((output / "samples.json").read_text())
  assert said["settings"]["steps"] == 5 and said["config"]["sample"]["cache"]["skip"] == cached["skip"]
  assert said["cache"]["error"] == cached["error"]
  printed = capsys.readouterr().out
  assert "inexact: 2 of 5 steps computed" in printed and "step 4 of 5" in printed
  assert Image.open(output / "0000-a-red-square.steps.png").size[1] >= 3 * 16  # after steps 2, 4 and 5
  with pytest.raises(SystemExit, match=r"does not hold for steps=4 \(it holds for 5\)"):
    launch.main([*flags, "--prompt=a", "--steps=4"])
  with pytest.raises(SystemExit, match="is not a file that python -m launch.calibrate wrote"):
    launch.main([MESH, f"--checkpoint={workdir}", f"--cache={tmp_path / 'prompts.txt'}", "--prompt=a"])


def test_the_same_command_goes_on_where_it_stopped(made, workdir, tmp_path, capsys, monkeypatch):
  flags = [MESH, f"--checkpoint={workdir}", f"--output={tmp_path}", *(f"--prompt={p}" for p in PROMPTS)]
  write = videos.write_mp4

  def once(path, frames, **how):
    monkeypatch.setattr(videos, "write_mp4", lambda *args, **how: 1 / 0)
    write(path, frames, **how)

  monkeypatch.setattr(videos, "write_mp4", once)
  with pytest.raises(ZeroDivisionError):
    launch.main([*flags, "--seed=3"])
  assert len(_bytes(tmp_path)) == 1 and not (tmp_path / "samples.json").exists()
  monkeypatch.setattr(videos, "write_mp4", write)
  launch.main([*flags, "--seed=3"])
  said = capsys.readouterr().out
  assert "1 of 2 videos are there from an earlier run" in said and "1 of 1 videos after" in said
  assert _bytes(tmp_path) == _bytes(made) and not (tmp_path / "request.json").exists()
  launch.main([*flags, "--seed=3"])
  assert "2 of 2 videos are there from an earlier run" in capsys.readouterr().out
  for other in (["--seed=4"], ["--seed=4", "--again"]):  # of another seed; and made although there is nothing to do
    launch.main([*flags, *other])
    assert "2 of 2 videos after" in capsys.readouterr().out
  assert not _bytes(tmp_path).items() & _bytes(made).items()


def test_eight_devices_make_the_same_videos(made, workdir, tmp_path):
  launch.main([f"--checkpoint={workdir}", f"--output={tmp_path}", "--mesh=4x2x1", "--seed=3", *(f"--prompt={p}" for p in PROMPTS)])
  assert json.loads((tmp_path / "samples.json").read_text())["settings"]["batch"] == 8  # what the mesh deals evenly
  for name in _bytes(made):
    one, eight = (videos.read_clip(folder / name, BUCKET).astype(int) for folder in (made, tmp_path))
    assert np.abs(one - eight).max() <= 4  # H.264 magnifies the last bit


def test_an_interrupted_run_leaves_no_json(made, workdir, tmp_path, monkeypatch):
  (tmp_path / "samples.json").write_text("of an earlier run")
  monkeypatch.setattr(videos, "write_contact_sheet", lambda *args, **kwargs: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    launch.main([MESH, f"--checkpoint={workdir}", f"--output={tmp_path}", *(f"--prompt={p}" for p in PROMPTS)])
  assert not (tmp_path / "samples.json").exists()


@pytest.mark.parametrize("flags, said", [
    (["--prompt= "], "There is no prompt; pass --prompt"),
    (["--prompt=a", "--bucket=6x16x24"], "frames 6 .*nearest: 5, 9"),
    (["--prompt=a", "--bucket=5x18x24"], "height 18 .*nearest: 16, 20"),
    (["--prompt=a", "--bucket=5x20x24"], r"latents \(2, 5, 6\).*patch \(1, 2, 2\).*height 20 \(nearest: 16, 24\)"),
    (["--prompt=a", "--bucket=big"], "not FRAMESxHEIGHTxWIDTH"),
    (["--prompt=a", "--bucket=5x16x24,9x16x24"], "names 2 buckets"),
    (["--prompt=a", "--sampler=rk4"], "expected one of 'euler', 'heun'"),
    (["--prompt=a", "--steps=0"], "sample.steps is 0, expected at least 1"),
    (["--prompt=a", "--interval=0.1"], "not FROM:TO"),
    (["--prompt=a", "--sigmas=1,0.5,0.6"], r"sample.sigmas are \(1.0, 0.5, 0.6\), expected times that fall"),
    (["--prompt=a", "--sigmas=1,0.5,0", "--steps=3"], "sample.sigmas are 2 steps .* sample.steps is 3"),
    (["--prompt=a", "--sigmas=1,half"], "not a list of times that fall"),
    (["--prompt=a", "--interval=0.9:0.1"], "expected times 0 <= from < to <= 1"),
    (["--prompt=a", "--rule=apg"], "expected one of 'classifier_free', 'projected'"),
    (["--prompt=a", "--batch=0"], "at least 1 video at once"),
    (["--prompt=a", "--mesh=8"], "--mesh=8 is not DATAxFSDPxSEQUENCE"),
    (["--prompt=a", "--mesh=3x3x1"], "needs 9 devices, but there are 8"),
    (["--prompt=a", "--weights=x"], "either --checkpoint=WORKDIR"),
    (["--prompt=a", "--image=nowhere.png"], "nowhere.png does not exist"),
    (["--prompts=nowhere.txt"], "No such file"),
])
def test_bad_flags_get_one_clear_error(workdir, tmp_path, flags, said):
  with pytest.raises(SystemExit, match=f"(?s)error: .*{said}"):
    launch.main([MESH, f"--checkpoint={workdir}", f"--output={tmp_path / 'samples'}", *flags])
  assert not (tmp_path / "samples").exists()


def test_a_folder_without_checkpoint_gets_one_clear_error(tmp_path):
  with pytest.raises(SystemExit, match="error: There is no finished checkpoint in"):
    launch.main([MESH, f"--checkpoint={tmp_path}", "--prompt=a"])
  with pytest.raises(SystemExit, match="error: .*nowhere is not a folder"):
    launch.main([MESH, f"--checkpoint={tmp_path / 'nowhere'}", "--prompt=a"])


def test_a_step_may_be_named_and_the_newest_is_the_default(workdir):
  folder = workdir / "checkpoints"
  assert checkpoint.find(workdir) == checkpoint.find(folder) == checkpoint.find(folder / "7") == (folder, 7)


@pytest.mark.parametrize("change, said", [
    (dict(codec="mpeg"), "encoders.codec is 'mpeg', expected one of"),
    (dict(codec="block_dct_16"), "model.latent_channels is 24 .* block_dct_16 makes 16"),
])
def test_a_model_and_its_encoders_must_agree(tmp_path, change, said):
  c = _config_dict()
  c.encoders.update(change)
  _save(tmp_path, c)
  with pytest.raises(SystemExit, match=f"(?s)error: .*{said}"):
    launch.main([MESH, f"--checkpoint={tmp_path}", "--prompt=a"])


def test_file_names_hold_letters_and_digits_alone():
  assert launch.file_name("A <b>/..\\é 3 red,  square") == "a-b-3-red-square"
  assert launch.file_name("…") == "prompt"
  assert len(launch.file_name("word " * 50)) <= 40
