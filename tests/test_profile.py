"""Claims about reports on traces: nothing counts twice, what is hidden, what is idle, and which part of the model it was."""

import dataclasses
import json
import random

import jax
import pytest

from motif_jax import compiled
from motif_jax.profile import report, scopes, spans, table, trace
from motif_jax.profile.scopes import Origin
from motif_jax.profile.trace import Op

MS = 1e6  # ns


def stretches(count, seed):
  drawn = random.Random(seed)
  return [(start := drawn.randrange(60), start + drawn.randrange(12)) for _ in range(count)]


def ticks(found):
  """The whole numbers that stretches between whole numbers cover."""
  return {t for start, stop in found for t in range(start, stop)}


@pytest.mark.parametrize("seed", range(5))
def test_stretches_are_sets_of_moments(seed):
  some, others = stretches(9, seed), stretches(5, seed + 100)
  assert ticks(spans.union(some)) == ticks(some) and spans.length(some) == len(ticks(some))
  assert ticks(spans.outside(some, others)) == ticks(some) - ticks(others)
  joined = spans.union(some)
  assert all(a[1] < b[0] for a, b in zip(joined, joined[1:])) and all(start < stop for start, stop in joined)


@pytest.mark.parametrize("seed", range(5))
def test_own_times_add_up_to_what_the_events_cover_however_they_overlap(seed):
  found = stretches(12, seed)
  assert sum(spans.own_times(found)) == len(ticks(found))
  assert min(spans.own_times(found)) >= 0


def test_a_loop_keeps_only_the_time_that_nothing_inside_it_takes():
  loop, call, inner, after = (0, 100), (10, 60), (20, 50), (100, 130)
  assert spans.own_times([inner, loop, after, call]) == [30, 50, 30, 20]


def test_gaps_are_told_longest_first_with_what_stood_around_them():
  found = spans.gaps([(0, 10), (2, 4), (13, 20), (50, 60), (15, 18)])
  assert [(gap.start, gap.stop, gap.before, gap.after) for gap in found] == [(20, 50, 2, 3), (10, 13, 0, 2)]


@pytest.mark.parametrize("op_name, scope", [
    ("jit(step)/jvp(dual)/while/body/closed_call/DualBlock/attention/key/dot_general", ("forward", "dual", "attention", "key")),
    ("jit(step)/transpose(jvp(dual))/while/body/eval_jaxpr/checkpoint/rematted_computation/DualBlock/mlp/up/add",
     ("recompute", "dual", "mlp", "up")),
    ("jit(step)/transpose(jvp(single))/while/body/closed_call/checkpoint/SingleBlock/attention/attend/bnls,bsnd->blnd/dot",
     ("backward", "single", "attention", "attend")),
    ("jit(step)/jvp(single)/SingleBlock/attention.merge/out/dot_general", ("forward", "single", "attention", "out")),
    ("jit(step)/jvp()/add", ("forward",)),
    ("jit(step)/draws/jit(_normal)/jit(_normal_real)/while/body/xor", ("draws",)),
    ("jit(step)/optimizer/muon/mul;jit(step)", ("optimizer", "muon")),
    ("jit(step)/transpose(jvp(single))/SingleBlock/(attention/attend/psum:cross/attend/psum)",
     ("backward", "single", "attention", "attend")),
    ("jit(step)/transpose(jvp(loss))/mul;jit(step)/transpose(jvp(loss))/broadcast_in_dim", ("backward", "loss")),
])
def test_a_path_of_jax_becomes_the_part_of_the_model(op_name, scope):
  assert scopes.scope_of(op_name) == scope


