"""The commands, one after another, as a user types them: captioned videos in, videos and scores out."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from launch import finetune, judge, render

ROOT = pathlib.Path(__file__).parent.parent
TINY = ["--config=configs/smoke.py"] + [f"--config.{change}" for change in (
    "model.width=16", "model.heads=2", "model.rope_axes=(2,2,4)", "model.mlp_ratio=1", "alignment.hidden=8", "data.batch_size=4",
    "data.validation=0.2", "train.steps=4", "train.validate_every=2", "train.validation_batches=1", "train.sample_every=4",
    "train.save_every=2", "train.log_every=1", "sample.steps=2")]


def devices(count):
  """The environment of a program that sees `count` devices, or as many as it asks for itself; it compiles as quickly as tests do."""
  flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
  return os.environ | {"XLA_FLAGS": " ".join(flags + [f"--xla_force_host_platform_device_count={count}"] * (count is not None))}


def launch(command, *arguments, fails=False):
  """What `python -m launch.COMMAND` prints."""
  done = subprocess.run([sys.executable, "-m", f"launch.{command}", *arguments], cwd=ROOT, env=devices(None), capture_output=True, text=True)
  assert (done.returncode != 0) == fails, done.stdout + done.stderr
  assert "Traceback" not in done.stderr, done.stderr
  return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder with clips, a data set and a trained model."""
  folder = tmp_path_factory.mktemp("end_to_end")
  render.main([f"--output={folder}/clips", "--count=24"])
  assert "24 clips encoded" in launch("encode", "--config=configs/smoke.py", f"--source={folder}/clips", f"--output={folder}/dataset")
  train = ["train", *TINY, f"--config.data.path={folder}/dataset", f"--workdir={folder}/work"]
  assert "step 2/2" in launch(*train, "--config.train.steps=2")
  again = launch(*train)
  assert "from step 2 to 4" in again and "step 4/4" in again
  return folder


def test_a_trained_model_makes_a_video_and_says_how(folder):
  launch("sample", f"--checkpoint={folder}/work", "--prompt=a red square moves left", f"--output={folder}/out", "--seed=3")
  made = json.loads((folder / "out" / "samples.json").read_text())
  assert (folder / "out" / made["samples"][0]["file"]).stat().st_size > 500
  assert (folder / "out" / "contact_sheet.png").exists() and made["settings"]["seed"] == 3 and made["step"] == 4


def test_a_run_starts_from_the_weights_of_another(folder):
  out = launch("train", *TINY, f"--config.data.path={folder}/dataset", f"--workdir={folder}/second", f"--start={folder}/work",
               "--config.train.steps=1")
  assert re.search(r"kept [1-9]\d* parameters, 0 new, 0 dropped", out) and "from step 0 to 1" in out, out


def test_an_adapter_is_trained_and_sampled(folder):
  given = ["finetune", f"--weights={folder}/work", f"--data={folder}/dataset", f"--workdir={folder}/adapter", "--config.data.validation=0.2"]
  for wrong, said in (("--targets=head/*", "no kernel of this network"), ("--rank=17", "expected 1 to 16"),
                      ("--batch=30", r"expected at least 30 \(data.batch_size\)")):
    with pytest.raises(SystemExit, match=said):
      finetune.main([*given[1:], wrong])
  assert "adapter: " in launch(*given, "--rank=2", "--steps=2", "--batch=4")
  launch("sample", f"--checkpoint={folder}/work", "--prompt=a red square moves left", f"--output={folder}/adapted",
         f"--adapter={folder}/adapter/adapter.safetensors", "--adapter_weight=0.5")
  assert json.loads((folder / "adapted" / "samples.json").read_text())["settings"]["adapter_weight"] == 0.5


def test_the_schedule_of_a_run_is_printed_before_it_starts(folder):
  mixture = f"--config.data.mixture=(('{folder}/dataset',3),('{folder}/dataset',1))"
  out = launch("schedule", *TINY, mixture, "--config.train.steps=400", "--config.data.batch_tokens=400", "--config.data.order=shards")
  rows = re.findall(r"^A  9x32x32 +(\d+) +(\d+) +48 +8 +384 +(\d+) +(\S+)%", out, re.MULTILINE)
  assert [row[2:] for row in rows] == [("300", "75.0"), ("100", "25.0")] and all(int(a) + int(b) == 24 for a, b, *_ in rows)
  assert "programs: " in out and "1 x training step" in out and "2 bucket(s) in 4 lanes" in out and "clips/s" in out


def test_the_judge_scores_held_out_prompts(folder):
  assert "held-out prompts" in launch("judge", f"--checkpoint={folder}/work", "--count=6", f"--output={folder}/judged")
  scores = json.loads((folder / "judged" / "scores.json").read_text())
  assert set(scores["held_out"]) >= {"colour", "background", "motion", "shape"} and scores["count"] == 6


def test_an_arm_of_the_experiments_leaves_a_result(folder):
  sets = [f"--set={flag.removeprefix('--config.')}" for flag in TINY[1:]]
  given = ["experiments", f"--data={folder}/dataset", f"--output={folder}/experiments", "--arms=routed", "--seeds=1", *sets,
           "--set=route.last_step=2", "--set=train.judge=2", "--set=data.text_tokens=9"]
  assert "step 4/4" in launch(*given)
  told = json.loads((folder / "experiments" / "results" / "routed-1.json").read_text())
  assert told["batch"] == 4 and told["flops"]["4"] > 2 * told["flops"]["2"] > 0  # dense steps cost more than routed ones
  assert set(told["curves"]["validation/loss"]) == {"2", "4"} and "4" in told["curves"]["judge/binding"]
  assert "| routed | " in launch("results", f"--folder={folder}/experiments/results")
  assert "step" not in launch(*given)  # it has ended


@pytest.mark.parametrize("changes, said", [
    (["--config.model.widht=64"], 'Did you mean "width" instead of "widht"?'),
    (["--config.model.width=wide"], "error:"),
    (["--config.model.width=17", "--config.route.stop=4"],
     "(?s)model.width 17 is not divisible by model.heads 2.*decoder always sees every token"),
    (["--config.encoders.codec=block_dct_32"], "the data set does not fit the config"),
    (["--config.model.mlp_ratio=2"], "mlp_ratio"),  # a checkpoint of another architecture
    (["--config.data.path=nowhere"], "nowhere"),
])
def test_training_answers_bad_input_in_one_error(folder, changes, said):
  out = launch("train", *TINY, f"--config.data.path={folder}/dataset", f"--workdir={folder}/work", *changes, fails=True)
  assert re.search(said, out) and len(out.splitlines()) < 8, out


@pytest.mark.parametrize("command, said", [
    (["encode", "--config=configs/smoke.py", "--source=nowhere", "--output=out"], "nowhere"),
    (["encode", "--config=configs/smoke.py", "--config.modl=3", "--source=x", "--output=y"], "no such config key"),
])
def test_encoding_answers_bad_input_in_one_error(command, said):
  assert said in launch(*command, fails=True)


@pytest.mark.parametrize("command, flags, said", [
    (judge, ["--checkpoint=nowhere"], "nowhere"),
    (judge, ["--checkpoint=nowhere", "--count=1"], "at least 2 prompts"),
    (render, ["--output=out", "--count=0"], "at least 1 clip"),
    (render, ["--output=out", "--bucket=9x32"], "not FRAMESxHEIGHTxWIDTH"),
])
def test_judge_and_render_answer_bad_input_in_one_error(command, flags, said):
  with pytest.raises(SystemExit, match=f"error: .*{said}"):
    command.main(flags)
