"""Claims about the closed forms: FLOPs, bytes and collectives agree with what the compiler makes of the real code."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import pytest

from configs import base, motif_2b
from motif_jax import compiled, config, config_dict, mesh as meshes, sharding
from motif_jax.budget import devices, flops, memory, recipe, throughput, traffic, workload
from motif_jax.budget.workload import Split, Tokens
from motif_jax.model import routing, stack, transformer
from motif_jax.model.blocks import block_of
from motif_jax.model.plan import make_plan
from motif_jax.model.rope import Rope
from motif_jax.train import losses, state
from motif_jax.train.optimizer import make_optimizer
from motif_jax.train.state import abstract_state

RELEASED = config.from_config_dict(motif_2b.get_config())
CLIP_720P = Tokens(114_080, 512)
TEXT, PICTURE = 64, 192  # tokens


def small(**changes):
  """Small, but large enough that matrix products and activations dominate: width 256, 8 blocks; keys as in "model.remat"."""
  c = base.get_config()
  c.model.update(dict(latent_channels=8, width=256, heads=4, rope_axes=(16, 24, 24), text_dim=64, image_dim=0, dtype="float32",
                      depths=dict(dual=2, single=4, decoder=2)))
  c.route.update(dict(start=0, stop=4))  # no span of one block: see `memory.py`
  c.data.update(dict(batch_size=2, text_tokens=TEXT))
  c.alignment.update(dict(teacher_dim=48, hidden=96, tap=2))
  for path, value in changes.items():
    section, key = path.split("__")
    c[section][key] = value
  return config.from_config_dict(c)


def shaped(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


# Blocks


def cost_of_block(cfg, kind, tokens):
  """FLOPs by XLA's own count of one block of a kind on one sample, before any optimisation; elementwise operations included."""
  block = block_of(kind, cfg)
  others = tokens.video if kind == "decoder" else tokens.text
  arrays = (shaped(1, tokens.video, cfg.width, dtype=cfg.dtype), shaped(1, others, cfg.width, dtype=cfg.dtype))
  rope = Rope(*(shaped(tokens.video, cfg.head_dim // 2),) * 2)
  cond = shaped(1, cfg.width, dtype=cfg.dtype)
  masks = (None, None)
  params = jax.eval_shape(lambda key, t, c, r: block.init(key, t, masks, c, r), jax.random.key(0), arrays, cond, rope)
  run = lambda params, tokens, cond, rope: block.apply(params, tokens, masks, cond, rope)
  return jax.jit(run).lower(params, arrays, cond, rope).cost_analysis()["flops"]


@pytest.mark.parametrize("share", [1.0, 0.5], ids=["dense", "routed"])
@pytest.mark.parametrize("kind, cross", [("dual", "shared"), ("single", "shared"), ("single", "separate"), ("single", "none"),
                                         ("decoder", "shared")])
def test_blocks_of_the_release_cost_what_xla_counts(kind, cross, share):
  cfg = dataclasses.replace(RELEASED.model, dtype="float32", cross_attention=config.CrossAttentionConfig(cross, "none", False))
  tokens = Tokens(round(2000 * share), 160)
  assert flops.FORWARD[kind](cfg, tokens).total == pytest.approx(cost_of_block(cfg, kind, tokens), rel=0.02)


def test_separate_cross_attention_of_dual_blocks_is_counted():
  cfg = dataclasses.replace(RELEASED.model, dtype="float32", cross_attention=config.CrossAttentionConfig("shared", "none", True))
  assert flops.dual(cfg, Tokens(1000, 300)).total == pytest.approx(cost_of_block(cfg, "dual", Tokens(1000, 300)), rel=0.02)


def test_a_forward_pass_at_720p_is_the_published_arithmetic():
  """recipe.md section 7: 5.13 PFLOP, 94 % of it attention, half of that in the decoder, over twice the tokens."""
  whole = flops.forward(RELEASED.model, CLIP_720P)
  assert whole.total == pytest.approx(5.13e15, rel=0.002)
  assert whole.attention / whole.total == pytest.approx(0.94, abs=0.005)
  assert 8 * flops.decoder(RELEASED.model, CLIP_720P).attention / whole.attention == pytest.approx(0.53, abs=0.01)
  assert flops.model_flops(RELEASED.model, CLIP_720P).total == 3 * whole.total


def test_leaving_out_what_nobody_reads_saves_three_percent():
  whole, executed = (of(RELEASED.model, CLIP_720P).total for of in (flops.forward, flops.evaluated))
  assert 1 - executed / whole == pytest.approx(0.033, abs=0.002)


# The whole gradient


GRID = (4, 32, 32)  # of the latents: 1,024 tokens
CASES = {  # every policy of rematerialisation, with attention that keeps its logits and with attention that does not
    **{remat: dict(model__remat=remat) for remat in stack.REMAT},
    **{f"{remat}, chunked": dict(model__remat=remat, model__attention="chunked") for remat in ("none", "attention", "block")},
    "routed and aligned": dict(model__remat="block", route__keep=0.5, alignment__weight=0.5),
    "adapter": dict(model__remat="block", adapter__rank=24, adapter__base="another"),
    "from pictures": dict(model__remat="block", model__image_dim=96, encoders__image="thumbnail", data__image_tokens=True),
}


def plan_of(cfg):
  route = (cfg.route.start, cfg.route.stop) if cfg.route.keep < 1 else None
  return make_plan(cfg.model.depths, route, cfg.alignment.tap if cfg.alignment.weight else None)


@functools.cache
def gradient_of(name):
  """(config, compiled gradient of the training objective) of a case."""
  cfg = small(**CASES[name])
  plan, rows, channels = plan_of(cfg), cfg.data.batch_size, cfg.model.latent_channels
  route = None
  if cfg.route.keep < 1:
    draw = lambda key: routing.draw(key, rows, 1024, keep=cfg.route.keep, groups=cfg.route.groups, policy=cfg.route.policy)
    route = jax.eval_shape(draw, jax.random.key(0))
  network = jax.eval_shape(lambda key: transformer.init(key, cfg.model), jax.random.key(0))
  params = abstract_state(cfg, make_optimizer(cfg.optimizer, steps=1)).params
  batch = dict(latents=shaped(rows, *GRID, channels), first_frame=shaped(rows, 4, *GRID[1:], channels),
               text=shaped(rows, TEXT, cfg.model.text_dim), text_mask=shaped(rows, TEXT, dtype=bool),
               teacher=shaped(rows, 4, 4, 4, cfg.alignment.teacher_dim))
  batch |= dict(image=shaped(rows, PICTURE, cfg.model.image_dim)) if cfg.data.image_tokens else {}
  draws = losses.Draws(shaped(rows), shaped(rows, *GRID, channels), shaped(rows, dtype=bool), route)
  whole = lambda params, frozen: params | {"model": state.network(cfg, params["model"], frozen if cfg.adapter.rank else None)}
  gradient = jax.grad(lambda params, frozen, batch, draws: losses.objective(whole(params, frozen), cfg, batch, draws, plan)[0])
  return cfg, jax.jit(gradient).lower(params, network, batch, draws).compile()


def tokens_of(cfg):
  return workload.tokens_of(cfg.model, GRID, TEXT, PICTURE if cfg.data.image_tokens else 0)


@pytest.mark.parametrize("name", CASES)
def test_executed_flops_are_the_products_of_the_compiled_gradient(name):
  cfg, executable = gradient_of(name)
  executed = flops.executed(cfg, tokens_of(cfg), plan_of(cfg))
  ours = cfg.data.batch_size * sum(part.total for part in executed.values())
  assert ours == pytest.approx(compiled.matmul_flops(executable.as_text()), rel=0.005)


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_that_xla_plans(name):
  cfg, executable = gradient_of(name)
  ours = memory.step_bytes(cfg, tokens_of(cfg), plan_of(cfg), Split(), cfg.data.batch_size)
  ours = {part: size for part, size in ours.items() if part not in ("average", "optimizer")}  # no optimizer here
  planned = compiled.memory(executable)
  assert sum(ours.values()) == pytest.approx(planned.total, rel=0.15)
  state = ours["parameters"] + ours["gradients"]
  assert sum(ours.values()) - state == pytest.approx(planned.total - state, rel=0.15)  # nor does the state hide the activations


def test_an_unrouted_step_computes_more_and_keeps_more():
  cfg = small(route__keep=0.5)
  tokens, plan = tokens_of(cfg), plan_of(cfg)
  cost = lambda plan: sum(part.total for part in flops.executed(cfg, tokens, plan).values())
  held = lambda plan: sum(memory.step_bytes(cfg, tokens, plan, Split(), 2).values())
  dense = make_plan(cfg.model.depths)
  assert cost(plan) < 0.9 * cost(dense) and held(plan) < held(dense)


@pytest.mark.parametrize("shape", [(3, 32, 80), (2, 80, 32)])
def test_muon_costs_what_its_compiled_update_multiplies(shape):
  params = {"model": {"single": {"mlp": {"up": {"kernel": jnp.ones(shape)}}}}}
  optimizer = make_optimizer(small(optimizer__kind="muon").optimizer, steps=10)
  text = jax.jit(optimizer.update).lower(params, optimizer.init(params), params).compile().as_text()
  assert flops.muon([shape[1:]] * shape[0]) == pytest.approx(compiled.matmul_flops(text), rel=0.01)


# State


@pytest.mark.parametrize("cross, count", [("shared", 1_962_308_032), ("separate", 2_037_809_600), ("none", 1_886_712_256)])
def test_parameters_are_the_published_number(cross, count):
  kind = config.CrossAttentionConfig(cross, "scale_bias" if cross == "shared" else "none", False)
  cfg = dataclasses.replace(RELEASED, model=dataclasses.replace(RELEASED.model, cross_attention=kind, attention="cudnn"))
  assert sum(map(math.prod, memory.parameters(cfg).values())) == count


def test_an_adapter_s_state_is_small_and_its_network_counted_once():
  """At the released size, rank 16 on all attention: bfloat16 kernels, and 16 bytes for each number of the adapter."""
  cfg = dataclasses.replace(RELEASED, adapter=dataclasses.replace(RELEASED.adapter, rank=16, base="another"))
  held = memory.state_bytes(cfg, Split())
  count = sum(map(math.prod, memory.adapters(cfg).values()))
  assert held["parameters"] + held["average"] + held["optimizer"] == 16 * count
  assert held["frozen"] == pytest.approx(2 * 1_962_308_032, rel=0.002)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2), (1, 8, 1)])
