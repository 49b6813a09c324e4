"""The doctor names what is broken and the command that mends it."""

import json

import pytest

from r3p import cli, doctor


def test_a_whole_installation_is_whole(capsys):
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "nothing that is needed is broken" in said and "sha256" in said
    assert "would enable FID and KID" in said


def test_missing_files_are_broken_and_have_a_fix(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("R3P_CACHE", str(tmp_path))
    assert doctor.main(["--json"]) == 1
    found = {f["name"]: f for f in json.loads(capsys.readouterr().out)}
    assert found["vgg16.npz"]["state"] == "broken"
    assert found["vgg16.npz"]["fix"].startswith("r3p assets --only lpips")
    assert found["head.npz"]["state"] == "ok"


@pytest.mark.parametrize(("module", "word"), [("no_such_module_of_ours", "does not import"), ("json", "")])
def test_a_package_that_does_not_import(module, word, monkeypatch):
    monkeypatch.setattr(doctor, "_PACKAGES", {"numpy": module})
    (finding,) = [f for f in doctor._versions() if f.name == "numpy"]
    assert (finding.state == "broken") == bool(word) and word in finding.text
