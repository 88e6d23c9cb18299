"""One stream: five single blocks, each with Shared Cross-Attention, instead of one dual, two single and one decoder block."""

from configs.experiments import base


def get_config():
  c = base.get_config()
  c.model.depths.update(dict(dual=0, single=5, decoder=0))
  c.train.steps = 696
  c.train.sample_every = c.train.steps // base.SAMPLED
  return c