def test_state_bytes_are_those_of_the_sharded_state(optimizer, sizes):
  cfg = small(optimizer__kind=optimizer, alignment__weight=0.5)
  state = abstract_state(cfg, make_optimizer(cfg.optimizer, steps=1))
  mesh = meshes.make_mesh(config.MeshConfig(*sizes), devices=jax.devices()[:math.prod(sizes)])
  exact = sharding.bytes_per_device(state, sharding.state_shardings(state, mesh))
  ours = memory.state_bytes(cfg, workload.make_split(sizes, cfg.model.heads))
  assert sum(ours.values()) - ours["gradients"] == pytest.approx(exact, abs=100)  # counters
  assert ours["gradients"] == ours["parameters"]


# Splits


@pytest.mark.parametrize("degree, heads, expected", [
    (8, 12, (4, 2)), (6, 12, (6, 1)), (8, 16, (8, 1)), (5, 12, (1, 5)), (1, 12, (1, 1))])
def test_the_sequence_degree_is_heads_times_keys(degree, heads, expected):
  split = workload.make_split((1, 2, degree), heads)
  assert (split.heads, split.keys) == expected


@pytest.mark.parametrize("kind", flops.FORWARD)
def test_cutting_the_sequence_divides_the_video_and_repeats_the_text(kind):
  cfg = RELEASED.model
  one = lambda tokens, degree: flops.FORWARD[kind](cfg, tokens, workload.make_split((1, 1, degree), 12)).total
  alone, text = Tokens(16_000, 0), Tokens(16_000, 500)
  assert 8 * one(alone, 8) == pytest.approx(one(alone, 1), rel=1e-3)
  repeated = 8 * one(text, 8) / one(text, 1)
  assert repeated == pytest.approx(1, rel=1e-3) if kind == "decoder" else 1.02 < repeated < 1.3


