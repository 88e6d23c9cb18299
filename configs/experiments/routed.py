"""The base with routing: both single blocks see half of the video tokens, but for the last fifth of the steps.

More steps than the base: as many as take it no less time (`launch.experiments --time`), so that there is a moment of equal time.
"""

from configs.experiments import base


def get_config():
  c = base.get_config()
  c.train.steps = 1120
  c.route.update(dict(start=1, stop=3, keep=0.5, groups=4, last_step=c.train.steps * 4 // 5))
  c.train.sample_every = c.train.steps // base.SAMPLED
  return c
