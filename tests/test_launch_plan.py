"""Claims about `python -m launch.plan`: it tells what a run costs before it is launched, and what is wrong with its flags."""

import re

import jax
import pytest

from configs import motif_2b
from launch import plan
from motif_jax import compiled, config
from motif_jax.bench import steps
from motif_jax.budget import devices, flops, memory, recipe, traffic, workload
from motif_jax.train import step
from tests import tiny
from tests.test_end_to_end import launch


def prepare(cfg, **changes):
  given = dict(count=8, kind="h200", names="", strides=None, utilisation=0.4) | changes
  return plan.prepare(cfg, **given)


def released(**changes):
  c = motif_2b.get_config()
  c.model.attention = "cudnn"
  c.data.batch_size = 8
  for path, value in changes.items():
    section, key = path.split("__")
    c[section][key] = value
  return config.from_config_dict(c)


def test_the_command_plans_the_release_on_eight_gpus():
  said = launch("plan", "--config=configs/motif_2b.py", "--devices=8", "--device_kind=h200", "--config.model.attention=cudnn",
                "--config.data.batch_size=8", "--buckets=1x144x256,121x736x1280")
  for expected in ("8 x h200", "data 1 x fsdp 8 x sequence 1", "1,962,308,032", "114,080 video tokens", "dual [0, 12)",
                   "largest batch per device", "all-gather", "reduce-scatter", "single/mlp/up/kernel",
                   "executables: 2 buckets x 1 plans = 2", "latents 4x8x8", "10 720p x 121", "of the paper's 100,000"):
    assert expected in said, expected


def test_the_command_compiles_and_compares():
  said = launch("plan", "--config=configs/smoke.py", "--devices=1", "--compile", "--norecipe", "--config.optimizer.kind=adamw",
                "--config.alignment.weight=0.0", "--config.route.keep=1.0")
  products = re.search(r"products: (\S+) FLOPs per device; closed form ([^,]+),", said)
  assert float(products[1]) == pytest.approx(float(products[2]), rel=0.005)
  assert "compiled on CPU in" in said and "recipe" not in said
  assert re.search(r"memory: .* arguments, .* temporary\); closed form", said)


def test_the_release_s_blocks_on_eight_devices_are_as_the_compiler_has_them():
  """At the released width, two blocks of a kind, float32: on CPU bfloat16 would be sent as float32."""
  cfg = released(model__attention="chunked", model__dtype="float32", model__depths=dict(dual=2, single=2, decoder=2))
  job = prepare(cfg, names="33x144x256")
  (bucket,), (only,) = job.buckets, step.plans_of(cfg)
  executable, tokens = plan.compile_step(cfg, job, bucket, only), plan.tokens_of(job, bucket)
  text = executable.as_text()
  work = sum(part.total for part in flops.executed(cfg, tokens, only, job.split).values())
  assert compiled.matmul_flops(text) == pytest.approx(work, rel=0.005)
  held = sum(memory.step_bytes(cfg, tokens, only, job.split, 1).values())
  assert compiled.memory(executable).total == pytest.approx(held, rel=0.15)
  gathered = sum(c.sent for c in compiled.collectives(text) if c.kind == "all-gather")
  assert gathered == pytest.approx(traffic.sent(traffic.step_traffic(cfg, tokens, only, job.split, 1))["weights"], rel=0.05)


@pytest.mark.parametrize("remat", ["attention", "block"])
def test_every_message_of_a_cut_sequence_is_foretold(remat):
  """Eight devices, four heads: groups of 4 trade tokens for heads, groups of 2 share keys; kind, bytes, count and group agree."""
  c = tiny.config_dict()
  c.model.update(dict(width=32, heads=4, rope_axes=(2, 2, 4), remat=remat))
  c.route.update(dict(start=0, stop=4, keep=0.5))
  c.alignment.weight = 0.0
  c.data.batch_size = 3
  c.mesh.update(dict(data=1, fsdp=1, sequence=8))
  job = prepare(config.from_config_dict(c), names="5x128x128", strides=["4", "8", "8"])
  (bucket,), (only,) = job.buckets, step.plans_of(job.cfg)
  tokens = plan.tokens_of(job, bucket)
  told = traffic.step_traffic(job.cfg, tokens, only, job.split, job.rows(tokens))["sequence"]
  found = compiled.collectives(plan.compile_step(job.cfg, job, bucket, only).as_text())
  ours = lambda c: c.group in (2, 4) and c.kind in ("all-to-all", "all-gather", "reduce-scatter")  # what shard_map asks for
  told, found = set(filter(ours, told)), set(filter(ours, found))
  assert told <= found and len(told) > 8
  assert sum(c.sent for c in found - told) < 0.02 * sum(c.sent for c in told)  # XLA moves a small kernel in its own way


