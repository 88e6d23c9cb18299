"""Records, shards and metadata on disk: what is written is what is read, by us and by tfds, and nothing half written is read."""

import dataclasses
import os
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import base
from motif_jax import config as config_lib
from motif_jax.config import BucketConfig
from motif_jax.data import buckets, dataset, pipeline, record, verify, videos
from tests import small_data
from tests.small_data import IMAGE, SPECS, VIDEO


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  return small_data.write(tmp_path_factory.mktemp("data") / "set", {VIDEO: 12, IMAGE: 7})


def assert_equal(got, expected):
  assert set(got) == set(expected)
  for name, value in expected.items():
    if isinstance(value, np.ndarray):
      np.testing.assert_array_equal(got[name], value, err_msg=name, strict=True)
    else:
      assert got[name] == value and type(got[name]) is type(value), name


def test_a_record_survives_its_bytes():
  made = small_data.record(VIDEO, 3)
  made["latents"][..., -3:] = 0  # trailing zero bytes, which numpy strings would lose
  assert_equal(record.from_bytes(record.to_bytes(made, SPECS[VIDEO]), SPECS[VIDEO]), made)


@pytest.mark.parametrize("name, value, said", [
    ("latents", np.zeros((3, 8, 6, 5), np.float16), r"latents is float16 \(3, 8, 6, 5\), expected float16 \(3, 6, 8, 5\)"),
    ("latents", np.zeros((3, 6, 8, 5), np.float32), "latents is float32"),
    ("latents", np.full((3, 6, 8, 5), np.inf, np.float16), "not finite"),
    ("first_frame", np.zeros((3, 6, 8, 5), np.float16), r"first_frame .* expected float16 \(4, 6, 8, 5\)"),
    ("text_short", np.zeros((0, 7), np.float16), r"text_short .* expected float16 \('T', 7\)"),
    ("teacher", None, "teacher is NoneType"),
    ("key", b"a", "key is b'a', expected a string"),
    ("fps", 24, "fps is 24, expected a float"),
    ("latent", 1, "unknown entries"),
])
def test_check_names_what_is_wrong_with_a_record(name, value, said):
  made = small_data.record(VIDEO, 3)
  record.check(made, SPECS[VIDEO])
  with pytest.raises(ValueError, match=said):
    record.check(made | {name: value}, SPECS[VIDEO])


@pytest.mark.parametrize("source", sorted(dataset.SOURCES))
def test_every_source_gives_the_records_that_were_written(path, source):
  opened = dataset.open_dataset(path, source)
  assert [part.bucket for part in opened.meta.parts] == [IMAGE, VIDEO]
  for part, records in zip(opened.meta.parts, opened.sources):
    assert len(records) == part.records
    for number in range(part.records):
      record.check(records[number], part.spec)
      assert_equal(records[number], small_data.record(part.bucket, number))
    assert [record.digest(records[i]["key"]) for i in range(len(records))] == records.digests.tolist()


@pytest.mark.parametrize("source", sorted(dataset.SOURCES))
def test_every_source_can_be_pickled(path, source):
  records = dataset.open_dataset(path, source).sources[1]
  copy = pickle.loads(pickle.dumps(records))
  assert len(copy) == 12
  assert_equal(copy[7], records[7])


def test_tfds_reads_the_same_records(path):
  builder = tfds.builder_from_directory(path / buckets.name(VIDEO))
  source = builder.as_data_source("clips")
  assert len(source) == 12 and builder.info.splits["clips"].shard_lengths == [5, 5, 2]
  assert builder.info.splits["clips"].num_bytes > 0
  expected = small_data.record(VIDEO, 11)
  np.testing.assert_array_equal(source[11]["latents"], expected["latents"], strict=True)
  assert source[11]["caption_long"].decode() == expected["caption_long"]


def test_the_metadata_survives_its_json(path):
  meta = dataset.open_dataset(path).meta
  again = dataset.Meta.from_json(meta.to_json())
  np.testing.assert_array_equal(again.text_empty, np.full((1, 7), 2, np.float16), strict=True)
  plain = [dataclasses.replace(m, text_empty=None) for m in (meta, again)]
  assert plain[0] == plain[1] and plain[0].parts[1].spec == SPECS[VIDEO]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
  """(a data set that another process wrote and read, the modules that the process imported)."""
  program = """if True:
    import pathlib, sys
    from tests import small_data
    from motif_jax.data import dataset, pipeline
    path = small_data.write(pathlib.Path(sys.argv[1]), {small_data.VIDEO: 4})
    batches = pipeline.batches(small_data.config(), dataset.open_dataset(path), seed=0)
    next(batches)
    batches.close()
    print(*sys.modules)"""
  path = tmp_path_factory.mktemp("elsewhere") / "set"
  done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return path, {module.split(".")[0] for module in done.stdout.split()}


def test_writing_and_reading_import_no_tensorflow(elsewhere):
  assert "grain" in elsewhere[1] and not elsewhere[1] & {"tensorflow", "torch"}


