"""SyncNet and the paper's audio-to-motion: utterances, pairs, losses, and short trainings."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from quick import drawn, quick_jit

from configs import audio2motion as a2m_configs
from configs import syncnet as sync_configs
from data_pipelines import speech_people, sync_pairs, utterances
from r3p import face, mesh_motion, schedules, weights
from r3p.errors import InputError
from r3p.stages import audio2motion_paper as paper
from r3p.stages import syncnet


@pytest.fixture(scope="module")
def head() -> face.FaceModel:
    return face.load_face_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten utterances of four people (and five held out, of two) whose jaw follows the first sound band."""
    out = tmp_path_factory.mktemp("utterances")
    rng = np.random.default_rng(0)
    names, frames, people, held_out = [], [], [], []
    jaw = list(face.load_face_model().expression_names).index("jawOpen")
    for k in range(15):
        size = 16 + 4 * k
        # smooth enough that neighbours five frames away differ, and one frame does not matter
        level = np.repeat(rng.random(size // 2 + 1), 2)[:size]
        expression = np.zeros((size, 64), np.float32)
        expression[:, jaw] = 0.5 * level
        audio = 0.1 * rng.standard_normal((2 * size, 8))
        audio[:, 0] += np.repeat(4 * level - 2, 2)
        item = dict(
            audio=audio, pitch=np.full(2 * size, 120.0), identity=rng.standard_normal(80), expression=expression,
            blink=np.zeros(size), amplitude=0.4,
        )  # fmt: skip
        held_out.append(k % 3 == 2)
        people.append(f"{'held' if held_out[-1] else 'p'}{k % (2 if held_out[-1] else 4)}")
        names.append(f"u{k}")
        frames.append(utterances.write_utterance(out, names[-1], item))
    utterances.write_index(out, names, frames, people, held_out)
    return str(out)


# ------------------------------------------------------------------------------------------------ data
def test_halves_do_not_share_people(folder: str) -> None:
    seen, held = utterances.Utterances(folder), utterances.Utterances(folder, held_out=True)
    assert (len(seen), len(held)) == (10, 5) and not set(seen.names) & set(held.names)
    assert len(seen[0]["expression"]) == seen.frames[0]
    with pytest.raises(InputError, match="speech_people"):
        utterances.Utterances(folder + "x")


def test_short_or_uneven_utterances_are_refused(tmp_path) -> None:
    item = dict(
        audio=np.zeros((40, 3)), pitch=np.zeros(40), identity=np.zeros(80), expression=np.zeros((20, 64)),
        blink=np.zeros(20), amplitude=0.4,
    )  # fmt: skip
    assert utterances.write_utterance(tmp_path, "a", item) == 20
    with pytest.raises(InputError, match="39 pitch frames, expected 40"):
        utterances.write_utterance(tmp_path, "a", {**item, "pitch": np.zeros(39)})
    short = {k: v[: len(v) // 4] if k in ("audio", "pitch", "expression", "blink") else v for k, v in item.items()}
    with pytest.raises(InputError, match="at least 16"):
        utterances.write_utterance(tmp_path, "a", short)


def test_an_epoch_has_every_utterance_in_its_bucket() -> None:
    frames = np.random.default_rng(0).integers(16, 130, 50)
    buckets = utterances.Buckets(frames, (32, 64, 96), 4, seed=1)
    epochs = [[buckets.step(e * buckets.steps_per_epoch + k) for k in range(buckets.steps_per_epoch)] for e in (0, 1)]
    for epoch in epochs:
        assert set(np.concatenate([members for members, _ in epoch])) == set(range(50))
        for members, bound in epoch:
            lengths = np.minimum(frames[members], 96)
            assert (lengths <= bound).all() and (lengths > bound - 32).all() and len(members) == 4
    assert [m.tolist() for m, _ in epochs[0]] != [m.tolist() for m, _ in epochs[1]]


def test_batches_pad_and_mask_and_are_a_function_of_the_step(folder: str) -> None:
    data = utterances.Utterances(folder)

    def stream(first: int, process=(0, 1)):
        return utterances.batches(data, 4, (32, 64), utterances.Draws(3, 4, 2), 0, first, process)

    a, b = stream(0), stream(2)
    batches = [next(a) for _ in range(4)]
    for key, value in next(b).items():
        np.testing.assert_array_equal(value, batches[2][key])
    for key, value in next(stream(2, (1, 2))).items():
        np.testing.assert_array_equal(value, batches[2][key][2:])
    for batch in batches:
        t = batch["mask"].shape[1]
        assert batch["audio"].shape == (4, 2 * t, 8) and batch["blink"].shape == (4, 2 * t) and t in (32, 64)
        off = batch["mask"] == 0
        assert not batch["expression"][off].any() and not batch["audio"][np.repeat(off, 2, axis=1)].any()
        assert ((batch["clip_start"] + 5) <= batch["mask"].sum(1)[:, None]).all() and batch["clip_start"].min() >= 0
    assert {t for b in batches for t in [b["mask"].shape[1]]} == {32, 64}


def test_pairs_have_the_shares_and_the_shifts_of_the_original() -> None:
    pairs = sync_pairs.draw_pairs(np.random.default_rng(0), 1000, 60, 16)
    away = np.abs(pairs["mouth_start"] - pairs["audio_start"])
    together, other = pairs["label"] == 1, pairs["from_other"]
    assert together.sum() == 400 and (away[together] == 0).all() and not (together & other).any()
    near, far = away[400:700], away[700:900]
    assert set(near) == {2, 3, 4, 5} and set(far) == set(range(5, 11))
    assert other.sum() == 100 and pairs["mouth_start"][other].max() == 11
    assert (pairs["mouth_start"] - pairs["audio_start"])[400:900].min() < 0
    for name in ("audio_start", "mouth_start"):
        assert pairs[name].min() >= 0 and pairs[name].max() <= 55
    tight = sync_pairs.draw_pairs(np.random.default_rng(0), 1000, utterances.SHORTEST, 16)
    assert min(tight["audio_start"].min(), tight["mouth_start"].min()) == 0
    assert max(tight["audio_start"].max(), tight["mouth_start"].max()) == 11


def test_another_person_is_another_person(folder: str) -> None:
    data = utterances.Utterances(folder)
    owner = {tuple(data[k]["identity"]): int(data.person[k]) for k in range(len(data))}
    stream = sync_pairs.batches(data, 4, 24, 10, 0, 0)
    seen = set()
    batches = [next(stream) for _ in range(6)]
    for batch in batches:
        for mine, theirs in zip(batch["identity"], batch["other_identity"], strict=True):
            assert owner[tuple(mine)] != owner[tuple(theirs)]
            seen.add((owner[tuple(mine)], owner[tuple(theirs)]))
    assert len(seen) > 6  # of twelve ordered pairs of people
    # an epoch is ten utterances: two and a half steps of four
    ids = np.concatenate([b["identity"] for b in batches])[:20]
    assert all(len({tuple(i) for i in ids[k : k + 10]}) == 10 for k in (0, 10))
    again = next(sync_pairs.batches(data, 4, 24, 10, 0, 3, (1, 2)))
    for key, value in again.items():
        np.testing.assert_array_equal(value, batches[3][key][2:])
    data.person[:] = 0
    with pytest.raises(InputError, match="add a second person"):
        next(sync_pairs.batches(data, 4, 24, 10, 0, 0))


def test_each_synthetic_person_has_a_voice_and_blinks() -> None:
    voices = {}
    for index in range(40):
        who = speech_people.person_of((0, index, False, 12))
        assert voices.setdefault(who, index % 3) == index % 3  # `data_pipelines.speech` takes the voices in turn
    assert len(voices) == 12 and not set(voices) & {speech_people.person_of((0, k, True, 2)) for k in range(9)}
    shut = speech_people.blinks(np.random.default_rng(0), 400)
    assert 3 <= ((shut[1:] == 1) & (shut[:-1] < 1)).sum() <= 10 and shut.shape == (400,)
    with pytest.raises(InputError, match="at least 12 and 3"):
        speech_people.make(Path("nowhere"), 11, 12, 0)


# ------------------------------------------------------------------------------------------------ motion of the mesh
def test_blinks_are_found_in_their_middle(head: face.FaceModel) -> None:
    expression = np.zeros((60, 64), np.float32)
    lids = [head.unit(f"eyeBlink{side}") for side in ("Left", "Right")]
    for first in (10, 40):
        expression[first : first + 8, lids] = speech_people.BLINK[:, None]
    expression[57:, lids] = 1.0  # does not end within the clip
    code = mesh_motion.blink_code(head, np.zeros(80, np.float32), expression)
    assert code.sum() == 2
    assert all(abs(k - middle) <= 1 for k, middle in zip(np.flatnonzero(code), (13, 43), strict=True))


def test_a_wider_mouth_has_a_larger_amplitude(head: face.FaceModel) -> None:
    expression = np.zeros((20, 64), np.float32)
    shut = mesh_motion.mouth_amplitude(head, np.zeros(80, np.float32), expression)
    expression[:, head.unit("jawOpen")] = 0.5
    assert shut + 0.05 < mesh_motion.mouth_amplitude(head, np.zeros(80, np.float32), expression) < 1.5


def test_offsets_are_the_landmarks_less_the_mean_times_ten(head: face.FaceModel) -> None:
    rng = np.random.default_rng(0)
    identity, expression = rng.standard_normal((2, 80)), rng.random((2, 3, 64))
    got = mesh_motion.landmark_offsets(mesh_motion.offset_bases(head), jnp.float32(identity), jnp.float32(expression))
    mesh = face.vertices(head, identity[1].astype(np.float32), expression[1, 2].astype(np.float32))
    want = 10 * (face.landmarks(head, mesh) - face.landmarks(head, head.mean))
    np.testing.assert_allclose(got[1, 2], want.ravel(), atol=2e-4)


# ------------------------------------------------------------------------------------------------ SyncNet
def tiny_sync(folder: str) -> ConfigDict:
    config = sync_configs.get_config("smoke")
    config.model = dict(features=16, width=8, mouth_stem=8, depth=1)
    config.data = dict(folder=folder, features=8, bfm="", window=32, pairs=10)
    config.batch_size, config.learning_rate = 8, 3e-3
    return config


def test_pairs_are_cut_where_they_say(folder: str, head: face.FaceModel) -> None:
    batch = next(sync_pairs.batches(utterances.Utterances(folder), 2, 32, 10, 0, 0))
    audio, mouth, label = syncnet.pairs(batch, mesh_motion.offset_bases(head))
    assert audio.shape == (20, 10, 8) and mouth.shape == (20, 5, 1404) and label.sum() == 8
    k = batch["audio_start"][1, 9]
    np.testing.assert_array_equal(audio[19], batch["audio"][1, 2 * k : 2 * k + 10])
    bases = mesh_motion.offset_bases(head)
    for column, who in ((9, "other_"), (0, "")):
        k = batch["mouth_start"][1, column]
        whole = mesh_motion.landmark_offsets(bases, batch[f"{who}identity"], batch[f"{who}expression"])
        np.testing.assert_allclose(mouth[10 + column], whole[1, k : k + 5], atol=1e-4)


def test_syncnet_learns_what_belongs_together(folder: str) -> None:
    stage = syncnet.make(tiny_sync(folder))
    state, step = quick_jit(stage.init)(jax.random.key(0)), quick_jit(stage.step)
    evaluate = quick_jit(stage.evaluate)
    held_out = next(iter(stage.held_out()))
    before = evaluate(state, held_out)
    for k, batch in zip(range(60), stage.batches(0), strict=False):
        state, metrics = step(state, batch, jax.random.key(k))
        assert np.isfinite(float(metrics["loss"]))
    after = evaluate(state, held_out)
    assert float(after["loss"]) < 0.7 * float(before["loss"])
    assert float(after["cosine_positive"]) > float(after["cosine_negative"]) + 0.03


# ------------------------------------------------------------------------------------------------ audio-to-motion
TINY_SYNC = dict(features=8, width=4, mouth_stem=4, depth=1)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A weight file of an untrained SyncNet for eight features."""
    path = tmp_path_factory.mktemp("judge") / "syncnet.npz"
    variables = drawn(syncnet.SyncNet(**TINY_SYNC), np.zeros((1, 10, 8)), np.zeros((1, 5, 1404)))
    weights.save(path, variables, {"kind": syncnet.WEIGHTS_KIND, "model": TINY_SYNC})
    return str(path)


def tiny_paper(folder: str, judge: str) -> ConfigDict:
    config = a2m_configs.get_config("smoke")
    config.model.update(condition_width=16, width=16, encoder_layers=1, decoder_layers=1, flow_steps=1)
    config.data = dict(folder=folder, features=8, bfm="", lengths=(32, 64))
    config.batch_size, config.syncnet, config.sync_clips = 4, judge, 3
    config.learning_rate, config.warmup_steps = 1e-2, 2
    return config


def test_audio_to_motion_learns_and_leaves_the_judge_alone(folder: str, judge: str) -> None:
    stage = paper.make(tiny_paper(folder, judge))
    state, step = quick_jit(stage.init)(jax.random.key(0)), quick_jit(stage.step)
    evaluate = quick_jit(stage.evaluate)
    held_out = next(iter(stage.held_out()))
    start, before = state, evaluate(state, held_out)
    for k, batch in zip(range(30), stage.batches(0), strict=False):
        state, metrics = step(state, batch, jax.random.key(k))
        assert np.isfinite([float(v) for v in metrics.values()]).all()
    after = evaluate(state, held_out)
    for name in ("loss", "expression", "landmarks", "prior_landmarks"):
        assert float(after[name]) < 0.7 * float(before[name]), name
    same = jax.tree.map(lambda a, b: bool((a == b).all()), state.model_state["frozen"], start.model_state["frozen"])
    assert all(jax.tree.leaves(same))
    assert set(state.variables(averaged=True)) == {"params", "batch_stats"}
    assert "sync" in metrics and float(metrics["kl_weight"]) == pytest.approx(schedules.cyclic_weight(29, ramp=50))


def test_padding_is_in_no_term(folder: str, head: face.FaceModel) -> None:
    draws = utterances.Draws(3, 4, 4)
    row = utterances.padded(utterances.Utterances(folder)[1], 32, draws, np.random.default_rng(0))
    batch = {k: v[None] for k, v in row.items()}
    bases, rng = mesh_motion.offset_bases(head), np.random.default_rng(1)
    predicted = rng.random(batch["expression"].shape, np.float32)
    off = (batch["mask"] == 0)[..., None]
    assert off.any()
    other = {**batch, "expression": batch["expression"] + off * 3}
    for zero_ends in (False, True):
        before, _ = paper.motion_terms(jnp.asarray(predicted * ~off), batch, bases, zero_ends=zero_ends)
        after, _ = paper.motion_terms(jnp.asarray(predicted * ~off), other, bases, zero_ends=zero_ends)
        for name, value in before.items():
            assert value == after[name] > 0, name
    without, _ = paper.motion_terms(jnp.asarray(predicted), batch, bases)
    for name in ("expression", "landmarks", "laplacian", "size"):
        cut, _ = paper.motion_terms(jnp.asarray(predicted * ~off), batch, bases)
        np.testing.assert_allclose(without[name], cut[name], rtol=1e-5, err_msg=name)


def test_the_judge_pulls_the_lips(folder: str, judge: str, head: face.FaceModel) -> None:
    model, variables = syncnet.load(judge)
    batch = next(
        utterances.batches(utterances.Utterances(folder), 2, (32,), utterances.Draws(3, 4, 2), 0, 0)
    )  # fmt: skip
    bases = mesh_motion.offset_bases(head)

    def term(expression: jax.Array) -> jax.Array:
        offsets = mesh_motion.landmark_offsets(bases, batch["identity"], expression)
        return paper.sync_term(model, variables, offsets, batch)

    grad = np.asarray(quick_jit(jax.grad(term))(batch["expression"]))
    assert np.isfinite(grad).all() and grad.any()
    touched = np.zeros(grad.shape[:2], bool)
    for row, starts in zip(touched, batch["clip_start"], strict=True):
        for start in starts:
            row[start : start + 5] = True
    assert not grad[~touched].any() and grad[touched].any(-1).all()


def test_the_judge_is_required_and_has_to_hear_the_same(folder: str, judge: str, tmp_path) -> None:
    config = tiny_paper(folder, "")
    with pytest.raises(InputError, match=r"configs/syncnet.py.*loss.sync=0"):
        paper.make(config)
    config.loss.sync = 0.0
    assert not jax.eval_shape(paper.make(config).init, jax.random.key(0)).model_state["frozen"]
    config = tiny_paper(folder, judge)
    config.data.features = 80
    with pytest.raises(InputError, match="hears 8 features"):
        paper.make(config)
    config = tiny_paper(folder, judge)
    config.data.lengths = (30, 64)
    with pytest.raises(InputError, match="multiples of 4"):
        paper.make(config)


def test_full_configs_have_the_papers_sizes() -> None:
    config = a2m_configs.get_config("full")
    model = paper.AudioToMotion(**config.model.to_dict())
    sound = jax.ShapeDtypeStruct((1, 16, 1024), jnp.float32), jax.ShapeDtypeStruct((1, 16), jnp.float32)
    shapes = jax.eval_shape(lambda a, f: model.init(jax.random.key(0), a, f, method="everything"), *sound)
    assert round(sum(x.size for x in jax.tree.leaves(shapes["params"])) / 1e6, 2) == 11.86
    sync = sync_configs.get_config("full")
    clips = jax.ShapeDtypeStruct((1, 10, 1024), jnp.float32), jax.ShapeDtypeStruct((1, 5, 1404), jnp.float32)
    shapes = jax.eval_shape(syncnet.SyncNet(**sync.model.to_dict()).init, jax.random.key(0), *clips)
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == 10_746_144
    assert sync.batch_size * sync.data.pairs == 8192 and config.batch_size == 250
