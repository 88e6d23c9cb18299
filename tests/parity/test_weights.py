"""Through the files: what diffusers saves gives the same velocity here, what is saved here gives the same there."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import MotifVideoTransformer3DModel
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import safe_open
from safetensors.torch import load_file

from motif_jax import config, weights
from motif_jax.model import transformer
from motif_jax.weights import export, fold, folder
from tests.parity import cases, reference

SEPARATE = dataclasses.replace(cases.TINY, depths=config.Depths(1, 2, 1), image_dim=24)
SHARED = {norm: dataclasses.replace(SEPARATE, depths=config.Depths(0, 2, 0),
                                    cross_attention=config.CrossAttentionConfig("shared", norm, False))
          for norm in ("none", "scale", "scale_bias")}
GIVEN = cases.inputs(SEPARATE, image=5)


def theirs(model, given=GIVEN) -> np.ndarray:
  """The velocity of a torch model."""
  tensor = lambda x: None if x is None else torch.tensor(np.ascontiguousarray(x))
  with torch.no_grad():
    return model(tensor(given.latents).movedim(-1, 1), 1000 * tensor(given.t), tensor(given.text), tensor(given.mask),
                 tensor(given.image), return_dict=False)[0].movedim(1, -1).numpy()


def ours(model) -> np.ndarray:
  return np.asarray(model(GIVEN.latents, GIVEN.t, GIVEN.text, GIVEN.mask, image=GIVEN.image))


def assert_close(got, want):
  assert cases.error(got, want) < cases.TOLERANCE


def bits(path) -> dict:
  """Name -> (dtype, shape, bytes) of all files of a folder, read by the reference library."""
  tensors = {}
  for file in sorted(path.glob("*.safetensors")):
    tensors |= load_file(file)
  return {name: (t.dtype, tuple(t.shape), t.contiguous().view(torch.uint8).numpy().tobytes()) for name, t in tensors.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """(model, folder of many files with an index) of the diffusers layout, trained apart."""
  model = reference.build(SEPARATE, cases.weights(cases.parameters(SEPARATE), SEPARATE))
  path = tmp_path_factory.mktemp("saved")
  model.save_pretrained(path, max_shard_size="200KB")
  assert len(list(path.glob("*.safetensors"))) > 4
  return model, path


@functools.cache
def trained():
  """Parameters of a shared cross-attention with a biased query LayerNorm, after two steps of SGD from sensitive ones."""
  cfg, params = SHARED["scale_bias"], cases.parameters(SHARED["scale_bias"])

  def loss(params):
    velocity, _ = transformer.apply(params, cfg, GIVEN.latents, GIVEN.t, GIVEN.text, text_mask=GIVEN.mask, image=GIVEN.image)
    return jnp.mean(jnp.square(velocity - GIVEN.latents[..., :cfg.latent_channels]))

  step = jax.jit(lambda params: jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params)))
  return step(step(params))


def without(params, *leaves) -> dict:
  """`params` less these of the query LayerNorm."""
  kept = {path: x for path, x in flatten_dict(params).items() if not ("query_layernorm" in path and path[-1] in leaves)}
  return unflatten_dict(kept)


def test_what_diffusers_saves_gives_the_same_velocity_here(saved):
  model, path = saved
  assert_close(ours(weights.load(path)), theirs(model))


@pytest.mark.parametrize("layout", ["separate", "tied", "legacy", "legacy_attn", "mixed dtypes"])
def test_import_then_export_returns_every_tensor_bit_for_bit(saved, tmp_path, layout):
  _, path = saved
  name = layout if layout.startswith("legacy") else "diffusers"
  if layout != "separate":
    cfg = SHARED["none" if name == "diffusers" else "scale_bias"]
    # As reported of the released files: what is outside the blocks in float32, the rest in bfloat16; a block of its own kind too.
    params = cases.parameters(cfg) if layout != "mixed dtypes" else jax.tree_util.tree_map_with_path(
        lambda path, x: x.astype("bfloat16" if path[0].key in ("dual", "single") else "float32"), cases.parameters(cfg))
    path = tmp_path / "first"
    export.export(path, params, cfg, layout=name)
  found = folder.find(path)
  export.export(tmp_path / "again", folder.read_params(found), folder.model_config(found, dtype="float32", remat="none", unroll=1,
                                                                                   attention="xla"), layout=name)
  assert bits(tmp_path / "again") == bits(path)


@pytest.mark.parametrize("norm, absent", [("none", ("scale", "bias")), ("scale", ("bias",))])
def test_a_model_trained_here_gives_the_same_velocity_there(tmp_path, norm, absent):
  """The query LayerNorm without bias is folded, exactly; keys and values are written twice."""
  params, cfg = without(trained(), *absent), SHARED[norm]
  export.export(tmp_path / "out", params, cfg, file_bytes=300_000)
  model, said = MotifVideoTransformer3DModel.from_pretrained(tmp_path / "out", output_loading_info=True)
  assert not any(said.values())
  assert_close(theirs(model), ours(weights.model.Model(params, cfg)))


@pytest.mark.parametrize("layout", ["legacy", "legacy_attn"])
def test_a_trained_model_gives_the_same_velocity_in_the_older_layouts(tmp_path, layout):
  """There the query LayerNorm may have a bias."""
  params, cfg = trained(), SHARED["scale_bias"]
  export.export(tmp_path / "out", params, cfg, layout=layout)
  written = {name.replace(".attn.cross_attn_", ".cross_attn_"): value.numpy()
             for name, value in load_file(tmp_path / "out/diffusion_pytorch_model.safetensors").items()}
  want = ours(weights.model.Model(params, cfg))
  assert_close(theirs(reference.build(cfg, written)), want)
  assert_close(ours(weights.load(tmp_path / "out")), want)


def test_a_calibrated_fold_says_its_error(tmp_path):
  """With a LayerNorm bias that counts, of queries whose sizes differ; to leave the bias out would be ten times worse."""
  cfg = SHARED["scale_bias"]
  scaled = lambda factor: unflatten_dict({
      path: factor * x if path[-2:] == ("query_layernorm", "bias") else x for path, x in flatten_dict(trained()).items()})
  params = scaled(5)
  given = fold.Calibration(GIVEN.latents, GIVEN.t, GIVEN.text)
  (said, _) = export.export(tmp_path / "out", params, cfg, layout="diffusers", calibration=given)
  model = MotifVideoTransformer3DModel.from_pretrained(tmp_path / "out")
  got = theirs(model, GIVEN._replace(mask=None, image=None))
  want = np.asarray(weights.model.Model(params, cfg)(*given))
  error = cases.error(got, want)
  assert f"NOT exact, the velocity is off by {error:.2g} of its size" in said
  assert 1e-4 < error < 0.1 * cases.error(np.asarray(weights.model.Model(scaled(0), cfg)(*given)), want)


def test_files_say_that_they_are_torchs(tmp_path):
  export.export(tmp_path / "out", cases.parameters(SEPARATE), SEPARATE)
  with safe_open(tmp_path / "out/diffusion_pytorch_model.safetensors", "np") as file:
    assert file.metadata() == {"format": "pt"}
