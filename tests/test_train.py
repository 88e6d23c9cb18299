"""Claims about training as a whole: the same on every mesh, after every interruption, and as yesterday."""

import dataclasses
import functools
import itertools
import json
import os
import signal
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.summary.writer import event_file_writer

from motif_jax import config, endings, mesh as meshes, sharding
from motif_jax.config import MeshConfig
from motif_jax.encoders.registry import CODECS, TEXTS
from motif_jax.evaluate import shapes
from motif_jax.train import checkpoint, evaluate, loop, losses, metrics, previews
from motif_jax.train.optimizer import make_optimizer
from motif_jax.train.state import TrainState, abstract_state
from motif_jax.train.step import make_train_step, plan_at
from tests import tiny
from tests.sensitive import sensitive

CFG = tiny.make_config()
ADAMW = make_optimizer(CFG.optimizer, steps=CFG.train.steps)
SGD = optax.sgd(0.1, momentum=0.9)  # Adam magnifies gradients near zero; after one step the momentum is the gradient


def _mesh(*sizes):
  return meshes.make_mesh(MeshConfig(*sizes), devices=jax.devices()[:int(np.prod(sizes))])


def _state(mesh, optimizer):
  """A state in which every weight matters."""
  abstract = abstract_state(CFG, optimizer)
  params = jax.tree.map(np.asarray, sensitive(abstract.params, seed=0))
  state = TrainState(step=jnp.zeros((), jnp.int32), params=params, ema=params["model"],
                     opt_state=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract.opt_state))
  return jax.device_put(state, sharding.state_shardings(abstract, mesh))


traces = []  # one entry per trace of `_adamw_step`


@functools.cache
def _adamw_step(cfg):
  """The step that most tests share, on one device."""
  measure = lambda **parts: traces.append(1) or (metrics.measure(**parts), {})
  return make_train_step(cfg, _mesh(1, 1, 1), ADAMW, plan=plan_at(cfg, 0), measure=measure)


@functools.cache
def _sgd_step(*sizes):
  return make_train_step(CFG, _mesh(*sizes), SGD, plan=plan_at(CFG, 0))


@functools.cache
def _one_sgd_step(*sizes):
  mesh = _mesh(*sizes)
  state, measured = _sgd_step(*sizes)(_state(mesh, SGD), meshes.global_batch(mesh, tiny.batch(CFG)))
  shardings = sharding.state_shardings(state, mesh)
  pinned = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, shardings)
  return jax.device_get(state), jax.device_get(measured), all(jax.tree.leaves(pinned))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1)], ids=str)  # meshes of several axes: test_accumulation and test_parallel
def test_loss_gradients_and_state_agree_with_one_device(sizes):
  state, measured, pinned = _one_sgd_step(*sizes)
  expected, expected_measured, _ = _one_sgd_step(1, 1, 1)
  assert pinned  # the state stays where the table says
  for name in ("t", "loss", "alignment"):
    np.testing.assert_allclose(measured[name], expected_measured[name], rtol=1e-5, err_msg=name)
  _assert_close(state, expected)


def _assert_close(state, expected):
  """Each array to 2e-5 of its norm: what another order of float32 sums makes of one step."""
  for (path, x), (_, y) in zip(sharding.paths_of(state), sharding.paths_of(expected)):
    assert np.linalg.norm(y) > 0, f"{path} is zero, so the test is blind to it"
    assert np.linalg.norm(x - y) <= 2e-5 * np.linalg.norm(y), path


def test_a_run_of_one_device_goes_on_with_eight(tmp_path):
  first = _one_sgd_step(1, 1, 1)[0]
  with checkpoint.make_manager(tmp_path, CFG.train) as manager:
    checkpoint.save(manager, jax.device_put(first, _mesh(1, 1, 1).devices.flat[0]), CFG)
    manager.wait_until_finished()
    restored = checkpoint.restore(manager, abstract_state(CFG, SGD), CFG, _mesh(8, 1, 1))
  mesh, batch = _mesh(8, 1, 1), tiny.batch(CFG, 1)
  expected, _ = _sgd_step(1, 1, 1)(jax.device_put(first, _mesh(1, 1, 1).devices.flat[0]), batch)
  state, _ = _sgd_step(8, 1, 1)(restored, meshes.global_batch(mesh, batch))
  _assert_close(jax.device_get(state), jax.device_get(expected))


