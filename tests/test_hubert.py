"""HuBERT against the official weights' names and recorded values, and sound of any length through it in pieces."""

import functools
import json
import re
import tracemalloc

import jax
import numpy as np
import parity
import pytest
from quick import drawn, quick_jit

from benchmarks.shards import hubert_cost
from r3p import audio, convert, hubert_features
from r3p.checkpoint_files.safetensors import write_safetensors
from r3p.errors import InputError
from r3p.models.hubert import Extractor, Hubert, Position, from_config
from r3p.names.hubert import RULES
from r3p.parity.layouts import leaf

TINY = Hubert(
    width=16, layers=2, heads=2, hidden=24, conv_widths=(8,) * 7, position_kernel=6, position_groups=2, conv_bias=True
)
TINY_BASE = TINY.clone(conv_norm="group", conv_bias=False, pre_norm=False)


@functools.lru_cache(maxsize=2)
def tiny(model):
    return drawn(model, np.zeros((1, 800), np.float32))


def normalised(wave):
    return (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)


def sound(samples, seed=0):
    rng = np.random.default_rng(seed)
    return (0.05 + 0.1 * rng.standard_normal(samples)).astype(np.float32)


def empty_weights(manifest, rename=lambda name: name):
    """Official arrays of the manifest's shapes that need no memory."""
    shapes = {name: spec["shape"] for name, spec in parity.FOLDER.manifest(manifest).items()}
    return {rename(name): np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def shapes_of(model):
    return jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 800), np.float32))


def test_every_official_array_comes_back():
    official = parity.official_weights("hubert_small")
    variables = convert.to_variables(official, RULES)
    assert official.pop("masked_spec_embed") is not None
    for name, value in official.items():
        np.testing.assert_array_equal(leaf(variables, RULES, name), value, err_msg=name)
    assert len(jax.tree.leaves(variables)) == len(official)


def test_a_folder_of_transformers_is_read(tmp_path):
    with pytest.raises(InputError, match=r"config\.json beside model\.safetensors"):
        hubert_features.load(tmp_path)
    config = parity.FOLDER.case("hubert_small").meta["config"]
    official = parity.official_weights("hubert_small")
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_safetensors(tmp_path / "model.safetensors", official)
    model, variables = hubert_features.load(tmp_path)
    assert model == from_config(config)
    same = jax.tree.map(np.array_equal, variables, convert.to_variables(official, RULES))
    assert all(jax.tree.leaves(same))
    write_safetensors(tmp_path / "model.safetensors", {**official, "encoder.layer_norm.bias": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match="do not fit this network"):
        hubert_features.load(tmp_path)


def test_older_names_and_other_heads_give_the_same_weights():
    newer = parity.official_weights("hubert_small")
    endings = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    older = {f"hubert.{re.sub('|'.join(endings), lambda m: endings[m[0]], k)}": v for k, v in newer.items()}
    older |= {"lm_head.weight": np.zeros((32, 64)), "lm_head.bias": np.zeros(32)}
    same = jax.tree.map(np.array_equal, convert.to_variables(older, RULES), convert.to_variables(newer, RULES))
    assert len([k for k in older if "weight_g" in k or "weight_v" in k]) == 2
    assert all(jax.tree.leaves(same))
    with pytest.raises(InputError, match="rotary"):
        convert.to_variables({**newer, "encoder.rotary.weight": np.zeros(3)}, RULES)
    with pytest.raises(InputError, match="two official arrays"):
        convert.to_variables({**newer, "encoder.pos_conv_embed.conv.weight_g": np.zeros((1, 1, 16))}, RULES)


def test_large_has_the_official_names_and_size():
    wanted = shapes_of(Hubert())
    official = empty_weights("hubert_large")
    convert.check_against(convert.to_variables(official, RULES), wanted)
    count = sum(leaf.size for leaf in jax.tree.leaves(wanted))
    assert count == 315_437_696  # and the official 315,438,720 with the 1024 numbers that stand in for masked frames
    assert count + official["masked_spec_embed"].size == sum(a.size for a in official.values())


def test_base_is_what_an_empty_config_means():
    model = from_config({"model_type": "hubert"})
    assert (model.width, model.layers, model.conv_norm, model.pre_norm) == (768, 12, "group", False)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(model))) == 94_370_944  # + 768: the official 94,371,712
    assert (model.receptive_field, model.stride) == (400, 320)
    assert [model.frames(n) for n in (0, 399, 400, 719, 720, 320_080)] == [0, 0, 1, 1, 2, 1000]


