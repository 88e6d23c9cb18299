"""Stage 9, Shared Cross-Attention: T2I + T2V at 360p, up to 121 frames (B).

The cross-attention comes in with an output of zero, so the function is unchanged (A).  0.5 M samples (assumed), dense.  What is
new learns five times as fast as what is trained.
"""

from configs import curriculum


def get_config():
  c = curriculum.stage(
      steps=7_812, batch=64, rate=2e-5, warmup=500, shift=5.0,
      bucket=(121, 352, 640), cross=True,
  )
  c.optimizer.rates = (("single/cross/.*", 5.0),)
  return c
