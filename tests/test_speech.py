"""Speech: phones to mouth shapes, training crops, the training stage, and sound of any length to expression."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import audio2motion as configs
from data_pipelines import phonemes, sentences, speech, speech_crops
from r3p import audio, face, speech_motion
from r3p.errors import InputError
from r3p.models.audio2motion import AudioToMotion
from r3p.stages import audio2motion as stage

# Programs that run for a moment need not be optimised.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
NAMES = speech.expression_names()
TINY = dict(
    condition_width=16, latent=2, width=16, encoder_layers=1, decoder_layers=1, flow_steps=1, flow_width=8,
    flow_layers=1, kernel_size=3, pairing="stack",
)  # fmt: skip


@pytest.fixture(scope="module")
def head() -> face.FaceModel:
    return face.load_face_model()


def gaps(head: face.FaceModel, expression: np.ndarray) -> np.ndarray:
    """Signed inner-lip gap of each frame, in eye distances; the neutral face has about 0.02."""
    return expression @ stage.gap_direction(head) + float(face.lip_gap(face.landmarks(head, head.mean)))


def say(phones: list[str], seconds: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    ends = seconds * np.arange(1, len(phones) + 1)
    return phonemes.mouth_track(phones, ends, int(np.ceil(ends[-1] * phonemes.FPS)), NAMES)


@pytest.mark.parametrize("phone", phonemes.CLOSED)
@pytest.mark.parametrize("vowel", ["aa", "iy", "uw"])
def test_lips_close_on_m_b_p(head: face.FaceModel, phone: str, vowel: str) -> None:
    expression, owner = say(["pau", vowel, vowel, phone, vowel, vowel, "pau"])
    gap = gaps(head, expression)
    neutral = gaps(head, np.zeros(64))
    shut = owner == phonemes.PHONE_NAMES.index(phone)
    assert gap[shut].min() < neutral
    assert gap[owner == phonemes.PHONE_NAMES.index(vowel)].max() > neutral + 0.02


def test_silence_is_closed_and_open_vowels_are_not_yawns(head: face.FaceModel) -> None:
    expression, _ = say(["pau"] * 5 + ["aa"] * 5 + ["pau"] * 5)
    gap, jaw = gaps(head, expression), expression[:, NAMES.index("jawOpen")]
    assert np.abs(gap[[0, 1, -2, -1]] - gaps(head, np.zeros(64))).max() < 1e-3
    assert 0.25 < jaw.max() < 0.35
    # the lips lead: 0.04 s before the vowel they move already
    assert jaw[int(0.5 * phonemes.FPS) - 1] > 0.1


def test_every_phone_has_known_units_and_bounded_weights() -> None:
    for name, phone in phonemes.PHONES.items():
        for shape in phone.shapes:
            vector = phonemes.shape_vector(shape, NAMES)
            assert vector.min() >= 0 and vector.max() < 0.6, name
    with pytest.raises(InputError, match="unknown phones qq"):
        say(["qq"])
    with pytest.raises(InputError, match="rising"):
        phonemes.mouth_track(["aa", "m"], np.array([0.2, 0.1]), 5, NAMES)


def test_sentences_are_filled_and_repeatable() -> None:
    made = [sentences.sentence(np.random.default_rng(k)) for k in range(50)]
    assert made == [sentences.sentence(np.random.default_rng(k)) for k in range(50)]
    assert len(set(made)) > 45 and not any("{" in text for text in made)


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise that comes and goes four times a second."""
    t = np.arange(round(seconds * audio.RATE)) / audio.RATE
    rng = np.random.default_rng(seed)
    return (0.2 * rng.normal(size=len(t)) * (np.sin(2 * np.pi * 4 * t) > 0)).astype(np.float32)


