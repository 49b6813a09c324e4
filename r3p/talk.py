"""`r3p talk` and `r3p demo`: from files to a video file."""

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from r3p import audio, avatar, backdrop, compile_cache, face, fit, memory, motion, photo, video
from r3p.detect import FaceFinder, OneEuro
from r3p.errors import InputError

ASSETS = Path(__file__).parent / "assets"
DEMO_PORTRAIT, DEMO_SPEECH = ASSETS / "astronaut.jpg", ASSETS / "speech.wav"
FPS = 25
# Adaptation steps: those of the demo keep it within three minutes on two processors; a portrait of one's own is
# prepared once and may take longer, until its lips follow a driver's as the teacher's do.
DEMO_STEPS, STEPS = 170, 400
_FITTED = 0.4  # share of what a portrait learns that looks like expressions fitted to a video, when one drives it
_FROM_PHOTOGRAPH = np.array([1, 0.5], np.float32)  # of its expression, in the first frames of speech
NOTICE = "synthetic video made by r3p from one photograph"


def _parser(prog: str, text: str, example: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=prog, description=text, epilog=f"example: {example}")


def talk_parser() -> argparse.ArgumentParser:
    """The options of `r3p talk`."""
    p = _parser(
        "r3p talk",
        "A portrait and speech, or a driving video, to a talking video. Use portraits and voices of people who agreed.",
        "r3p talk --image me.jpg --audio speech.wav --out me.mp4",
    )
    who = p.add_mutually_exclusive_group(required=True)
    who.add_argument("--image", type=Path, help="photograph of one person")
    who.add_argument("--portrait", type=Path, help="portrait file of an earlier --save-portrait: no preparation again")
    p.add_argument("--audio", type=Path, help="speech (wav, mp3, m4a, mp4 ...): drives lips and jaw")
    p.add_argument("--video", type=Path, help="driving video: its expression, head motion and sound")
    p.add_argument("--expression", type=Path, help="CSV with ARKit column names: the expression, instead of --audio's")
    p.add_argument("--pose", default=None, help="static, orbit, a video, or a CSV/NPY of Euler angles and translations")
    p.add_argument(
        "--out", type=Path, required=True, help="the video to write (.mp4; .webm or .mov with --background alpha)"
    )
    p.add_argument("--background", default="keep", help="keep, an image, a colour (#rrggbb), or alpha")
    p.add_argument(
        "--set", action="append", default=[], metavar="UNIT=VALUE", help="edit a unit, e.g. mouthSmileLeft=0.3"
    )
    p.add_argument("--blink", choices=("natural", "period", "none"), default="natural")
    p.add_argument("--temperature", type=float, default=0.2, help="variety of speech motion; 0 is deterministic")
    p.add_argument("--mouth-amp", type=float, default=0.3, help="how far the mouth opens in speech (0..1)")
    p.add_argument("--exp-scale", type=float, default=1.0, help="scales the driven expression")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument(
        "--adapt",
        type=int,
        metavar="STEPS",
        help=f"adaptation steps to the photograph ({STEPS}; 0 with --weights): {DEMO_STEPS} is quicker and less exact",
    )
    p.add_argument("--save-portrait", type=Path, help="keep the prepared portrait in this file")
    p.add_argument("--weights", type=Path, help="model weights instead of the embedded default")
    p.add_argument("--face-area", type=float, default=avatar.FACE_AREA, help="share of the frame that the face fills")
    p.add_argument("--face-index", type=int, help="which face, from the left, when there are several")
    p.add_argument("--sheet", type=Path, help="also write a contact sheet (PNG)")
    p.add_argument("--debug", action="store_true", help="source, PNCC, raw, depth and result side by side")
    return p


def talk(argv: Sequence[str]) -> int:
    """`r3p talk`. Raises InputError for input that cannot be used."""
    args = talk_parser().parse_args(argv)
    _, speed = make_video(args)
    print(f"{args.out}: {1 / speed:.3g} s a frame ({speed:.3g} frames/s), peak memory {memory.peak():.1f} GiB")
    return 0


def demo(argv: Sequence[str]) -> int:
    """`r3p demo`: the embedded portrait and speech. Raises InputError when assets are missing."""
    p = _parser(
        "r3p demo", "A talking video of a public-domain portrait (NASA's Eileen Collins).", "r3p demo --out demo.mp4"
    )
    p.add_argument("--out", type=Path, default=Path("r3p_demo.mp4"))
    p.add_argument("--adapt", type=int, default=DEMO_STEPS, metavar="STEPS", help="adaptation steps to the photograph")
    p.add_argument("--report", type=Path, metavar="JSON", help="also measure the result: a JSON file and a picture")
    args = p.parse_args(argv)
    if args.report and args.report.suffix != ".json":
        raise InputError(f"--report is {args.report}: expected a name that ends in .json; the picture goes beside it")
    sheet = args.out.with_suffix(".png")
    began = time.monotonic()
    given = ["--image", str(DEMO_PORTRAIT), "--audio", str(DEMO_SPEECH), "--out", str(args.out), "--sheet", str(sheet)]
    person, speed = make_video(talk_parser().parse_args([*given, "--adapt", str(args.adapt)]))
    seconds = time.monotonic() - began
    print(f"{args.out} and {sheet} in {seconds:.0f} s, rendered at {speed:.1f} frames/s")
    if args.report:
        from r3p import report

        known = {"seconds": round(seconds, 1), "frames_per_second": round(speed, 2)}
        report.make(person, DEMO_PORTRAIT, args.out, DEMO_SPEECH.with_suffix(".json"), known).write(args.report)
        print(f"measured: {args.report} and {args.report.with_suffix('.png')}")
    return 0


