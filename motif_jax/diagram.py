"""The architecture as a picture: SVG text made from the plan of a config's first training step, so that it cannot say otherwise.

One mark per block, from left to right as the tokens pass them; below, what happens inside a block of each part.
"""

import math
from xml.sax.saxutils import escape

from motif_jax.budget import memory, workload
from motif_jax.config import Config
from motif_jax.train import step

WIDTH, HEIGHT = 1120, 660
VIDEO, TEXT = 190, 268  # heights of the two lanes of tokens
HALF = 27  # of a block on one lane
FIRST, LAST, GAP = 196, 996, 40  # where blocks begin and end, and what lies between parts
SKIP, BYPASS = 84, 128  # heights of the ways around blocks
CARDS = 396  # where what is inside a block begins
NAMES = dict(dual=("Early fusion", "dual-stream"), single=("Joint representation", "single-stream"),
             decoder=("Detail", "decoder"))

# (class, light, dark): a picture in a README follows the reader's colours, and stands on its own ground where it cannot.
COLOURS = (
    (".ground", "fill:#ffffff;stroke:#d5dbe1", "fill:#0f141b;stroke:#2c3540"),
    (".card", "fill:#f6f8fa", "fill:#171d26"),
    ("text", "fill:#1f2a37", "fill:#e3e9f0"),
    (".faint", "fill:#64707d", "fill:#93a0ad"),
    (".box", "fill:#ffffff;stroke:#9aa7b4", "fill:#0f141b;stroke:#5d6a78"),
    (".wire", "fill:none;stroke:#9aa7b4", "fill:none;stroke:#5d6a78"),
    (".video", "fill:#dbe8fb;stroke:#3472cf", "fill:#16325c;stroke:#6aa3f5"),
    (".text", "fill:#fdeccb;stroke:#c98612", "fill:#4a3510;stroke:#e6b04f"),
    (".single", "fill:#cfeee8;stroke:#17877a", "fill:#0f4039;stroke:#4cc4b4"),
    (".decoder", "fill:#e7ddfa;stroke:#7550c4", "fill:#352263;stroke:#a98bf0"),
    (".on-video", "fill:none;stroke:#3472cf", "fill:none;stroke:#6aa3f5"),
    (".on-text", "fill:none;stroke:#c98612", "fill:none;stroke:#e6b04f"),
    (".on-tap", "fill:none;stroke:#c2427e", "fill:none;stroke:#ef7fb2"),
    (".tap", "fill:#c2427e", "fill:#ef7fb2"),
)
STYLE = """text{font:13px -apple-system,"Segoe UI",Helvetica,Arial,"DejaVu Sans",sans-serif}
.title{font-size:17px;font-weight:600}.small{font-size:11.5px}.end{text-anchor:end}.mid{text-anchor:middle}
.lane{stroke-width:3}.few{stroke-width:1.6}.dash{stroke-width:1.8;stroke-dasharray:5 4}.thin{stroke-width:1.4}
"""


def svg(cfg: Config, strides: tuple[int, int, int]) -> str:
  """The picture, as SVG; `strides` (time, height, width) are the codec's, for the number of tokens.

  What the config leaves off in the first step (routing, alignment, a part of depth 0) is not drawn.
  """
  plan = step.plan_at(cfg, 0)
  places = _places(plan)
  rules = lambda which: "".join(f"{colour[0]}{{{colour[which]}}}" for colour in COLOURS)
  parts = [_rect(0.5, 0.5, WIDTH - 1, HEIGHT - 1, "ground", 12), *_head(cfg, strides), *_lanes(cfg, plan, places),
           *_blocks(cfg, places), *_tap(cfg, plan, places), *_ends(cfg, places), *_cards(cfg)]
  return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
          f'aria-label="{escape(_said(plan))}">\n<style>{STYLE}{rules(1)}\n'
          f"@media (prefers-color-scheme:dark){{{rules(2)}}}</style>\n" + "\n".join(parts) + "\n</svg>\n")


def _said(plan) -> str:
  return "Motif-Video: " + " | ".join(map(str, plan))


def _places(plan) -> dict[tuple[str, int], float]:
  """(kind, block) -> left edge of its column."""
  blocks = [(segment.kind, i) for segment in plan for i in range(segment.start, segment.stop)]
  kinds = list(dict.fromkeys(kind for kind, _ in blocks))
  pitch = _pitch(len(blocks), len(kinds))
  return {block: FIRST + n * pitch + GAP * kinds.index(block[0]) for n, block in enumerate(blocks)}


def _pitch(blocks: int, kinds: int) -> float:
  return (LAST - FIRST - GAP * (kinds - 1)) / blocks


def _wide(pitch: float) -> float:
  return pitch * 0.8


