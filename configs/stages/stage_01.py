"""Stage 1, images at 144p: T2I at 144p, sentence embedding, aligned with DINOv2 (B): spatial bootstrap.

100 M samples of 144 tokens (assumed).  The sentence embedder is not named: the mean of T5Gemma2's tokens, one token.
"""

from configs import curriculum


def get_config():
  return curriculum.stage(
      steps=48_828, batch=2_048, rate=1e-4, warmup=2_000, shift=1.0,
      bucket=(1, 144, 256), text="t5gemma2_mean", teacher="dinov2",
  )