def test_positions_with_batch_norm_have_their_names():
    def plain(name):
        return name.replace("conv.parametrizations.weight.original1", "conv.weight")

    weights = empty_weights("hubert_small", plain)
    del weights["encoder.pos_conv_embed.conv.parametrizations.weight.original0"]
    for name in ("weight", "bias", "running_mean", "running_var"):
        weights[f"encoder.pos_conv_embed.batch_norm.{name}"] = np.zeros(64, np.float32)
    weights["encoder.pos_conv_embed.batch_norm.num_batches_tracked"] = np.zeros((), np.int64)
    model = from_config({**parity.FOLDER.case("hubert_small").meta["config"], "conv_pos_batch_norm": True})
    convert.check_against(convert.to_variables(weights, RULES), shapes_of(model))
    variables = drawn(model, np.zeros((1, 800), np.float32))
    assert np.isfinite(quick_jit(model.apply)(variables, sound(1600)[None])).all()


def test_only_the_direction_of_the_stored_kernel_counts():
    position = Position(6, 2, "gelu")
    x = np.random.default_rng(0).standard_normal((2, 9, 8)).astype(np.float32)
    params = position.init(jax.random.key(0), x)["params"]
    longer = {**params, "kernel": params["kernel"] * 3}
    np.testing.assert_allclose(
        position.apply({"params": longer}, x), position.apply({"params": params}, x), rtol=1e-5, atol=1e-6
    )
    # At the start the magnitude is the kernel's own.
    norm = np.sqrt(np.square(params["kernel"]).sum((1, 2)))
    np.testing.assert_allclose(np.ravel(params["scale"]), norm, rtol=1e-6)


@pytest.mark.parametrize("model", [TINY, TINY_BASE], ids=["layer", "group"])
def test_padding_changes_nothing(model):
    variables, run = tiny(model), quick_jit(model.apply)
    lengths = [3000, 2177]
    rows = [normalised(sound(n, seed)) for seed, n in enumerate(lengths)]
    noise = np.random.default_rng(5).standard_normal((2, 3300)).astype(np.float32)
    for i, row in enumerate(rows):
        noise[i, : len(row)] = row
    together = run(variables, noise, np.array(lengths))
    for i, row in enumerate(rows):
        count = model.frames(len(row))
        np.testing.assert_allclose(together[i, :count], run(variables, row[None])[0], rtol=2e-4, atol=2e-5)
        assert not together[i, count:].any()


def original_pieces(wave, frames):
    """The original's arithmetic: whole pieces while they begin before the end, then what is left if a frame fits."""
    scaled, step = normalised(wave), frames * 320
    starts = range(0, len(wave) // step * step, step)
    cut = [scaled[s : s + step + 80] for s in starts] + [scaled[len(starts) * step :]]
    return [piece for piece in cut if len(piece) >= 400]


# Lengths around the ends of pieces of 5 frames: 1600 samples and 80 more.
@pytest.mark.parametrize("samples", [400, 1599, 1600, 1679, 1680, 1999, 2000, 3200, 3279, 3280, 4700])
def test_pieces_are_the_originals(samples):
    pieces = list(hubert_features.pieces(TINY, sound(samples), frames=5))
    wanted = original_pieces(sound(samples), 5)
    assert [len(p) for p in pieces] == [len(w) for w in wanted]
    for got, want in zip(pieces, wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    assert sum(TINY.frames(len(p)) for p in pieces) == (samples - 80) // 320


@pytest.mark.parametrize("model", [TINY, TINY_BASE], ids=["layer", "group"])
def test_every_piece_is_on_its_own(model):
    parts = list(hubert_features.extract(model, tiny(model), sound(4700), frames=5))
    run = quick_jit(model.apply)
    for got, want in zip(parts, original_pieces(sound(4700), 5), strict=True):
        np.testing.assert_allclose(got, run(tiny(model), want[None])[0], rtol=2e-4, atol=2e-5)
    assert [len(p) for p in parts] == [5, 5, 4]


def test_sound_within_a_piece_is_taken_whole():
    wave = sound(16_000)
    whole = quick_jit(TINY.apply)(tiny(TINY), normalised(wave)[None])[0]
    np.testing.assert_allclose(hubert_features.features(TINY, tiny(TINY), wave), whole, rtol=2e-4, atol=2e-5)
    # Neither level nor offset of a recording matters.
    other = hubert_features.features(TINY, tiny(TINY), 0.3 * wave - 0.2)
    np.testing.assert_allclose(other, whole, rtol=2e-3, atol=2e-4)


def test_extractor_frames_of_pieces_are_those_of_the_whole():
    extractor = Extractor((8,) * 7, TINY.conv_kernels, TINY.conv_strides, True, "layer", "gelu")
    variables, wave = {"params": tiny(TINY)["params"]["extractor"]}, sound(7000)
    run = quick_jit(lambda x: extractor.apply(variables, x)[0])
    parts = [run(p[None])[0] for p in hubert_features.pieces(TINY, wave, frames=5)]
    np.testing.assert_allclose(np.concatenate(parts), run(normalised(wave)[None])[0], rtol=1e-3, atol=1e-4)


def test_few_programs_serve_every_length(monkeypatch):
    shapes = set()

    def run(model, variables, wave, samples):
        shapes.add(wave.shape)
        return np.zeros((1, model.frames(wave.shape[1]), model.width), np.float32)

    monkeypatch.setattr(hubert_features, "_run", run)
    for samples in range(400, 700_000, 12_345):
        assert len(hubert_features.features(TINY, {}, sound(samples))) == TINY.frames(samples)
    assert len(shapes) == 5


def test_a_file_gives_what_its_samples_give(tmp_path):
    audio.save_wav(tmp_path / "a.wav", sound(9000))
    wave = audio.load(tmp_path / "a.wav")
    wanted = hubert_features.features(TINY, tiny(TINY), wave)
    assert wanted.shape == (27, 16)
    np.testing.assert_array_equal(hubert_features.features(TINY, tiny(TINY), tmp_path / "a.wav"), wanted)
    assert hubert_features.write(tmp_path / "a.npy", TINY, tiny(TINY), tmp_path / "a.wav") == wanted.shape
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), wanted)


