"""Stage 3, 65 frames at 144p: T2I + T2V at 144p, up to 65 frames, sentence embedding, aligned with V-JEPA (B).

20 M samples (assumed).
"""

from configs import curriculum


def get_config():
  return curriculum.stage(
      steps=78_125, batch=256, rate=1e-4, warmup=1_000, shift=2.5,
      bucket=(65, 144, 256), text="t5gemma2_mean", teacher="vjepa2",
  )
