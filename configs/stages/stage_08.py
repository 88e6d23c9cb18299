"""Stage 8, 121 frames at 720p: T2I + T2V at 720p, up to 121 frames, from the checkpoint of stage 7 (B).

1 M samples (assumed).
"""

from configs import curriculum


def get_config():
  return curriculum.stage(
      steps=15_625, batch=64, rate=2e-5, warmup=500, shift=10.0,
      bucket=(121, 736, 1280), routed=True,
  )
