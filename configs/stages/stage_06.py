"""Stage 6, 121 frames at 480p: T2I + T2V at 480p, up to 121 frames (B).

4 M samples (assumed).
"""

from configs import curriculum


def get_config():
  return curriculum.stage(
      steps=62_500, batch=64, rate=5e-5, warmup=1_000, shift=6.0,
      bucket=(121, 480, 832), routed=True,
  )
