"""Writing and reading back: timing, rotation, sound, transparency, and nothing left behind on failure."""

import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest

from r3p.errors import InputError
from r3p.photo import load_image
from r3p.video import VideoWriter, contact_sheet, probe, read_frames, side_by_side


def _flat(value: int, w: int = 64, h: int = 48) -> np.ndarray:
    return np.full((h, w, 3), value, np.uint8)


def _write(path, values, fps=25.0, size=(64, 48), **kw):
    with VideoWriter(path, size, fps, preset="ultrafast", **kw) as video:
        for v in values:
            video.write(_flat(v, *size))


def _levels(path, fps=25.0, **kw):
    return [float(f.mean()) for f in read_frames(path, fps, **kw)]


def _sound(path):
    with av.open(str(path)) as f:
        blocks = [b.to_ndarray() for b in f.decode(f.streams.audio[0])]
        return np.concatenate(blocks, -1), f.streams.audio[0].rate


def test_round_trip_keeps_frames_and_colour(tmp_path):
    path = tmp_path / "a.mp4"
    colours = np.array([[255, 0, 0], [0, 200, 0], [30, 30, 220], [128, 128, 128]], np.uint8)
    with VideoWriter(path, (64, 48), 25, crf=10) as video:
        for c in colours:
            video.write(np.broadcast_to(c, (48, 64, 3)).copy())
    frames = list(read_frames(path))
    assert len(frames) == 4 and frames[0].shape == (48, 64, 3) and frames[0].dtype == np.uint8
    for frame, colour in zip(frames, colours, strict=True):
        np.testing.assert_allclose(frame.mean((0, 1)), colour, atol=4)
    info = probe(path)
    assert (info.width, info.height, info.fps, info.has_audio) == (64, 48, 25, False)
    assert info.duration == pytest.approx(0.16, abs=0.01)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("size", [(63, 47), (64, 47), (1, 1)])
def test_odd_sizes_and_one_frame(tmp_path, size):
    path = tmp_path / "odd.mp4"
    _write(path, [90], size=size)
    frames = list(read_frames(path))
    assert len(frames) == 1 and frames[0].shape[:2] == tuple(n + n % 2 for n in size[::-1])
    assert abs(frames[0].mean() - 90) < 3


@pytest.mark.parametrize(("fps", "count"), [(50, 26), (12.5, 26), (30, 30), (Fraction(30000, 1001), 60), (25, 20)])
def test_resampling_keeps_the_clock(tmp_path, fps, count):
    path = tmp_path / "r.mp4"
    values = np.round(np.linspace(20, 230, count)).astype(int)
    _write(path, values, fps=float(fps))
    levels = _levels(path)
    assert abs(len(levels) - count / float(fps) * 25) <= 1
    # The level tells the time: at k/25 s the nearest source frame is shown.
    want = values[np.clip(np.round(np.arange(len(levels)) / 25 * float(fps)).astype(int), 0, count - 1)]
    gap = np.diff(values).max()
    np.testing.assert_allclose(levels, want, atol=gap + 3)
    assert np.abs(np.array(levels) - want).mean() < 0.6 * gap + 2


def test_variable_rate_follows_timestamps(tmp_path):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as f:
        s = f.add_stream("libx264", rate=100)
        s.width, s.height, s.pix_fmt = 64, 48, "yuv420p"
        s.codec_context.time_base = Fraction(1, 100)
        for pts, v in ((0, 20), (4, 60), (40, 120), (44, 200)):  # hundredths of a second
            frame = av.VideoFrame.from_ndarray(_flat(v), format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 100)
            f.mux(s.encode(frame))
        f.mux(s.encode(None))
    levels = np.array(_levels(path))
    np.testing.assert_allclose(levels[[0, 1, 5, 6, 10, 11]], [20, 60, 60, 120, 120, 200], atol=8)
    assert len(_levels(path, None)) == 4 and len(_levels(path, 25.0, max_frames=3)) == 3


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),  # a quarter to the right
        ((-1, 0, 0, -1), lambda a: np.rot90(a, 2)),
        ((0, -1, 1, 0), lambda a: np.rot90(a, 1)),
    ],
)
def test_rotation_metadata_is_honoured(tmp_path, matrix, turned):
    path = tmp_path / "turned.mp4"
    image = _flat(40)
    image[:10, :20] = (255, 0, 0)
    with VideoWriter(path, (64, 48), crf=10) as video:
        video.write(image)
    # The track header's display matrix, as a phone writes it: a b u c d v x y w in 16.16 and 2.30 fixed point.
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = ((v * 0x10000) & 0xFFFFFFFF for v in matrix)
    for k, v in enumerate((a, b, 0, c, d, 0, 0, 0, 0x40000000)):
        data[at + 4 * k : at + 4 * k + 4] = v.to_bytes(4, "big")
    path.write_bytes(data)
    frame = next(read_frames(path))
    want = turned(image)
    assert frame.shape == want.shape and np.abs(frame.astype(int) - want).mean() < 4
    assert (probe(path).height, probe(path).width) == want.shape[:2]


