"""Claims about all commands of launch/ together: one process imports them, each tells its flags, and wrong ones get one line."""

import importlib
import os
import pathlib
import runpy
import sys

from absl import flags
import pytest

from launch import arguments

FILES = sorted(path for path in (pathlib.Path(__file__).parent.parent / "launch").glob("[!_]*.py"))
COMMANDS = sorted({path.stem for path in FILES} - {"arguments", "model", "reference"})  # the first two are read, the last has no flags


@pytest.mark.parametrize("order", [1, -1])
def test_one_process_imports_every_command_in_any_order(order):
  before = dict(os.environ)
  for path in FILES[::order]:
    runpy.run_path(str(path), run_name=f"launch.{path.stem}")
  assert not [name for name in flags.FLAGS.flags_by_module_dict() if name.startswith("launch")]  # they are one set to a process
  assert dict(os.environ) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_its_flags(name, capsys):
  with pytest.raises(SystemExit) as caught:
    importlib.import_module(f"launch.{name}").main(["--help"])
  said = capsys.readouterr().out
  assert caught.value.code == 0 and "usage: " in said and len(said) > 300


def parse(*given):
  parser = arguments.parser("launch.any", "About.")
  arguments.add_config(parser)
  parser.add_argument("--workdir")
  return arguments.parse(parser, ["--config=configs/smoke.py", *given])


def test_flags_change_keys_of_the_config_in_each_type():
  args = parse("--config.model.width=32", "--config.optimizer.rate=1", "--config.model.rope_axes=(2, 4, 10)", "--workdir=a b",
               "--config.data.buckets=('9x32x32',)", "--config.data.path=2026", "--config.sample.prompts=('a b', 'c')",
               "--config.sample.guidance.together", "--config.train.steps", "7")
  c = args.config
  assert (c.model.width, c.optimizer.rate, c.model.rope_axes, args.workdir) == (32, 1.0, (2, 4, 10), "a b")
  assert (c.data.buckets, c.data.path, c.sample.prompts) == (("9x32x32",), "2026", ("a b", "c"))
  assert c.sample.guidance.together is True and c.train.steps == 7 and c.is_locked


def test_two_commands_of_a_process_keep_their_configs_apart():
  assert [parse(f"--config.model.width={width}").config.model.width for width in (16, 48)] == [16, 48]


@pytest.mark.parametrize("given, said", [
    (["--workdri=x"], "unknown flag --workdri; did you mean --workdir"),
    (["--zzz"], "unknown flag --zzz; known flags: --config, --workdir"),
    (["stray"], "unknown arguments stray; write --flag=value"),
    (["--config=nowhere.py"], "--config=nowhere.py: there is no such Python file; configs: .*configs/smoke.py"),
    (["--config=configs"], "there is no such Python file"),
    (["--config=README.md"], "there is no such Python file"),
    (["--config=launch/__init__.py"], r"has no get_config\(\); expected a file like those in configs/"),
    (["--config.modl.width=3"], "no such config key: .*modl"),
    (["--config.model.widht=3"], 'no such config key: .*Did you mean "width"'),
    (["--config.model.width=wide"], "config.model.width.*wide"),
    (["--config.train.steps"], "--config.train.steps"),
])
def test_wrong_flags_get_one_line(given, said, monkeypatch):
  monkeypatch.delitem(sys.modules, "config_config", raising=False)  # where ml_collections keeps what it read last
  with pytest.raises(SystemExit, match=f"(?s)^error: .*{said}"):
    parse(*given)


def test_programs_cannot_be_kept_in_a_file(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(OSError, match="file"):
    arguments.keep_programs(str(tmp_path / "file"))


@pytest.mark.parametrize("argv, said", [
    (["plan", "--config=configs/smoke.py", "--utilisation=nan"], "share of the device's peak"),
    (["schedule", "--config=configs/smoke.py", "--utilisation=0"], "share of the device's peak"),
    (["schedule", "--config=configs/smoke.py", "--teacher=8"], "--teacher=8: expected two positive whole numbers"),
    (["feed", "--workers=a"], "--workers=a: expected numbers of processes"),
    (["encode", "--config=configs/smoke.py", "--source={folder}", "--dry_run", "--inventory={file}/x"], "no clip|captions"),
    (["profile", "--config=configs/smoke.py", "--workdir={file}"], "{file}"),
    (["accuracy", "--checkpoint={folder}", "--output={file}"], "{file}"),
    (["calibrate", "--checkpoint={folder}", "--output={file}"], "{file}"),
    (["torture", "--output={file}"], "{file}"),
    (["render", "--output={folder}/x", "--colour=pink"], "'pink' is not one of the new ones, orange"),
])
def test_bad_input_gets_one_line_before_anything_is_computed(argv, said, tmp_path):
  (tmp_path / "file").write_text("no folder")
  given = dict(folder=tmp_path, file=tmp_path / "file")
  command, *argv = (part.format(**given) for part in argv)
  with pytest.raises(SystemExit, match=f"^error: .*({said.format(**given)})"):
    importlib.import_module(f"launch.{command}").main(argv)


@pytest.mark.parametrize("text", ["0", "1.5", "many", "nan"])
def test_a_number_out_of_bounds_is_told_the_bound(text, capsys):
  parser = arguments.parser("launch.any", "About.")
  parser.add_argument("--count", type=arguments.at_least(1))
  assert parser.parse_args(["--count=1"]).count == 1
  with pytest.raises(SystemExit):
    parser.parse_args([f"--count={text}"])
  assert f"--count: '{text}', expected a whole number of at least 1" in capsys.readouterr().err