def test_a_step_draws_by_its_number_and_the_seed_which_is_on_the_devices_from_the_first_step_on():
  cfg, mesh = dataclasses.replace(CFG, seed=5), _mesh(1, 1, 1)
  step = make_train_step(cfg, mesh, SGD, plan=plan_at(cfg, 0))
  state, batch = _state(mesh, SGD).replace(step=jnp.asarray(3, jnp.int32)), meshes.global_batch(mesh, tiny.batch(CFG))
  state, third = step(state, batch)
  with jax.transfer_guard("disallow"):
    _, fourth = step(state, batch)
  for number, measured in ((3, third), (4, fourth)):
    drawn = losses.draw(jax.random.fold_in(jax.random.key(5), number), cfg, batch["latents"].shape, routed=True)
    np.testing.assert_allclose(measured["t"], drawn.t, rtol=1e-6)


# (loss, alignment, gradient norm) of the first steps.
GOLDEN = [(3.03533, 1.03191, 3.51340), (2.63659, 0.935663, 3.34075), (2.69350, 0.942352, 5.27097)]


def test_first_steps_are_unchanged():
  state, got = _state(_mesh(1, 1, 1), ADAMW), []
  for i in range(len(GOLDEN)):
    state, measured = _adamw_step(CFG)(state, tiny.batch(CFG, i))
    values = metrics.values_of(metrics.merged(None, measured[0]))
    got.append((values["loss"], values["alignment"], values["gradient_norm"]))
  np.testing.assert_allclose(got, GOLDEN, rtol=1e-3, err_msg=(
      "The first training steps moved. If you meant to change numerics, initialisation, RNG use or a default, paste the new "
      f"values and say why in the commit; if you were refactoring, this is a bug. New values: {got}"))


def test_ten_steps_of_one_bucket_are_traced_once():
  state = _state(_mesh(1, 1, 1), ADAMW)
  state, _ = _adamw_step(CFG)(state, tiny.batch(CFG))
  before = len(traces)
  for i in range(10):
    state, _ = _adamw_step(CFG)(state, tiny.batch(CFG, i))
  assert before == 1 and len(traces) == 1
  assert int(state.step) == 11


class Killed(Exception):
  """What a run ends with that is told nothing."""


def _job(folder, *, stop_in=None, told=signal.SIGTERM, killed_in=None, bad=(), seen=None, held_out=(), previews=None, **train):
  """A job on endless random batches; while batch `stop_in` is read, the process is `told` to stop, and in `killed_in` it is gone.

  The batches in `bad` are not finite.  `train`: changes of config.train.
  """
  cfg = dataclasses.replace(CFG, train=dataclasses.replace(CFG.train, **train))

  def batches(step):
    for i in itertools.count(step):
      if i == stop_in:
        os.kill(os.getpid(), told)
      if i == killed_in:
        raise Killed
      if seen is not None:
        seen.append(i)
      batch = tiny.batch(CFG, i)
      batch["latents"][-1, 0, 0, 0] = np.inf if i in bad else 0.5
      yield None, batch

  return loop.Job(cfg, str(folder), _mesh(1, 1, 1), ADAMW, batches, held_out=held_out, previews=previews)


@pytest.fixture
def compiled(monkeypatch):
  """Loops share one compiled step, and start from a state that needs no compiling."""
  monkeypatch.setattr(loop, "make_train_step", lambda cfg, mesh, optimizer, *, plan, frozen, measure, of_block: _adamw_step(CFG))
  monkeypatch.setattr(loop, "init_state", lambda key, cfg, mesh, optimizer, weights: _state(mesh, optimizer))


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, compiled, capsys, told):
  handler, seen = signal.getsignal(told), []
  whole = loop.run(_job(tmp_path / "whole"))
  half = loop.run(_job(tmp_path / "parts", stop_in=1, told=told, seen=seen))
  assert int(half.step) == 2 and seen == [0, 1] and signal.getsignal(told) is handler
  assert "interrupted: step 2 is saved" in capsys.readouterr().out
  rest = loop.run(_job(tmp_path / "parts", seen=seen))
  assert int(rest.step) == 4 and seen == [0, 1, 2, 3]
  _assert_same(rest, whole)


