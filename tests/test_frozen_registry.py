"""Encoders with weights by name: which folders a config needs, and a data set made, checked and trained on with them."""

import dataclasses
import json
import shutil
import weakref

import jax
import numpy as np
import pytest
from PIL import Image

from configs import motif_2b, smoke
from launch import sample as launch_sample
from motif_jax import config as config_lib, mesh as meshes, pipeline, sharding
from motif_jax.config import BucketConfig, EncodersConfig, EncoderWeights, MeshConfig
from motif_jax.data import dataset, videos
from motif_jax.encoders import registry
from motif_jax.model import transformer
from motif_jax.train import checkpoint, loop, optimizer, state as train_state
from motif_jax.weights import export
from tests import frozen
from tests.sensitive import sensitive
from tests.test_end_to_end import launch

NONE = EncoderWeights("", "", "", "")
PLAIN = EncodersConfig("block_dct", "word_hash", "gradients", "none", NONE, "teacher", False)
NAMES = dict(codec="wan_vae", text="t5gemma2", teacher="vjepa2", image="siglip")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """A folder with a folder of each model, as they are published: pictures inside the text encoder."""
  path = tmp_path_factory.mktemp("frozen")
  frozen.write(path / "t5gemma2", "t5gemma2", others={f"vision_tower.{k}": v for k, v in frozen.weights("siglip").items()})
  for name in ("vjepa2", "wan_vae"):
    frozen.write(path / name, name)
  return path


@pytest.fixture(scope="module")
def names(home):
  folders = {role: str(home / (name if role != "image" else "t5gemma2")) for role, name in NAMES.items()}
  return EncodersConfig(**NAMES, weights=EncoderWeights(**folders), teacher_grid="teacher", log_variance=False)


def test_weightless_encoders_need_no_folder():
  *made, image = registry.named(PLAIN)
  assert [e.name for e in made] == ["block_dct", "word_hash", "gradients"] and image is None


@pytest.mark.parametrize("change, said", [
    (dict(text="t5gemma"), "encoders.text is 't5gemma', expected one of 'word_hash', .*'t5gemma2_mean'; did you mean 't5gemma2'"),
    (dict(text="t5gemma2"), "encoders.text is 't5gemma2', which needs the folder of its weights: set encoders.weights.text"),
    (dict(weights=dataclasses.replace(NONE, teacher="x")), "encoders.weights.teacher is 'x', but encoders.teacher = 'gradients'"),
    (dict(teacher="dinov2", weights=dataclasses.replace(NONE, teacher="nowhere")), "nowhere has no config.json"),
])
def test_what_is_amiss_with_encoders_and_folders_is_said(change, said):
  with pytest.raises(ValueError, match=said):
    registry.named(dataclasses.replace(PLAIN, **change))


def test_the_wrong_folder_is_refused(home):
  for teacher, folder in (("vjepa2", "t5gemma2"), ("dinov2", "vjepa2")):
    names = dataclasses.replace(PLAIN, teacher=teacher, weights=dataclasses.replace(NONE, teacher=str(home / folder)))
    with pytest.raises(ValueError, match="config.json is not that of a"):
      registry.named(names)


def test_every_role_is_announced_without_reading_weights_and_made_with_them(names):
  roles = tuple(NAMES)
  announced, made = registry.announced(names, roles), registry.named(names, roles)
  assert [e.name for e in announced] == [e.name for e in made] == list(NAMES.values())
  assert [e.version for e in announced] == [e.version for e in made] and len({e.version for e in made}) == 4
  assert not any(jax.tree.leaves(e) for e in announced) and all(jax.tree.leaves(e.params) for e in made)
  without = dataclasses.replace(names, weights=dataclasses.replace(names.weights, text=""))
  assert registry.announced(without)[1] is None


def test_a_mesh_spreads_weights_and_changes_no_feature(names):
  mesh = meshes.make_mesh(MeshConfig(2, 4, 1))
  video = np.random.default_rng(0).uniform(-1, 1, (8, 5, 16, 24, 3)).astype(np.float32)
  features = jax.jit(lambda teacher, video: teacher.encode(video, (1.5,)))

  def outputs(text, teacher):
    return text.encode(["abc"] * 8)[7], features(teacher, video)

  alone = outputs(*registry.named(names, ("text", "teacher")))
  with jax.set_mesh(mesh):
    spread = registry.named(names, ("text", "teacher"), mesh=mesh)
    for got, want in zip(outputs(*spread), alone):
      np.testing.assert_allclose(got, want, atol=1e-4)
  parts = {path: leaf.sharding.shard_shape(leaf.shape) for path, leaf in sharding.paths_of(spread[0].params)}
  assert parts["layers/mlp/up/kernel"] == (7, 24, 10) and parts["embed/table"] == (75, 24)


