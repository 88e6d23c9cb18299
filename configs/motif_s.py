"""Motif-Video at 63 M parameters, for measuring and for trying things out: the blocks of the 2B model, fewer and narrower.

3 dual, 5 single and 2 decoder blocks of width 512; heads keep their 128 features, so the same attention kernels run.

One H200-hour, where executed FLOPs reach 40 % of the peak (`launch.plan`; not measured): 1.6 million clips of 33x144x256, or 7.7
million images of 144x256, with 512 text tokens.
"""

from configs import base, ladder


def get_config():
  c = base.get_config()
  c.model.update(dict(width=512, heads=4, depths=dict(dual=3, single=5, decoder=2)))
  c.model.cross_attention.query_norm = "scale_bias"  # as released
  c.route.update(dict(start=1, stop=7))
  c.alignment.update(dict(tap=2, hidden=1024))
  return ladder.scale_rates(c)