def _assert_same(state, expected):
  for (path, x), (_, y) in zip(sharding.paths_of(state), sharding.paths_of(expected)):
    np.testing.assert_array_equal(x, y, err_msg=path)


@pytest.fixture
def figures(monkeypatch):
  """Validation is a number that each bit of the moving average changes."""
  whole = lambda tree: float(sum(np.abs(np.asarray(x, np.float64)).sum() for x in jax.tree.leaves(tree)))
  monkeypatch.setattr(loop, "validate", lambda step, ema, batches, mesh: {"loss": whole(ema)})


def _written(folder):
  """(step, name) -> value of all metrics in a work directory but those of time; each is there once."""
  lines = [json.loads(line) for line in (folder / metrics.SCALARS).read_text().splitlines()]
  measured = {f"train/{name}" for name in metrics.TrainMetrics.__dataclass_fields__} | {"validation/loss"}
  named = [((line["step"], name), value) for line in lines for name, value in line.items() if name in measured]
  assert len(named) == len(dict(named))
  return dict(named)


RHYTHM = dict(steps=8, log_every=3, validate_every=2, save_every=4)


def test_an_interrupted_and_a_killed_run_write_the_metrics_of_a_whole_one(tmp_path, compiled, figures, monkeypatch):
  # Files of one second are read in the order of their numbers as text: here they have as many digits, as those of three processes.
  monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(10))
  held_out = [(None, tiny.batch(CFG, 99))]
  run = functools.partial(_job, held_out=held_out, **RHYTHM)
  whole = loop.run(run(tmp_path / "whole"))
  with pytest.raises(Killed):  # after step 7: what was written of steps 5 to 7 is to be taken back
    loop.run(run(tmp_path / "parts", killed_in=7))
  assert int(loop.run(run(tmp_path / "parts", stop_in=5)).step) == 6  # where a line and a validation were due
  rest = loop.run(run(tmp_path / "parts"))
  jax.tree.map(np.testing.assert_array_equal, rest, whole)
  expected = _written(tmp_path / "whole")
  assert {step for step, _ in expected} == {2, 3, 4, 6, 8} and _written(tmp_path / "parts") == expected
  events = event_accumulator.EventAccumulator(str(tmp_path / "parts"))
  events.Reload()
  assert [e.step for e in events.Scalars("train/loss")] == [3, 6, 8]
  assert [e.step for e in events.Scalars("validation/loss")] == [2, 4, 6, 8]


def test_twice_n_steps_are_n_and_n(tmp_path, compiled, figures):
  whole = loop.run(_job(tmp_path / "whole", **RHYTHM))
  assert int(loop.run(_job(tmp_path / "halves", **RHYTHM | dict(steps=4))).step) == 4
  rest = loop.run(_job(tmp_path / "halves", **RHYTHM))
  jax.tree.map(np.testing.assert_array_equal, rest, whole)
  got, expected = _written(tmp_path / "halves"), _written(tmp_path / "whole")
  assert {key: got[key] for key in expected} == expected and {step for step, _ in set(got) - set(expected)} == {4}


def _trained_on(batches):
  """The state after those batches and no others; each batch is known by its step, and so are its noise and times."""
  state, source = _state(_mesh(1, 1, 1), ADAMW), _job("").batches(0)
  for i, (_, batch) in zip(range(batches[-1] + 1), source):
    if i in batches:
      state, _ = _adamw_step(CFG)(state.replace(step=jnp.int32(i)), batch)
  return state


def test_a_batch_without_a_finite_loss_is_skipped_as_if_it_were_absent(tmp_path, compiled):
  state = loop.run(_job(tmp_path, bad=(1,), steps=4, log_every=2))
  _assert_same(state, _trained_on([0, 2, 3]))
  assert metrics.read(tmp_path, "train/skipped") == [(2, 1.0), (4, 0.0)]
  assert np.isfinite([value for _, value in metrics.read(tmp_path, "train/loss")]).all()


