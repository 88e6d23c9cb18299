"""Claims about data sets that exist in memory alone."""

import dataclasses

import jax
import numpy as np
import pytest

from motif_jax.config import BucketConfig
from motif_jax.data import pipeline, record, rendered, shapes
from motif_jax.data.embedded import SETS
from motif_jax.data.extract import Devices, Encoders
from motif_jax.encoders.registry import CODECS, TEXTS
from tests import small_data

VIDEO, IMAGE = BucketConfig(5, 16, 24), BucketConfig(1, 16, 24)
DEVICES = Devices(jax.jit, place=lambda x: x, rows=lambda bucket: 4)


@pytest.mark.parametrize("benchmark", SETS)
def test_a_rendered_data_set_feeds_batches_of_the_promised_shapes_and_is_the_same_again(benchmark):
  encoders = Encoders(CODECS["block_dct_488"](), TEXTS["word_hash_mean"]())
  one, again = (rendered.dataset(encoders, {VIDEO: 6, IMAGE: 5}, DEVICES, benchmark=benchmark, seed=seed) for seed in (3, 3))
  short = [source[i]["caption_short"] for source in one.sources for i in range(len(source))]
  assert {sum(colour in caption for colour in shapes.COLOURS) for caption in short} == {dict(shapes=1, scenes=2)[benchmark]}
  assert [(part.bucket, part.records) for part in one.meta.parts] == [(IMAGE, 5), (VIDEO, 6)]
  for part, source, same in zip(one.meta.parts, one.sources, again.sources):
    assert len({source[i]["key"] for i in range(len(source))}) == part.records
    for i in range(len(source)):
      record.check(source[i], part.spec)
      np.testing.assert_array_equal(source[i]["latents"], same[i]["latents"])
  cfg = dataclasses.replace(small_data.config(), batch_size=2, text_tokens=1)
  seen = {}
  batches = pipeline.batches(cfg, one, seed=0, patch=(1, 1, 1))
  for bucket, batch in (next(batches) for _ in range(6)):
    seen[bucket] = batch["latents"].shape, batch["text"].shape
  batches.close()
  assert seen == {VIDEO: ((2, 2, 2, 3, 64), (2, 1, 128)), IMAGE: ((2, 1, 2, 3, 64), (2, 1, 128))}