def _head(cfg, strides):
  bucket, model = cfg.sample.bucket, cfg.model
  tokens = workload.tokens_of(model, workload.latent_grid(bucket, strides), cfg.data.text_tokens).video
  yield _text(28, 38, f"{_millions(memory.network_size(cfg))} parameters", "title")
  yield _text(28, 58, f"width {model.width:,}, {model.heads} heads of {model.head_dim}", "faint")
  yield _text(WIDTH - 28, 38, f"{tokens:,} video tokens", "title end")
  yield _text(WIDTH - 28, 58, f"in a clip of {bucket.frames} frames, {bucket.width} x {bucket.height} pixels", "faint end")


def _lanes(cfg, plan, places):
  """The ways of the tokens, below the blocks."""
  ends = {kind: max(x for (of, _), x in places.items() if of == kind) for kind, _ in places}
  pitch = _pitch(len(places), len(ends))
  stage = max(ends[kind] for kind in ends if kind != "decoder") + pitch
  yield _path(f"M150 {VIDEO}H{stage + 6:.1f}", "on-video lane")
  yield _path(f"M150 {TEXT}H{stage - pitch * 0.2:.1f}", "on-text lane")
  if "decoder" in ends:
    first = places["decoder", 0]
    yield _path(f"M{stage + 6:.1f} {VIDEO}C{stage + 22:.1f} {VIDEO} {first - 22:.1f} {TEXT} {first - 4:.1f} {TEXT}"
                f"H{ends['decoder']:.1f}", "on-video lane")
    down = first - 14
    yield _path(f"M166 {VIDEO}V{SKIP + 12}Q166 {SKIP} 178 {SKIP}H{down - 14:.1f}Q{down:.1f} {SKIP} {down:.1f} {SKIP + 14}"
                f"V{VIDEO - 12}Q{down:.1f} {VIDEO} {first - 2:.1f} {VIDEO}H1016", "on-video few")
    yield _text(182, SKIP - 8, "the embedded input once more, for the decoder", "small faint")
  else:
    yield _path(f"M{stage:.1f} {VIDEO}H1016", "on-video lane")
  routed = [places[segment.kind, i] for segment in plan if segment.routed for i in range(segment.start, segment.stop)]
  if routed:
    a, b = routed[0] - pitch * 0.1, routed[-1] + pitch * 0.9
    yield _path(f"M{a - 8:.1f} {VIDEO}C{a:.1f} {VIDEO} {a - 4:.1f} {BYPASS} {a + 12:.1f} {BYPASS}H{b - 12:.1f}"
                f"C{b + 4:.1f} {BYPASS} {b:.1f} {VIDEO} {b + 8:.1f} {VIDEO}", "on-video dash")
    yield _text(min(a + 16, 560), BYPASS - 8, f"token routing, in training: {1 - cfg.route.keep:.0%} of the video tokens pass by "
                f"blocks [{cfg.route.start}, {cfg.route.stop})", "small faint")


def _tap(cfg, plan, places):
  """Where features are read for the alignment, between two blocks."""
  pitch = _pitch(len(places), len({kind for kind, _ in places}))
  for segment in plan:
    if segment.tap:
      x = places[segment.kind, segment.stop - 1] + pitch * 0.9
      left = x > WIDTH / 2  # no room for the words on the right
      yield _path(f"M{x:.1f} {VIDEO}V{TEXT + 52}h{-10 if left else 10}", "on-tap dash")
      yield _rect(x - 4, VIDEO - 4, 8, 8, "tap", 4)
      yield _text(x - 16 if left else x + 16, TEXT + 56, f"early alignment: after block {cfg.alignment.tap} towards the features "
                  "of a frozen encoder", "small faint" + " end" * left)


def _blocks(cfg, places):
  pitch = _pitch(len(places), len({kind for kind, _ in places}))
  wide = _wide(pitch)
  for (kind, _), x in places.items():
    if kind == "dual":
      yield _path(f"M{x + wide / 2:.1f} {VIDEO}V{TEXT}", "wire thin")
      yield _rect(x, VIDEO - HALF, wide, 2 * HALF, "video", 4)
      yield _rect(x, TEXT - HALF, wide, 2 * HALF, "text", 4)
      continue
    yield _rect(x, VIDEO - HALF, wide, TEXT - VIDEO + 2 * HALF, kind, 4)
    if kind == "single" and cfg.model.cross_attention.kind != "none":
      yield _path(f"M{x + wide / 2:.1f} {TEXT + 8}V{VIDEO + 2}m-4 5l4 -6l4 6", "on-text thin")


