"""Folders of weights: what is found in them, what is wrong with them, what is written, and that each fault says what to do."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from motif_jax import config, mesh as meshes, sharding, weights
from motif_jax.config import MeshConfig
from motif_jax.model import transformer
from motif_jax.weights import diffusers_config, export, folder, names, read, save
from tests.sensitive import sensitive

CFG = dataclasses.replace(
    config.from_config_dict(base.get_config()).model, latent_channels=3, width=16, heads=2, mlp_ratio=3,
    depths=config.Depths(1, 3, 2), text_dim=12, image_dim=10, rope_axes=(2, 2, 4), dtype="float32", remat="none",
    cross_attention=config.CrossAttentionConfig("separate", "none", False))
SHARED = dataclasses.replace(CFG, cross_attention=config.CrossAttentionConfig("shared", "scale_bias", False))
FILE = "diffusion_pytorch_model.safetensors"
SAME = dict(dtype="float32", remat="none", unroll=1, attention="xla")


@functools.cache
def params_of(cfg):
  return sensitive(jax.eval_shape(lambda key: transformer.init(key, cfg), jax.random.key(0)), 0)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """A folder of one file, of the diffusers layout."""
  path = tmp_path_factory.mktemp("weights") / "one"
  export.export(path, params_of(CFG), CFG)
  return path


@pytest.fixture
def copy(written, tmp_path):
  return shutil.copytree(written, tmp_path / "copy")


def tensors_of(path) -> dict:
  return {name: read.copy_block(t, tuple(slice(None) for _ in t.shape)) for name, t in read.index(path).items()}


def rewrite(path, tensors):
  """Replaces the tensors of a folder."""
  said = json.loads((path / "config.json").read_text())
  shutil.rmtree(path)
  save.write_folder(path, said, {n: (x.dtype, x.shape) for n, x in tensors.items()}, tensors.get)


def change_config(path, **changes):
  file = path / "config.json"
  said = json.loads(file.read_text()) | changes
  file.write_text(json.dumps({key: value for key, value in said.items() if value != "absent"}))


def write_index(file, content):
  (file.parent / "a.index.json").write_text(json.dumps(content))


def fault_of(path, **how) -> str:
  with pytest.raises(ValueError) as caught:
    folder.find(path, **how)
  return str(caught.value)


def test_the_folder_says_the_whole_architecture(written):
  found = folder.find(written)
  assert folder.model_config(found, **SAME) == CFG
  assert "in none of 3 blocks: kept separate" in str(found.layout)


def test_blocks_tied_in_part_stay_separate(copy):
  tensors = tensors_of(copy)
  for leaf in ("to_k.weight", "to_k.bias", "to_v.weight", "to_v.bias", "norm_q.weight", "norm_k.weight"):
    tensors[f"single_transformer_blocks.1.cross_attn.{leaf}"] = tensors[f"single_transformer_blocks.1.attn.{leaf}"]
  rewrite(copy, tensors)
  found = folder.find(copy)
  assert found.layout.cross_attention.kind == "separate"
  assert "in 1 of 3 blocks (1), so they were trained apart" in str(found.layout)


def test_one_bit_unties_a_block(tmp_path):
  cfg = dataclasses.replace(SHARED, cross_attention=config.CrossAttentionConfig("shared", "none", False))
  export.export(tmp_path / "tied", params_of(cfg), cfg)
  assert folder.find(tmp_path / "tied").layout.cross_attention == cfg.cross_attention
  tensors = tensors_of(tmp_path / "tied")
  tensors["single_transformer_blocks.2.cross_attn.to_v.weight"].view(np.uint32)[-1, -1] ^= 1
  rewrite(tmp_path / "tied", tensors)
  assert folder.find(tmp_path / "tied").layout.tied == (0, 1)


def test_every_fault_of_the_tensors_stands_in_one_error(copy):
  tensors = tensors_of(copy)
  tensors.pop("transformer_blocks.0.attn.to_q.bias")
  tensors["pos_embed"] = np.zeros(3, np.float32)
  tensors["norm_out.linear.weight"] = np.zeros((5, 16), np.float32)
  rewrite(copy, tensors)
  change_config(copy, rope_theta=256.0)
  said = fault_of(copy)
  for part in ("4 fault(s)", "1 tensors are missing: transformer_blocks.0.attn.to_q.bias", "1 are not used: pos_embed",
               "norm_out.linear.weight is (5, 16), expected (32, 16)", "rope_theta is 256.0"):
    assert part in said


@pytest.mark.parametrize("damage, said", [
    (lambda file: file.write_bytes(file.read_bytes()[:-40]), r"truncated: .* tensors are cut: .*fetch it again"),
    (lambda file: file.write_bytes(b"<html>not found</html>"), "no safetensors file.*fetch it again"),
    (lambda file: file.write_bytes(b""), "0 bytes that are no safetensors file"),
    (lambda file: file.write_bytes((9).to_bytes(8, "little") + b'{"a": [1]' + bytes(9)), "header is not that of a safetensors"),
    (lambda file: file.unlink(), r"no \*.safetensors in it"),
    (lambda file: (file.unlink(), file.mkdir()), "Is a directory"),
    (lambda file: shutil.copy(file, file.parent / "again.safetensors"), "tensors that another file holds too"),
    (lambda file: write_index(file, {}), "no index of safetensors files"),
    (lambda file: write_index(file, {"weight_map": {"a": "gone.safetensors"}}), "gone.safetensors: .*No such file"),
    (lambda file: write_index(file, {"weight_map": {"a": file.name}}), "lacks 1 tensors .* index"),
], ids=["truncated", "html", "empty", "header", "absent", "folder", "twice", "index", "index of absent", "index of others"])
def test_files_that_are_not_whole_are_named(copy, damage, said):
  damage(copy / FILE)
  with pytest.raises(ValueError, match=f"(?s)cannot be read.*{said}"):
    folder.find(copy)


@pytest.mark.parametrize("changes, said", [
    (dict(rope_theta=256.0), "rope_theta is 256.0, the default of the class, and the release has 10000.0"),
    (dict(rope_theta="absent"), "rope_theta is missing, and diffusers would take 256.0; write 10000.0"),
    (dict(pooled_projection_dim=768), "pooled_projection_dim is 768, expected null"),
    (dict(guidance_embeds=True), "guidance_embeds is no key of"),
    (dict(_class_name="HunyuanVideoTransformer3DModel"), "this is the config of another model"),
    (dict(num_layers=12), r"num_layers is 12, but the tensors have 1 \(transformer_blocks.0\)"),
    (dict(num_decoder_layers=0), "num_decoder_layers is 0, but the tensors have 2"),
    (dict(num_decoder_layers="absent"), "num_decoder_layers is missing, and diffusers would take 0; write 2"),
    (dict(enable_text_cross_attention_single=False), "enable_text_cross_attention_single is False, but the tensors have True"),
    (dict(image_embed_dim=None), "image_embed_dim is None, but the tensors have 10"),
    (dict(qk_norm="layer_norm"), "qk_norm is 'layer_norm', expected 'rms_norm'"),
    (dict(rope_axes_dim=[2, 3, 3]), "rope_axes_dim is .* three even numbers that sum to attention_head_dim = 8"),
    (dict(rope_axes_dim=8), "rope_axes_dim is 8"),
    ({key: default for key, (_, default) in diffusers_config.KEYS.items()}, "every value is the default of the class"),
])
def test_a_config_of_another_model_is_named_with_what_to_do(copy, changes, said):
  change_config(copy, **changes)
  with pytest.raises(ValueError, match=f"(?s)cannot be read.*{said}"):
    folder.find(copy)


def test_a_rope_theta_of_256_may_be_meant(copy):
  change_config(copy, rope_theta=256.0)
  assert folder.find(copy, rope_theta=256.0).fields["rope_theta"] == 256.0


def test_mixed_layouts_and_an_absent_config_are_named(copy):
  tensors = tensors_of(copy)
  tensors["single_transformer_blocks.2.cross_attn_query_proj.weight"] = np.zeros((16, 16), np.float32)
  rewrite(copy, tensors)
  (copy / "config.json").unlink()
  said = fault_of(copy)
  assert "diffusers in blocks 0, 1, 2; legacy in blocks 2" in said and "there is no config.json" in said


def test_a_pipelines_folder_stands_for_its_transformer(written, tmp_path):
  shutil.copytree(written, tmp_path / "transformer")
  (tmp_path / "model_index.json").write_text("{}")
  assert folder.find(tmp_path).path == tmp_path / "transformer"


def test_integers_are_no_weights(copy):
  tensors = tensors_of(copy)
  tensors["proj_out.bias"] = np.zeros(tensors["proj_out.bias"].shape, np.int8)
  rewrite(copy, tensors)
  with pytest.raises(ValueError, match=r"proj_out.bias \(I8\); quantised checkpoints are not read"):
    folder.read_params(folder.find(copy))


def test_eight_devices_each_read_their_part(written, monkeypatch):
  mesh = meshes.make_mesh(MeshConfig(1, 4, 2))
  found = folder.find(written)
  copied, take = [], read.copy_block
  monkeypatch.setattr(read, "copy_block", lambda *args: copied.append(take(*args)) or copied[-1])
  params = folder.read_params(found, shardings=sharding.parameter_shardings(params_of(CFG), mesh))
  jax.tree.map(np.testing.assert_array_equal, params, params_of(CFG))
  whole = {name: tensor.stop - tensor.start for name, tensor in found.tensors.items()}
  assert sum(x.nbytes for x in copied) == sum(whole.values())  # eight parts, of which none is read twice
  assert max(x.nbytes for x in copied) <= max(whole.values()) / 8


def test_parameters_are_cast_as_asked(written):
  assert {x.dtype for x in jax.tree.leaves(folder.read_params(folder.find(written), dtype="bfloat16"))} == {jnp.dtype("bfloat16")}


def test_layers_of_two_dtypes_become_the_wider_and_can_be_written_back(copy, tmp_path):
  tensors = tensors_of(copy)
  name = "single_transformer_blocks.1.norm.linear.bias"
  tensors[name] = tensors[name].astype("float16")
  rewrite(copy, tensors)
  found = folder.find(copy)
  params = folder.read_params(found)
  assert params["single"]["modulation"]["bias"].dtype == jnp.float32
  export.export(tmp_path / "again", params, CFG, dtype={name: read.DTYPES[t.dtype] for name, t in found.tensors.items()})
  again = tensors_of(tmp_path / "again")
  assert all(x.dtype == again[name].dtype and x.tobytes() == again[name].tobytes() for name, x in tensors.items())


def test_a_write_that_fails_leaves_nothing(tmp_path):
  def tensor_of(name):
    raise OSError("No space left on device")
  with pytest.raises(OSError, match="No space"):
    save.write_folder(tmp_path / "out", {}, {"a": (np.dtype(np.float32), (3,))}, tensor_of)
  assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_not_written_to(written):
  with pytest.raises(ValueError, match="exists already; name a new folder"):
    export.export(written, params_of(CFG), CFG)


def test_a_biased_query_norm_has_no_exact_diffusers_form(tmp_path):
  with pytest.raises(ValueError, match="write the legacy layout, or ask for a calibrated fold"):
    export.export(tmp_path / "out", params_of(SHARED), SHARED, layout="diffusers")


def test_three_lines_give_a_velocity(written):
  model = weights.load(written)
  latents, text = jnp.ones((2, 3, 4, 6, 7)), jnp.ones((2, 5, 12))
  assert model(latents, 0.5, text, np.array([[1, 1, 0, 0, 0], [1] * 5])).shape == (2, 3, 4, 6, 3)
  with pytest.raises(ValueError, match=r"expected \[0, 1\].*diffusers are 1000 times that"):
    model(latents, 500, text)
  assert jax.eval_shape(model, latents, jnp.ones(2), text).shape == (2, 3, 4, 6, 3)  # also inside somebody's jit


def test_on_a_mesh_the_velocity_is_the_same(written):
  mesh = meshes.make_mesh(MeshConfig(1, 2, 1), devices=jax.devices()[:2])
  rng = np.random.default_rng(0)
  given = rng.standard_normal((2, 3, 4, 6, 7), np.float32), [0.25, 0.5], rng.standard_normal((2, 5, 12), np.float32)
  np.testing.assert_allclose(weights.load(written, mesh=mesh)(*given), weights.load(written)(*given), atol=1e-5)


def test_a_parameter_without_a_name_is_not_left_out_of_a_folder(tmp_path, monkeypatch):
  """As of a kind of block that `weights/names.py` does not know."""
  whole = names.table(CFG, "diffusers")
  monkeypatch.setattr(names, "table", lambda *_: whole._replace(rows=whole.rows[:-1]))
  with pytest.raises(ValueError, match=f"1 parameters have no name in the other layout: {whole.rows[-1].ours}"):
    export.export(tmp_path / "folder", params_of(CFG), CFG)
  assert not (tmp_path / "folder").exists()