def test_microbatches_divide_activations_and_add_a_gradient():
  cfg = RELEASED
  parts = lambda n: memory.step_bytes(cfg, Tokens(1296, 512), make_plan(cfg.model.depths), Split(1, 8, 1, accumulate=n), 8)
  one, four = parts(1), parts(4)
  assert four["one block"] == one["one block"] / 4 and four["kept for backward"] == one["kept for backward"] / 4
  assert four["gradients"] == 2 * one["gradients"] and four["optimizer"] == one["optimizer"]


@pytest.mark.parametrize("sizes, tokens, keep, said", [
    ((1, 1, 7), 1024, 1.0, "nearest degrees that do: 4, 8"),
    ((1, 1, 16), 1024, 0.5, "route.groups 8 is not a multiple of mesh.sequence = 16"),
    ((1, 1, 1), 1023, 0.5, "do not divide into route.groups")])
def test_sizes_that_do_not_divide_are_told_what_does(sizes, tokens, keep, said):
  with pytest.raises(ValueError, match=said):
    workload.check_split(small(route__keep=keep), workload.make_split(sizes, 4), Tokens(tokens, 8))


@pytest.mark.parametrize("bucket, tokens", [
    ((1, 144, 256), 144), ((33, 144, 256), 1296), ((65, 144, 256), 2448), ((65, 352, 640), 14_960), ((65, 480, 832), 26_520),
    ((121, 480, 832), 48_360), ((121, 736, 1280), 114_080)])
