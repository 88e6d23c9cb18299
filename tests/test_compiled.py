"""Claims about reading compiled modules, on functions whose collectives, products and memory are known beforehand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from motif_jax import compiled
from motif_jax.compiled import Collective

MESH_SIZES = dict(row=2, column=4)


@pytest.fixture(scope="module")
def mesh():
  return jax.make_mesh(tuple(MESH_SIZES.values()), tuple(MESH_SIZES), axis_types=(AxisType.Auto,) * 2)


def text_of(function, *arguments):
  return jax.jit(function).lower(*arguments).compile().as_text()


def array(shape, mesh=None, spec=P(), dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=mesh and NamedSharding(mesh, spec))


def inside(mesh, function, spec, out):
  return jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=out, check_vma=False)


ONE_EACH = {  # local (4, 8) float32 = 128 bytes; what runs on it, what comes out, what must be found
    "all-gather": (lambda x: jax.lax.all_gather(x, "column", axis=0, tiled=True), Collective("all-gather", 512, 1, 4)),
    "all-reduce": (lambda x: jax.lax.psum(x, "row"), Collective("all-reduce", 128, 1, 2)),
    "all-reduce of both": (lambda x: jax.lax.psum(x, ("row", "column")), Collective("all-reduce", 128, 1, 8)),
    "reduce-scatter": (lambda x: jax.lax.psum_scatter(x, "column", scatter_dimension=0, tiled=True),
                       Collective("reduce-scatter", 128, 1, 4)),
    "all-to-all": (lambda x: jax.lax.all_to_all(x, "column", 0, 1, tiled=True), Collective("all-to-all", 128, 1, 4)),
    "permute": (lambda x: jax.lax.ppermute(x, "column", [(0, 1), (1, 2), (2, 3), (3, 0)]),
                Collective("collective-permute", 128, 1, 2)),
}


@pytest.mark.parametrize("name", ONE_EACH)
def test_each_kind_is_found_with_its_bytes_and_group(mesh, name):
  function, expected = ONE_EACH[name]
  x = array((8, 32), mesh, P("row", "column"))
  assert compiled.collectives(text_of(inside(mesh, function, P("row", "column"), P("row", "column")), x)) == [expected]


def test_counts_multiply_through_nested_loops(mesh):
  def inner(x, _):
    return inside(mesh, lambda v: jax.lax.all_to_all(v, "column", 0, 0, tiled=True), P("column"), P("column"))(x) * 2, None

  def outer(x, weight):
    weight = jax.lax.with_sharding_constraint(weight, NamedSharding(mesh, P()))  # gathered once for each layer
    return jnp.tanh(jax.lax.scan(inner, x, None, length=3)[0] @ weight), None

  f = lambda x, weights: jax.lax.scan(outer, x, weights)[0]
  text = text_of(f, array((16, 24), mesh, P("column")), array((5, 24, 24), mesh, P(None, "column")))
  assert set(compiled.collectives(text)) == {
      Collective("all-gather", 4 * 24 * 24, 5, 4), Collective("all-to-all", 4 * 4 * 24, 15, 4)}
  assert compiled.matmul_flops(text) == 5 * 2 * 4 * 24 * 24  # of one device: 4 of the 16 rows


def test_a_loop_without_known_end_is_no_number(mesh):
  step = inside(mesh, lambda v: jax.lax.psum(v, "column"), P(None, "column"), P(None, "column"))
  f = lambda x: jax.lax.while_loop(lambda v: v.sum() < 100, step, x)
  with pytest.raises(ValueError, match="trip count"):
    compiled.collectives(text_of(f, array((2, 8), mesh, P(None, "column"))))


def test_products_are_counted_in_batched_and_transposed_form():
  f = lambda q, k: jnp.einsum("blnd,bsnd->bnls", q, k)
  assert compiled.matmul_flops(text_of(f, array((2, 10, 3, 8)), array((2, 14, 3, 8)))) == 2 * 2 * 3 * 10 * 14 * 8


def test_products_agree_with_the_cost_analysis_where_nothing_loops():
  f = jax.grad(lambda w, x: jnp.sum(jnp.tanh(x @ w) @ w))
  executable = jax.jit(f).lower(array((64, 64)), array((32, 64))).compile()
  assert compiled.matmul_flops(executable.as_text()) == pytest.approx(executable.cost_analysis()["flops"], rel=0.05)


def test_memory_counts_what_is_donated_once():
  f = lambda state, x: (state + x, jnp.sum(x))
  donated = compiled.memory(jax.jit(f, donate_argnums=0).lower(array((1000,)), array((1000,))).compile())
  kept = compiled.memory(jax.jit(f).lower(array((1000,)), array((1000,))).compile())
  assert donated.arguments == kept.arguments == 8000 and donated.aliased == 4000
  assert donated.total - donated.temporary == pytest.approx(8000, abs=64)
  assert kept.total - kept.temporary == pytest.approx(12000, abs=64)


def test_memory_and_buffers_are_those_of_one_device(mesh):
  f = lambda x: jax.nn.softmax(x @ x.T)
  executable = jax.jit(f).lower(array((64, 16), mesh, P(("row", "column")))).compile()
  assert compiled.memory(executable).arguments == 64 * 16 * 4 // 8
  largest = compiled.largest_buffers(executable.as_text(), 3)
  assert max(b.bytes for b in largest) == 4 * 64 * 16  # all rows of x gathered, (64, 16); the logits are (8, 64)
  assert any(b.shape.startswith("f32[8,64]") for b in largest)


def test_the_largest_buffer_says_where_it_comes_from():
  def f(x):
    with jax.named_scope("attention"):
      return jnp.sum(jnp.exp(x @ x.T)[:, :7] @ x[:7])
  largest = compiled.largest_buffers(text_of(f, array((200, 8))), 1)[0]
  assert largest.bytes == 4 * 200 * 200 and largest.shape == "f32[200,200]" and "attention" in largest.source


def test_what_happens_inside_a_fusion_is_no_buffer():
  largest = compiled.largest_buffers(text_of(lambda x: jnp.exp(x) * 2 + 1, array((300, 8))))
  assert [b.op for b in largest if b.shape == "f32[300,8]"] == ["fusion"]


HAND_MADE = """HloModule m, entry_computation_layout={()->f32[]}, replica_count=2, num_partitions=4

