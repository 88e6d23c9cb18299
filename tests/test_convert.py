"""The commands `convert` and `inspect`: folders to checkpoints that sample and train, checkpoints to folders, reports."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import inspect
from motif_jax import mesh as meshes
from motif_jax.config import CrossAttentionConfig, Depths, MeshConfig
from motif_jax.model import transformer
from motif_jax.train import checkpoint, conversion, state
from motif_jax.train.optimizer import make_optimizer
from motif_jax.weights import export, folder, names, read, table
from tests import frozen, tiny
from tests.sensitive import sensitive
from tests.test_end_to_end import launch

BASE = tiny.make_config()
# Of few arrays, because orbax takes its time for each; the base config has other depths, which the folder's replace.
MODEL = dataclasses.replace(BASE.model, depths=Depths(0, 1, 0),
                            cross_attention=CrossAttentionConfig("shared", "scale_bias", False))
CFG = dataclasses.replace(BASE, model=MODEL, alignment=dataclasses.replace(BASE.alignment, weight=0.0),
                          route=dataclasses.replace(BASE.route, keep=1.0))
PARAMS = sensitive(jax.eval_shape(lambda key: transformer.init(key, MODEL), jax.random.key(0)), 0)


def same(got, want):
  jax.tree.map(np.testing.assert_array_equal, got, want)


def bits(path):
  return {name: read.copy_block(t, tuple(slice(None) for _ in t.shape)).tobytes() for name, t in read.index(path).items()}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
  """A folder in the legacy layout below `attn.`, of bfloat16 with some float32."""
  path = tmp_path_factory.mktemp("folder") / "theirs"
  kept = {"x_embedder.proj.weight", "norm_out.linear.bias"}
  theirs = table.their_shapes(names.table(MODEL, "legacy_attn"))
  export.export(path, PARAMS, MODEL, layout="legacy_attn", dtype={n: "float32" if n in kept else "bfloat16" for n in theirs})
  return path


@pytest.fixture(scope="module")
def workdir(theirs, tmp_path_factory):
  path = tmp_path_factory.mktemp("workdir")
  config = dataclasses.replace(CFG, model=dataclasses.replace(BASE.model, depths=Depths(1, 1, 1)))
  said = "\n".join(conversion.to_checkpoint(str(theirs), str(path), config))
  assert "legacy names below `attn.`" in said and f"{sum(x.size for x in jax.tree.leaves(PARAMS)):,} parameters" in said
  return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A work directory of a training run, in which the moving average is not the raw weights."""
  path = tmp_path_factory.mktemp("trained")
  with checkpoint.make_manager(path, CFG.train) as manager:
    made = state.TrainState(step=jnp.int32(3), params={"model": PARAMS}, ema=jax.tree.map(lambda x: 2 * x, PARAMS),
                            opt_state={"count": jnp.int32(3)})
    checkpoint.save(manager, made, CFG)
  return path


def test_a_converted_folder_is_a_checkpoint_to_sample_from(theirs, workdir):
  cfg, params = checkpoint.restore_for_sampling(workdir)
  assert cfg == CFG
  same(params, jax.tree.map(lambda x: x.astype(jnp.float32), folder.read_params(folder.find(theirs))))
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_what_came_in_goes_out_bit_for_bit(theirs, workdir, tmp_path):
  conversion.to_folder(str(workdir), str(tmp_path / "out"), like=str(theirs), file_gb=1e-5)
  assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
  assert bits(tmp_path / "out") == bits(theirs)


def test_training_starts_from_converted_weights(workdir):
  """On a mesh, with an optimizer and an alignment that the checkpoint has never heard of."""
  config = dataclasses.replace(CFG, alignment=dataclasses.replace(CFG.alignment, weight=0.5))
  checkpoint.check_architecture(workdir, config)
  mesh, optimizer = meshes.make_mesh(MeshConfig(1, 4, 2)), make_optimizer(config.optimizer, steps=2)
  with checkpoint.make_manager(workdir, config.train) as manager:
    assert checkpoint.restore(manager, state.abstract_state(config, optimizer), config, mesh) is None
    weights = checkpoint.restore_start(manager, config, mesh)
  want = jax.tree.map(np.asarray, weights)
  made = state.init_state(jax.random.key(0), config, mesh, optimizer, weights)
  same(made.params["model"], want)
  same(made.ema, want)
  assert int(made.step) == 0 and "projector" in made.params


