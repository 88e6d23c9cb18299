"""Runs the code cells of notebooks in this process, in the current folder: python -m tests.run_notebooks RESULT.json NOTEBOOK...

Without a kernel, which would be a dozen packages more.  In the place of IPython stands a module with the three names of it that the
notebooks use; what they display is read, as IPython would.  RESULT.json is notebook -> {"printed": text, "shown": [format]}.
"""

import contextlib
import io
import json
import pathlib
import sys
import types

SIGNATURES = {"png": (0, b"\x89PNG"), "mp4": (4, b"ftyp")}  # format -> where, and what its files have there


def cells(notebook: pathlib.Path, kind: str = "code") -> list[str]:
  """The sources of the cells of that kind."""
  return ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == kind]


def display_of(shown: list[str]) -> types.ModuleType:
  """A stand-in for IPython.display, which appends the format of all that is displayed to `shown`."""
  module = types.ModuleType("IPython.display")
  media = lambda path, **_: pathlib.Path(path).read_bytes()
  module.Image, module.Video = media, media
  module.display = lambda content: shown.append(next(
      name for name, (at, mark) in SIGNATURES.items() if content[at:at + len(mark)] == mark))
  return module


def run(notebook: pathlib.Path) -> dict:
  """What the notebook printed and displayed."""
  printed, shown, names = io.StringIO(), [], {"__name__": "__main__"}
  sys.modules["IPython.display"] = display_of(shown)  # alone: where there is an IPython, matplotlib asks it for its version
  with contextlib.redirect_stdout(printed):
    for number, source in enumerate(cells(notebook)):
      exec(compile(source, f"{notebook.name}, code cell {number}", "exec"), names)  # a traceback names the cell
  return {"printed": printed.getvalue(), "shown": shown}


if __name__ == "__main__":
  result, *notebooks = map(pathlib.Path, sys.argv[1:])
  result.write_text(json.dumps({path.stem: run(path) for path in notebooks}))
