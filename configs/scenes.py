"""The demo's model on the harder embedded set, two things in a relation, from the weights that the demo ends with.

One shape taught it where its tokens are and what colours, shapes and motions look like; two teach which words belong together.
`data.mixture` keeps the first set beside the second.  docs/scenes.md has the commands and what came of it.
"""

from configs import smoke


def get_config():
  c = smoke.get_config()
  c.data.text_tokens = 64  # long captions have 49 to 61
  c.route.keep = 1.0  # the demo's weights have had their routed phase
  c.optimizer.warmup = 100
  c.train.update(dict(steps=4300, log_every=100, validate_every=500, sample_every=1000, save_every=500))
  c.train.update(dict(judge=64, benchmark="scenes"))
  c.sample.prompts = (
      "A red square left of a blue ring on a white background, red moves up and blue stays still.",
      "A yellow cross above a magenta triangle on a black background, yellow moves left and magenta moves right.",
      "A green ring below a red triangle on a grey background, red stays still, green moves left.",
      "A blue square right of a green cross on a teal background, blue moves down and green moves down.",
  )
  return c
