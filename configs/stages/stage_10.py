"""Stage 10, 720p and SFT 2: T2I + T2V at 720p, up to 121 frames: final pretraining and second supervised fine-tuning (B).

1 M samples (assumed), dense; the rate falls in the last two fifths, on the best clips.
"""

from configs import curriculum


def get_config():
  c = curriculum.stage(
      steps=15_625, batch=64, rate=2e-5, warmup=500, shift=12.0,
      bucket=(121, 736, 1280), cross=True,
  )
  c.optimizer.update(dict(decay="linear", decay_share=0.4))
  return c