# ------------------------------------------------------------------------------------------------ what drives
@dataclasses.dataclass(frozen=True)
class Drive:
    """Expression [t, 64], poses, and the sound to mux (mono 16 kHz, or None)."""

    expression: np.ndarray
    poses: motion.Poses
    sound: np.ndarray | None


def track_video(path: Path, finder: FaceFinder) -> fit.Fit:
    """Fits the head in every frame of a video at 25 fps. Raises InputError when no face is found in it."""
    points = []
    smooth = OneEuro()
    shape: tuple[int, int] | None = None
    for found in finder.track(tqdm(video.read_frames(path, FPS), desc=f"reading {path.name}", unit="frame")):
        points.append(None if found is None else smooth(found.landmarks[:, :2]))
    for frame in video.read_frames(path, FPS, 1):
        shape = frame.shape[:2]
    known = next((x for x in points if x is not None), None)
    if known is None or shape is None:
        raise InputError(f"no face found in any frame of {path}: give a video of one person who faces the camera")
    side = float(max(shape))
    blank = np.full_like(known, np.nan)
    # The fit's camera looks at the middle of a square.
    offset = (side - np.array([shape[1], shape[0]])) / 2
    stacked = np.stack([blank if x is None else (x + offset) / side for x in points])
    return fit.fit_video(face.load_face_model(), stacked)


def _has_sound(path: Path) -> bool:
    return video.probe(path).has_audio


def drive(args: argparse.Namespace, person: avatar.Avatar, finder: Callable[[], FaceFinder]) -> Drive:
    """Expression, pose and sound from what the user gave."""
    names = list(face.load_face_model().expression_names)
    fitted = track_video(args.video, finder()) if args.video else None
    sound = audio.load(args.audio) if args.audio else None
    if sound is None and args.video and _has_sound(args.video):
        sound = audio.load(args.video)
    if args.expression:
        expression, ignored = motion.read_expression(args.expression, names)
        if ignored:
            print(f"{args.expression}: columns that are no expression unit were ignored: {', '.join(ignored)}")
    elif args.audio:
        expression = speak(sound, args, person)
    elif fitted is not None:
        expression = fitted.expression
    else:
        raise InputError("nothing to drive the portrait with: give --audio, --video or --expression")
    expression = np.array(expression, np.float32) * args.exp_scale
    length = len(expression)
    if not args.video:
        closure = blink_curve(args.blink, length, args.seed)[:, None]
        lids = [names.index("eyeBlinkLeft"), names.index("eyeBlinkRight")]
        expression[:, lids] = np.maximum(expression[:, lids], closure)
    expression = motion.edit_expression(expression, args.set, names)
    return Drive(expression, poses(args, person, fitted, length, finder), sound)


def poses(
    args: argparse.Namespace,
    person: avatar.Avatar,
    fitted: fit.Fit | None,
    length: int,
    finder: Callable[[], FaceFinder],
) -> motion.Poses:
    """The head's poses: held, orbiting, or a video's or a file's motion laid on the portrait's own pose."""
    if args.pose == "static" or (args.pose is None and fitted is None):
        return motion.static(person.euler, person.trans, length)
    if args.pose == "orbit":
        return motion.orbit(person.euler, person.trans, length, fps=FPS)
    if args.pose is None:
        assert fitted is not None
        given = motion.Poses(np.asarray(fitted.euler, np.float64), np.asarray(fitted.trans, np.float64))
    elif Path(args.pose).suffix.lower() in (".csv", ".npy"):
        given = motion.read_poses(args.pose)
    else:
        tracked = track_video(Path(args.pose), finder())
        given = motion.Poses(np.asarray(tracked.euler, np.float64), np.asarray(tracked.trans, np.float64))
    laid = motion.map_to_initial(motion.hold_depth(given), person.euler, person.trans)
    return motion.repeat(laid, length)


def speak(sound: np.ndarray | None, args: argparse.Namespace, person: avatar.Avatar) -> np.ndarray:
    """Speech to expression [t, 64], out of the photograph's; what speech does not move keeps that."""
    from r3p import speech_motion

    assert sound is not None
    model, variables = speech_motion.load_default()
    spoken = speech_motion.expression_from_speech(
        model, variables, sound, temperature=args.temperature, mouth_amp=args.mouth_amp, seed=args.seed
    )
    names = list(face.load_face_model().expression_names)
    kept = np.array([n.startswith(("brow", "cheek", "eyeSquint", "eyeLook", "eyeWide")) for n in names])
    spoken = spoken + np.where(kept, person.expression, 0).astype(np.float32)
    start = spoken[: len(_FROM_PHOTOGRAPH)]
    start += _FROM_PHOTOGRAPH[: len(start), None] * (person.expression - start)
    return spoken