@pytest.fixture(scope="module")
def encoded(home, names, tmp_path_factory):
  """(folder of a data set that the commands made with tiny frozen encoders, config)."""
  path = tmp_path_factory.mktemp("set")
  flags = [f"--config.encoders.{role}={name}" for role, name in NAMES.items()]
  flags += [f"--config.encoders.weights.{role}={folder}" for role, folder in dataclasses.asdict(names.weights).items()]
  launch("render", f"--output={path}/clips", "--count=8")
  launch("encode", "--config=configs/smoke.py", "--config.alignment.teacher=vjepa2", *flags, f"--source={path}/clips",
         f"--output={path}/set", "--batch_size=8")
  c = smoke.get_config()
  c.encoders.update(dict(NAMES, weights=dataclasses.asdict(names.weights)))
  c.model.update(dict(width=16, heads=2, rope_axes=(2, 2, 4), mlp_ratio=1, latent_channels=5, text_dim=24, image_dim=0,
                      depths=dict(dual=0, single=1, decoder=0)))
  c.route.keep = 1.0
  c.alignment.update(dict(teacher="vjepa2", teacher_dim=40, hidden=8, tap=1))
  c.sample.update(dict(prompts=(), steps=1))
  c.sample.guidance.scale = 1.0
  c.data.update(dict(path=str(path / "set"), batch_size=8, validation=0.0, text_tokens=12))
  c.train.update(dict(steps=2, log_every=1, validate_every=9, save_every=9, sample_every=9))
  return path, c


def test_a_data_set_records_which_weights_made_it(encoded, names):
  meta = dataset.open_dataset(encoded[0] / "set").meta
  made = registry.announced(names)
  assert [made_by["version"] for made_by in (meta.codec, meta.text, meta.teacher, meta.image)] == [e.version for e in made]
  assert (meta.codec["channels"], meta.text["dim"], meta.teacher["dim"]) == (5, 24, 40)
  record = dataset.open_dataset(encoded[0] / "set").sources[0][0]
  assert record["teacher"].shape[1:] == (3, 3, 40) and record["text_long"].shape[1] == 24
  assert record["image"].shape == (made[3].tokens, made[3].dim)
  caption = made[1].tokenizer([record["caption_long"]])[0]
  assert len(record["text_long"]) == len(caption)


def test_two_steps_are_trained_on_it(encoded, tmp_path):
  job = loop.prepare(config_lib.from_config_dict(encoded[1]), str(tmp_path))
  one = meshes.make_mesh(MeshConfig(1, 1, 1), devices=jax.devices()[:1])  # compiles in a third of the time that eight take
  state = loop.run(dataclasses.replace(job, mesh=one))
  assert int(state.step) == 2 and all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(state.params)))


def test_videos_start_from_the_tokens_of_a_picture_with_weights_that_have_moved(encoded, names, tmp_path):
  c = encoded[1].copy_and_resolve_references()
  c.encoders.codec = "block_dct"  # compiles faster
  c.encoders.weights.update(dict(codec="", text="moved away", image="moved away"))
  c.model.update(dict(image_dim=24, latent_channels=24))
  c.sample.update(dict(bucket=dict(frames=1, height=16, width=24)))
  cfg = config_lib.from_config_dict(c)
  made = train_state.create(jax.random.key(0), cfg, optimizer.make_optimizer(cfg.optimizer, steps=1))
  with checkpoint.make_manager(tmp_path, cfg.train) as manager:
    checkpoint.save(manager, made.replace(ema=sensitive(made.ema, seed=0)), cfg)
  picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
  Image.fromarray(picture).save(tmp_path / "picture.png")
  flags = [f"--{role}_weights={getattr(names.weights, role)}" for role in ("text", "image")]
  prepare = lambda *more: launch_sample.prepare(launch_sample.parse(
      ["--mesh=1x1x1", f"--checkpoint={tmp_path}", "--prompt=abc", f"--image={tmp_path / 'picture.png'}", *flags, *more]))
  job = prepare()
  given = job.pipe.picture(job.settings["image"])
  assert given["image"].shape == (1, 9, 24) and job.settings["text_weights"] == names.weights.text
  latents = job.pipe.latents(job.pipe.texts(job.prompts), [0], seed=0, batch=1, **given)
  assert next(job.pipe.frames(latents, batch=1)).shape == (1, 16, 24, 3)
  with pytest.raises(ValueError, match="nowhere has no config.json"):
    prepare("--text_weights=nowhere")