def _ends(cfg, places):
  """What goes in and what comes out."""
  model = cfg.model
  yield _rect(24, VIDEO - 34, 128, 68, "video", 8)
  yield _text(88, VIDEO - 14, "noisy video", "mid")
  yield _text(88, VIDEO + 4, f"latents {model.latent_channels} + first", "small mid")
  yield _text(88, VIDEO + 21, f"frame {model.latent_channels} + mask 1", "small mid")
  yield _rect(24, TEXT - 24, 128, 48, "text", 8)
  yield _text(88, TEXT - 4, "text" + (" (and image)" if model.image_dim else ""), "mid")
  yield _text(88, TEXT + 14, f"features {model.text_dim:,}", "small mid")
  yield _rect(24, TEXT + 66, 128, 26, "box", 8)
  yield _text(88, TEXT + 84, "time t", "mid")
  yield _path(f"M152 {TEXT + 79}H{LAST}", "wire thin")
  yield _text(LAST, TEXT + 98, "shift, scale and gate of every block", "small faint end")
  half = _wide(_pitch(len(places), len({kind for kind, _ in places}))) / 2
  for x in places.values():
    yield _path(f"M{x + half:.1f} {TEXT + 79}v-9m-3 4l3 -5l3 5", "wire thin")
  yield _rect(1016, VIDEO - 34, 80, 68, "video", 8)
  yield _text(1056, VIDEO - 3, "velocity", "mid")
  yield _text(1056, VIDEO + 15, f"{model.latent_channels} channels", "small mid")


def _cards(cfg):
  """A card for each part: its blocks, its parameters, and one block from the inside."""
  counts, wide = memory.parameters(cfg), 344
  for n, (kind, (name, stream)) in enumerate(NAMES.items()):
    depth, left = getattr(cfg.model.depths, kind), 24 + n * (wide + 20)
    if not depth:
      continue
    size = _millions(sum(math.prod(shape) for path, shape in counts.items() if path.startswith(f"{kind}/")))
    yield _rect(left, CARDS, wide, HEIGHT - CARDS - 20, "card", 10)
    yield _text(left + 16, CARDS + 28, name, "title")
    yield _text(left + 16, CARDS + 47, f"{depth} {stream} block{'s' * (depth != 1)}, {size} parameters", "faint")
    yield from INSIDE[kind](cfg, left + 16, CARDS + 66)


def _millions(count: int) -> str:
  return f"{count / 1e6:,.0f} M" if count >= 1e7 else f"{count / 1e6:.2f} M"


def _rows(x, y, names, kinds, steps, joint):
  """Two rows of boxes, and the attention in which they meet; `steps` are (left, width, label) within the card."""
  for row, (name, kind) in enumerate(zip(names, kinds)):
    middle = y + 26 + 48 * row
    yield _path(f"M{x} {middle}H{x + 306}m-6 -4l6 4l-6 4", "wire thin")
    yield _text(x, middle - 8, name, "small faint")
    for left, wide, label in steps:
      yield _rect(x + left, middle - 16, wide, 32, kind, 5)
      yield _text(x + left + wide / 2, middle + 4, label, "small mid")
  left, wide, label = joint
  yield _rect(x + left, y + 4, wide, 92, "box", 5)
  for i, word in enumerate(label.split()):
    yield _text(x + left + wide / 2, y + 46 + 15 * i, word, "small mid")


def _dual(cfg, x, y):
  steps = ((50, 50, "q k v"), (186, 40, "out"), (240, 46, "MLP"))
  yield from _rows(x, y, ("video", "text"), ("video", "text"), steps, (112, 62, "joint attention"))
  yield from _lines(x, y + 132, "Video and text keep their own weights and", "meet in one attention.")


def _single(cfg, x, y):
  cross, middle = cfg.model.cross_attention.kind, y + 26
  steps = ((50, 50, "q k v"), (226, 62, "out, MLP"))
  yield from _rows(x, y, ("video", "text"), ("single", "single"), steps, (112, 62, "joint attention"))
  if cross == "none":
    yield from _lines(x, y + 132, "One set of weights, attention beside MLP.")
    return
  yield _rect(x + 182, middle - 12, 36, 24, "text", 5)
  yield _text(x + 200, middle + 4, "cross", "small mid")
  yield _path(f"M{x + 75} {y + 90}V{y + 108}H{x + 200}V{middle + 14}m-4 6l4 -6l4 6", "on-text thin")
  said = {"shared": ("Shared Cross-Attention: new queries of the", "video, the block's own keys and values of the text."),
          "separate": ("Cross-attention has its own queries, keys", "and values.")}[cross]
  yield from _lines(x, y + 132, "One set of weights, attention beside MLP.", *said)


def _decoder(cfg, x, y):
  steps = ((50, 50, "q k v"), (226, 62, "out, MLP"))
  yield from _rows(x, y, ("input", "video"), ("decoder", "decoder"), steps, (112, 62, "joint attention"))
  yield from _lines(x, y + 132, "The embedded input again, beside the video as the",
                    "encoder stages left it: twice the tokens, no text.")


INSIDE = dict(dual=_dual, single=_single, decoder=_decoder)


def _lines(x, y, *lines):
  return [_text(x, y + 17 * i, line, "small") for i, line in enumerate(lines)]


def _rect(x, y, wide, high, kind, round_):
  return f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(wide)}" height="{_n(high)}" rx="{round_}" class="{kind}"/>'


def _path(d, kind):
  return f'<path d="{d}" class="{kind}"/>'


def _text(x, y, said, kind):
  return f'<text x="{_n(x)}" y="{_n(y)}" class="{kind}">{escape(said)}</text>'


def _n(value):
  return f"{value:.1f}".removesuffix(".0")
