"""Stage 2, 33 frames at 144p: T2I + T2V at 144p, up to 33 frames, sentence embedding, aligned with V-JEPA (B).

30 M samples (assumed).  The projector goes on from DINOv2's: features as wide, and only a start.
"""

from configs import curriculum


def get_config():
  return curriculum.stage(
      steps=58_594, batch=512, rate=1e-4, warmup=1_000, shift=1.5,
      bucket=(33, 144, 256), text="t5gemma2_mean", teacher="vjepa2",
  )
