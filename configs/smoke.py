"""The demo: a 1.6 M parameter model of every part, on 9x32x32 clips of a moving shape; minutes on a laptop's CPU.

Same code as the 2 B model: routing, alignment, text drop, image-to-video, EMA.  Made by `bash launch/demo.sh`.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.model.update(dict(
      latent_channels=64, patch=(1, 1, 1), text_dim=128, image_dim=0,
      width=128, heads=4, depths=dict(dual=1, single=2, decoder=1),
      rope_axes=(8, 12, 12), rope_theta=10.0,  # a grid of 3 x 4 x 4 tokens needs high frequencies
      dtype="float32", remat="none", unroll=2,
  ))
  c.route.update(dict(start=1, stop=2, keep=0.5, groups=4, last_step=400))
  c.encoders.codec = "block_dct_488"
  # Kept on to the end: so small a model learns where its tokens are from the teacher, long before it would from the velocity.
  c.alignment.update(dict(teacher_dim=45, tap=2, hidden=128, weight=0.5))
  c.times.update(dict(shift=5.0, std=1.2))  # unshifted, only 1 sample in 70 would have t > 0.9
  c.data.update(dict(batch_size=64, workers=0, text_tokens=20))
  c.optimizer.update(dict(kind="muon", rate=1e-2, warmup=40, decay="cosine", ema=0.998))
  c.train.update(dict(
      steps=2400, log_every=50, validate_every=400, validation_batches=4, sample_every=1200, save_every=400, keep=2,
      telemetry_every=0,  # on a CPU its programs take half a minute of a core to compile, for each plan
  ))
  c.sample.update(dict(
      steps=30, shift=5.0, image_shift=5.0, guidance=dict(rule="classifier_free", scale=2.0), fps=8,
      bucket=dict(frames=9, height=32, width=32),
      prompts=(
          "A small red square moves left on a white background.", "A large green ring moves up on a black background.",
          "A large blue triangle stays still on a grey background.", "A small yellow cross moves right on a teal background.",
      ),
  ))
  return c
