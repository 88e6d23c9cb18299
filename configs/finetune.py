"""Fine-tuning: what `launch.finetune` changes in the config of the network that it starts from.  Made for 20 to 50 clips.

What it takes on one GPU: docs/finetune.md.  Rates are common practice: 1e-4 for adapters (PEFT's and diffusers' examples), and
for whole networks 1e-5, that of the recipe's last stage.
"""

from configs import base, motif_2b


def get_config():
  c = motif_2b.get_config()
  c.mesh.update(dict(data=-1, fsdp=1))
  c.sample.bucket.update(dict(frames=65, height=480, width=832))
  return recipe(c, rank=0)


def recipe(c, *, rank: int):
  """`c` with the recipe of an adapter of that rank, or of the whole network where it is 0."""
  c.adapter.update(dict(rank=rank, targets=base.get_config().adapter.targets))
  c.route.keep = 1.0  # every token is trained on: the network is as sampling will see it
  c.alignment.weight = 0.0
  c.data.update(dict(batch_size=4, workers=0, validation=0.1))
  c.optimizer.update(dict(kind="adamw", rate=1e-4 if rank else 1e-5, warmup=20, decay="constant", clip=1.0, ema=0.98,
                          weight_decay=0.0 if rank else 0.01))
  c.train.update(dict(steps=500, accumulate=1, log_every=10, validate_every=50, validation_batches=2, sample_every=100,
                      save_every=100, keep=2))
  return c
