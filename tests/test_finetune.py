"""Fine-tuning by an adapter: the same loop and checkpoints, a base that stays as it was, and files that fit no other base."""

import dataclasses
import itertools
import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base as defaults, finetune as recipes
from launch import finetune as command
from motif_jax import config, endings, mesh as meshes
from motif_jax.config import AdapterConfig, BucketConfig, MeshConfig
from motif_jax.model import lora, transformer
from motif_jax.train import checkpoint, finetune, loop
from motif_jax.train.optimizer import make_optimizer
from motif_jax.weights import export, lora as files, read, release
from tests import small_data, tiny
from tests.sensitive import sensitive

ONE = meshes.make_mesh(MeshConfig(1, 1, 1), devices=jax.devices()[:1])
STEPS = 3


def base_config():
  c = tiny.config_dict()
  c.model.update(dict(depths=dict(dual=0, single=1, decoder=1)))
  c.route.keep, c.alignment.weight = 1.0, 0.0
  c.mesh.update(dict(data=1, fsdp=4))  # where it was trained, and on what
  c.data.mixture = (("elsewhere", 1.0),)
  return config.from_config_dict(c)


def weights(seed):
  return sensitive(jax.eval_shape(lambda key: transformer.init(key, base_config().model), jax.random.key(0)), seed)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A work directory with weights alone."""
  folder = tmp_path_factory.mktemp("base")
  checkpoint.save_weights(folder, weights(0), base_config())
  return folder


def job_of(base, workdir, *, stop_in=None):
  adapter = dataclasses.replace(base_config().adapter, rank=2, alpha=3.0, targets=("single/*", "text_embed/*"), base=str(base))
  train = dataclasses.replace(base_config().train, steps=STEPS, save_every=2, validate_every=9, sample_every=9)
  cfg = finetune.with_digest(dataclasses.replace(base_config(), adapter=adapter, train=train), ONE)

  def batches(step):
    for i in itertools.count(step):
      if i == stop_in:
        os.kill(os.getpid(), signal.SIGTERM)
      yield None, tiny.batch(cfg, i)

  return loop.Job(cfg, str(workdir), ONE, make_optimizer(cfg.optimizer, steps=STEPS), batches,
                  text_empty=np.zeros((1, 12), np.float32), frozen=checkpoint.restore_base(cfg, ONE))


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
  """(work directory, job, last state) of a whole run."""
  job = job_of(base, tmp_path_factory.mktemp("run"))
  return job.workdir, job, loop.run(job)


@jax.jit
def velocity(params):
  rng = np.random.default_rng(2)
  normal = lambda *shape: rng.standard_normal((2, *shape)).astype(np.float32)
  return transformer.apply(params, base_config().model, normal(2, 4, 4, 7), jnp.asarray([0.2, 0.7]), normal(5, 12))[0]


def error(got, want):
  return float(jnp.linalg.norm(got - want) / jnp.linalg.norm(want))


def test_a_run_resumes_to_the_same_bits_and_leaves_its_base_alone(base, run, tmp_path):
  loop.run(job_of(base, tmp_path, stop_in=1))
  resumed = loop.run(job_of(base, tmp_path))
  jax.tree.map(np.testing.assert_array_equal, resumed, run[2])
  jax.tree.map(np.testing.assert_array_equal, checkpoint.restore_for_sampling(base)[1], weights(0))
  moved = [float(jnp.abs(x).max()) for path, x in jax.tree_util.tree_leaves_with_path(run[2].params) if "up" in str(path)]
  assert min(moved) > 0  # every adapter learned


def test_checkpoint_merged_weights_and_file_are_one_network(base, run):
  workdir, job, state = run
  cfg, attached = checkpoint.restore_for_sampling(workdir)
  want = velocity(attached)
  assert error(velocity(weights(0)), want) > 1e-3
  alone, merged = checkpoint.restore_weights(workdir)
  assert alone.adapter.rank == 0 and error(velocity(merged), want) < 2e-6
  file = finetune.write_adapter(workdir, job.cfg, state.ema)
  assert error(velocity(finetune.applied(weights(0), cfg, file, weight=1.0)), want) < 2e-6
  np.testing.assert_array_equal(velocity(finetune.applied(weights(0), cfg, file, weight=0.0)), velocity(weights(0)))


def test_an_adapter_is_refused_by_weights_that_it_was_not_trained_on(run):
  workdir, job, state = run
  file = finetune.write_adapter(workdir, job.cfg, state.ema)
  with pytest.raises(ValueError, match="trained on other weights, those of .*--any_base"):
    finetune.applied(weights(1), job.cfg, file, weight=1.0)
  finetune.applied(weights(1), job.cfg, file, weight=1.0, any_base=True)
  with pytest.raises(ValueError, match="has an adapter already"):
    finetune.applied(checkpoint.restore_for_sampling(workdir)[1], job.cfg, file, weight=1.0)


def test_a_run_whose_base_has_changed_says_so(run, tmp_path):
  checkpoint.save_weights(tmp_path, weights(1), base_config())
  cfg = dataclasses.replace(run[1].cfg, adapter=dataclasses.replace(run[1].cfg.adapter, base=str(tmp_path)))
  with pytest.raises(ValueError, match="not those that the adapter was trained on"):
    checkpoint.restore_base(cfg, ONE)


def test_a_digest_is_of_values_and_places_and_of_no_mesh_or_dtype():
  params = weights(0)
  swapped = params | {"text_embed": params["text_embed"] | {"up": {
      "kernel": params["text_embed"]["up"]["kernel"][::-1], "bias": params["text_embed"]["up"]["bias"]}}}
  assert lora.digest(swapped) != lora.digest(params) == lora.digest(lora.frozen(params, "bfloat16"))
  eight = jax.device_put(params, jax.sharding.NamedSharding(jax.make_mesh((8,), ("x",)), jax.sharding.PartitionSpec()))
  assert lora.digest(eight) == lora.digest(params)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
  """A folder as diffusers writes it, in the layout that it had for some weeks."""
  folder = tmp_path_factory.mktemp("released")
  export.export(folder, weights(0), base_config().model, layout="legacy_attn")
  return folder


def test_the_file_of_an_adapter_names_layers_as_the_folder_does_that_it_belongs_to(run, released, tmp_path):
  workdir, job, state = run
  cfg = dataclasses.replace(job.cfg, adapter=dataclasses.replace(job.cfg.adapter, base=str(released)))
  modules = {name.removeprefix(files.PREFIX).partition(".lora_")[0] + ".weight"
             for name in read.index(finetune.write_adapter(tmp_path, cfg, state.ema))}
  assert modules <= set(read.index(released)) and any("cross" in name for name in modules)


def test_the_config_to_start_from_is_that_of_the_weights(base, run, released, tmp_path, monkeypatch):
  other = dataclasses.replace(base_config(), model=dataclasses.replace(base_config().model, width=32))
  assert finetune.base_config(base, other) == base_config()
  assert finetune.base_config(released, other).model.width == 16
  (tmp_path / "model_index.json").write_text("{}")
  monkeypatch.setattr(release, "config_of", lambda path, cfg: (f"{path.name}, and else {cfg.model.width}", "the folder"))
  assert finetune.base_config(tmp_path, other) == f"{tmp_path.name}, and else 32"  # with its encoders
  with pytest.raises(ValueError, match=f"is itself an adapter, of {base}; merge the two first"):
    finetune.base_config(run[0], other)


@pytest.mark.parametrize("source", ["base", "released"])
def test_training_of_the_whole_network_starts_once_from_the_weights_even_after_a_start_that_was_cut_off(source, request, tmp_path):
  folder, cfg = request.getfixturevalue(source), dataclasses.replace(base_config(), seed=7)
  (tmp_path / "checkpoints" / "0.orbax-checkpoint-tmp" / "ema").mkdir(parents=True)
  finetune.start(tmp_path, folder, cfg)
  found, params = checkpoint.restore_weights(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, params, weights(0))
  assert found == cfg and [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["0"]
  finetune.start(tmp_path, "nowhere", cfg)


def test_a_data_set_must_fill_a_batch_and_hold_something_out(tmp_path):
  few = str(small_data.write(tmp_path / "few", {small_data.IMAGE: 9}))
  other = str(small_data.write(tmp_path / "other", {small_data.IMAGE: 2}))
  check = lambda **data: finetune.check_count(dataclasses.replace(base_config(), data=small_data.config(**data)))
  check(path=few, batch_size=9)
  check(mixture=((few, 1.0), (other, 1.0)), batch_size=9)
  check(path=few, validation=0.3, batch_size=5)
  for data, held in ((dict(batch_size=10), 0), (dict(validation=0.3, batch_size=9), r"[1-4]"), (dict(validation=1e-9), 0)):
    with pytest.raises(ValueError, match=rf"few has 9 clips, of which data.validation \S+ holds out {held};"):
      check(path=few, **data)


def parsed(base, *flags):
  return command.parse([f"--weights={base}", "--workdir=run", *flags])


def test_flags_reach_the_config_and_its_own_keys_come_last(base, tmp_path, monkeypatch):
  monkeypatch.chdir(base.parent)
  cfg = command.config_of(*parsed(
      base.name, "--data=new", "--keep=old", "--rank=3", "--targets=single/*,dual/*", "--rate=0.5", "--steps=7", "--batch=3",
      "--image_to_video=0.0", "--prompt=a", "--prompt=b", "--config.train.steps=9"))
  assert cfg.adapter == AdapterConfig(rank=3, alpha=3.0, targets=("single/*", "dual/*"), base=str(base), digest="")
  assert (cfg.train.steps, cfg.optimizer.rate, cfg.data.batch_size, cfg.data.image_to_video) == (9, 0.5, 3, 0.0)
  assert cfg.data.mixture == ((str(base.parent / "new"), 1.0), (str(base.parent / "old"), 1.0)) and not cfg.data.path
  assert cfg.sample.prompts == ("a", "b") and cfg.mesh == MeshConfig(-1, 1, 1)
  cfg = command.config_of(*parsed(base, "--clips=clips", "--rank=0"))
  assert (cfg.adapter.rank, cfg.adapter.alpha) == (0, 1.0)
  assert (cfg.data.path, cfg.data.mixture) == (str(base.parent / "run" / "dataset"), ())
  assert command.config_of(*parsed(base, "--data=new", "--alpha=8")).adapter.alpha == 8


@pytest.mark.parametrize("rank, rate, decay", [(4, 1e-4, 0.0), (0, 1e-5, 0.01)])
def test_the_recipe_trains_on_every_token_for_the_flow_alone(rank, rate, decay):
  c = tiny.config_dict()
  c.adapter.targets = ("text_embed/*",)
  c = recipes.recipe(c, rank=rank)
  assert (c.route.keep, c.alignment.weight, c.optimizer.rate, c.optimizer.weight_decay) == (1.0, 0.0, rate, decay)
  assert (c.adapter.rank, c.adapter.targets) == (rank, defaults.get_config().adapter.targets)


@pytest.mark.parametrize("flags", [[], ["--data=a", "--clips=b"]])
def test_either_a_data_set_or_clips_are_given(base, flags):
  with pytest.raises(ValueError, match="either --data=DATASET"):
    command.prepare(*parsed(base, *flags))


@pytest.mark.parametrize("flags, buckets", [([], (BucketConfig(5, 64, 64),)),
                                            (["--buckets=9x32x48,1x16x16"], (BucketConfig(9, 32, 48), BucketConfig(1, 16, 16)))])
def test_clips_are_encoded_into_the_work_directory_in_the_bucket_that_the_network_samples_in(base, monkeypatch, flags, buckets):
  def encode(clips, output, cfg, found):
    assert (clips, output, found) == ("films", str(pathlib.Path("run/dataset").absolute()), buckets)
    raise ValueError("encoded")

  monkeypatch.setattr(finetune, "encode_clips", encode)
  with pytest.raises(ValueError, match="^encoded$"):
    command.prepare(*parsed(base, "--clips=films", *flags))


def test_the_command_leaves_the_averaged_adapter_and_says_whether_all_steps_are_done(run, tmp_path, monkeypatch):
  _, job, state = run
  monkeypatch.setattr(command, "prepare", lambda *_: job)
  for step in (STEPS, STEPS - 1):
    monkeypatch.setattr(loop, "run", lambda job: state.replace(step=step))
    try:
      command.main(["--weights=w", f"--workdir={tmp_path}"])
      assert step == STEPS
    except SystemExit as e:
      assert (step, e.code) == (STEPS - 1, endings.INTERRUPTED)
    read_back = files.read_adapter(tmp_path / finetune.FILE, job.cfg.model).tree
    scaled = lambda path, leaf: leaf * (1.5 if path[-1].key == "up" else 1)  # alpha / rank
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), read_back,
                 jax.tree_util.tree_map_with_path(scaled, jax.device_get(state.ema)))
