"""Whole trajectories against diffusers' pipelines, from the same noise and features: final latents and decoded frames."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import torch
from diffusers.guiders import AdaptiveProjectedGuidance, ClassifierFreeGuidance

from configs import base
from motif_jax import config, sample
from motif_jax.encoders.wan_network import WanConfig
from motif_jax.model import transformer
from tests import tiny_wan
from tests.parity import cases, reference
from tests.parity.test_wan_vae import from_torch, reference as vae_reference, to_torch

MODEL = dataclasses.replace(cases.TINY, depths=config.Depths(1, 1, 1), image_dim=24)
VAE = WanConfig(base_dim=8, dim_mult=(1, 1, 2, 2), num_res_blocks=1, dtype="float32")
GRID, FRAMES, HEIGHT, WIDTH, STEPS, TEXT = (3, 4, 6), 9, 32, 48, 4, 10  # GRID: of the latents
TOLERANCE = 1e-4
RULES = {  # ours, and their guider
    "classifier-free": (dict(rule="classifier_free", scale=5.0, rescale=0.2),
                        lambda: ClassifierFreeGuidance(5.0, guidance_rescale=0.2)),
    **{f"projected, eta {eta:g}": (
        dict(rule="projected", scale=8.0, momentum=0.1, threshold=12.0, eta=eta),
        lambda eta=eta: AdaptiveProjectedGuidance(
            8.0, adaptive_projected_guidance_momentum=0.1, adaptive_projected_guidance_rescale=12.0,
            adaptive_projected_guidance_norm_dim=(-1, -2, -4), eta=eta, use_original_formulation=True)) for eta in (0.0, 1.0)},
}
SCHEDULERS = {
    "euler": lambda shift: diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
    "unipc": lambda shift: diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction",
                                                             flow_shift=shift),
}


def normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


NOISE = normal(0, 2, *GRID, MODEL.latent_channels)
FEATURES, EMPTY = normal(1, 2, TEXT, MODEL.text_dim), normal(2, 1, TEXT, MODEL.text_dim)
MASK, EMPTY_MASK = np.arange(TEXT) < np.array([[7], [10]]), np.arange(TEXT)[None] < 1
FIRST, PICTURE = normal(3, 2, 1, *GRID[1:], MODEL.latent_channels), normal(4, 2, 5, MODEL.image_dim)


@pytest.fixture(scope="module")
def both():
  """(our parameters, their transformer, their VAE)."""
  params = cases.parameters(MODEL)
  return params, reference.build(MODEL, cases.weights(params, MODEL)), vae_reference(VAE)


def theirs(both, sampler, guider, shift, *, first=None, picture=None):
  """(final latents, frames in [0, 1], the times that the network saw)."""
  _, network, vae = both
  kind = diffusers.MotifVideoPipeline if first is None else diffusers.MotifVideoImage2VideoPipeline
  more = {} if first is None else {"feature_extractor": None}
  pipe = kind(scheduler=SCHEDULERS[sampler](shift), vae=vae, text_encoder=None, tokenizer=None, transformer=network,
              guider=guider, **more)
  pipe.set_progress_bar_config(disable=True)
  ends = []
  keep = lambda pipe, step, t, values: ends.append(values["latents"]) or values
  given = dict(
      prompt=None, height=HEIGHT, width=WIDTH, num_frames=FRAMES, num_inference_steps=STEPS, latents=to_torch(NOISE),
      prompt_embeds=torch.from_numpy(FEATURES), prompt_attention_mask=torch.from_numpy(MASK),
      negative_prompt_embeds=torch.from_numpy(np.repeat(EMPTY, 2, 0)),
      negative_prompt_attention_mask=torch.from_numpy(np.repeat(EMPTY_MASK, 2, 0)), output_type="np", callback_on_step_end=keep)
  if first is not None:  # their VAE draws a sample and their vision tower needs a text encoder: both are compared elsewhere
    condition, mask = torch.zeros(to_torch(NOISE).shape), torch.zeros(2, 1, *GRID)
    condition[:, :, :1], mask[:, :, 0] = to_torch(first), 1
    pipe._prepare_first_frame_conditioning = lambda *args, **kwargs: (
        condition, mask, None if picture is None else torch.from_numpy(picture))
    given["image"] = torch.zeros(1, 3, HEIGHT, WIDTH)
  with torch.no_grad():
    frames = pipe(**given).frames
  return from_torch(ends[-1]), np.asarray(frames), pipe.scheduler.timesteps.numpy() / 1000


def ours(monkeypatch, both, sampler, guidance, shift, seen, **given):
  """(final latents, frames in [0, 1]) from the same noise; the network sees the times that theirs saw, which UniPC rounds."""
  c = base.get_config()
  c.sample.update(dict(sampler=sampler, steps=STEPS, shift=shift))
  c.sample.guidance.update(guidance)
  cfg = dataclasses.replace(config.from_config_dict(c), model=MODEL)
  seen, network = jnp.asarray(seen, jnp.float32), transformer.apply
  nearest = lambda t: seen[jnp.argmin(jnp.abs(seen[:, None] - t), axis=0)]
  monkeypatch.setattr(sample.transformer, "apply",
                      lambda params, model, latents, t, text, **more: network(params, model, latents, nearest(t), text, **more))
  monkeypatch.setattr(sample, "initial_noise", lambda *args: jnp.asarray(NOISE))
  sample._integrate.clear_cache()
  latents = sample.generate(both[0], cfg, FEATURES, MASK, EMPTY, EMPTY_MASK, key=jax.random.key(0), grid=GRID, **given)
  sample._integrate.clear_cache()
  return np.asarray(latents), np.asarray(tiny_wan.decode(tiny_wan.vae(VAE), latents)) / 2 + 0.5


@pytest.mark.parametrize("sampler, rule, shift, first, picture", [
    ("euler", "classifier-free", 15.0, None, None),
    ("euler", "projected, eta 0", 15.0, None, None),
    ("unipc", "projected, eta 1", 15.0, None, None),
    ("unipc", "classifier-free", 8.0, FIRST, PICTURE),
    ("euler", "projected, eta 0", 8.0, FIRST, PICTURE),
    ("euler", "projected, eta 1", 8.0, FIRST, None),
], ids=["text", "text, projected", "text, unipc", "picture, unipc", "picture, projected", "picture without tokens"])
def test_a_whole_trajectory_is_that_of_the_pipeline(monkeypatch, both, sampler, rule, shift, first, picture):
  guidance, guider = RULES[rule]
  latents, frames, seen = theirs(both, sampler, guider(), shift, first=first, picture=picture)
  given = {} if first is None else {"first_frame": first, "image": picture}
  got, shown = ours(monkeypatch, both, sampler, guidance, shift, seen, **given)
  assert cases.error(got, latents) < TOLERANCE
  assert cases.error(np.clip(shown, 0, 1), frames) < TOLERANCE
