"""Our frozen encoders are transformers 5.23.0's, in float32, with sensitive weights, from folders of its `save_pretrained`."""

import dataclasses
import warnings

import numpy as np
import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import jax
import torch
from transformers.models.t5gemma2.modeling_t5gemma2 import T5Gemma2Encoder

from motif_jax.encoders import dinov2, siglip, t5gemma2, vjepa2
from motif_jax.encoders.tokenizer import Tokenizer
from motif_jax.weights import encoder_folder, frozen as loaders
from tests import frozen
from tests.parity.cases import TOLERANCE, error

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()

# The prefix under which a model's own state dict holds our weights, and what it holds beside them.
THEIRS = {
    "t5gemma2": ("text_model.", ("vision_tower.", "multi_modal_projector."), transformers.T5Gemma2EncoderConfig,
                 lambda c: T5Gemma2Encoder(c, eoi_token_index=c.eoi_token_index)),  # left alone it takes 256000, whatever c says
    "siglip": ("", (), transformers.SiglipVisionConfig, transformers.SiglipVisionModel),
    "vjepa2": ("", ("predictor.",), transformers.VJEPA2Config, transformers.VJEPA2Model),
    "dinov2": ("", ("embeddings.mask_token",), transformers.Dinov2Config, transformers.Dinov2Model),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
  """Name -> (their model, our config and parameters, read from the folder that theirs was saved in)."""
  made = {}
  for name, (prefix, others, config, model) in THEIRS.items():
    torch.manual_seed(0)
    theirs = model(config(**{k: v for k, v in frozen.MODELS[name][0].items() if k != "model_type"})).eval()
    weights = {prefix + k: torch.from_numpy(np.array(v)) for k, v in frozen.weights(name).items()}
    left = theirs.load_state_dict(weights, strict=False)
    assert not left.unexpected_keys and all(k.startswith(others) for k in left.missing_keys)
    folder = tmp_path_factory.mktemp(name)
    theirs.save_pretrained(folder)
    opened = encoder_folder.find(folder, **loaders.KINDS[name])
    made[name] = theirs, opened.cfg, encoder_folder.load(opened)
  return made


def normal(*shape):
  return np.random.default_rng(1).standard_normal(shape, np.float32)


def test_text_features_are_the_reference_in_windows_shorter_than_the_text_whatever_stands_in_the_padding(both):
  theirs, cfg, params = both["t5gemma2"]
  ids = np.random.default_rng(0).integers(3, 290, (2, 14))
  ids[0, 3] = cfg.image_end
  mask = np.arange(14) < np.array([[14], [9]])
  with torch.no_grad():
    want = theirs(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask.astype(np.int64))).last_hidden_state.numpy()
  apply = jax.jit(t5gemma2.apply, static_argnums=1)
  got = np.asarray(apply(params, cfg, ids, mask))
  assert error(got[mask], want[mask]) < TOLERANCE
  other = np.where(mask, ids, 7)
  np.testing.assert_array_equal(np.asarray(apply(params, cfg, other, mask))[mask], got[mask])
  assert np.isfinite(got).all()


def test_video_features_are_the_reference(both):
  theirs, cfg, params = both["vjepa2"]
  pixels = normal(2, 6, 12, 12, 3)
  with torch.no_grad():
    want = theirs(torch.tensor(pixels).permute(0, 1, 4, 2, 3), skip_predictor=True).last_hidden_state.numpy()
  got = np.asarray(vjepa2.apply(params, cfg, pixels))
  assert got.shape == (2, 3, 3, 3, 40) and error(got.reshape(want.shape), want) < TOLERANCE


def test_image_tokens_are_the_reference(both):
  theirs, cfg, params = both["siglip"]
  pixels = normal(2, 12, 12, 3)
  with torch.no_grad():
    want = theirs(torch.tensor(pixels).permute(0, 3, 1, 2)).last_hidden_state.numpy()
  assert error(np.asarray(siglip.apply(params, cfg, pixels)), want) < TOLERANCE


@pytest.mark.parametrize("side", [20, 12, 28], ids=["as in the table", "smaller", "larger"])
def test_picture_features_are_the_reference_at_any_size(both, side):
  theirs, cfg, params = both["dinov2"]
  pixels = normal(2, side, side, 3)
  with torch.no_grad():
    want = theirs(torch.tensor(pixels).permute(0, 3, 1, 2)).last_hidden_state.numpy()[:, 1:]
  got = np.asarray(dinov2.apply(params, dataclasses.replace(cfg, side=side), pixels))
  assert error(got.reshape(want.shape), want) < TOLERANCE


def test_token_ids_are_the_reference(tmp_path):
  frozen.write_tokenizer(tmp_path / "tokenizer.json")
  theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="<pad>",
                                                bos_token="<bos>", eos_token="<eos>", padding_side="right")
  prompts = ["", "abc bad", "a <eos> é abcabc", "ab " * 9]
  want = theirs(prompts, padding="max_length", max_length=12, truncation=True, add_special_tokens=True, return_tensors="np")
  ours = Tokenizer(tmp_path / "tokenizer.json", max_tokens=12)
  with warnings.catch_warnings(action="ignore"):
    got = ours.padded(ours(prompts), 12)
  np.testing.assert_array_equal(got.ids, want["input_ids"])
  np.testing.assert_array_equal(got.mask, want["attention_mask"])