def test_every_process_writes_the_same_bytes(elsewhere, tmp_path):
  here = small_data.write(tmp_path / "set", {VIDEO: 4})
  written = [{f.relative_to(p): f.read_bytes() for f in p.rglob("*") if f.is_file()} for p in (here, elsewhere[0])]
  assert written[0] == written[1]


def test_a_failed_shard_leaves_nothing(tmp_path):
  file = dataset.shard_path(tmp_path, VIDEO, 0, 1)
  file.parent.mkdir()

  def records():
    yield small_data.record(VIDEO, 0)
    raise KeyboardInterrupt
  with pytest.raises(KeyboardInterrupt):
    dataset.write_shard(file, records(), SPECS[VIDEO])
  assert not list(file.parent.iterdir())


def test_a_data_set_without_its_last_file_is_not_opened(tmp_path):
  path = small_data.write(tmp_path / "set", {VIDEO: 4})
  (path / "dataset.json").unlink()
  with pytest.raises(ValueError, match="no whole data set.*launch.encode"):
    dataset.open_dataset(path)
  (path / "unfinished").mkdir()
  with pytest.raises(ValueError, match="interrupted.*goes on where"):
    dataset.open_dataset(path)
  with pytest.raises(ValueError, match="does not exist"):
    dataset.open_dataset(tmp_path / "nowhere")


def test_a_data_set_with_the_shards_of_another_is_not_opened(tmp_path):
  path, other = small_data.write(tmp_path / "a", {VIDEO: 4}), small_data.write(tmp_path / "b", {VIDEO: 6})
  (path / "dataset.json").write_text((other / "dataset.json").read_text())
  with pytest.raises(ValueError, match="holds 4 records, dataset.json says 6"):
    dataset.open_dataset(path)


def test_an_older_format_and_an_unknown_source_are_refused(path, tmp_path):
  with pytest.raises(ValueError, match="'tape', expected one of array_record, memory"):
    dataset.open_dataset(path, "tape")
  old = dataset.open_dataset(path).meta.to_json().replace(f'"format": {dataset.FORMAT}', '"format": 0')
  with pytest.raises(ValueError, match="format 0.*encode it again"):
    dataset.Meta.from_json(old)


def fitting_config(**changes):
  """A config that fits `small_data.write`, with `changes` by path."""
  c = base.get_config()
  c.encoders.update(codec="means", text="lengths", teacher="cells")
  c.alignment.update(teacher="cells", teacher_dim=9, weight=0.5)
  c.model.update(latent_channels=5, text_dim=7)
  c.update_from_flattened_dict(changes)
  return config_lib.from_config_dict(c)


def test_a_config_that_fits_passes(path):
  meta = dataset.open_dataset(path).meta
  dataset.check_encoders(meta, fitting_config(), encoders=(small_data.Codec(), small_data.Text(), small_data.Teacher()))
  unaligned = fitting_config(**{"alignment.weight": 0.0, "alignment.teacher_dim": 1})
  dataset.check_encoders(meta, unaligned)  # nobody reads the teacher's features


@pytest.mark.parametrize("key, value, said", [
    ("encoders.codec", "block_dct", "codec: the data set has 'means', the config 'block_dct'"),
    ("encoders.text", "word_hash", "text encoder: the data set has 'lengths'"),
    ("model.latent_channels", 16, r"latent channels: the data set has 5, the config 16 \(model.latent_channels\)"),
    ("model.text_dim", 8, "text features"),
    ("alignment.teacher_dim", 8, "teacher features"),
])
def test_a_data_set_of_other_encoders_is_refused(path, key, value, said):
  with pytest.raises(ValueError, match=said):
    dataset.check_encoders(dataset.open_dataset(path).meta, fitting_config(**{key: value}))


def test_a_data_set_of_another_version_of_an_encoder_is_refused(path):
  encoders = (dataclasses.replace(small_data.Codec(), version="2"), small_data.Text(), small_data.Teacher())
  with pytest.raises(ValueError, match="version of means: the data set has '1', the config '2'"):
    dataset.check_encoders(dataset.open_dataset(path).meta, fitting_config(), encoders=encoders)


def test_a_mixture_has_the_parts_of_all_its_data_sets_and_reads_from_each(path, tmp_path):
  other = small_data.write(tmp_path / "other", {VIDEO: 30})
  cfg = small_data.config(mixture=((str(path), 1.0), (str(other), 2.0)))
  opened = dataset.open_data(cfg)
  first = dataset.open_dataset(path).meta.parts
  assert opened.meta.parts[:-1] == first and opened.meta.parts[-1].records == 30 == len(opened.sources[-1])
  assert opened.origins == (0,) * len(first) + (1,)
  batches = pipeline.batches(cfg, opened, seed=0)
  seen = np.concatenate([next(batches)[1]["latents"][:, 0, 0, 0, 0] for _ in range(30)])
  batches.close()
  assert set(seen) >= set(range(20, 30))  # which the first does not have