def blink_curve(mode: str, length: int, seed: int) -> np.ndarray:
    """How far the lids are shut, [t] in 0..1: every five seconds, at random intervals of 2 to 6 s, or never."""
    if mode == "none":
        return np.zeros(length)
    if mode == "period":
        return motion.blink_closure(length, fps=FPS, seed=seed)
    rng = np.random.default_rng(seed)
    out, at = np.zeros(length), int(rng.uniform(0.6, 2.0) * FPS)
    while at < length:
        steps = int(rng.integers(6, 10))
        u = (np.arange(steps)[: length - at] + 0.5) / steps
        out[at : at + steps] = 4 * u - 4 * u * u
        at += int(rng.uniform(2.0, 6.0) * FPS)
    return out


# ------------------------------------------------------------------------------------------------ the video
def make_video(args: argparse.Namespace) -> tuple[avatar.Avatar, float]:
    """Prepares or loads the portrait, drives it, writes the video. Nothing half-written stays behind.

    Returns the portrait and the frames rendered a second, the first of several (which compiles) left out.
    """
    compile_cache.enable()
    loaded: list[FaceFinder] = []

    def finder() -> FaceFinder:
        if not loaded:
            loaded.append(FaceFinder())
        return loaded[0]

    for path in (args.image, args.portrait, args.audio, args.video, args.expression):
        if path is not None and not path.is_file():
            raise InputError(f"there is no file {path}: check the name")
    if not (args.audio or args.video or args.expression):
        raise InputError("nothing to drive the portrait with: give --audio, --video or --expression")
    if args.adapt is None:
        args.adapt = 0 if args.weights else STEPS
    if args.adapt < 0:
        raise InputError(f"--adapt is {args.adapt}: expected 0 or more steps")
    if not args.out.absolute().parent.is_dir():
        raise InputError(f"the folder {args.out.absolute().parent} does not exist: make it or choose another")
    alpha = args.background == "alpha"
    person = avatar.Avatar.load(args.portrait) if args.portrait else _prepare(args, finder())
    if not alpha and args.background != "keep":
        person = avatar.with_background(person, _background(args.background, person.size))
    driven = drive(args, person, finder)
    move = avatar.Motion(driven.expression, driven.poses.euler, driven.poses.trans)
    if args.save_portrait and args.image:
        person.save(args.save_portrait)
    kept: list[np.ndarray] = []
    every = max(1, len(move.expression) // 24)
    size = (person.size * (5 if args.debug else 1), person.size)
    memory.keep_freed()
    began = time.monotonic()
    with video.VideoWriter(args.out, size, FPS, audio=driven.sound, alpha=alpha, comment=NOTICE) as writer:
        for t, frame in enumerate(
            tqdm(avatar.frames(person, move), total=len(move.expression), desc="rendering", unit="frame")
        ):
            shown = _debug_strip(person, frame) if args.debug else frame.image
            writer.write(_with_alpha(shown, frame.person) if alpha else shown)
            if t == 0 and len(move.expression) > 1:
                began = time.monotonic()
            if args.sheet and t % every == 0:
                kept.append(frame.image)
        speed = max(len(move.expression) - 1, 1) / max(time.monotonic() - began, 1e-9)
    if args.sheet:
        photo.save_image(args.sheet, video.contact_sheet(kept, columns=6, rows=4, height=256))
    return person, speed


def _prepare(args: argparse.Namespace, finder: FaceFinder) -> avatar.Avatar:
    image = photo.load_image(args.image)
    print(
        f"preparing {args.image.name}: finding the face, then learning it ({args.adapt} steps; compiling comes first)"
    )
    with tqdm(total=args.adapt, desc="adapting", unit="step") as bar:

        def progress(step: int, metrics: dict[str, float]) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(psnr=f"{metrics['psnr']:.1f} dB")

        return avatar.prepare(
            image, steps=args.adapt, name=str(args.image), model_path=args.weights, finder=finder,
            face_area=args.face_area, face_index=args.face_index, seed=args.seed, progress=progress,
            spread=_FITTED if args.video else 0.0,
        )  # fmt: skip


def _background(text: str, size: int) -> np.ndarray:
    colour = backdrop.parse_colour(text)
    if colour is not None:
        return np.full((size, size, 3), colour, np.uint8)
    return backdrop.fit_background(photo.load_image(text), (size, size))


def _with_alpha(image: np.ndarray, person: np.ndarray) -> np.ndarray:
    mask = cv2.resize(person, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.concatenate([image, np.round(np.clip(mask, 0, 1) * 255).astype(np.uint8)[..., None]], -1)


def _debug_strip(person: avatar.Avatar, frame: avatar.Frame) -> np.ndarray:
    low, high = np.percentile(frame.depth, (2, 98))
    near = np.clip(1 - (frame.depth - low) / max(high - low, 1e-6), 0, 1)
    depth = cv2.applyColorMap(np.round(near * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return video.side_by_side([person.source, frame.pncc, frame.raw, depth, frame.image], person.size)
