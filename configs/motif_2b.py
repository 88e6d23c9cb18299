"""The released Motif-Video 2B: 12 dual, 16 single and 8 decoder blocks of width 1536, shared cross-attention.

1,962,308,032 parameters.  The published legacy layout has a bias in the query LayerNorm, so this config has one too.

The ten stages in `configs/stages` cost about 30,000 H200-hours at 40 % of the peak and the samples assumed there (`launch.plan`).
"""

from configs import base, ladder


def get_config():
  c = base.get_config()
  c.model.cross_attention.query_norm = "scale_bias"
  c.mesh.update(dict(data=1, fsdp=8, sequence=1))
  return ladder.scale_rates(c)