def test_every_bucket_of_the_recipe_is_planned_by_default_and_only_the_samples_otherwise():
  assert prepare(released()).buckets == recipe.BUCKETS
  assert prepare(tiny.make_config()).buckets == (tiny.make_config().sample.bucket,)


@pytest.mark.parametrize("given, expected", [(None, (4, 8, 8)), (["8", "16", "16"], (8, 16, 16))])
def test_the_release_is_planned_for_the_strides_of_its_codec(given, expected):
  """configs/motif_2b.py names an embedded codec of other channels until the real one is there."""
  assert plan.strides_of(released(), given) == expected


def test_a_plan_of_each_phase_is_an_executable():
  c = tiny.config_dict()
  c.route.last_step, c.alignment.last_step = 5, 9
  plans = step.plans_of(config.from_config_dict(c))
  assert sorted(plans.values()) == [0, 5, 9]
  assert [any(s.routed for s in p) for p in sorted(plans, key=plans.get)] == [True, False, False]


def test_what_does_not_fit_says_so_and_what_would():
  job = prepare(released(model__attention="xla"), names="121x736x1280")
  said = "\n".join(plan.of_bucket(job, job.buckets[0], next(iter(step.plans_of(job.cfg)))))
  assert "DOES NOT FIT" in said and "largest batch per device: 0" in said
  assert "nearest change that fits: --config.model.attention=cudnn" in said
  fitting = prepare(released(), names="121x736x1280")
  assert "DOES NOT FIT" not in "\n".join(plan.of_bucket(fitting, fitting.buckets[0], next(iter(step.plans_of(fitting.cfg)))))


@pytest.mark.parametrize("names, changes, said", [
    ("121x736x1280", {}, "the fastest that fits is 'attention': --config.model.remat=attention"),
    ("121x736x1280", dict(model__remat="attention"), "the fastest that fits is 'attention'"),
    ("33x144x256", {}, "the fastest that fits is 'none': --config.model.remat=none"),
    ("121x736x1280", dict(model__attention="xla"), "none fits")])
def test_the_fastest_policy_that_fits_is_told(names, changes, said):
  job = prepare(released(**changes), names=names)
  line = plan.rematerialisation(job, plan.tokens_of(job, job.buckets[0]), next(iter(step.plans_of(job.cfg))))
  assert line.endswith(said)


def test_a_budget_of_tokens_gives_short_clips_more_rows():
  job = prepare(released(data__batch_tokens=8 * 114_080), names="33x144x256,121x736x1280")
  for bucket, rows in zip(job.buckets, (88, 1), strict=True):
    tokens, (only,) = plan.tokens_of(job, bucket), step.plans_of(job.cfg)
    said = plan.of_bucket(job, bucket, only)
    need = sum(memory.step_bytes(job.cfg, tokens, only, job.split, rows).values())
    assert said[0].endswith(f"; batch {8 * rows}, {rows} per device")
    assert any(line.split()[:3] == ["all", *plan.size(need).split()] for line in said)
    grid = workload.latent_grid(bucket, job.strides)
    assert jax.eval_shape(lambda: steps.batch_of(job.cfg, grid, seed=0))["latents"].shape[0] == 8 * rows  # what is compiled
  assert "8, 1 per device and step, times as often as fits into 912,640 video tokens" in "\n".join(plan.head(job))


def test_the_table_of_bytes_adds_up():
  job = prepare(released(), names="65x480x832")
  (only,) = step.plans_of(job.cfg)
  lines = plan.of_bucket(job, job.buckets[0], only)
  tokens = plan.tokens_of(job, job.buckets[0])
  numbers = memory.step_bytes(job.cfg, tokens, only, job.split, job.rows(tokens))
  assert any(f"{plan.size(sum(numbers.values()))} of {plan.size(devices.USABLE * 141e9)} usable: fits" in line for line in lines)
  table = dict(row for line in lines if len(row := re.split(r"  +", line.strip())) == 2)
  assert table | {name: plan.size(value) for name, value in numbers.items() if value} == table and len(table) > 5