TEXT = """HloModule jit_step, is_scheduled=true, num_partitions=2

%fused (p.1: f32[4,6], p.2: f32[6,8]) -> f32[4,8] {
  %p.1 = f32[4,6]{1,0} parameter(0)
  %p.2 = f32[6,8]{1,0} parameter(1)
  ROOT %dot.1 = f32[4,8]{1,0} dot(%p.1, %p.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(step)/jvp(dual)/DualBlock/mlp/up/dot_general"}
}

%body (c: (f32[4,8])) -> (f32[4,8]) {
  %c = (f32[4,8]{1,0}) parameter(0)
  %copy.9 = f32[4,8]{1,0} copy(%c)
  ROOT %t = (f32[4,8]{1,0}) tuple(%copy.9)
}

%cond (c.1: (f32[4,8])) -> pred[] {
  %c.1 = (f32[4,8]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (x: f32[4,6], w: f32[6,8]) -> f32[4,8] {
  %x = f32[4,6]{1,0} parameter(0), metadata={op_name="batch['x']"}
  %w = f32[6,8]{1,0} parameter(1)
  %fusion.2 = f32[4,8]{1,0} fusion(%x, %w), kind=kCustom, calls=%fused
  %copy.3 = f32[4,8]{1,0} copy(%fusion.2)
  %loop = (f32[4,8]{1,0}) while(%copy.3), condition=%cond, body=%body, metadata={op_name="jit(step)/transpose(jvp(single))/while"}
  %gemm.4 = (f32[4,8]{1,0}, s8[1024]{0}) custom-call(%x, %w), custom_call_target="__cublas$gemm", metadata={op_name="jit(step)/jvp(dual)/DualBlock/attention/query/dot_general"}, backend_config={"gemm_backend_config":{"beta":0,"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %q.8 = bf16[2,7,3,8]{3,2,1,0} parameter(2)
  %k.9 = bf16[2,5,3,8]{3,2,1,0} parameter(3)
  %fmha.10 = (bf16[2,3,7,8]{3,1,2,0}, u8[0]{0}) custom-call(%q.8, %k.9, %k.9), custom_call_target="__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config":{"bmm1_dot_dimension_numbers":{"lhs_contracting_dimensions":["3"]}}}
  %fmha.11 = (bf16[2,3,7,8]{3,1,2,0}, u8[0]{0}) custom-call(%q.8, %k.9, %k.9), custom_call_target="__cudnn$fmhaSoftmaxBackward"
  %all-gather-start.5 = (f32[4,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%copy.3), replica_groups={}, dimensions={0}, metadata={op_name="jit(step)/jvp(dual)/DualBlock/mlp/up/dot_general"}
  ROOT %multiply_fusion.6 = f32[4,8]{1,0} add(%copy.3, %copy.3), metadata={op_name="jit(step)/optimizer/muon/add"}
}
"""
ORIGINS = scopes.origins(TEXT)


def test_instructions_are_placed_by_their_own_path_or_by_what_they_read():
  up = ("forward", "dual", "mlp", "up")
  assert ORIGINS["fusion.2"] == Origin(up, False, "matrix product", "fusion", 2 * 4 * 6 * 8)
  assert ORIGINS["copy.3"] == Origin(up, True, "copy", "copy", 0)
  assert ORIGINS["copy.9"] == Origin(("backward", "single"), True, "copy", "copy", 0)
  assert ORIGINS["loop"].kind == "control" and ORIGINS["all-gather-start.5"].kind == "communication"


def test_products_inside_cublas_and_cudnn_count_too():
  assert ORIGINS["gemm.4"] == Origin(("forward", "dual", "attention", "query"), False, "matrix product", "custom-call", 384)
  assert (ORIGINS["fmha.10"].flops, ORIGINS["fmha.11"].flops) == (2 * 2 * (2 * 3) * 7 * 5 * 8, 5 * 2 * (2 * 3) * 7 * 5 * 8)
  assert compiled.matmul_flops(TEXT) == 2 * 384 + 7 * 2 * (2 * 3) * 7 * 5 * 8


def op(name, start, stop, *, lane="Stream #1(Compute)", device="GPU:0", kernel="", module="jit_step"):
  return Op(device, lane, start * MS, stop * MS, name, kernel or name, module)


# A step of one device: a gather, half of it under a product; a gap of 3 ms; a nameless kernel inside a graph.
OPS = [op("fusion.2", 0, 4), op("all-gather-start.5", 2, 8, lane="Stream #2", kernel="ncclDevKernel_AllGather"),
       op("copy.3", 6, 7), op("", 11, 12, kernel="multiply_fusion_6"), op("", 12, 14, kernel="sm90_gemm_from_cuBLAS")]


def made(ops, *, steps=1):
  return report.make_report(ops, ORIGINS, module="jit_step", steps=steps, root="training step")


def test_communication_is_hidden_only_while_something_else_runs():
  found = made(OPS)
  assert (found.sending_ms, found.exposed_ms) == (6, 3)  # of 2 to 8: the product hides 2 to 4, the copy 6 to 7
  assert [row.name for row in found.sending] == ["all-gather-start.5"]


