"""Video in and out, frame by frame: nothing here ever holds a whole clip.

Frames are RGB uint8 [h, w, 3]. FFmpeg comes inside PyAV's wheels, so no program has to be installed.
"""

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np

from r3p.errors import InputError
from r3p.photo import save_image

_BT709 = 1  # FFmpeg's number of that matrix, primaries and transfer
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
# container -> (codec, pixel format, sound codec), without and with transparency. ProRes 4444 is what editors read,
# VP9 what browsers play; H.264 has no alpha.
_OPAQUE = {
    ".mp4": ("libx264", "yuv420p", "aac"),
    ".mov": ("libx264", "yuv420p", "aac"),
    ".mkv": ("libx264", "yuv420p", "aac"),
    ".webm": ("libvpx-vp9", "yuv420p", "libopus"),
}
_ALPHA = {".mov": ("prores_ks", "yuva444p10le", "pcm_s16le"), ".webm": ("libvpx-vp9", "yuva420p", "libopus")}


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself: size upright, fps its average rate, duration in seconds (0: not known)."""

    width: int
    height: int
    fps: float
    duration: float
    rotation: int
    has_audio: bool


def _open(path: str | Path) -> Any:
    """An opened input container with a video stream, or InputError."""
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist: give the path of a video file")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as e:
        raise InputError(f"{path} cannot be read as a video ({e.strerror}): convert it to MP4") from e
    if not container.streams.video:
        container.close()
        raise InputError(f"{path} has no pictures: expected a video file")
    return container


def probe(path: str | Path) -> VideoInfo:
    """Reads the header and the first frame (its rotation stands there). Raises InputError when there is none."""
    with _open(path) as container:
        stream = container.streams.video[0]
        frame = next(_decode(container, path), None)
        if frame is None:
            raise InputError(f"{path} holds no readable frame: convert it to MP4")
        turn = int(frame.rotation) % 360
        w, h = (frame.height, frame.width) if turn in (90, 270) else (frame.width, frame.height)
        duration = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
        return VideoInfo(
            w, h, float(stream.average_rate or stream.guessed_rate or 0), duration, turn, bool(container.streams.audio)
        )


def _decode(container: Any, path: str | Path) -> Iterator[Any]:
    """Decoded frames. A file that breaks off in the middle ends there; one without any frame is told by the caller."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    count = 0
    try:
        for frame in container.decode(stream):
            count += 1
            yield frame
    except (av.error.InvalidDataError, av.error.EOFError):
        return  # a damaged tail: what was decoded is good
    except av.error.FFmpegError as e:
        raise InputError(f"{path} cannot be decoded after frame {count} ({e.strerror}): convert it to MP4") from e


def _upright(frame: Any) -> np.ndarray:
    rgb = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # quarter turns to the left
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def read_frames(
    path: str | Path, fps: float | None = 25.0, max_frames: int | None = None, *, begin: float = 0.0
) -> Iterator[np.ndarray]:
    """Upright RGB uint8 [h, w, 3] frames of a video, resampled to `fps` by their timestamps.

    For every output time the frame nearest in time is given, so a variable rate is fine; fps=None gives the frames as
    they are. begin: seconds after the first picture at which to begin, with an fps. Memory does not grow with the
    length. Raises InputError when the file cannot be read or has no frame there.
    """
    if fps is not None and not 0 < fps <= 240:
        raise InputError(f"{fps} frames a second: expected more than 0 and at most 240")
    if begin < 0 or (begin and fps is None):
        raise InputError(f"begin is {begin} with fps {fps}: expected 0 or more, and an fps")
    frames = _frames_as_stored(path) if fps is None else _resampled(path, fps, begin)
    yield from itertools.islice(frames, max_frames)


def _frames_as_stored(path: str | Path) -> Iterator[np.ndarray]:
    empty = True
    with _open(path) as container:
        for frame in _decode(container, path):
            empty = False
            yield _upright(frame)
    if empty:
        raise InputError(f"{path} holds no readable frame: convert it to MP4")