def test_a_step_cut_along_the_sequence_is_told_its_messages():
  job = prepare(released(mesh__fsdp=1, mesh__sequence=8, mesh__data=1), names="121x736x1280")
  lines = "\n".join(plan.of_bucket(job, job.buckets[0], next(iter(step.plans_of(job.cfg)))))
  assert "sequence (" not in lines and "all-to-all" in lines and "in groups of 4" in lines
  assert "heads 4 x keys 2" in "\n".join(plan.head(job))


def test_sharding_lists_every_large_parameter_once():
  job = prepare(released(), names="1x144x256")
  lines = plan.shardings(job)
  counts = plan.counts_of(job.cfg)
  large = [path for path, count in counts.items() if count >= 1e-3 * sum(counts.values())]
  assert len(large) > 30 and all(sum(line.strip().startswith(path + " ") for line in lines) == 1 for path in large)


@pytest.mark.parametrize("changes, said", [
    (dict(kind="h20"), "known kinds: h100, h200, a100-80. Did you mean 'h200'"),
    (dict(count=0), "--devices=0: expected at least 1"),
    (dict(count=6), "needs 8 devices, but there are 6; the nearest sizes that work"),
    (dict(names="32x144x256"), "does not fit a codec of strides"),
    (dict(names="33x144"), "not FRAMESxHEIGHTxWIDTH"),
    (dict(strides=["4", "8"]), "expected three positive whole numbers"),
    (dict(utilisation=4.0), "share of the device's peak"),
])
def test_wrong_flags_are_answered_with_what_was_expected(changes, said):
  with pytest.raises(ValueError) as caught:
    prepare(released(), **changes)
  assert said in str(caught.value)


def test_a_budget_of_tokens_that_is_too_small_is_the_run_s_own_error():
  with pytest.raises(ValueError, match="batch_tokens 1000 is less than data.batch_size 8 rows of bucket 33x144x256.*: 10368; raise it to that.$"):
    prepare(released(data__batch_tokens=1000), names="33x144x256")


def test_a_batch_that_does_not_divide_is_the_run_s_own_error():
  with pytest.raises(ValueError, match="data.batch_size 12 does not divide"):
    prepare(released(data__batch_size=12))


def test_a_sequence_that_does_not_divide_is_told_what_would():
  cfg = released(mesh__data=-1, mesh__fsdp=1, mesh__sequence=7)
  with pytest.raises(ValueError, match="144 video tokens .* mesh.sequence = 7; .* 6, 8; on these 7 devices --config.mesh.data=7 --config.mesh.sequence=1"):
    prepare(cfg, count=7, names="1x144x256")


@pytest.mark.parametrize("flags, said", [
    (["--device_kind=b200"], "device kind 'b200' is not known"), (["--config.modl.width=3"], "no such config key"),
    (["extra"], "unknown arguments extra")])
def test_the_command_answers_bad_input_in_one_error(flags, said):
  assert said in launch("plan", "--config=configs/smoke.py", *flags, fails=True)


@pytest.mark.parametrize("count, text", [(0, "0 B"), (999, "999 B"), (1.5e3, "1.5 kB"), (141e9, "141 GB"), (2.5e12, "2.5 TB")])
def test_sizes_are_told_for_people(count, text):
  assert plan.size(count) == text


def test_batches_from_a_picture_are_planned_with_the_tokens_of_its_encoder():
  pictured = dict(model__image_dim=1152, encoders__image="siglip", data__image_tokens=True)
  job, plain = (prepare(released(**changes), names="1x144x256,33x144x256") for changes in (pictured, {}))
  assert {bucket.frames: plan.tokens_of(job, bucket).image for bucket in job.buckets} == {1: 0, 33: 4096}
  assert not any(plan.tokens_of(plain, bucket).image for bucket in plain.buckets)
  assert "from a picture of 4,096 tokens" in plan.of_bucket(job, max(job.buckets, key=lambda b: b.frames), *step.plans_of(job.cfg))[0]