%wrapped (p: bf16[4,6]) -> bf16[4,6] {
  %p = bf16[4,6]{1,0} parameter(0)
  ROOT %a2a = bf16[4,6]{1,0} all-to-all(%p), replica_groups=[4,2]<=[8], dimensions={0}
}

ENTRY %main (x: bf16[4,6], y: f32[3]) -> (bf16[8,6], f32[3]) {
  %x = bf16[4,6]{1,0} parameter(0)
  %y = f32[3]{0} parameter(1)
  %start = ((bf16[4,6]{1,0}), bf16[4,6]{1,0}, u32[]) async-start(%x), calls=%wrapped
  %done = bf16[4,6]{1,0} async-done(%start), calls=%wrapped
  %ag = (bf16[4,6]{1,0}, bf16[8,6]{1,0}) all-gather-start(%done), replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}
  %agd = bf16[8,6]{1,0} all-gather-done(%ag)
  %ar = f32[3]{0} all-reduce(%y), replica_groups={}, to_apply=%wrapped
  %cut = f32[3]{0} all-reduce(%y), replica_groups=mesh['a'=4,'b'=2] {'a':(1)2,'b'}, to_apply=%wrapped
  ROOT %out = (bf16[8,6]{1,0}, /*index=1*/f32[3]{0}) tuple(%agd, %ar)
}
"""


def test_the_forms_that_gpus_use_are_read_too():
  """Asynchronous pairs, groups by iota, and no groups at all; the CPU compiler writes none of these."""
  without_reducer = HAND_MADE.replace(", to_apply=%wrapped", "")
  assert set(compiled.collectives(without_reducer)) == {
      Collective("all-to-all", 48, 1, 2), Collective("all-gather", 96, 1, 2), Collective("all-reduce", 12, 1, 8),
      Collective("all-reduce", 12, 1, 4)}


@pytest.mark.parametrize("collective, sent", [
    (Collective("all-gather", 800, 3, 8), 2100), (Collective("reduce-scatter", 800, 1, 8), 700),
    (Collective("all-reduce", 800, 1, 8), 1400), (Collective("all-to-all", 800, 1, 4), 600),
    (Collective("collective-permute", 800, 2, 2), 1600), (Collective("all-gather", 800, 3, 1), 0)])
def test_bytes_sent_follow_the_ring(collective, sent):
  assert collective.sent == sent


@pytest.mark.parametrize("text, size", [("f32[2,3]{1,0}", 24), ("bf16[5]", 10), ("pred[]", 1), ("s4[3]", 2), ("token[]", 0),
                                        ("(f32[2], /*index=1*/u8[3]{0})", 11), ("f8e4m3fn[6]", 6), ("c64[2]", 16)])
def test_types_have_their_bytes(text, size):
  assert compiled.bytes_of(text) == size


def test_what_is_no_module_is_said():
  with pytest.raises(ValueError, match="as_text"):
    compiled.collectives("hello")