def _resampled(path: str | Path, fps: float, begin: float) -> Iterator[np.ndarray]:
    with _open(path) as container:
        stream = container.streams.video[0]
        step = 1 / float(stream.average_rate or stream.guessed_rate or 25)
        held: np.ndarray | None = None  # the frame at time `at`, not yet given for all its output times
        at = start = 0.0
        done = 0
        if begin:
            start = float((stream.start_time or 0) * stream.time_base) + begin
            container.seek(int(start / stream.time_base), stream=stream)
        for frame in _decode(container, path):
            if held is None:
                now = frame.time if frame.time is not None else start
                start = start if begin else now
            else:
                now = frame.time if frame.time is not None else at + step
                if now <= at:
                    continue  # a repeated or stepped-back timestamp has no time of its own
                # Output times nearer to the held frame than to this one are its.
                while start + done / fps < (at + now) / 2 - 1e-9:
                    yield held
                    done += 1
                step = now - at
            held, at = _upright(frame), now
        if held is None or start > at + step:
            where = f" at {begin:.2f} s" if begin else ""
            raise InputError(f"{path} holds no readable frame{where}: convert it to MP4")
        while start + done / fps < at + step / 2 - 1e-9 or done == 0:
            yield held
            done += 1


class VideoWriter:
    """Writes frames, and sound along with them, to a file that appears only when it is complete.

        with VideoWriter("out.mp4", (512, 512), 25, audio=wav, sample_rate=48000) as video:
            for frame in frames:
                video.write(frame)

    path: .mp4, .mov or .mkv is H.264 with AAC; .webm VP9 with Opus. With alpha=True frames are RGBA, and the path is
    .mov (ProRes 4444, for editors), .webm (VP9, for browsers) or a name without an ending (a folder of PNG files, no
    sound). size (w, h) is the frames'; an odd one is filled up by repeating the last row or column, since yuv420p
    needs even ones. audio: float in [-1, 1], [n] or [n, c]; it ends with the pictures. crf: lower is better and
    larger (18 looks lossless); preset: FFmpeg's speed word;
    comment: goes into the file's metadata. Leaving by an exception removes what was written.
    Raises InputError when the path does not serve.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        fps: float = 25.0,
        *,
        audio: np.ndarray | None = None,
        sample_rate: int = 16000,
        crf: int = 18,
        preset: str = "medium",
        alpha: bool = False,
        comment: str = "",
    ) -> None:
        self.path, self.size, self.alpha = Path(path), size, alpha
        self.rate = Fraction(fps).limit_denominator(1001 * 60)
        if min(size) < 1:
            raise InputError(f"a video of {size[0]}x{size[1]} pixels: expected at least 1x1")
        self.frames = 0
        self._folder = alpha and self.path.suffix == ""
        kinds = _ALPHA if alpha else _OPAQUE
        if not self._folder and self.path.suffix.lower() not in kinds:
            raise InputError(
                f"cannot write {self.path.name!r} as a video{' with transparency' if alpha else ''}: "
                f"use a name that ends in {', '.join(kinds)}"
                f"{' or in nothing (a folder of PNG files)' if alpha else ''}"
            )
        if not self.path.absolute().parent.is_dir():
            raise InputError(f"the folder {self.path.absolute().parent} does not exist: make it or choose another")
        # Beside the target, so that the final rename stays on one file system.
        self._part = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part{self.path.suffix}")
        self._container: Any = None
        try:
            if self._folder:
                self._part.mkdir()
            else:
                self._open(kinds[self.path.suffix.lower()], audio, sample_rate, crf, preset, comment)
        except (av.error.FFmpegError, OSError) as e:
            self.discard()
            raise InputError(f"cannot write {self.path} ({e.strerror}): choose another place or name") from e

    def _open(
        self,
        kind: tuple[str, str, str],
        audio: np.ndarray | None,
        sample_rate: int,
        crf: int,
        preset: str,
        comment: str,
    ) -> None:
        codec, pixels, sound = kind
        self._container = av.open(
            str(self._part),
            "w",
            options={"movflags": "faststart"} if self.path.suffix.lower() in (".mp4", ".mov") else {},
        )
        if comment:
            self._container.metadata["comment"] = comment
        options = {
            "libx264": {"crf": str(crf), "preset": preset},
            "libvpx-vp9": {"crf": str(crf), "b": "0", "row-mt": "1", "cpu-used": "4"},
            "prores_ks": {"profile": "4444"},
        }[codec]
        self._video = self._container.add_stream(codec, rate=self.rate, options=options)
        self._video.width, self._video.height = (n + n % 2 for n in self.size)
        self._video.pix_fmt = pixels
        context = self._video.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = 1
        self._audio: Any = None
        if audio is not None:
            samples = np.atleast_2d(np.asarray(audio, np.float32).T)  # [c, n]
            if samples.ndim != 2 or samples.shape[0] > 2:
                raise InputError(f"sound of shape {np.shape(audio)}: expected [n] or [n, 1 or 2]")
            rate = sample_rate if sound == "pcm_s16le" or (sound == "aac" and sample_rate in _AAC_RATES) else 48000
            self._layout = "stereo" if samples.shape[0] == 2 else "mono"
            self._audio = self._container.add_stream(sound, rate=rate, layout=self._layout)
            self._samples, self._sample_rate, self._given = np.ascontiguousarray(samples), sample_rate, 0

    def write(self, frame: np.ndarray) -> None:
        """One frame: uint8 [h, w, 3], or [h, w, 4] with alpha."""
        w, h = self.size
        if frame.shape != (h, w, 4 if self.alpha else 3) or frame.dtype != np.uint8:
            raise ValueError(f"frame {frame.dtype} {frame.shape}: expected uint8 {(h, w, 4 if self.alpha else 3)}")
        if self._folder:
            save_image(self._part / f"{self.frames:06d}.png", frame)
            self.frames += 1
            return
        if h % 2 or w % 2:
            frame = np.pad(frame, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgba" if self.alpha else "rgb24")
        picture = picture.reformat(format=self._video.pix_fmt, dst_colorspace="ITU709")
        picture.pts, picture.time_base = self.frames, 1 / self.rate
        self._container.mux(self._video.encode(picture))
        self.frames += 1
        self._write_audio()

    def _write_audio(self) -> None:
        """The sound up to the end of the pictures written so far."""
        if self._audio is None:
            return
        end = min(self._samples.shape[1], round(self.frames / self.rate * self._sample_rate))
        if end > self._given:
            block = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(self._samples[:, self._given : end]), format="fltp", layout=self._layout
            )
            block.sample_rate, block.pts, block.time_base = (
                self._sample_rate,
                self._given,
                Fraction(1, self._sample_rate),
            )
            self._container.mux(self._audio.encode(block))  # the encoder resamples where its rate is another
            self._given = end

    def close(self) -> None:
        """Finishes the file and puts it in place. Without any frame there is no video: InputError."""
        if self.frames == 0:
            self.discard()
            raise InputError(f"no frame to write to {self.path}")
        try:
            if self._container is not None:
                for stream in (self._video, self._audio):
                    if stream is not None:
                        self._container.mux(stream.encode(None))
                self._container.close()
                self._container = None
            if self._folder and self.path.is_dir():
                if any(p.suffix != ".png" for p in self.path.iterdir()):
                    raise InputError(f"{self.path} holds other files than PNG: choose another folder")
                shutil.rmtree(self.path)
            os.replace(self._part, self.path)
        except (av.error.FFmpegError, OSError) as e:
            self.discard()
            raise InputError(f"cannot finish {self.path} ({e.strerror}): is the disk full?") from e
        except InputError:
            self.discard()
            raise

    def discard(self) -> None:
        """Removes what was written so far."""
        container, self._container = self._container, None
        if container is not None:
            try:
                container.close()
            except (av.error.FFmpegError, OSError, ValueError):
                self._container = None  # an unfinished file may refuse its trailer; it goes all the same
        if self._part.is_dir():
            shutil.rmtree(self._part)
        else:
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def fit_height(image: np.ndarray, height: int) -> np.ndarray:
    """The image [h, w, 3] scaled to a height, aspect kept."""
    h, w = image.shape[:2]
    if h == height:
        return image
    size = (max(1, round(w * height / h)), height)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if height < h else cv2.INTER_CUBIC)


def side_by_side(images: Sequence[np.ndarray], height: int | None = None) -> np.ndarray:
    """[height, sum of widths, 3]: pictures in a row, scaled to one height (default: the first's). Grey is allowed."""
    height = height or images[0].shape[0]
    return np.concatenate([fit_height(i if i.ndim == 3 else np.repeat(i[..., None], 3, -1), height) for i in images], 1)


def contact_sheet(
    frames: Iterable[np.ndarray], *, columns: int = 8, rows: int = 4, height: int = 160, every: int = 1
) -> np.ndarray:
    """One picture of a clip: every n-th frame, at most columns x rows of them, reading order; the rest stays black."""
    cells = [fit_height(f, height) for f in itertools.islice(frames, 0, every * columns * rows, every)]
    if not cells:
        raise InputError("a contact sheet needs at least one frame")
    width = max(c.shape[1] for c in cells)
    lines = -(-len(cells) // columns)
    sheet = np.zeros((lines * height, min(columns, len(cells)) * width, 3), np.uint8)
    for k, cell in enumerate(cells):
        y, x = divmod(k, columns)
        sheet[y * height : (y + 1) * height, x * width : x * width + cell.shape[1]] = cell
    return sheet
