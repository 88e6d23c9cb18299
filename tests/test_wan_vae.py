"""Claims about the Wan 2.1 VAE that need no reference: its size, time, memory, tiles, devices and errors."""

import ast
import dataclasses
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P
from safetensors.numpy import save_file

from motif_jax import compiled, mesh as meshes
from motif_jax.config import MeshConfig
from motif_jax.encoders import wan_layers, wan_network, wan_tiles
from motif_jax.encoders.wan_network import WanConfig
from motif_jax.encoders.wan_tiles import Tiling
from motif_jax.weights import read, table as tables, wan_vae
from tests import tiny_wan

RELEASED = WanConfig()
SHALLOW = dataclasses.replace(tiny_wan.CFG, dim_mult=(1, 2), temporal_downsample=(True,))  # quick to compile
HEIGHT, WIDTH = 8, 12  # pixels, of the small VAE's 4 x 4


def video(batch=2, frames=9, height=HEIGHT, width=WIDTH):
  return np.random.default_rng(1).uniform(-1, 1, (batch, frames, height, width, 3)).astype(np.float32)


def latents(batch=2, frames=3, height=2, width=3):
  return np.random.default_rng(2).standard_normal((batch, frames, height, width, tiny_wan.CFG.z_dim), np.float32)


@pytest.fixture(scope="module")
def vae():
  return tiny_wan.vae()


@pytest.fixture(scope="module")
def shallow():
  return tiny_wan.vae(SHALLOW, streamed=False)


