"""Stage 4, 65 frames at 360p: T2I + T2V at 360p, up to 65 frames (B).

T5Gemma2 from here on, and alignment off from here on: after early convergence it turns harmful (B).  10 M samples (assumed).  The
text embedder goes on: the mean of tokens and the tokens have the same features.
"""

from configs import curriculum


def get_config():
  return curriculum.stage(
      steps=78_125, batch=128, rate=5e-5, warmup=1_000, shift=4.0,
      bucket=(65, 352, 640), routed=True,
  )