def test_an_hour_needs_no_more_memory_than_a_minute(monkeypatch):
    def peak(seconds):
        monkeypatch.setattr(audio, "stream", lambda _: (block for _ in range(seconds // 20)))
        tracemalloc.start()
        count = sum(TINY.frames(len(piece)) for piece in hubert_features.pieces(TINY, "hour.wav"))
        assert count == 50 * seconds - 1
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    block = sound(320_000)
    assert peak(3600) < 1.5 * peak(60)


def test_statistics_do_not_cancel():
    wave = 1000 + np.random.default_rng(0).standard_normal(700_001)
    found = hubert_features.statistics(wave)
    np.testing.assert_allclose(found, (len(wave), wave.mean(), wave.var()), rtol=1e-9)


def test_nonsense_is_refused(tmp_path):
    def first(wave, **options):
        return next(hubert_features.extract(TINY, {}, wave, **options))

    with pytest.raises(InputError, match=r"399 samples.*at least 400"):
        first(sound(399))
    with pytest.raises(InputError, match=r"float32\[800, 2\].*average the channels"):
        first(np.zeros((800, 2), np.float32))
    with pytest.raises(InputError, match=r"int16\[800\].*divide"):
        first(np.zeros(800, np.int16))
    with pytest.raises(InputError, match="not finite"):
        first(np.full(800, np.nan, np.float32))
    with pytest.raises(InputError, match="pieces of 0 frames"):
        first(sound(800), frames=0)
    with pytest.raises(InputError, match="there is no file"):
        hubert_features.write(tmp_path / "a.npy", TINY, {}, tmp_path / "a.wav")
    with pytest.raises(InputError, match="399 samples"):
        hubert_features.write(tmp_path / "a.npy", TINY, {}, sound(399))
    assert not (tmp_path / "a.npy").exists()
    with pytest.raises(InputError, match="type 'wav2vec2'"):
        from_config({"model_type": "wav2vec2"})
    with pytest.raises(InputError, match="adapters"):
        from_config({"adapter_attn_dim": 16})
    with pytest.raises(InputError, match="activation is 'mish'"):
        from_config({"hidden_act": "mish"})
    with pytest.raises(InputError, match="conv_norm is 'batch'"):
        from_config({"feat_extract_norm": "batch"})
    with pytest.raises(InputError, match="equally many"):
        from_config({"conv_dim": [8, 8]})
    with pytest.raises(InputError, match="heads is 5: expected a divisor"):
        from_config({"num_attention_heads": 5})
    for wave in (np.zeros((1, 399), np.float32), np.zeros(800, np.float32), np.zeros((1, 800), np.int16)):
        with pytest.raises(InputError, match="expected floats"):
            jax.eval_shape(TINY.init, jax.random.key(0), wave)


def test_its_cost_is_measured():
    sizes = {name: getattr(TINY, name) for name in ("width", "layers", "heads", "hidden", "conv_widths")}
    assert hubert_cost(1.0, **sizes) > 0
