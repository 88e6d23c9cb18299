"""Joint attention only: no cross-attention; MLPs are wider instead, so that there are as many parameters."""

from configs.experiments import base


def get_config():
  c = base.get_config()
  c.model.cross_attention.update(dict(kind="none", query_norm="none"))
  c.model.mlp_ratio = 2.375
  c.train.steps = 1024
  c.train.sample_every = c.train.steps // base.SAMPLED
  return c