def test_data_sets_that_do_not_mix_are_named(path, tmp_path):
  other = small_data.write(tmp_path / "other", {VIDEO: 4})
  (other / "dataset.json").write_text((other / "dataset.json").read_text().replace('"lengths"', '"word_hash"'))
  with pytest.raises(ValueError, match="do not mix: the text encoder of .*other is .*word_hash.*lengths"):
    dataset.open_data(small_data.config(mixture=((str(path), 1.0), (str(other), 1.0))))
  for changes in (dict(path=""), dict(path=str(path), mixture=((str(other), 1.0),))):
    with pytest.raises(ValueError, match="set one of them"):
      dataset.open_data(small_data.config(**changes))


def damage(file, at, byte=b"\xff"):
  with open(file, "rb+") as opened:
    opened.seek(at)
    opened.write(byte)


@pytest.fixture(scope="module")
def rewritten(path, tmp_path_factory):
  """A function (number of a record of the first video shard, change) -> a copy of `path` with that record changed and rewritten."""
  def make(number, change):
    copy = shutil.copytree(path, tmp_path_factory.mktemp("copy") / "set")
    records = [small_data.record(VIDEO, i) for i in range(5)]
    change(records[number])
    dataset.write_shard(dataset.shard_path(copy, VIDEO, 0, 3), records, SPECS[VIDEO])
    return copy
  return make


def test_an_untouched_data_set_has_no_faults(path):
  checked = verify.check(path, say=lambda _: None)
  assert checked.faults == () and checked.records == 19 and checked.bytes > 0


def test_one_changed_number_of_one_record_is_found(rewritten):
  def nudge(record):
    record["teacher"][1, 1, 1, 1] += 1
  faults = verify.check(rewritten(3, nudge), say=lambda _: None).faults
  assert len(faults) == 1 and "00000-of-00003, record 3: its bytes have another checksum" in faults[0]


def test_without_checksums_a_changed_key_is_found_and_a_changed_number_is_not(rewritten):
  def rename(record):
    record["key"] = "another"
    record["teacher"][1, 1, 1, 1] += 1
  copy, said = rewritten(2, rename), []
  (copy / buckets.name(VIDEO) / "checksums.npy").unlink()
  faults = verify.check(copy, say=said.append).faults
  assert len(faults) == 1 and "record 2: its key 'another' has another digest" in faults[0]
  assert "before there were checksums" in said[0]


@pytest.mark.parametrize("spoil, said", [
    (lambda file: damage(file, 1000), "cannot be read"),
    (lambda file: damage(file, 1 << 16), "holds 0 records that can be read, expected 5"),
    (lambda file: os.truncate(file, file.stat().st_size // 2), "holds 0 records that can be read, expected 5"),
    (lambda file: shutil.copy(file.with_name(file.name.replace("00000-", "00002-")), file), "holds 2 records that can be read"),
    (lambda file: file.with_name(f".{file.name}.0a{videos.PARTIAL}").write_bytes(b"half"), "belongs to no data set"),
    (lambda file: np.save(file.with_name("digests.npy"), np.zeros(3, np.uint64)), r"digests.npy is uint64 \(3,\)"),
])
def test_damage_is_found_and_said_where(path, tmp_path, spoil, said):
  copy = shutil.copytree(path, tmp_path / "set")
  spoil(dataset.shard_path(copy, VIDEO, 0, 3))
  faults = verify.check(copy, say=lambda _: None).faults
  assert len(faults) == 1 and re.search(said, faults[0]), faults


def test_samples_are_spread_from_the_first_record_to_the_last(path):
  found = {part.bucket: [r["key"] for r in records] for part, records in verify.samples(path, 3)}
  assert found == {IMAGE: ["1/000.mp4", "1/003.mp4", "1/006.mp4"], VIDEO: ["5/000.mp4", "5/006.mp4", "5/011.mp4"]}


@pytest.mark.parametrize("change", [{}, dict(tags=True), dict(image=(3, 11)), dict(log_variance=True), dict(teacher_dim=0, teacher_grid=(0, 0))])
def test_the_bytes_of_a_record_are_foretold(change):
  spec = dataclasses.replace(SPECS[VIDEO], **change)
  made = {name: np.random.default_rng(0).normal(size=[8 if n is None else n for n in shape]).astype(np.float16)
          for name, shape in spec.shapes.items()}
  strings = {name: value for name, value in small_data.record(VIDEO, 3).items() if name in record.STRINGS + record.NUMBERS}
  strings |= dict(tags="red, ball") if spec.tags else {}
  content = record.to_bytes(made | strings, spec)
  assert 0 < len(content) - record.bytes_of(spec, text_tokens=24) < 400
  assert_equal(record.from_bytes(content, spec), made | strings)


def test_what_an_older_data_set_says_of_its_records_is_read():
  old = dict(grid=[3, 6, 8], channels=5, text_dim=7, teacher_grid=[2, 4], teacher_dim=9)
  assert record.Spec.from_dict(old) == SPECS[VIDEO]
