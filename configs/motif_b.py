"""Motif-Video at 442 M parameters, between `motif_s` and the released 2B: what one GPU trains with room for the batch.

6 dual, 8 single and 4 decoder blocks of width 1024; heads keep their 128 features, so the same attention kernels run.

One H200-day, where executed FLOPs reach 40 % of the peak (`launch.plan`; not measured): 6.8 million clips of 33x144x256, or 29
million images of 144x256, with 512 text tokens.
"""

from configs import base, ladder


def get_config():
  c = base.get_config()
  c.model.update(dict(width=1024, heads=8, depths=dict(dual=6, single=8, decoder=4)))
  c.model.cross_attention.query_norm = "scale_bias"  # as released
  c.route.update(dict(start=2, stop=12))
  c.alignment.update(dict(tap=4))
  return ladder.scale_rates(c)
