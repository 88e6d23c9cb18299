"""Stage 7, SFT 1: T2I + T2V at 480p, up to 121 frames: first supervised fine-tuning, on the best clips (B).

0.3 M samples (assumed), dense: routing is for pretraining.
"""

from configs import curriculum


def get_config():
  return curriculum.stage(
      steps=4_688, batch=64, rate=1e-5, warmup=200, shift=6.0,
      bucket=(121, 480, 832),
  )
