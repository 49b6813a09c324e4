"""The front door: help, and one clear sentence with status 2 for what cannot be used."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from r3p import cli, talk

PORTRAIT = str(talk.DEMO_PORTRAIT)


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_the_list_of_commands_does_not_wait_for_jax():
    code = (
        "import sys; from r3p import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--image", "none.jpg", "--audio", PORTRAIT], "there is no file none.jpg"),
        (["--image", PORTRAIT], "nothing to drive the portrait with"),
        (["--image", PORTRAIT, "--audio", PORTRAIT, "--adapt", "-1"], "--adapt is -1"),
        (["--portrait", PORTRAIT, "--audio", PORTRAIT], "is not a portrait file"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(arguments, sentence, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    assert cli.main(["talk", *arguments, "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert "Traceback" not in message
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path, capsys):
    assert cli.main(["talk", "--image", PORTRAIT, "--audio", PORTRAIT, "--out", str(tmp_path / "no" / "o.mp4")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["natural", "period", "none"])
def test_blinks_are_curves_in_range(mode):
    curve = talk.blink_curve(mode, 300, seed=3)
    assert curve.shape == (300,)
    assert 0 <= curve.min() <= curve.max() <= 1
    assert (curve.max() > 0.9) == (mode != "none")
    np.testing.assert_array_equal(curve, talk.blink_curve(mode, 300, seed=3))


def test_the_demo_portrait_is_shipped():
    assert Path(PORTRAIT).is_file()
