"""Stage 5, 65 frames at 480p: T2I + T2V at 480p, up to 65 frames: a bridge of 360p videos and 480p images, then 480p videos (B).

6 M samples (assumed).  Of the bridge there is the interleaved half: to have 360p videos too, put their bucket into the data.
"""

from configs import curriculum


def get_config():
  return curriculum.stage(
      steps=93_750, batch=64, rate=5e-5, warmup=1_000, shift=5.0,
      bucket=(65, 480, 832), routed=True,
  )
