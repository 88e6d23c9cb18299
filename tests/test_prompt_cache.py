"""Claims about encoded prompts on disk."""

import numpy as np

from motif_jax.encoders import prompt_cache

PROMPTS = ["a red square", "", "a disc"]


class Encoder:
  """Counts what it is asked for; an array (characters + 1, 2) for each prompt."""

  def __init__(self):
    self.asked = []

  def __call__(self, prompts):
    self.asked += prompts
    return [np.full((len(prompt) + 1, 2), len(prompt), np.float32) for prompt in prompts]


def same(made, prompts):
  return [x.tolist() for x in made] == [x.tolist() for x in Encoder()(prompts)]


def test_what_was_encoded_is_not_encoded_again(tmp_path):
  first, second, later = Encoder(), Encoder(), Encoder()
  assert same(prompt_cache.encoded(tmp_path / "new", "1", PROMPTS, first), PROMPTS) and first.asked == PROMPTS
  assert same(prompt_cache.encoded(tmp_path / "new", "1", PROMPTS[::-1], second), PROMPTS[::-1]) and second.asked == []
  more = ["a star", *PROMPTS, "a star"]
  assert same(prompt_cache.encoded(tmp_path / "new", "1", more, later), more) and later.asked == ["a star"]


def test_another_version_of_the_encoder_has_entries_of_its_own(tmp_path):
  prompt_cache.encoded(tmp_path, "1", PROMPTS, Encoder())
  other = Encoder()
  prompt_cache.encoded(tmp_path, "2", PROMPTS, other)
  assert other.asked == PROMPTS


def test_damaged_entries_are_made_again(tmp_path):
  prompt_cache.encoded(tmp_path, "1", PROMPTS, Encoder())
  cut, flipped, _ = sorted(tmp_path.iterdir())
  cut.write_bytes(cut.read_bytes()[:-3])
  content = bytearray(flipped.read_bytes())
  content[-2] ^= 1
  flipped.write_bytes(content)
  again = Encoder()
  assert same(prompt_cache.encoded(tmp_path, "1", PROMPTS, again), PROMPTS) and len(again.asked) == 2
  assert len(list(tmp_path.iterdir())) == 3  # and nothing is left beside them
  last = Encoder()
  prompt_cache.encoded(tmp_path, "1", PROMPTS, last)
  assert last.asked == []


def test_without_a_folder_all_is_encoded():
  encoder = Encoder()
  assert same(prompt_cache.encoded(None, "1", PROMPTS, encoder), PROMPTS) and encoder.asked == PROMPTS