def test_another_model_does_not_start_from_them(workdir):
  other = dataclasses.replace(CFG, model=dataclasses.replace(MODEL, rope_theta=256.0))
  with pytest.raises(ValueError, match="- model.rope_theta: 10000.0 in the checkpoint, 256.0 in the config"):
    checkpoint.check_architecture(workdir, other)


@pytest.mark.parametrize("raw, factor", [(False, 2), (True, 1)])
def test_a_training_run_is_exported_averaged_or_raw(trained, tmp_path, raw, factor):
  said = "\n".join(conversion.to_folder(str(trained), str(tmp_path / "out"), raw=raw))
  assert ("raw" if raw else "averaged") + " weights" in said and "in the legacy layout" in said
  same(folder.read_params(folder.find(tmp_path / "out")), jax.tree.map(lambda x: factor * x, PARAMS))


def test_a_calibrated_export_prints_its_error(trained, tmp_path):
  said = "\n".join(conversion.to_folder(str(trained), str(tmp_path / "out"), calibrate=True, dtype="bfloat16"))
  assert "NOT exact, the velocity is off by" in said and "in the diffusers layout" in said


def test_bad_requests_are_told(theirs, workdir, tmp_path):
  out = lambda **how: conversion.to_folder(str(workdir), str(tmp_path / "out"), **how)
  for call, said in (
      (lambda: out(raw=True), "holds weights alone"),
      (lambda: out(like=str(theirs), dtype="float32"), "leave --layout and --dtype"),
      (lambda: out(layout="diffusers"), "ask for a calibrated fold"),
      (lambda: conversion.to_checkpoint(str(theirs), str(workdir), CFG), "name another work directory")):
    with pytest.raises(ValueError, match=said):
      call()
  assert list(tmp_path.iterdir()) == []


def test_the_commands_convert_and_inspect(theirs, tmp_path, capsys):
  said = launch("convert", f"--source={theirs}", f"--output={tmp_path / 'work'}", "--config=configs/smoke.py",
                "--config.route.keep=1.0", "--config.alignment.weight=0.0")
  assert "GB of host memory" in said and (tmp_path / "work/checkpoints/0/ema").is_dir()
  with pytest.raises(SystemExit) as done:
    inspect.main([str(theirs)])
  assert done.value.code == 0 and "the transformer can be used" in capsys.readouterr().out


def test_the_report_answers_the_open_questions(theirs, tmp_path):
  pipeline = tmp_path / "pipeline"
  shutil.copytree(theirs, pipeline / "transformer")
  for name, said in {
      "model_index.json": {}, "vae/config.json": dict(_class_name="AutoencoderKLWan"),
      "scheduler/scheduler_config.json": dict(_class_name="FlowMatchEulerDiscreteScheduler", flow_shift=15.0),
      "guider/guider_config.json": dict(_class_name="AdaptiveProjectedGuidance", guidance_scale=8, eta=1.0),
      "feature_extractor/preprocessor_config.json": dict(size=dict(height=896, width=896))}.items():
    (pipeline / name).parent.mkdir(exist_ok=True)
    (pipeline / name).write_text(json.dumps(said))
  frozen.write(pipeline / "text_encoder", "t5gemma2", prefix="encoder.")
  lines, faults = inspect.report(str(pipeline))
  said = "\n".join(lines)
  for part in ("legacy names below `attn.`", "2 F32 (norm_out.linear.bias, x_embedder.proj.weight)", "a LayerNorm with a bias",
               "flow_shift 15.0, which FlowMatchEulerDiscreteScheduler does not read", "so it shifts by 1 and videos break",
               "note: eta is 1.0, recommended is 0", "'height': 896", "AutoencoderKLWan, 1 keys",
               "wan_vae: CANNOT be used", "names begin with: encoder, encoder.layers", "t5gemma2: can be used",
               "rope_theta 10000.0 (10000.0)", "num_attention_heads                 2", "<- not the release's"):
    assert part in said, part
  assert not faults


def test_a_report_names_faults_and_values_that_are_no_numbers(theirs, tmp_path):
  copy = shutil.copytree(theirs, tmp_path / "copy")
  tensor = read.index(copy)["proj_out.bias"]
  with open(tensor.file, "r+b") as file:
    file.seek(tensor.start)
    file.write(b"\xff\xff")
  (copy / "config.json").write_text("{}")
  lines, faults = inspect.report(str(copy))
  said = "\n".join(lines)
  assert "1 ARE NOT FINITE" in said and "rope_theta is missing" in said and f"{len(faults)} fault(s)" in said
