"""The flow: one sign, one path, samplers of the order they state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motif_jax.flow import caching, guidance, path, samplers, times

ORDER = dict(euler=1, heun=2, unipc=2, dpmpp=2)
DENSITIES = [dict(mean=0.0, std=1.0, shift=1.0), dict(mean=0.4, std=0.7, shift=3.0), dict(mean=-0.5, std=1.2, shift=0.5)]


def _pair(shape=(2, 3, 4)):
  data, noise = jax.random.split(jax.random.key(0))
  return jax.random.normal(data, shape), jax.random.normal(noise, shape)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_data_comes_back_from_any_point_of_the_path(t):
  data, noise = _pair()
  back = path.data_from(path.interpolate(data, noise, t), path.velocity(data, noise), t)
  np.testing.assert_allclose(back, data, atol=1e-6)


def test_time_zero_is_data_and_time_one_is_noise():
  data, noise = _pair()
  np.testing.assert_array_equal(path.interpolate(data, noise, 0.0), data)
  np.testing.assert_array_equal(path.interpolate(data, noise, 1.0), noise)


def test_velocity_is_the_derivative_of_the_path():
  data, noise = _pair()
  _, slope = jax.jvp(lambda t: path.interpolate(data, noise, t), (0.3,), (1.0,))
  np.testing.assert_allclose(path.velocity(data, noise), slope, atol=1e-6)


def test_a_time_per_sample_meets_the_batch_axis_even_where_other_axes_agree_in_size():
  data, noise = _pair((2, 5, 2))
  t = jnp.array([0.0, 1.0])
  x = path.interpolate(data, noise, t)
  np.testing.assert_array_equal(x, jnp.stack([data[0], noise[1]]))
  np.testing.assert_allclose(path.data_from(x, path.velocity(data, noise), t), data, atol=1e-6)


@pytest.mark.parametrize("cfg", DENSITIES)
def test_training_times_follow_their_density(cfg):
  count, bins = 100_000, 25
  t = np.asarray(times.sample(jax.random.key(1), (count,), **cfg))
  edges = np.linspace(0, 1, bins + 1)
  found = np.histogram(t, edges)[0] / count
  # The exact share of a bin: the mean of the density at many midpoints of the bin, times its width.
  fine = (np.arange(bins * 200) + 0.5) / (bins * 200)
  expected = np.asarray(times.density(fine, **cfg)).reshape(bins, 200).mean(axis=1) / bins
  assert expected.sum() == pytest.approx(1, abs=1e-3)
  assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected / count) + 1e-4)


@pytest.mark.parametrize("s", [0.5, 4.0])
def test_sampled_times_are_shifted_logit_normals(s):
  key = jax.random.key(2)
  plain = times.sample(key, (64,), mean=0.2, std=1.1, shift=1.0)
  np.testing.assert_allclose(times.sample(key, (64,), mean=0.2, std=1.1, shift=s), times.shift(plain, s), rtol=1e-5)


def test_grid_is_the_released_one():
  t = times.grid(50, 15.0)
  assert t.shape == (51,) and t.dtype == np.float32
  np.testing.assert_allclose(t[:4], [1.0, 0.9986, 0.9972, 0.9958], atol=5e-5)
  np.testing.assert_allclose(t[-4:], [0.4891, 0.3846, 0.2344, 0.0], atol=5e-5)


def test_unshifted_grid_is_even():
  np.testing.assert_allclose(times.grid(4, 1.0), [1, 0.75, 0.5, 0.25, 0], atol=1e-7)


@pytest.mark.parametrize("steps, s", [(0, 1.0), (4, 0.0)])
def test_impossible_grids_are_refused(steps, s):
  with pytest.raises(ValueError, match="at least 1 step and a positive shift"):
    times.grid(steps, s)


def test_given_times_are_walked_as_they_are_and_end_at_zero():
  np.testing.assert_array_equal(times.explicit((1.0, 0.7, 0.2)), np.float32([1, 0.7, 0.2, 0]))
  np.testing.assert_array_equal(times.explicit((0.9, 0.7, 0.0)), np.float32([0.9, 0.7, 0]))


def guide(rule, cond, uncond, memory=()):
  """(the velocity, the memory) of one evaluation."""
  return guidance.guided(lambda x, t: (cond, uncond), rule)(None, None, memory)


def test_guidance_scale_one_is_no_guidance():
  cond, uncond = _pair()
  np.testing.assert_allclose(guide(guidance.classifier_free(1.0), cond, uncond)[0], cond, atol=1e-6)


def test_guidance_extrapolates_from_the_unconditional_through_the_conditional_velocity():
  v = guidance.guided(lambda x, t: (x + t, x - t), guidance.classifier_free(3.0))
  np.testing.assert_allclose(v(jnp.array([1.0, 2.0]), 0.5, ())[0], [3.5, 4.5])


def test_rescaled_guidance_has_the_deviation_of_the_conditional_velocity():
  cond, uncond = _pair()
  got, _ = guide(guidance.classifier_free(5.0, rescale=1.0), cond, uncond)
  np.testing.assert_allclose(jnp.std(got, axis=(1, 2)), jnp.std(cond, axis=(1, 2)), rtol=1e-5)
  across, _ = guide(guidance.projected(4.0, axes=(1, 2), rescale=1.0), cond, uncond, jnp.zeros_like(cond))
  np.testing.assert_allclose(jnp.std(across, axis=(1, 2)), jnp.std(cond, axis=(1, 2)), rtol=1e-5)
  half, _ = guide(guidance.classifier_free(5.0, rescale=0.5), cond, uncond)
  np.testing.assert_allclose(half, (got + guide(guidance.classifier_free(5.0), cond, uncond)[0]) / 2, rtol=1e-5)


CLIP = (2, 3, 4, 5, 6)  # (B, F, H, W, C)


def test_projected_guidance_without_its_devices_is_classifier_free():
  cond, uncond = _pair(CLIP)
  got, _ = guide(guidance.projected(4.0, momentum=0.0, threshold=0.0, eta=1.0), cond, uncond, jnp.zeros(CLIP))
  np.testing.assert_allclose(got, guide(guidance.classifier_free(5.0), cond, uncond)[0], rtol=1e-5, atol=1e-5)


def test_projected_guidance_moves_across_the_conditional_velocity_of_each_frame_by_no_more_than_the_threshold():
  cond, uncond = _pair(CLIP)
  got, _ = guide(guidance.projected(2.0, threshold=3.0), cond, uncond, jnp.zeros(CLIP))
  moved = (got - cond) / 2
  np.testing.assert_allclose(jnp.sum(moved * cond, axis=(2, 3, 4)), 0, atol=1e-3)
  lengths = jnp.sqrt(jnp.sum(moved**2, axis=(2, 3, 4)))
  assert np.all(lengths <= 3.0) and np.all(lengths > 1.5)  # without the threshold about 15; the part along is taken off after


def test_momentum_sums_what_past_steps_saw():
  rule = guidance.projected(1.0, momentum=0.5, threshold=0.0, eta=1.0)
  memory = rule.start(jnp.zeros(CLIP))
  for difference in (1.0, 2.0, 4.0):
    got, memory = guide(rule, jnp.full(CLIP, difference), jnp.zeros(CLIP), memory)
  np.testing.assert_allclose(memory, 4 + 0.5 * (2 + 0.5 * 1))
  np.testing.assert_allclose(got, 4 + memory)


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_a_memory_is_updated_once_a_step_by_its_first_evaluation(sampler):
  summing = lambda x, t, memory: (jnp.ones_like(x), memory + t)
  walk = samplers.start(jnp.zeros(2), sampler, memory=jnp.zeros(()))
  rows = samplers.rows_of(np.linspace(1, 0, 6), sampler)
  for i in range(5):
    walk = samplers.advance(summing, walk, jax.tree.map(lambda row: row[i], rows), sampler)
  assert float(walk.memory) == pytest.approx(1 + 0.8 + 0.6 + 0.4 + 0.2, rel=1e-5)
  np.testing.assert_allclose(walk.x, -1, rtol=1e-5)


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_samplers_are_exact_on_straight_paths(sampler):
  data, noise = _pair()
  end = samplers.integrate(lambda x, t: path.velocity(data, noise), noise, times.grid(3, 5.0), sampler)
  np.testing.assert_allclose(end, data, atol=1e-5)


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
@pytest.mark.parametrize("v, start, exact", [
    (lambda x, t: -2.0 * x, 1.0, np.exp(1.6)),  # linear in x
    (lambda x, t: x * jnp.cos(3 * t), 1.0, np.exp((np.sin(0.3) - np.sin(2.7)) / 3)),  # linear in x, and depends on t
    (lambda x, t: jnp.square(x), 0.5, 1 / 2.8),  # not linear
], ids=["exponential", "in_time", "square"])
def test_samplers_have_their_order_of_accuracy(sampler, v, start, exact):
  with jax.enable_x64(True):
    ends = [samplers.integrate(v, jnp.float64(start), np.linspace(0.9, 0.1, n + 1), sampler) for n in (1024, 2048)]
  coarse, fine = (abs(float(end) - exact) for end in ends)
  assert fine < 0.1
  assert ORDER[sampler] - 0.1 < np.log2(coarse / fine) < ORDER[sampler] + 0.2


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_samplers_walk_the_whole_grid(sampler):
  seen = samplers.integrate(lambda x, t: jnp.ones(()), jnp.zeros(()), jnp.array([1.0, 0.7, 0.2]), sampler)
  assert float(seen) == pytest.approx(-0.8, rel=2e-6)  # UniPC starts a millionth below 1


def test_an_unknown_sampler_names_the_known_ones():
  with pytest.raises(ValueError, match="'eular' is not a sampler; expected one of euler, heun, unipc, dpmpp. Did you mean 'euler'"):
    samplers.integrate(lambda x, t: x, jnp.zeros(2), jnp.array([1.0, 0.0]), "eular")


@pytest.mark.parametrize("sampler", ["unipc", "dpmpp"])
def test_multistep_samplers_beat_euler_by_far_at_as_many_evaluations(sampler):
  """The data prediction of a Gaussian, whose trajectories are known: x(0) = 0.3 x(1) for data of deviation 0.3."""
  v = lambda x, t: x * (t - 0.09 * (1 - t)) / (t**2 + 0.09 * (1 - t) ** 2)
  ends = {name: samplers.integrate(v, jnp.ones(()), times.grid(20, 0.3), name) for name in ("euler", sampler)}
  errors = {name: abs(float(end) - 0.3) for name, end in ends.items()}
  assert errors[sampler] < errors["euler"] / 10, errors


def curved(x, t, memory):
  """A velocity that depends on x and on t, and a memory that counts its evaluations."""
  return 0.4 * jnp.sin(2 * x) + x * t + 0.5 * jnp.tanh(x) * (1 - t), memory + 1


def walked(sampler, computed, order=1, steps=24):
  """The walk's end where those of its steps are computed; where `computed` is None all, without the cache."""
  x = jax.random.normal(jax.random.key(0), (2, 3, 5))
  rows = samplers.rows_of(times.grid(steps, 3.0), sampler)
  v, memory = curved, jnp.zeros(())
  if computed is not None:
    v, memory = caching.cached(curved, jnp.asarray(computed), order=order), caching.start(x, memory)
  walk = samplers.start(x, sampler, memory=memory)
  return jax.jit(lambda walk: jax.lax.scan(lambda w, row: (samplers.advance(v, w, row, sampler), None), walk, rows)[0])(walk)


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_a_cache_that_computes_all_steps_is_exact_sampling(sampler):
  np.testing.assert_array_equal(walked(sampler, np.ones(24, bool)).x, walked(sampler, None).x)