def test_buckets_have_the_tokens_of_the_recipe(bucket, tokens):
  grid = workload.latent_grid(config.BucketConfig(*bucket), (4, 8, 8))
  assert workload.tokens_of(RELEASED.model, grid, 512) == Tokens(tokens, 512)


def test_a_bucket_that_the_codec_cannot_cut_is_an_error():
  with pytest.raises(ValueError, match="32x144x256 does not fit .* 4 k \\+ 1 frames"):
    workload.latent_grid(config.BucketConfig(32, 144, 256), (4, 8, 8))


# What fits


H200 = devices.DEVICES["h200"]
ON_GPU = dataclasses.replace(RELEASED, model=dataclasses.replace(RELEASED.model, attention="cudnn"))
DENSE = make_plan(RELEASED.model.depths)


def fits(cfg, rows, split, device=H200, tokens=CLIP_720P):
  return devices.total(cfg, tokens, DENSE, split, rows) <= devices.USABLE * device.memory


def test_policies_stand_from_the_fastest_to_the_smallest():
  found = devices.policies(ON_GPU, CLIP_720P, DENSE, Split(1, 8, 1), 1, H200)
  assert [policy.name for policy in found] == list(stack.REMAT)
  held, work = [policy.bytes for policy in found], [policy.flops for policy in found]
  assert held == sorted(held, reverse=True) and work == sorted(work)
  assert [policy.fits for policy in found] == [False, True, True, True]  # 720p keeps attention's outputs on 8 H200
  assert work[1] / work[2] == pytest.approx(3.5 / 4.5, rel=0.02)  # nearly all of it is attention
  assert held[2] == devices.total(ON_GPU, CLIP_720P, DENSE, Split(1, 8, 1), 1)


@pytest.mark.parametrize("split", [Split(1, 8, 1), Split(1, 8, 1, accumulate=3), workload.make_split((1, 1, 8), 12)])
def test_the_largest_batch_fits_and_a_larger_one_does_not(split):
  rows = devices.largest_rows(ON_GPU, CLIP_720P, DENSE, split, H200)
  assert rows > 0 and fits(ON_GPU, rows, split) and not fits(ON_GPU, rows + split.accumulate, split)


def test_logits_of_a_720p_clip_fit_nowhere_and_the_advice_is_another_backend():
  """12 heads x 228,160 queries x as many keys in float32: 2.5 TB for one array of a decoder block."""
  plain = RELEASED
  assert not fits(plain, 1, Split(1, 8, 1)) and devices.largest_rows(plain, CLIP_720P, DENSE, Split(1, 8, 1), H200) == 0
  assert devices.nearest_fit(plain, CLIP_720P, DENSE, Split(1, 8, 1), 1, H200) == "--config.model.attention=cudnn"


def test_advice_goes_from_mild_to_strong_and_may_be_none():
  advice = lambda rows, device, sizes=(1, 8, 1), cfg=ON_GPU: devices.nearest_fit(
      cfg, CLIP_720P, DENSE, workload.make_split(sizes, 12), rows, device)
  assert advice(4, H200) == "--config.train.accumulate=4"
  assert advice(1, dataclasses.replace(H200, memory=43e9)) == "--config.model.remat=offload"
  assert "mesh.sequence=2" in advice(1, dataclasses.replace(H200, memory=33e9))
  assert advice(1, dataclasses.replace(H200, memory=1e9)) is None


