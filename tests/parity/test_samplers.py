"""Samplers and guidance against diffusers' schedulers and guiders, whole trajectories of a velocity in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers.guiders import adaptive_projected_guidance, classifier_free_guidance  # noqa: E402
from diffusers.pipelines.motif_video.pipeline_motif_video import calculate_shift  # noqa: E402

from configs import base
from motif_jax.flow import guidance, samplers, times  # noqa: E402

SHAPE = (2, 3, 4, 5, 6)  # (B, F, H, W, C)
NOISE = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def velocity(x, t, sin, tanh):
  """Curved in x and in t."""
  return 0.4 * sin(2 * x) + x * t + 0.5 * tanh(x) * (1 - t)


def ours(sampler, grid, seen=lambda t: t):
  v = lambda x, t: velocity(x, seen(t), jnp.sin, jnp.tanh)
  return np.asarray(samplers.integrate(v, jnp.asarray(NOISE), grid, sampler))


def theirs(scheduler):
  """(the end of a trajectory, its times with the last 0); the network sees the scheduler's timesteps."""
  x = torch.from_numpy(NOISE)
  for timestep in scheduler.timesteps:
    v = velocity(x, timestep.to(torch.float32) / 1000, torch.sin, torch.tanh)
    x = scheduler.step(v, timestep, x, return_dict=False)[0]
  return x.numpy(), scheduler.sigmas.numpy()


def close(got, want):
  assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want), np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize("kind", times.TOKEN_SHIFTS)
@pytest.mark.parametrize("tokens", [144, 4096, 48_360])
def test_a_shift_by_tokens_is_theirs(kind, tokens):
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
  scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 12, 12), mu=calculate_shift(tokens))
  how = base.get_config().sample.token_shift
  shift = times.shift_for(tokens, kind=kind, between=how.between, mu=how.mu)
  np.testing.assert_allclose(times.grid(12, shift), scheduler.sigmas.numpy(), rtol=1e-6)


def test_given_sigmas_are_theirs():
  given = (1.0, 0.93, 0.6, 0.25)
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
  scheduler.set_timesteps(sigmas=list(given))
  np.testing.assert_array_equal(times.explicit(given), scheduler.sigmas.numpy())
  want, _ = theirs(scheduler)
  close(ours("euler", times.explicit(given)), want)


@pytest.mark.parametrize("steps", [1, 2, 3, 12])
def test_unipc_is_theirs(steps):
  scheduler = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0)
  scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
  want, sigmas = theirs(scheduler)
  grid = times.grid(steps, 5.0)
  np.testing.assert_allclose(sigmas, grid, atol=2e-6)
  seen = jnp.asarray(np.append(scheduler.timesteps.numpy(), 0) / 1000, jnp.float32)  # whole numbers of 1000 t, rounded down
  close(ours("unipc", grid, lambda t: seen[jnp.argmin(jnp.abs(jnp.asarray(grid) - t))]), want)


@pytest.mark.parametrize("steps", [1, 2, 3, 12])
def test_dpmpp_is_theirs(steps):
  scheduler = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0,
                                                    lower_order_final=True, euler_at_final=True)
  scheduler.set_timesteps(steps)
  want, sigmas = theirs(scheduler)
  seen = jnp.asarray(np.append(scheduler.timesteps.numpy(), 0) / 1000, jnp.float32)
  close(ours("dpmpp", sigmas.astype(np.float32), lambda t: seen[jnp.argmin(jnp.abs(jnp.asarray(sigmas) - t))]), want)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("axes, theirs_axes", [((-3, -2, -1), (-1, -2, -4)), ((-4, -3, -2, -1), None)])
def test_projected_guidance_is_theirs(eta, axes, theirs_axes):
  guider = adaptive_projected_guidance.AdaptiveProjectedGuidance(
      8.0, adaptive_projected_guidance_momentum=0.1, adaptive_projected_guidance_rescale=12.0, eta=eta,
      adaptive_projected_guidance_norm_dim=theirs_axes, use_original_formulation=True, guidance_rescale=0.3)
  guider.set_state(0, 3, torch.tensor(0))
  guider.momentum_buffer = adaptive_projected_guidance.MomentumBuffer(0.1)
  rule = guidance.projected(8.0, momentum=0.1, threshold=12.0, eta=eta, axes=axes, rescale=0.3)
  memory, rng = rule.start(jnp.zeros(SHAPE)), np.random.default_rng(1)
  for _ in range(3):
    cond, uncond = rng.standard_normal((2, *SHAPE)).astype(np.float32)
    got, memory = rule.combine(jnp.asarray(cond), jnp.asarray(uncond), memory)
    channels_first = lambda x: torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    want = guider.forward(channels_first(cond), channels_first(uncond)).pred
    close(np.asarray(got), np.moveaxis(want.numpy(), 1, -1))


def test_classifier_free_guidance_is_theirs():
  guider = classifier_free_guidance.ClassifierFreeGuidance(6.0, guidance_rescale=0.4)
  cond, uncond = np.random.default_rng(2).standard_normal((2, *SHAPE)).astype(np.float32)
  want = guider.forward(torch.from_numpy(cond), torch.from_numpy(uncond)).pred
  close(np.asarray(guidance.classifier_free(6.0, rescale=0.4).combine(cond, uncond, ())[0]), want.numpy())