@pytest.fixture(scope="module")
def products():
  """Inner products of the exact velocities along Euler's walk of 24 steps."""
  x, seen = jax.random.normal(jax.random.key(0), (2, 3, 5)), []
  grid = times.grid(24, 3.0)
  for t, t_next in zip(grid, grid[1:]):
    seen.append(curved(x, t, 0)[0])
    x = x + (t_next - t) * seen[-1]
  return caching.gram(np.stack(seen))


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_the_error_falls_with_the_threshold_and_steps_left_out_are_not_computed(sampler, products):
  exact, errors, counts = walked(sampler, None).x, [], []
  for threshold in (0.03, 0.003, 0.0003, 0.0):
    computed = caching.schedule(products, times.grid(24, 3.0), threshold=threshold, order=1)
    end = walked(sampler, computed)
    assert float(end.memory.inner) == computed.sum()  # the velocity's own memory moves on computed steps alone
    errors.append(float(jnp.linalg.norm(end.x - exact)))
    counts.append(int(computed.sum()))
  assert counts[0] < counts[1] < counts[2] < counts[3] == 24
  assert errors[0] > errors[1] > errors[2] > errors[3] == 0


def test_a_foretold_velocity_lies_on_the_line_through_the_last_two_computed():
  line = lambda x, t, memory: (jnp.full_like(x, 3 - 2 * t), memory)
  exact = samplers.integrate(line, jnp.zeros(2), times.grid(6, 2.0), "euler", memory=())
  computed = jnp.array([True, True, False, False, True, False])
  ends = [samplers.integrate(caching.cached(line, computed, order=order), jnp.zeros(2), times.grid(6, 2.0), "euler",
                             memory=caching.start(jnp.zeros(2), ())) for order in (0, 1)]
  np.testing.assert_allclose(ends[1], exact, rtol=1e-6)
  assert np.abs(ends[0] - exact).min() > 0.1
  alone = caching.cached(line, jnp.arange(6) < 1, order=1)  # through one velocity, 1 at time 1, there is no line yet
  np.testing.assert_allclose(samplers.integrate(alone, jnp.zeros(2), times.grid(6, 2.0), "euler",
                                                memory=caching.start(jnp.zeros(2), ())), -1, rtol=1e-6)


