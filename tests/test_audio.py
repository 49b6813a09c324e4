import wave

import av
import numpy as np
import pytest

from r3p import audio
from r3p.errors import InputError


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    t = np.arange(round(seconds * audio.RATE)) / audio.RATE
    return (0.3 * sum(np.sin(2 * np.pi * hz * k * t) / k for k in (1, 2, 3))).astype(np.float32)


def write_stereo(path, left: np.ndarray, right: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(audio.RATE)
        file.writeframes(np.round(np.stack([left, right], 1) * 32767).astype("<i2").tobytes())


def test_wav_comes_back(tmp_path):
    sound = tone(200)
    audio.save_wav(tmp_path / "a.wav", sound)
    np.testing.assert_allclose(audio.load(tmp_path / "a.wav"), sound, atol=1e-4)


def test_channels_are_averaged(tmp_path):
    sound = tone(200)
    write_stereo(tmp_path / "s.wav", sound, np.zeros_like(sound))
    np.testing.assert_allclose(audio.load(tmp_path / "s.wav"), sound / 2, atol=1e-4)


def test_compressed_sound_is_read(tmp_path):
    path = tmp_path / "a.m4a"
    sound = tone(300, 1.5)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=audio.RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = audio.RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    loaded = audio.load(path)
    assert abs(len(loaded) - len(sound)) < 4096
    assert np.std(loaded) == pytest.approx(np.std(sound), rel=0.06)


@pytest.mark.parametrize("hz", [100.0, 220.0, 400.0])
def test_pitch_of_a_tone_and_of_silence(hz):
    found = audio.pitch(tone(hz))
    middle = found[10:-10]
    assert (middle > 0).all()
    np.testing.assert_allclose(middle, hz, rtol=0.02)
    assert (audio.pitch(np.zeros(audio.RATE, np.float32)) == 0).all()


@pytest.mark.parametrize("samples", [3200, 16000, 16001, 16639, 31999])
def test_features_come_in_pairs(samples):
    mel, pitch = audio.features(tone(150, 2.0)[:samples], multiple=1)
    assert len(mel) == len(pitch) == 2 * audio.video_frames(samples)
    assert mel.shape[1] == audio.BANDS


def test_the_level_of_a_recording_does_not_matter():
    rng = np.random.default_rng(0)
    sound = (tone(150, 2.0) + 0.05 * rng.normal(size=32000)) * np.repeat(rng.uniform(0.1, 1, 20), 1600)
    sound = sound.astype(np.float32)
    a, _ = audio.features(sound)
    b, _ = audio.features(0.25 * sound)
    np.testing.assert_allclose(a, b, atol=0.05)


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        audio.load(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(InputError, match="cannot be read as sound"):
        audio.load(tmp_path / "text.wav")
    audio.save_wav(tmp_path / "short.wav", np.zeros(100))
    with pytest.raises(InputError, match=r"0\.01 s of sound"):
        audio.load(tmp_path / "short.wav")


def test_silent_sound_warns_and_loads(tmp_path):
    audio.save_wav(tmp_path / "quiet.wav", np.zeros(8000))
    with pytest.warns(UserWarning, match="silent"):
        assert not audio.load(tmp_path / "quiet.wav").any()