def advised(sizes, gigabytes, tokens=CLIP_720P, cfg=ON_GPU, **data):
  """(the config on a mesh of `sizes`, the advice for devices of so much memory)."""
  cfg = dataclasses.replace(cfg, mesh=config.MeshConfig(*sizes), data=dataclasses.replace(cfg.data, **data))
  split = workload.make_split(sizes, 12)
  rows, device = cfg.data.rows(tokens.video) // split.batch, dataclasses.replace(H200, memory=gigabytes * 1e9)
  assert not fits(cfg, rows, split, device, tokens)
  return cfg, devices.nearest_fit(cfg, tokens, DENSE, split, rows, device)


ROUTED = dataclasses.replace(ON_GPU, route=dataclasses.replace(ON_GPU.route, keep=0.5, groups=2))


@pytest.mark.parametrize("sizes, gigabytes, given, expected", [
    ((8, 1, 1), 80, dict(batch_size=8), "mesh.data=4 --config.mesh.fsdp=2"),
    ((8, 1, 1), 60, dict(batch_size=16), "accumulate=2 --config.mesh.data=2 --config.mesh.fsdp=4"),
    ((8, 1, 1), 36, dict(batch_size=8), "mesh.data=2 --config.mesh.sequence=4"),
    ((16, 8, 1), 18, dict(batch_size=128), "mesh.fsdp=1 --config.mesh.sequence=8"),
    ((6, 1, 1), 60, dict(batch_size=6), "mesh.data=3 --config.mesh.sequence=2"),
    ((1, 8, 1), 33, dict(batch_size=8, cfg=ROUTED), "mesh.fsdp=4 --config.mesh.sequence=2"),
    ((1, 8, 1), 45, dict(batch_size=16, batch_tokens=16 * CLIP_720P.video), "accumulate=2"),
    ((1, 8, 1), 45, dict(batch_size=16, batch_tokens=50 * CLIP_720P.video), "mesh.sequence=8 --config.train.accumulate=16"),
    ((1, 8, 1), 30, dict(batch_size=8, batch_tokens=8 * CLIP_720P.video, tokens=Tokens(1296, 512)), "batch_tokens=425088"),
])
def test_advice_taken_is_a_mesh_and_a_batch_that_work_and_fit(sizes, gigabytes, given, expected):
  tokens = given.get("tokens", CLIP_720P)
  cfg, advice = advised(sizes, gigabytes, **given)
  assert expected in advice and "attention" not in advice  # it is that already
  changed = ConfigDict(config.to_dict(cfg))
  for flag in advice.split():
    config_dict.change(changed, *flag.removeprefix("--config.").split("="))
  cfg = config.from_config_dict(changed)
  after, accumulate = (cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.sequence), cfg.train.accumulate
  split = workload.make_split(after, 12, accumulate=accumulate)
  workload.check_split(cfg, split, tokens)
  assert math.prod(after) == math.prod(sizes) and cfg.data.batch_size % (split.batch * accumulate) == 0
  assert fits(cfg, cfg.data.rows(tokens.video) // split.batch, split, dataclasses.replace(H200, memory=gigabytes * 1e9), tokens)


def test_no_advice_cuts_the_groups_of_a_route():
  assert "sequence=4" in advised((1, 8, 1), 28, batch_size=8)[1] and advised((1, 8, 1), 28, batch_size=8, cfg=ROUTED)[1] is None


def test_no_advice_leaves_fewer_tokens_than_the_largest_clips_need():
  cfg, tokens, split = ON_GPU, Tokens(1296, 512), Split(1, 8, 1)
  cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, batch_size=8, batch_tokens=912_640))
  advice = lambda least: devices.nearest_fit(cfg, tokens, DENSE, split, 88, dataclasses.replace(H200, memory=30e9), least=least)
  assert advice(425_088) == "--config.data.batch_tokens=425088"
  assert advice(425_089) is None


@pytest.mark.parametrize("sizes, said", [
    ((1, 64, 1), "--config.mesh.data=8 --config.mesh.fsdp=8"), ((2, 16, 2), "--config.mesh.data=8 --config.mesh.fsdp=4"),
    ((1, 1, 64), None), ((1, 12, 1), None)])
def test_a_mesh_wider_than_a_node_is_told_one_that_is_not(sizes, said):
  assert devices.within_nodes(workload.make_split(sizes, 64), H200) == said


def test_an_unknown_device_kind_lists_the_known_ones():
  with pytest.raises(ValueError, match="known kinds: h100, h200, a100-80. Did you mean 'h200'"):
    devices.device_of("h20")