@pytest.mark.parametrize("velocities, order, threshold, computed", [
    ((1, 1, 2, 4), 0, 0.125, (1, 0, 1, 1)),  # a quarter of a step's error of 1 is an eighth of the whole way, which is 2
    ((1, 1, 2, 4), 0, 0.13, (1, 0, 0, 1)),
    ((1, 2, 2, 3), 0, 0.01, (1, 1, 0, 1)),
    ((1, 2, 2, 3), 1, 0.01, (1, 1, 1, 1)),
    ((1, 2, 3, 3), 1, 0.01, (1, 1, 0, 1)),
])
def test_a_step_is_left_out_while_it_leads_astray_by_less_than_the_threshold(velocities, order, threshold, computed):
  products = caching.gram(np.array(velocities, np.float64))
  found = caching.schedule(products, np.linspace(1, 0, 5), threshold=threshold, order=order)
  assert found.tolist() == [bool(step) for step in computed]


def test_a_schedule_for_so_many_evaluations_has_no_more_and_always_computes_the_first_step(products):
  grid = times.grid(24, 3.0)
  for evaluations in (1, 5, 12, 24):
    computed, threshold = caching.schedule_of(products, grid, evaluations=evaluations, order=1)
    assert computed[0] and evaluations - 1 <= max(computed.sum(), 2) and computed.sum() <= evaluations
    np.testing.assert_array_equal(computed, caching.schedule(products, grid, threshold=threshold, order=1))
  assert computed.all()  # with an evaluation for each step
