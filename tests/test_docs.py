"""What README and docs/ name is there: files, headings, commands and their flags."""

import functools
import pathlib
import re

import pytest

from configs import base

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
COMMAND = re.compile(r"python -m (launch\.\w+)((?:\\\n|[^\n`#])*)")  # to the end of the line, or of those that it goes on in
EXAMPLES = {"section.key", "a.b", "model.depths.video"}  # of how a key is written, and of one that docs/recipes.md adds
FLAG = re.compile(r"(?<!\S)--(?!help)(\w+)")


def anchor(heading: str) -> str:
  """What a heading is called in an address."""
  return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken(page: pathlib.Path) -> list[str]:
  """The relative links of a page that lead nowhere."""
  found = []
  for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
    if re.match(r"\w+:", link):
      continue
    name, _, place = link.partition("#")
    target = page.parent / name if name else page
    if not target.exists() or place and place not in map(anchor, re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)):
      found.append(link)
  return found


@EVERY_PAGE
def test_links_lead_somewhere(page):
  assert broken(page) == []


def test_a_link_to_a_missing_file_or_heading_is_seen(tmp_path):
  page = tmp_path / "a.md"
  page.write_text("# One (`two`)\n[x](a.md) [x](#one-two) [x](https://a.b/c) [x](b.md) [x](a.md#three)")
  assert broken(page) == ["b.md", "a.md#three"]


@functools.cache
def said_by(command: str) -> str:
  """The sources in which the flags of a command are named."""
  files = [ROOT / f"{command.replace('.', '/')}.py", ROOT / "launch" / "model.py", ROOT / "launch" / "arguments.py"]
  return "".join(file.read_text() for file in files) if files[0].exists() else ""


def unknown(text: str) -> list[str]:
  """The commands, and flags of commands, that a text names and that are not there."""
  found = []
  for command, rest in COMMAND.findall(text):
    own, _, inner = rest.partition(" -- ")  # what launch.supervise keeps alive is launch.train
    if not said_by(command):
      found.append(command)
    for name, flag in [(command, f) for f in FLAG.findall(own)] + [("launch.train", f) for f in FLAG.findall(inner)]:
      if said_by(name) and not re.search(rf'"(--)?({flag}|{flag.removeprefix("no")})"', said_by(name)):
        found.append(f"{name} --{flag}")
  return found


@EVERY_PAGE
def test_commands_and_their_flags_are_there(page):
  assert unknown(page.read_text()) == []


def test_what_a_command_does_not_know_is_seen():
  text = ("`python -m launch.plane --x=1`, python -m launch.sample --checkpoint=A --prompts=B \\\n --bogus=1\n"
          "python -m launch.supervise --workdir=A -- --bucket=1")
  assert unknown(text) == ["launch.plane", "launch.sample --bogus", "launch.train --bucket"]


def unknown_keys(text: str) -> list[str]:
  """The config keys that a text names and that configs/base.py does not have."""
  known = base.get_config().to_dict()
  has = lambda tree, path: isinstance(tree, dict) and path[0] in tree and (len(path) == 1 or has(tree[path[0]], path[1:]))
  return [key for key in re.findall(r"--config\.([\w.]+)=", text) if key not in EXAMPLES and not has(known, key.split("."))]


@EVERY_PAGE
def test_config_keys_are_there(page):
  assert unknown_keys(page.read_text()) == []


def test_a_config_key_that_is_not_there_is_seen():
  text = "--config.model.remat=block --config.modl.remat=block --config.model.remat.x=1 --config.model.cross_attention.kind=none"
  assert unknown_keys(text) == ["modl.remat", "model.remat.x"]


def test_the_commands_of_the_pages_are_found():
  commands = {command for page in PAGES for command, _ in COMMAND.findall(page.read_text())}
  assert {"launch.train", "launch.encode", "launch.sample", "launch.plan", "launch.finetune", "launch.profile"} <= commands
