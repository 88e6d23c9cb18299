"""A table of what a scheduled module sends, and of what of it nothing hides.

That is a lower bound: work beside two messages counts for both.
"""

import collections

from motif_jax import compiled
from motif_jax.budget import devices


def lines(text: str, device: devices.Device, *, utilisation: float) -> list[str]:
  """A table of the collectives of a scheduled module; times are at the line rate of a node, whoever takes part."""
  groups = collections.defaultdict(list)
  for overlap in compiled.overlaps(text):
    groups[overlap.collective.kind, overlap.collective.group].append(overlap)
  said = [f"{'':<16}{'group':>6}{'times':>7}{'alone':>7}{'sent':>13}{'time':>13}{'exposed':>13}"]
  for (kind, group), found in sorted(groups.items()):
    seconds = [(o.collective.sent / device.link, o.collective.count * o.flops / (utilisation * device.flops)) for o in found]
    alone = sum(o.collective.count for o in found if not o.flops)
    said.append(f"{kind:<16}{group:>6}{sum(o.collective.count for o in found):>7}{alone:>7}"
                f"{sum(o.collective.sent for o in found) / 1e9:>10.3g} GB{1e3 * sum(sent for sent, _ in seconds):>10.3g} ms"
                f"{1e3 * sum(max(0.0, sent - work) for sent, work in seconds):>10.3g} ms")
  every, beside = compiled.collectives(text), compiled.overlaps(text)
  whole = sum(c.sent for c in every) - sum(o.collective.sent for o in beside)
  return said + [f"waited for where they stand: {whole / 1e9:.3g} GB, {1e3 * whole / device.link:.3g} ms"]