@pytest.fixture
def released(home, tmp_path):
  """The folder of a released pipeline, all but the codec."""
  pipeline = tmp_path / "pipeline"
  shutil.copytree(home / "t5gemma2", pipeline / "text_encoder")
  (pipeline / "model_index.json").write_text("{}")
  c = smoke.get_config()
  c.model.update(dict(width=16, heads=2, rope_axes=(2, 2, 4), mlp_ratio=1, latent_channels=5, text_dim=24, image_dim=24,
                      patch=(1, 2, 2), depths=dict(dual=1, single=1, decoder=0)))
  c.route.keep, c.alignment.weight = 1.0, 0.0
  model = config_lib.from_config_dict(c).model
  params = sensitive(jax.eval_shape(lambda key: transformer.init(key, model), jax.random.key(0)), seed=0)
  export.export(pipeline / "transformer", params, model)
  return pipeline


def test_a_released_pipeline_is_sampled_from_its_folder(released, home, tmp_path, monkeypatch):
  Image.fromarray(np.full((16, 24, 3), 90, np.uint8)).save(tmp_path / "picture.png")
  main = lambda *flags: launch_sample.main([
      "--mesh=1x1x1", f"--weights={released}", "--prompt=abc", "--bucket=5x16x24", "--steps=1", f"--output={tmp_path / 'out'}", *flags])
  with pytest.raises(SystemExit, match="lacks vae/"):
    main()
  shutil.copytree(home / "wan_vae", released / "vae")
  main(f"--image={tmp_path / 'picture.png'}")
  said = json.loads((tmp_path / "out/samples.json").read_text())
  assert said["settings"]["weights"] == str(released) and said["settings"]["rule"] == "projected"
  assert said["config"]["encoders"]["image"] == "siglip" and said["encoders"]["codec"]["name"] == "wan_vae"
  video = tmp_path / "out" / said["samples"][0]["file"]
  assert videos.read_clip(video, BucketConfig(5, 16, 24)).std() > 5
  assert_one_model_at_a_time(released, tmp_path, monkeypatch)
  (released / "model_index.json").unlink()
  with pytest.raises(SystemExit, match="is no pipeline's folder: expected model_index.json"):
    main()


def assert_one_model_at_a_time(released, folder, monkeypatch):
  """The same in Python: no phase begins with arrays of an earlier one's model, and with prompts on disk no text is encoded."""
  phases, weights, named = [], [], registry.named

  def begin(name, tree):
    assert not [ref for ref in weights if ref() is not None], f"{name} begins and {phases} are not gone"
    phases.append(name)
    weights[:] = [weakref.ref(leaf) for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    assert weights, f"{name} has no arrays to be watched"
    return tree

  monkeypatch.setattr(registry, "named", lambda names, roles, **how: begin(roles[0], named(names, roles, **how)))
  c = motif_2b.get_config()
  c.sample.update(dict(steps=1, bucket=dict(frames=5, height=16, width=24)))
  with pytest.raises(ValueError, match="pass a config"):
    pipeline.load(released)
  made = []
  for cache in (folder / "cache", folder / "cache", folder / "out/prompts"):
    pipe = pipeline.load(released, c, cache=cache)
    pipe = dataclasses.replace(pipe, read_params=lambda read=pipe.read_params: begin("network", read()))
    made += pipe("abc", image=folder / "picture.png")
  assert made[0].shape == (5, 16, 24, 3) and all(np.array_equal(made[0], again) for again in made[1:])
  once = ["codec", "image", "network", "codec"]
  assert phases == ["text", *once, *once, *once]


def test_training_with_other_weights_than_the_data_set_is_refused(encoded, home, tmp_path):
  cfg = config_lib.from_config_dict(encoded[1])
  other = frozen.write(tmp_path / "other", "vjepa2", seed=1)
  changed = dataclasses.replace(cfg.encoders.weights, teacher=str(other))
  with pytest.raises(ValueError, match="version of vjepa2: the data set has '1-float32-"):
    loop.prepare(dataclasses.replace(cfg, encoders=dataclasses.replace(cfg.encoders, weights=changed)), str(tmp_path / "work"))