def write_speech(folder: Path) -> str:
    """Six utterances whose jaw follows the loudness, one of them held out."""
    items = []
    for k in range(6):
        mel, pitch = audio.features(sound(2.0, k))
        expression = np.zeros((len(mel) // 2, 64), np.float16)
        expression[:, NAMES.index("jawOpen")] = 0.3 * (mel[::2].mean(1) > -1)
        items.append(
            dict(
                mel=mel.astype(np.float16), pitch=pitch, expression=expression,
                phone=np.zeros(len(expression), np.uint8), length=len(expression), voice="slt", text=str(k),
                held_out=k == 5,
            )
        )  # fmt: skip
    return str(speech.write(folder, items))


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_speech(tmp_path_factory.mktemp("speech"))


def test_crops_are_a_function_of_the_step(made_up: str) -> None:
    assert len(speech_crops.Speech(made_up, held_out=True)) == 52 == len(speech_crops.Speech(made_up)) // 5
    first = speech_crops.batches(made_up, 4, 16, 3, 0, NAMES)
    next(first)
    again = next(speech_crops.batches(made_up, 4, 16, 3, 1, NAMES))
    for key, value in next(first).items():
        np.testing.assert_array_equal(value, again[key])
    shards = [next(speech_crops.batches(made_up, 4, 16, 3, 1, NAMES, (p, 2))) for p in range(2)]
    np.testing.assert_array_equal(shards[1]["mel"], again["mel"][2:])
    blinking = again["blink"].any(1)
    lids = again["expression"][..., NAMES.index("eyeBlinkLeft")].max(1)
    assert ((lids > 0) == blinking).all()
    with pytest.raises(InputError, match="does not exist"):
        speech_crops.Speech(made_up + "x")


def test_stage_lowers_its_loss(made_up: str) -> None:
    config = configs.get_config("small_smoke")  # 30 steps of it
    config.model = {**TINY, "expression": 64}
    config.data.path, config.data.crop = made_up, 16
    config.steps, config.learning_rate, config.warmup_steps = 30, 1e-2, 2
    training = stage.make(config)
    state, step, batches = (
        jax.jit(training.init, compiler_options=QUICK)(jax.random.key(0)),
        jax.jit(training.step, compiler_options=QUICK),
        training.batches(0),
    )
    losses = []
    for k in range(30):
        state, metrics = step(state, next(batches), jax.random.key(k))
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


@pytest.fixture(scope="module")
def network() -> tuple[AudioToMotion, dict]:
    model = AudioToMotion(**TINY)
    zeros = jnp.zeros((1, 16, 80)), jnp.zeros((1, 16))
    return model, dict(
        jax.jit(lambda r: model.init(r, *zeros, method="everything"), compiler_options=QUICK)(jax.random.key(0))
    )


def test_length_and_determinism(network: tuple[AudioToMotion, dict]) -> None:
    for samples in (1, 4000, 16001):
        assert speech_motion.expression_from_speech(*network, sound(samples / 16000)).shape == (
            audio.video_frames(samples),
            64,
        )
    one, same, other = (speech_motion.expression_from_speech(*network, sound(1.5), seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert one.dtype == np.float32 and np.abs(one - other).max() > 1e-4
    with pytest.raises(InputError, match="expected"):
        speech_motion.expression_from_speech(*network, np.zeros(0, np.float32))


def test_windows_join_without_a_seam(network: tuple[AudioToMotion, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    wav = sound(10.5)
    whole = speech_motion.expression_from_speech(*network, wav, temperature=0.5)
    monkeypatch.setattr(speech_motion, "WINDOW", 128)
    pieces = speech_motion.expression_from_speech(*network, wav, temperature=0.5)
    assert len(list(speech_motion._windows(len(whole), 4))) == 4
    assert np.abs(pieces - whole).max() < 0.05 * np.abs(whole).max()


def test_silence_shuts_the_lips(network: tuple[AudioToMotion, dict]) -> None:
    wav = sound(2.0)
    wav[8000:24000] = 0
    spoken = np.abs(speech_motion.expression_from_speech(*network, wav)).max(1)
    assert spoken[18:30].max() < 1e-6 < 1e-3 < spoken[:8].min()
    assert not speech_motion.expression_from_speech(*network, np.zeros(16000, np.float32)).any()
    gate = speech_motion.silence_gate(np.repeat([0.0, -3.0, 0.0, -3.0, 0.0], [20, 8, 20, 40, 20]), 0.0)
    assert gate[10:14].max() == 0 and gate.max() == 1  # 0.16 s is no silence, 0.8 s is
    assert np.abs(np.diff(gate)).max() < 0.5


def test_embedded_network_follows_the_demo_sentence(head: face.FaceModel) -> None:
    said = json.loads((speech.HEAD_FILE.parent / "speech.json").read_text())
    wav = audio.load(speech.HEAD_FILE.parent / "speech.wav")
    seen = gaps(head, speech_motion.expression_from_speech(*speech_motion.load_default(), wav))
    phones, ends = zip(*said["phones"], strict=True)
    truth, owner = phonemes.mouth_track(phones, np.array(ends), len(seen), NAMES)
    assert np.corrcoef(seen, gaps(head, truth))[0, 1] > 0.7
    shut = np.isin(owner, [phonemes.PHONE_NAMES.index(p) for p in phonemes.CLOSED])
    assert np.median(seen[shut]) < gaps(head, np.zeros(64))