def test_busy_idle_and_gaps_are_on_the_clock():
  found = made(OPS)
  assert (found.wall_ms, found.busy_ms, found.gap_count) == (14, 11, 1)
  assert found.gaps == [report.Idle(3, "GPU:0", "all-gather-start.5 in forward > dual > mlp > up",
                                    "multiply_fusion.6 in optimizer > muon")]


def test_kernels_without_a_name_are_found_by_it_or_told_apart():
  found = made(OPS)
  assert [node.name for node in found.tree.children] == ["forward", "optimizer", "(kernels without a name)"]
  assert found.nameless_ms == 2 and found.inferred_ms == 1


def test_the_tree_adds_up_to_the_time_of_all_streams_per_step_and_device():
  again = [o._replace(device="GPU:1") for o in OPS]
  found = made([*OPS, *again], steps=2)
  assert found.devices == 2 and found.wall_ms == 7
  assert found.tree.work == pytest.approx((14 / 2, 5 / 2, 384 / 2))
  assert sum(row.work.ms for row in found.instructions) == sum(row.work.ms for row in found.kinds) == found.tree.work.ms


def test_a_loop_is_no_work_but_its_own_time_counts():
  found = made([op("loop", 0, 10), op("copy.9", 1, 3), op("copy.9", 6, 8)])
  assert found.busy_ms == 4 and found.wall_ms == 10 and found.gap_count == 1
  assert found.tree.work.ms == 10 and {row.name: row.work.ms for row in found.kinds} == {"control": 6, "copy": 4}


def test_copies_to_the_host_are_sent_too():
  found = made([op("fusion.2", 0, 4), op("copy.3", 3, 9, lane="Stream #3", kernel="MemcpyD2H")])
  assert (found.sending_ms, found.exposed_ms) == (6, 5) and found.sending[0].kind == "host transfer"


def test_a_trace_of_another_program_is_refused():
  with pytest.raises(ValueError, match="75% of the time in the trace is of another program: it ran jit_other"):
    made([op("fusion.2", 0, 1), op("dot.8", 1, 3, module="jit_other"), op("dot.7", 3, 4, module="jit_other")])
  with pytest.raises(ValueError, match="nothing ran"):
    made([])


def test_a_report_survives_json():
  found = made(OPS)
  assert report.from_json(json.loads(json.dumps(dataclasses.asdict(found)))) == found


def test_phases_become_columns_of_one_part():
  ops = [op("fusion.2", 0, 4), op("gemm.4", 4, 5), op("loop", 5, 8)]
  part = table.by_part(made(ops).tree)
  assert [child.name for child in part.children] == ["dual", "single"]
  assert part.phases == (5, 0, 3) and part.work.ms == 8 and part.children[0].phases == (5, 0, 0)
  assert [(child.name, child.work.flops) for child in part.children[0].children] == [("mlp", 384), ("attention", 384)]


GPU_TRACE = """
planes { name: "/device:GPU:3"
  lines { name: "Stream #7(Compute)" timestamp_ns: 1000
    events { metadata_id: 1 offset_ps: 0 duration_ps: 2000000 stats { metadata_id: 1 str_value: "fusion.2" }
             stats { metadata_id: 2 str_value: "jit_step" } }
    events { metadata_id: 2 offset_ps: 2000000 duration_ps: 1000000 stats { metadata_id: 1 str_value: "command_buffer_4" } } }
  lines { name: "XLA Ops" events { metadata_id: 1 duration_ps: 9000000 stats { metadata_id: 1 str_value: "fusion.2" } } }
  event_metadata { key: 1 value { id: 1 name: "loop_fusion_2" } }
  event_metadata { key: 2 value { id: 2 name: "multiply_fusion_6" } }
  stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }
  stat_metadata { key: 2 value { id: 2 name: "hlo_module" } } }
planes { name: "/host:CPU" lines { name: "python" events { metadata_id: 1 duration_ps: 5 } }
  event_metadata { key: 1 value { id: 1 name: "step" } } }
"""


def test_of_a_gpu_the_streams_are_read_and_what_viewers_derive_is_not():
  planes = jax.profiler.ProfileData.from_serialized_xspace(
      jax.profiler.ProfileData.text_proto_to_serialized_xspace(GPU_TRACE)).planes
  assert list(trace.ops_of(planes)) == [
      Op("GPU:3", "Stream #7(Compute)", 1000, 3000, "fusion.2", "loop_fusion_2", "jit_step"),
      Op("GPU:3", "Stream #7(Compute)", 3000, 4000, "", "multiply_fusion_6", "")]
