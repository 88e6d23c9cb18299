"""The base of the experiments (docs/results.md): a three-part backbone with Shared Cross-Attention, dense, of 0.7 M parameters.

Its data are scenes of two things with long, distracting captions.  The other arms change one thing of it; MLPs are widened or
blocks are exchanged until the parameters are as many, and training goes on until as many FLOPs are executed.
"""

from configs import smoke

SAMPLED = 4  # times that a run is judged; `train.steps` of all arms divide by it


def get_config():
  c = smoke.get_config()
  # Half the MLP of other models: the budget is CPU time, and what is to be learned here is which words go together.
  c.model.update(dict(width=96, heads=3, mlp_ratio=2.0))
  c.route.keep = 1.0
  c.alignment.hidden = 96
  # Neither the rate nor the average knows how long the run is, so that curves compare wherever they are cut.
  c.optimizer.update(dict(decay="constant", average="power", ema_width=0.1))
  c.data.update(dict(batch_size=32, text_tokens=48, image_to_video=0.0))  # pictures would tell what captions are there to tell
  c.train.update(dict(steps=1000, validate_every=100, validation_batches=8, judge=96, benchmark="scenes", save_every=100, keep=1))
  c.train.sample_every = c.train.steps // SAMPLED
  c.sample.update(dict(steps=16, prompts=()))
  return c