def test_bad_batches_in_a_row_roll_back_to_the_newest_checkpoint_and_past_them(tmp_path, compiled, capsys):
  run = functools.partial(_job, tmp_path, bad=(2, 7, 8, 9), steps=12, save_every=4, keep=9, skips_in_row=3)
  state = loop.run(run(stop_in=8))
  out = capsys.readouterr().out  # 2 is skipped; in the middle of the row nothing is saved
  assert int(state.step) == 9 and "interrupted: step 9 is not saved: the last 2 batches" in out and "rolled back" not in out
  state = loop.run(run())
  _assert_same(state, _trained_on([0, 1, 3, 10, 11]))
  assert "rolled back (1 of 3): left out are the batches from step 4 to 10, the last 3 without" in capsys.readouterr().out


def test_a_run_that_rolls_back_too_often_ends_with_a_report_and_a_whole_checkpoint(tmp_path, compiled):
  run = functools.partial(_job, tmp_path, bad=range(3, 99), steps=20, save_every=2, skips_in_row=2, rollbacks=1)
  assert int(loop.run(run(stop_in=6)).step) == 7  # behind the first rollback, which the next start remembers
  with pytest.raises(endings.Ending, match=r"(?s)2 times 2 batches in a row.*from step 2 to 5, the.*from step 5 to 7, the") as raised:
    loop.run(run())
  assert raised.value.status == endings.DIVERGED
  _assert_same(loop.run(_job(tmp_path, steps=6)), _trained_on([0, 1, 5]))


@pytest.fixture
def small_disk(tmp_path):
  """A folder on a file system of 6 MB."""
  folder = tmp_path / "disk"
  folder.mkdir()
  if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True, check=False).returncode:
    pytest.skip("may not mount file systems here")
  yield folder
  subprocess.run(["umount", "--lazy", folder], check=True)  # somebody may still write in it


def test_a_full_disk_ends_a_run_that_goes_on_once_there_is_room(tmp_path, small_disk, compiled):
  def filled(step):
    for i, item in enumerate(_job("").batches(step), start=step):
      if i == 5:
        disk = os.statvfs(small_disk)  # room for less than a checkpoint, whatever is being written or deleted just now
        (small_disk / "ballast").write_bytes(bytes(max(0, disk.f_bavail * disk.f_frsize - (200 << 10))))
      yield item

  job = _job(small_disk / "work", steps=8, save_every=2, keep=9)  # nothing is deleted, which would make room
  with pytest.raises(endings.Ending, match="No space left on device") as raised:
    loop.run(dataclasses.replace(job, batches=filled))
  assert raised.value.status == endings.DISK
  subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
  _goes_on_to_the_bits_of_a_whole_run(small_disk / "work")


def _goes_on_to_the_bits_of_a_whole_run(workdir):
  seen = []
  _assert_same(loop.run(_job(workdir, steps=8, save_every=2, seen=seen)), _trained_on(list(range(8))))
  assert 2 <= seen[0] <= 6  # it went on from a checkpoint


def test_a_disk_that_became_read_only_is_named_and_keeps_its_checkpoints(tmp_path, small_disk, compiled):
  loop.run(_job(small_disk / "work", steps=8, save_every=2, stop_in=2))
  subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
  with pytest.raises(endings.Ending, match="Read-only file system") as raised:
    loop.run(_job(small_disk / "work", steps=8, save_every=2))
  assert raised.value.status == endings.DISK
  subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
  _goes_on_to_the_bits_of_a_whole_run(small_disk / "work")


def test_the_log_says_what_runs_and_how_it_goes(tmp_path, compiled, capsys):
  previews = lambda ema: {"a clip": np.zeros((2, 4, 4, 3), np.uint8)}
  loop.run(_job(tmp_path, held_out=[(None, tiny.batch(CFG, 99))], previews=previews))
  out = capsys.readouterr().out
  for said in ("mesh: data 1, fsdp 1, sequence 1, of 1", "plan: dual [0, 2), kept tokens, tap | single",
               "15,232 dual", "batch: 8, 8 per device", "from step 0 to 4", "step 2/4  loss", "tokens/s",
               "step 4/4  validation loss", "done: step 4"):
    assert said in out, said
  (events,) = tmp_path.glob("events*")
  written = events.read_bytes()
  for tag in (b"train/loss_t20_40", b"train/tokens_per_second", b"train/alignment", b"validation/loss", b"samples/a clip"):
    assert tag in written, tag