@pytest.fixture(scope="module")
def streams():
  """(encode or decode, frames) -> (the compiled stream, its input)."""
  vae, made = tiny_wan.vae(SHALLOW), {}
  for frames in (9, 33):
    coded = latents(frames=(frames - 1) // 2 + 1, height=16, width=18)
    for how, run, x in (("encode", tiny_wan.moments, video(2, frames, 32, 36)), ("decode", tiny_wan.decode, coded)):
      made[how, frames] = run.lower(vae, x).compile(), x
  return made


def close(got, want, tolerance=1e-5):
  assert np.linalg.norm(got - want) < tolerance * np.linalg.norm(want)


# Size.


def test_the_released_vae_has_the_published_number_of_parameters():
  tree = wan_network.abstract(RELEASED)
  size = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
  quant, post_quant = tree["encoder"].pop("quant"), tree["decoder"].pop("quant")
  assert (size(tree["encoder"]), size(tree["decoder"]), size(quant), size(post_quant)) == (53_595_872, 73_295_331, 1_056, 272)
  assert 53_595_872 + 73_295_331 + 1_056 + 272 == 126_892_531


def test_names_and_shapes_are_the_published_ones():
  """All 194 of `vae_keys.txt`."""
  lines = (pathlib.Path(__file__).parent / "parity" / "vae_keys.txt").read_text().splitlines()
  published = {name: ast.literal_eval(shape) for name, shape in (line.split(" ", 1) for line in lines)}
  assert len(published) == 194
  assert tables.their_shapes(wan_vae.table(RELEASED)) == published


def test_a_codec_says_what_it_makes(vae):
  made = tiny_wan.encode(vae, video())
  assert made.shape == (2, *vae.grid(9, HEIGHT, WIDTH), vae.channels) == (2, 3, 2, 3, 5) and made.dtype == jnp.float32
  assert tiny_wan.decode(vae, made).shape == (2, 9, HEIGHT, WIDTH, 3)
  assert RELEASED.strides == (4, 8, 8) and vae.latent_times(9) == (0.0, 2.5, 6.5)


# Time.


def test_a_stream_is_one_pass(vae):
  whole = vae.replace(streamed=False)
  close(tiny_wan.encode(vae, video()), tiny_wan.encode(whole, video()))
  close(tiny_wan.decode(vae, latents()), tiny_wan.decode(whole, latents()))


def test_what_comes_later_changes_nothing_before(vae):
  changed = np.concatenate([video()[:, :5], -video()[:, 5:]], axis=1)
  one, other = tiny_wan.encode(vae, video()), tiny_wan.encode(vae, changed)
  np.testing.assert_array_equal(one[:, :2], other[:, :2])
  assert np.abs(one[:, 2] - other[:, 2]).max() > 0.1


def test_the_first_latent_frame_is_that_of_the_image(vae):
  close(tiny_wan.encode(vae, video())[:, :1], tiny_wan.encode(vae, video()[:, :1]))


def test_the_memory_of_a_stream_does_not_grow_with_the_frames(streams):
  held = {key: compiled.memory(executable).temporary for key, (executable, _) in streams.items()}
  assert held["encode", 33] < 1.05 * held["encode", 9], held
  assert held["decode", 33] < 1.05 * held["decode", 9], held


# Latents.


def test_latents_are_normalised_by_channel_and_back(shallow):
  mean, _ = tiny_wan.moments(shallow, video())
  made = tiny_wan.encode(shallow, video())
  for c, (offset, scale) in enumerate(zip(shallow.cfg.latents_mean, shallow.cfg.latents_std, strict=True)):
    np.testing.assert_allclose(made[..., c], (mean[..., c] - offset) / scale, rtol=1e-5, atol=1e-5)
  raw = jax.jit(lambda params, x: wan_network.decode(params, shallow.cfg, x))(shallow.params, mean)
  close(tiny_wan.decode(shallow, made), raw)


def test_a_sample_is_spread_around_the_mode_by_the_variance(shallow):
  draw = jax.jit(lambda vae, x, key: vae.encode(x, key=key))
  samples = np.stack([draw(shallow, video(), jax.random.key(i)) for i in range(64)])
  deviation = np.exp(0.5 * np.asarray(tiny_wan.moments(shallow, video())[1])) / np.float32(shallow.cfg.latents_std)
  mode = tiny_wan.encode(shallow, video())
  np.testing.assert_allclose(tiny_wan.posterior(shallow, video())[0], mode, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(np.exp(0.5 * np.asarray(tiny_wan.posterior(shallow, video())[1])), deviation, rtol=1e-5)
  spread = (samples - mode) / deviation
  assert abs(spread.mean()) < 0.03 and abs(spread.std() - 1) < 0.03 and np.abs(spread.std(axis=0) - 1).max() < 0.5


def test_log_variances_and_pixels_are_clipped(shallow):
  encoder = shallow.params["encoder"]
  loud = encoder | {"quant": jax.tree.map(lambda leaf: 1e3 * leaf, encoder["quant"])}
  _, log_variance = tiny_wan.moments(shallow.replace(params=shallow.params | {"encoder": loud}), video())
  assert (log_variance.min(), log_variance.max()) == (-30, 20)
  pixels = tiny_wan.decode(shallow, 10 * latents())
  assert (pixels.min(), pixels.max()) == (-1, 1)


def test_a_zero_pixel_is_normalised_to_zero():
  norm = wan_layers.Norm()
  assert not np.any(norm.apply(norm.init(jax.random.key(0), jnp.zeros((1, 4))), jnp.zeros((1, 4))))


@pytest.mark.parametrize("size, said", [
    ((8, HEIGHT, WIDTH), r"frames 8 \(expected 4 k \+ 1; nearest: 5, 9\)"),
    ((9, 10, 13), r"height 10 .*nearest: 8, 12\); width 13 .*nearest: 12, 16\)"),
])
def test_a_size_that_cannot_be_coded_is_refused_with_the_nearest_ones(vae, size, said):
  with pytest.raises(ValueError, match=said):
    vae.encode(video(1, *size))


# Precision and parameters.


def test_bfloat16_convolves_in_bfloat16_and_stays_near_float32(shallow):
  short = shallow.replace(cfg=dataclasses.replace(SHALLOW, dtype="bfloat16"))
  program = tiny_wan.decode.lower(short, latents()).as_text()
  convolutions = [line for line in program.splitlines() if "stablehlo.convolution" in line]
  assert convolutions and all(line.rstrip().split("->")[-1].strip().endswith("xbf16>") for line in convolutions)
  got, want = tiny_wan.decode(short, latents()), tiny_wan.decode(shallow, latents())
  assert got.dtype == jnp.float32
  assert 1e-4 < np.linalg.norm(got - want) / np.linalg.norm(want) < 0.1


def test_weights_are_arguments_of_the_compiled_program(shallow, streams):
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(shallow.params["decoder"]))
  executable, x = streams["decode", 9]
  assert compiled.memory(executable).arguments == size + x.nbytes
  with pytest.raises(ValueError, match="[Nn]on-hashable"):
    jax.jit(lambda x, vae: vae.decode(x), static_argnames="vae")(x, vae=shallow)


# Tiles.


def alone(x):
  """A decoder that makes 4 x 4 pixels of each latent, whatever stands beside it."""
  return jnp.repeat(jnp.repeat(x, 4, axis=2), 4, axis=3)


def test_a_frame_that_fits_in_a_tile_is_decoded_whole():
  asked = []
  wan_tiles.decode(asked.append, latents(), Tiling((8, 12), (4, 8)), pixels=4)
  assert len(asked) == 1 and np.array_equal(asked[0], latents())


@pytest.mark.parametrize("stride", [(12, 16), (16, 24)])
def test_tiles_join_to_the_whole_where_they_agree(stride):
  x = latents(height=7, width=11)
  joined = jax.jit(lambda x: wan_tiles.decode(alone, x, Tiling((16, 24), stride), pixels=4))(x)
  np.testing.assert_allclose(joined, alone(x), atol=1e-6)


def test_one_tile_goes_over_into_the_next_in_a_line():
  """Tiles 8 pixels wide, every 4, and each bright by its number."""
  number = iter(range(9))
  tiles = lambda x: jnp.full((*x.shape[:2], 4 * x.shape[2], 4 * x.shape[3], 3), next(number), jnp.float32)
  with jax.disable_jit():
    joined = wan_tiles.decode(tiles, latents(1, 1, 1, 3), Tiling((4, 8), (4, 4)), pixels=4)
  np.testing.assert_allclose(joined[0, 0, 0, :, 0], [0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75])


@pytest.mark.parametrize("size, stride", [((10, 12), (4, 8)), ((8, 12), (12, 8)), ((8, 12), (0, 8))])
def test_tiles_that_do_not_fit_are_refused(vae, size, stride):
  with pytest.raises(ValueError, match="expected multiples of 4, and strides no larger than the tiles"):
    vae.replace(tiling=Tiling(size, stride)).decode(latents(height=5, width=7))


# Devices.


def test_devices_share_rows_and_columns_and_only_columns_and_attention_travel():
  vae = tiny_wan.vae(SHALLOW)  # streamed
  mesh = meshes.make_mesh(MeshConfig(data=2, fsdp=1, sequence=4))
  for run, x, columns in ((tiny_wan.encode, video(2, 5, 6, 24), 12), (tiny_wan.decode, latents(2, 3, 3, 12), 24)):
    with jax.set_mesh(mesh):
      placed = jax.device_put((vae, x), NamedSharding(mesh, P()))
      executable = run.lower(*placed).compile()
      got = executable(*placed)
    assert got.sharding.shard_shape(got.shape) == (1, *got.shape[1:3], columns // 4, got.shape[4])
    close(got, run(vae, x))
    sent = compiled.collectives(executable.as_text())
    frame = 4 * 3 * 12 * 3 * 16  # bytes of queries, keys and values of one row's frame
    assert {c.kind for c in sent} == {"all-gather", "collective-permute"}
    assert [c.bytes for c in sent if c.kind == "all-gather"] == [frame], sent
    assert max(c.bytes for c in sent if c.kind == "collective-permute") < frame, sent


def test_what_does_not_divide_is_whole_on_every_device(shallow):
  mesh = meshes.make_mesh(MeshConfig(data=2, fsdp=1, sequence=4))
  with jax.set_mesh(mesh):
    executable = tiny_wan.decode.lower(*jax.device_put((shallow, latents(3, 3, 3, 6)), NamedSharding(mesh, P()))).compile()
  assert compiled.collectives(executable.as_text()) == []


# Folders.


def theirs(cfg=tiny_wan.CFG):
  """Tensors and config.json of the small VAE, as diffusers writes them."""
  tensors = {k: np.ascontiguousarray(v) for k, v in tables.to_theirs(tiny_wan.vae(cfg).params, wan_vae.table(cfg)).items()}
  content = dataclasses.asdict(cfg) | dict(_class_name="AutoencoderKLWan", dropout=0.0, is_residual=False)
  content["temperal_downsample"] = content.pop("temporal_downsample")
  del content["dtype"]
  return tensors, json.loads(json.dumps(content))


def test_renaming_there_and_back_changes_nothing(vae, tmp_path):
  tensors, content = theirs()
  save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
  cfg = wan_vae.config_of(content, dtype="float32")
  assert cfg == tiny_wan.CFG
  jax.tree.map(np.testing.assert_array_equal, read.read_tree(tmp_path, wan_vae.table(cfg)), vae.params)


def test_a_config_without_sizes_is_the_released_one():
  assert wan_vae.config_of({"_class_name": "AutoencoderKLWan"}, dtype="bfloat16") == RELEASED


@pytest.mark.parametrize("change, said", [
    (dict(_class_name="AutoencoderKL"), "is of a AutoencoderKL, expected AutoencoderKLWan; is it the folder of another model"),
    (dict(is_residual=True, patch_size=2), "is_residual is True, expected False; patch_size is 2, expected None"),
    (dict(scale_factor_spatial=16), "scale_factor_spatial is 16, expected 4"),
    (dict(z_dim=6), "latents_mean has 5 entries, expected 6; latents_std has 5"),
    (dict(temperal_downsample=[True]), "temporal_downsample has 1 entries, expected 2"),
    (dict(window=3), "window is not known"),
])
def test_a_config_of_another_network_is_told_all_that_differs(change, said):
  with pytest.raises(ValueError, match=said):
    wan_vae.config_of(theirs()[1] | change, dtype="float32")