@pytest.mark.parametrize(
    ("rate", "channels", "suffix"),
    [(16000, 1, ".mp4"), (48000, 2, ".mp4"), (22222, 1, ".mp4"), (16000, 1, ".webm"), (44100, 1, ".mkv")],
)
def test_sound_is_in_step_and_ends_with_the_pictures(tmp_path, rate, channels, suffix):
    path = tmp_path / f"s{suffix}"
    wav = np.zeros((3 * rate, channels), np.float32)
    wav[rate : rate + rate // 50] = 0.8  # a click at 1 s
    _write(path, [50] * 50, audio=wav if channels == 2 else wav[:, 0], sample_rate=rate)
    sound, out_rate = _sound(path)
    assert abs(sound.shape[-1] / out_rate - 2.0) < 0.13  # two seconds of pictures, up to the codec's padding
    at = np.abs(sound[0]).argmax() / out_rate
    assert 0.97 < at < 1.08
    assert probe(path).has_audio and len(_levels(path)) == 50


def test_short_sound_is_fine(tmp_path):
    path = tmp_path / "short.mp4"
    _write(path, [50] * 25, audio=np.zeros(1600, np.float32), sample_rate=16000)
    assert len(_levels(path)) == 25


@pytest.mark.parametrize("name", ["a.webm", "a.mov", "a"])
def test_transparency(tmp_path, name):
    path = tmp_path / name
    frame = np.full((48, 64, 4), 200, np.uint8)
    frame[:, 32:, 3] = 0
    for _ in range(2):  # the second time replaces the first
        with VideoWriter(path, (64, 48), alpha=True, audio=np.zeros(3200, np.float32)) as video:
            for _ in range(2):
                video.write(frame)
    if name == "a":
        assert sorted(p.name for p in path.iterdir()) == ["000000.png", "000001.png"]
        assert (load_image(path / "000001.png")[:, 32:] == 255).all()
    else:
        decoder = "libvpx-vp9" if name == "a.webm" else None  # FFmpeg's own VP9 decoder drops alpha
        with av.open(str(path)) as f:
            stream = f.streams.video[0]
            if decoder:
                context = av.CodecContext.create(decoder, "r")
                got = next(x for p in f.demux(stream) for x in context.decode(p))
            else:
                got = next(f.decode(stream))
            alpha = got.to_ndarray(format="rgba")[..., 3]
        assert np.abs(alpha[:, :30].astype(int) - 200).max() < 6 and alpha[:, 34:].max() < 10
    assert len(list(tmp_path.iterdir())) == 1


def test_failure_leaves_nothing_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "keep.mp4"
    _write(path, [10])
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), VideoWriter(path, (64, 48), audio=np.zeros(16000)) as video:
        video.write(_flat(50))
        raise ZeroDivisionError
    with pytest.raises(InputError, match="no frame"), VideoWriter(path, (64, 48)):
        pass
    with pytest.raises(ValueError, match="expected uint8"), VideoWriter(path, (64, 48)) as video:
        video.write(_flat(1, 32, 32))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["keep.mp4"]


def test_folder_with_other_files_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    video = VideoWriter(tmp_path / "out", (64, 48), alpha=True)
    video.write(np.zeros((48, 64, 4), np.uint8))
    with pytest.raises(InputError, match="other files than PNG"):
        video.close()
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "thesis.txt"]


def test_bad_targets(tmp_path):
    for name, kw, message in (
        ("a.txt", {}, r"ends in \.mp4"),
        ("a.mp4", {"alpha": True}, "with transparency"),
        ("no/a.mp4", {}, "does not exist"),
        ("a.mp4", {"audio": np.zeros((5, 3))}, "sound of shape"),
        ("a", {}, "ends in"),
    ):
        with pytest.raises(InputError, match=message):
            VideoWriter(tmp_path / name, (64, 48), **kw)
    with pytest.raises(InputError, match="at least 1x1"):
        VideoWriter(tmp_path / "a.mp4", (0, 48))
    assert not list(tmp_path.iterdir())


def test_bad_sources(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        probe(tmp_path / "absent.mp4")
    (tmp_path / "text.mp4").write_bytes(b"no video at all" * 50)
    with pytest.raises(InputError, match="cannot be read as a video"):
        list(read_frames(tmp_path / "text.mp4"))
    with av.open(str(tmp_path / "sound.wav"), "w") as f:
        s = f.add_stream("pcm_s16le", rate=16000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        block.sample_rate = 16000
        f.mux(s.encode(block))
    with pytest.raises(InputError, match="has no pictures"):
        list(read_frames(tmp_path / "sound.wav"))
    with pytest.raises(InputError, match="frames a second"):
        list(read_frames(tmp_path / "sound.wav", 0))


def test_a_file_that_breaks_off_gives_what_it_holds(tmp_path):
    path = tmp_path / "cut.mkv"
    _write(path, [50 + k for k in range(100)])
    path.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 3])
    assert 20 < len(_levels(path)) < 100


def test_memory_does_not_grow_with_length(tmp_path):
    path = tmp_path / "long.mp4"
    tracemalloc.start()
    _write(path, (k % 200 for k in range(600)), size=(128, 128), audio=np.zeros(16000), sample_rate=16000)
    seen = sum(1 for _ in read_frames(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == 600 and peak < 6e6  # 600 frames would be 29 MB


def test_strip_and_sheet():
    strip = side_by_side([_flat(1), _flat(2, 128, 96), np.full((48, 48), 3, np.uint8)])
    assert strip.shape == (48, 64 + 64 + 48, 3)
    sheet = contact_sheet((_flat(k) for k in range(100)), columns=3, rows=2, height=24, every=10)
    assert sheet.shape == (48, 96, 3) and sheet[30, 40, 0] == 40
    assert contact_sheet([_flat(7)], height=24).shape == (24, 32, 3)
    with pytest.raises(InputError, match="at least one frame"):
        contact_sheet([])
