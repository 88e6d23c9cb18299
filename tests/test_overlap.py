"""Claims about reading what a scheduled module puts beside its communication, and about compiling for GPUs that are not here."""

import sys

import jax
import jax.numpy as jnp
import pytest

from motif_jax import compiled
from motif_jax.bench import absent, overlap
from motif_jax.budget.devices import DEVICES
from motif_jax.compiled import Collective, Overlap
from motif_jax.model import attention

# As XLA for GPUs writes it, by hand: a loop of 3 in which one gather runs beside a product in a fusion and beside a loop of 5
# products, and a reduction beside nothing.
SCHEDULED = """HloModule step, is_scheduled=true, num_partitions=8

%inner_body (p: f32[4,4]) -> f32[4,4] {
  %p = f32[4,4]{1,0} parameter(0)
  ROOT %small = f32[4,4]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%inner_condition (p.1: f32[4,4]) -> pred[] {
  %p.1 = f32[4,4]{1,0} parameter(0)
  ROOT %yes = pred[] constant(true)
}

%gemm (q: f32[2,8]) -> f32[2,2] {
  %q = f32[2,8]{1,0} parameter(0)
  ROOT %large = f32[2,2]{1,0} dot(%q, %q), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

%body (x: f32[2,8]) -> f32[2,8] {
  %x = f32[2,8]{1,0} parameter(0)
  %k = f32[4,4]{1,0} constant({...})
  %gather = (f32[2,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%x), replica_groups=[1,8]<=[8], metadata={op_name="a/weight"}
  %made = f32[2,2]{1,0} fusion(%x), kind=kCustom, calls=%gemm
  %loop = f32[4,4]{1,0} while(%k), condition=%inner_condition, body=%inner_body, backend_config={"known_trip_count":{"n":"5"}}
  %gathered = f32[16,8]{1,0} all-gather-done(%gather)
  %late = f32[2,2]{1,0} fusion(%x), kind=kCustom, calls=%gemm
  %reduce = f32[2,8]{1,0} all-reduce-start(%x), replica_groups=[2,4]<=[8], to_apply=%add, metadata={op_name="a/gradient"}
  ROOT %reduced = f32[2,8]{1,0} all-reduce-done(%reduce)
}

%condition (x.1: f32[2,8]) -> pred[] {
  %x.1 = f32[2,8]{1,0} parameter(0)
  ROOT %no = pred[] constant(true)
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (x.2: f32[2,8]) -> f32[2,8] {
  %x.2 = f32[2,8]{1,0} parameter(0)
  %out = f32[2,8]{1,0} while(%x.2), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %swapped = f32[2,8]{1,0} all-to-all(%out), replica_groups=[1,8]<=[8]
}
"""


def test_what_runs_between_start_and_end_is_counted_through_loops_and_fusions():
  assert compiled.overlaps(SCHEDULED) == [
      Overlap(Collective("all-gather", 512, 3, 8), 2 * 2 * 2 * 8 + 5 * 2 * 4**3, "a/weight"),
      Overlap(Collective("all-reduce", 64, 3, 4), 0, "a/gradient")]


def test_the_table_tells_what_stands_alone_and_what_is_waited_for():
  said = overlap.lines(SCHEDULED, DEVICES["h200"], utilisation=0.4)
  assert [line.split()[:4] for line in said[1:3]] == [["all-gather", "8", "3", "0"], ["all-reduce", "4", "3", "3"]]
  assert said[3].startswith("waited for where they stand: 5.6e-08 GB")


@pytest.mark.parametrize("utilisation, hidden", [(0.4, False), (1e-6, True)])
def test_exposed_is_what_work_beside_it_does_not_take(utilisation, hidden):
  (gather, reduce) = (line.split() for line in overlap.lines(SCHEDULED, DEVICES["h200"], utilisation=utilisation)[1:3])
  assert float(gather[6]) > 0 and float(gather[8]) == pytest.approx(0 if hidden else float(gather[6]), rel=0.01)
  assert reduce[8] == reduce[6]


@pytest.mark.parametrize("kind", absent.KINDS)
def test_a_description_names_its_gpu_and_closes_its_brackets(kind):
  text = absent.description(kind)
  assert text.count("{") == text.count("}") > 10 and kind.upper() in text


@pytest.mark.parametrize("kind, count, said", [
    ("a100-80", 8, "at hand for h100, h200"), ("h200", 12, "whole nodes of 8"), ("h200", 8, "pip install --no-deps jax-cuda12-plugin==")])
def test_what_cannot_be_compiled_for_is_told(monkeypatch, kind, count, said):
  monkeypatch.setitem(sys.modules, "nvidia.cuda_nvcc", None)  # not installed
  with pytest.raises(ValueError, match=said):
    absent.devices(kind, count)


def test_fused_attention_is_traced_for_a_gpu_that_is_not_here():
  heads = jax.ShapeDtypeStruct((1, 64, 2, 128), jnp.bfloat16)
  trace = lambda: jax.eval_shape(lambda q, k, v: attention.cudnn(q, k, v, None), heads, heads, heads)
  with absent.believed():
    assert trace().shape == heads.shape
  with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
    trace()
