"""Claims about linear layers: the product of the formula, and gradients of the weights that are float32 sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from motif_jax.model.layers import Modulation, linear

B, L = 3, 700


def case(inputs, outputs):
  """(x, kernel, bias, cotangent) whose values bfloat16 holds exactly, in float32."""
  rng = np.random.default_rng(0)
  rounded = lambda *shape: np.asarray(jnp.asarray(rng.standard_normal(shape), jnp.bfloat16), np.float32)
  return rounded(B, L, *inputs), rounded(*inputs, *outputs), rounded(*outputs), rounded(B, L, *outputs)


SHAPES = {"plain": ((6,), (10,)), "into heads": ((6,), (2, 5)), "from heads": ((2, 3), (10,))}


@pytest.mark.parametrize("inputs, outputs", SHAPES.values(), ids=SHAPES)
def test_a_linear_layer_is_its_formula_and_weights_get_float32_sums(inputs, outputs):
  x, kernel, bias, cotangent = case(inputs, outputs)
  out, back = jax.vjp(lambda *args: linear(*args, len(inputs)), jnp.asarray(x, jnp.bfloat16), kernel, bias)
  exact = lambda spec, *args: np.einsum(spec, *(np.asarray(a, np.float64) for a in args))
  flat = lambda array, axes: np.asarray(array, np.float64).reshape(*array.shape[:axes], -1)
  matrix = flat(kernel.reshape(-1, *outputs), 1)
  want = exact("bli,io->blo", flat(x, 2), matrix) + bias.reshape(-1)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(flat(out, 2), want, rtol=2e-2, atol=5e-2)

  to_x, to_kernel, to_bias = back(jnp.asarray(cotangent, jnp.bfloat16))
  assert (to_x.dtype, to_kernel.dtype, to_bias.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
  np.testing.assert_allclose(flat(to_x, 2), exact("blo,io->bli", flat(cotangent, 2), matrix), rtol=2e-2, atol=5e-2)
  # Rounded to bfloat16 on the way, these would be off by a thousandth and more.
  want = exact("bli,blo->io", flat(x, 2), flat(cotangent, 2))
  np.testing.assert_allclose(to_kernel.reshape(matrix.shape), want, rtol=1e-4, atol=1e-3)
  np.testing.assert_allclose(to_bias.reshape(-1), flat(cotangent, 2).sum((0, 1)), rtol=1e-5, atol=1e-3)


def test_a_layer_without_bias_adds_none():
  x, kernel, _, _ = case((6,), (10,))
  np.testing.assert_allclose(linear(x, kernel, None), x @ kernel, rtol=1e-5, atol=1e-5)


def test_a_wide_result_is_not_rounded_and_neither_are_the_gradients_of_its_weights():
  x, kernel, bias, cotangent = case((6,), (10,))
  cotangent = cotangent + np.float32(1e-4)  # what bfloat16 does not hold
  out, back = jax.vjp(lambda *args: linear(*args, wide=True), jnp.asarray(x, jnp.bfloat16), kernel, bias)
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(out, x @ kernel + bias, rtol=1e-5, atol=1e-5)
  to_x, to_kernel, to_bias = back(cotangent)
  assert (to_x.dtype, to_kernel.dtype, to_bias.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
  np.testing.assert_allclose(to_kernel, np.einsum("bli,blo->io", x, cotangent), rtol=1e-5, atol=1e-3)


def test_the_gradient_of_a_modulation_is_made_as_its_kernel_lies():
  """A product, then a transposed copy, would be summed whole on every device: XLA for GPUs cuts only the sum of a product."""
  layer, cond = Modulation(6, "bfloat16"), jnp.ones((3, 8), jnp.bfloat16)
  params = layer.init(jax.random.key(0), cond)
  loss = lambda params: sum(jnp.sum(jnp.sin(part)) for part in layer.apply(params, cond))
  made = jax.make_jaxpr(jax.grad(loss))(params).jaxpr
  (kernel,) = [x for x in made.outvars if x.aval.ndim == 2]
  (last,) = [equation for equation in made.eqns if kernel in equation.outvars]
  assert last.primitive.name == "dot_general" and kernel.aval.dtype == jnp.float32
