"""What the ten stages of the recipe have in common, and a copy of any stage that is small enough for a CPU.

Grades: A official, B quoted from the report by a third party, C third-party page, D our arithmetic, M common practice.  What has
none is this project's choice, because nothing is published.
"""

from configs import motif_2b

ROUTED = 0.5  # share of the tokens kept in routed stages, from block 2 to 26; TREAD: 0.5, from block 2 to 8 of 12
LAST = 0.95  # of the steps of a routed stage; the rest runs dense, as sampling does


def stage(*, steps, batch, rate, warmup, shift, bucket, text="t5gemma2", teacher="none", routed=False, cross=False):
  """The config of a stage.  `bucket`: (frames, height, width) of its largest clips; `text`: one token where it is a mean."""
  c = motif_2b.get_config()
  c.model.attention = "chunked"  # runs anywhere, in memory that 720p leaves; on the GPUs of a run "cudnn" or "tokamax" is faster
  if not cross:  # Shared Cross-Attention comes in stage 9 (B)
    c.model.cross_attention.update(dict(kind="none", query_norm="none"))
  c.encoders.update(dict(codec="wan_vae", text=text, teacher=teacher))
  c.alignment.update(dict(teacher=teacher, weight=0.0 if teacher == "none" else 0.5, tap=8))  # REPA's weight; after dual block 8
  c.route.update(dict(keep=ROUTED if routed else 1.0, last_step=round(LAST * steps) if routed else 0))
  c.times.shift = shift  # density and shift are not found; the shift rises with the tokens
  c.data.update(dict(batch_size=batch, text_tokens=1 if text.endswith("_mean") else 512))
  if bucket[0] > 1:
    c.data.pattern = ("image", "video", "video")  # a fixed interleaved schedule; this one is the report's example (B)
  c.optimizer.update(dict(rate=rate, warmup=warmup))
  c.mesh.update(dict(data=-1, fsdp=8, sequence=1))  # sharded inside the nodes of 8; no tensor or sequence parallelism (B)
  c.train.steps = steps
  frames, height, width = bucket
  c.sample.bucket.update(dict(frames=frames, height=height, width=width))
  c.sample.shift = max(shift, 2.5)  # the released scheduler's base (A); 15 at 720p
  return c


# Of the small copy: frames, and pixels by those of the report.
FRAMES = {1: 1, 33: 5, 65: 9, 121: 13}
PIXELS = {(144, 256): (16, 16), (352, 640): (16, 32), (480, 832): (32, 32), (736, 1280): (32, 48)}


def shrunken(c, *, width=64, steps=60, batch=16):
  """The small copy of a stage's config `c`, changed in place: moving shapes, encoders without weights, all else as it is."""
  c.model.update(dict(
      latent_channels=64, patch=(1, 1, 1), text_dim=128, image_dim=0, width=width, heads=2,
      depths=dict(dual=1, single=2, decoder=1), rope_axes=(width // 8, 3 * width // 16, 3 * width // 16), rope_theta=10.0,
      dtype="float32", remat="none", attention="xla",
  ))
  mean, aligned = c.encoders.text.endswith("_mean"), c.encoders.teacher != "none"
  teacher = "gradients" if aligned else "none"
  c.encoders.update(dict(codec="block_dct_488", text="word_hash_mean" if mean else "word_hash", teacher=teacher))
  c.alignment.update(dict(teacher=teacher, teacher_dim=45, tap=2, hidden=width))
  c.route.update(dict(start=1, stop=3, groups=4, last_step=0))  # routed to the end: one program the fewer
  c.data.update(dict(batch_size=batch, workers=0, text_tokens=1 if mean else 20, validation=0.1))
  c.optimizer.update(dict(rate=30 * c.optimizer.rate, warmup=max(steps // 12, 1), ema=0.98))
  c.mesh.update(dict(data=1, fsdp=1, sequence=1))
  every = max(steps // 3, 1)
  c.train.update(dict(steps=steps, log_every=5, validate_every=every, validation_batches=2, sample_every=steps, save_every=every,
                      keep=1, telemetry_every=1))  # each step measures closely: one program the fewer
  bucket = c.sample.bucket
  height, width = PIXELS[bucket.height, bucket.width]
  c.sample.bucket.update(dict(frames=FRAMES[bucket.frames], height=height, width=width))
  c.sample.update(dict(steps=10, guidance=dict(rule="classifier_free", scale=2.0), fps=8))
  return c
