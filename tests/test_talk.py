"""`r3p talk` with the embedded weights: a few frames of every kind of output from one prepared portrait."""

import av
import numpy as np
import pytest

from r3p import cli, talk, video
from r3p.avatar import Avatar

FRAMES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("talk")


@pytest.fixture(scope="module")
def expression(folder):
    path = folder / "units.csv"
    lines = ["jawOpen,eyeBlinkLeft,unheardOf"] + [f"{0.2 * k},0,1" for k in range(FRAMES)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def portrait(folder, expression):
    """Prepared without adaptation: what the embedded weights alone make of the photograph."""
    path = folder / "me.r3p"
    options = ["--adapt", "0", "--save-portrait", path, "--out", folder / "first.mp4", "--blink", "none"]
    given = ["talk", "--image", talk.DEMO_PORTRAIT, "--expression", expression, *options]
    assert cli.main([str(x) for x in given]) == 0
    return path


def run(portrait, expression, out, *options):
    given = ["talk", "--portrait", portrait, "--expression", expression, "--out", out, "--blink", "none", *options]
    assert cli.main([str(x) for x in given]) == 0
    return list(video.read_frames(out))


def test_the_first_video_has_its_frames_and_says_what_it_is(portrait, folder):
    frames = list(video.read_frames(folder / "first.mp4"))
    assert len(frames) == FRAMES and frames[0].shape == (256, 256, 3) and frames[0].std() > 20
    with av.open(str(folder / "first.mp4")) as container:
        assert container.metadata["comment"] == talk.NOTICE


def test_a_saved_portrait_gives_the_same_video(portrait, expression, folder):
    again = run(portrait, expression, folder / "again.mp4")
    assert np.array_equal(again, list(video.read_frames(folder / "first.mp4")))
    assert Avatar.load(portrait).size == 256


def test_a_turned_head_before_a_colour(portrait, expression, folder):
    poses = folder / "poses.csv"
    poses.write_text("pitch,yaw,roll\n0,0,0\n0,0.1,0\n0,0.2,0\n")
    options = ("--background", "#20c040", "--pose", poses, "--sheet", folder / "sheet.png")
    frames = run(portrait, expression, folder / "turned.mp4", *options)
    corner = frames[0][:12, :12].reshape(-1, 3).mean(0)
    assert np.abs(corner - (0x20, 0xC0, 0x40)).max() < 30
    still = next(video.read_frames(folder / "first.mp4"))
    middle = slice(80, 176)
    assert np.abs(frames[0].astype(int) - still)[middle, middle].mean() > 2
    assert (folder / "sheet.png").is_file()


def test_transparency(portrait, expression, folder):
    out = folder / "alpha"
    given = ["talk", "--portrait", portrait, "--expression", expression, "--out", out, "--background", "alpha"]
    assert cli.main([str(x) for x in given]) == 0
    import cv2

    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == FRAMES
    alpha = cv2.imread(str(pictures[0]), cv2.IMREAD_UNCHANGED)[..., 3]
    assert alpha[:16, :16].mean() < 30 and alpha[140:200, 96:160].mean() > 200


def test_the_parts_side_by_side(portrait, expression, folder):
    frames = run(portrait, expression, folder / "parts.mp4", "--debug")
    assert frames[0].shape == (256, 5 * 256, 3)


def test_unknown_units_are_named(portrait, expression, folder, capsys):
    run(portrait, expression, folder / "named.mp4", "--set", "mouthSmileLeft=0.3")
    assert "unheardOf" in capsys.readouterr().out
    given = ["talk", "--portrait", portrait, "--expression", expression, "--out", folder / "n.mp4", "--set", "smile=1"]
    assert cli.main([str(x) for x in given]) == 2
    assert "there is no expression unit" in capsys.readouterr().err
    assert not (folder / "n.mp4").exists()