# Traffic


def test_without_other_devices_nothing_is_sent():
  assert traffic.step_traffic(RELEASED, CLIP_720P, DENSE, Split(), 1) == {}


def test_weights_are_gathered_twice_and_gradients_scattered_once():
  sent = traffic.sent(traffic.step_traffic(RELEASED, CLIP_720P, DENSE, Split(1, 8, 1), 1))
  kernels = sum(math.prod(shape) for path, shape in memory.parameters(RELEASED).items() if path.endswith("kernel"))
  in_blocks = lambda path: path.endswith("kernel") and path.startswith(("dual", "single", "decoder"))
  blocks = sum(math.prod(shape) for path, shape in memory.parameters(RELEASED).items() if in_blocks(path))
  assert sent["weights"] == pytest.approx(2 * (kernels + blocks) * 7 / 8)  # bfloat16; embedders are not rematerialised
  assert sent["gradients"] == pytest.approx(4 * kernels * 7 / 8, rel=0.01)  # float32; biases and scales add a little
  assert "sequence" not in sent


# The recipe


def test_hours_are_executed_flops_over_the_assumed_rate():
  stages = recipe.costs(ON_GPU, H200, utilisation=0.4, strides=(4, 8, 8))
  last = stages[-1]
  assert last.tokens == 114_080 and len(stages) == 10
  assert last.hours == pytest.approx(last.executed / (0.4 * 989.5e12) / 3600)
  video = 3 * flops.forward(ON_GPU.model, CLIP_720P).total
  assert last.model == pytest.approx(last.stage.samples * video * 2 / 3, rel=0.05)  # images cost next to nothing
  halved = recipe.costs(ON_GPU, H200, utilisation=0.2, strides=(4, 8, 8))
  assert sum(c.hours for c in halved) == pytest.approx(2 * sum(c.hours for c in stages))


def test_routing_makes_its_stages_cheaper_by_what_it_leaves_out():
  stages = {s.name: s for s in recipe.STAGES}
  routed = stages["8 720p x 121"]
  dense = dataclasses.replace(routed, routed=False)
  cheap, dear = recipe.costs(ON_GPU, H200, utilisation=0.4, strides=(4, 8, 8), stages=(routed, dense))
  assert cheap.model == dear.model and 0.55 < cheap.executed / dear.executed < 0.75


@pytest.mark.parametrize("utilisation", [0, 1.2, -1])
def test_a_utilisation_that_is_no_share_is_an_error(utilisation):
  with pytest.raises(ValueError, match="share of the device's peak"):
    recipe.costs(RELEASED, H200, utilisation=utilisation, strides=(4, 8, 8))


# Rates


def test_the_work_of_a_step_is_dealt_to_the_devices():
  cfg = small(data__batch_size=8, route__keep=0.5)
  grid, routed = (4, 16, 16), make_plan(cfg.model.depths, (0, 4))
  one = throughput.step_work(cfg, grid, TEXT, routed, (1, 1, 1))
  tokens = workload.tokens_of(cfg.model, grid, TEXT)
  assert one.tokens == 8 * tokens.video and one.model_flops == 8 * flops.model_flops(cfg.model, tokens).total
  dense = throughput.step_work(cfg, grid, TEXT, make_plan(cfg.model.depths), (1, 1, 1))
  assert dense.model_flops == one.model_flops  # whatever is left out
  unread = flops.forward(cfg.model, tokens).total - flops.evaluated(cfg.model, tokens).total
  repeated = 4 / 3 * (dense.model_flops - 8 * 3 * unread)  # remat repeats the forward pass
  assert dense.executed_flops == pytest.approx(repeated, rel=0.02) and repeated < 0.96 * 4 / 3 * dense.model_flops
  assert one.executed_flops < 0.9 * dense.executed_flops  # half of the tokens skip half of the blocks
  eight = throughput.step_work(cfg, grid, TEXT, routed, (2, 2, 2))
  assert (eight.tokens, eight.model_flops) == (one.tokens, one.model_flops / 8)
  assert 1 <= eight.executed_flops * 8 / one.executed_flops < 1.2  # text is whole on every device of the sequence axis


def test_only_devices_of_known_peak_have_one():
  assert throughput.peak_of("NVIDIA H200") == devices.DEVICES["h200"].flops
  assert throughput.peak_of("NVIDIA H200 NVL") is None and throughput.peak_of("cpu") is None
