"""Curves as pictures: numbers that a study or a run left in JSON, drawn small enough to commit.  The home of matplotlib."""

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")  # no window: pictures go to files, and notebooks show those
from matplotlib import figure

from motif_jax.data import videos

_PANEL = (4.6, 3.4)  # inches
_DPI = 90


@dataclasses.dataclass(frozen=True)
class Panel:
  """One diagram: name -> (x values, y values), or (x values, y values, half widths of error bars)."""

  title: str
  x: str  # label, with its unit
  y: str
  curves: Mapping[str, tuple[Sequence[float], ...]]
  log_x: bool = False
  log_y: bool = False
  marker: str = "o"  # "" for curves of many points


def draw(path, panels: Sequence[Panel], *, columns: int = 3) -> None:
  """Writes the panels as one PNG to `path`, whole or not at all."""
  columns = min(columns, len(panels))
  rows = -(-len(panels) // columns)
  picture = figure.Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained")
  for place, panel in enumerate(panels, start=1):
    axes = picture.add_subplot(rows, columns, place)
    for name, (x, y, *error) in panel.curves.items():
      bars = error[0] if error else None
      axes.errorbar(x, y, yerr=bars, label=name, marker=panel.marker, markersize=3, linewidth=1.2, capsize=2)
    axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y, xscale="log" if panel.log_x else "linear",
             yscale="log" if panel.log_y else "linear")
    axes.grid(alpha=0.3)
    if len(panel.curves) > 1:
      axes.legend(fontsize=7)
  with videos.replacing(path) as temporary:
    picture.savefig(temporary, dpi=_DPI, format="png")