def test_validation_is_the_same_every_time_and_in_runs_of_other_seeds_and_densities():
  mesh = _mesh(1, 1, 1)
  ema, held_out = _state(mesh, SGD).ema, [(None, tiny.batch(CFG, i)) for i in (7, 8)]
  other = dataclasses.replace(CFG, seed=5, times=dataclasses.replace(CFG.times, shift=4.0))
  first, again = (evaluate.validate(evaluate.make_validation_step(cfg, mesh), ema, held_out, mesh) for cfg in (CFG, other))
  assert first == again and len(first) == 2 + metrics.BINS and first["caption_gain"]
  alone = evaluate.validate(evaluate.make_validation_step(CFG, mesh), ema, held_out[:1], mesh)
  assert alone["loss"] != first["loss"]


@pytest.mark.parametrize("part, mark", [("alignment", "tap"), ("route", "routed")])
def test_alignment_and_routing_end_at_their_last_step(part, mark):
  marked = lambda cfg, step: any(getattr(segment, mark) for segment in plan_at(cfg, step))
  change = lambda **values: dataclasses.replace(CFG, **{part: dataclasses.replace(getattr(CFG, part), **values)})
  assert [marked(change(last_step=3), step) for step in (0, 2, 3, 10)] == [True, True, False, False]
  assert marked(CFG, 10**6)
  assert not marked(change(**{"alignment": {"weight": 0.0}, "route": {"keep": 1.0}}[part]), 0)


@pytest.mark.parametrize("change, said", [
    (dict(grid=(2, 8, 7)), r"does not divide by model.patch"),
    (dict(grid=(1, 2, 6)), r"3 video tokens, which do not divide by mesh.sequence = 2"),
    (dict(grid=(1, 2, 8)), r"4 video tokens do not divide into route.groups = 8"),
    (dict(groups=9, grid=(9, 2, 4)), r"route.groups 9 is not a multiple of mesh.sequence = 2; the nearest are 8 and 10"),
])
def test_a_bucket_that_cannot_be_trained_is_an_error_before_anything_compiles(change, said):
  cfg = dataclasses.replace(CFG, route=dataclasses.replace(CFG.route, groups=change.get("groups", 8)))
  loop.check_bucket(CFG, _mesh(2, 2, 2), "5x64x64", (2, 8, 8))
  with pytest.raises(ValueError, match=said):
    loop.check_bucket(cfg, _mesh(2, 2, 2), "5x64x64", change["grid"])


def test_previews_are_one_clip_per_prompt_on_any_mesh_and_the_judge_scores_its_own():
  codec, text = CODECS[CFG.encoders.codec](), TEXTS[CFG.encoders.text]()
  c = tiny.config_dict()
  c.model.update(dict(latent_channels=codec.channels, text_dim=text.dim, depths=dict(dual=0, single=1, decoder=0)))
  c.route.keep, c.alignment.weight = 1.0, 0.0
  c.sample.update(dict(prompts=("a red circle", "a blue square", "a green star"), steps=1))
  c.train.judge = 3
  cfg = config.from_config_dict(c)
  params = sensitive(abstract_state(cfg, SGD).params["model"], seed=0)
  whole, dealt = (previews.Previews(cfg, _mesh(*sizes))(params) for sizes in ((1, 1, 1), (2, 2, 2)))
  assert list(whole) == ["00 a red circle", "01 a blue square", "02 a green star"]
  for name in whole:
    assert whole[name].shape == (5, 64, 64, 3) and whole[name].dtype == np.uint8
    assert np.abs(whole[name].astype(int) - dealt[name]).max() <= 1
  assert np.abs(whole["00 a red circle"].astype(int) - whole["01 a blue square"]).max() > 1
  # The judge gets clips of as many prompts, made by the same programs.
  first, again = (previews.Judge(cfg, _mesh(1, 1, 1))(params) for _ in range(2))
  assert first == again and {*shapes.SCORED, "all"} <= first.keys() and all(0 <= first[name] <= 1 for name in shapes.SCORED)
