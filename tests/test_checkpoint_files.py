"""Foreign checkpoints: what PyTorch wrote (see make_checkpoints.py), what nobody should open, and what we write."""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from r3p.checkpoint_files import opened, read_arrays
from r3p.checkpoint_files.pytorch import MAGIC
from r3p.checkpoint_files.safetensors import write_safetensors
from r3p.checkpoint_files.write import write_torch
from r3p.errors import InputError

FOLDER = Path(__file__).parent / "data" / "checkpoints"
BASE = np.arange(12, dtype=np.float32).reshape(3, 4)
WANTED = {
    "weight": BASE,
    "transposed": BASE.T,
    "column": BASE[:, 1],
    "part": BASE[1:, ::2],
    "half": np.array([1.5, -2], np.float16),
    "bfloat16": np.array([1.5, -2], ml_dtypes.bfloat16),
    "double": np.array([[1e-300]]),
    "count": np.array(7),
    "bytes": np.array([1, 255], np.uint8),
    "flags": np.array([True, False]),
    "complex": np.array([1 + 2j], np.complex64),
    "empty": np.zeros((0, 3), np.float32),
}


def check_equal(got, wanted):
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype, name
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.parametrize("name", ["zip.ckpt", "legacy.ckpt"])
def test_what_pytorch_wrote_is_read(name):
    with opened(FOLDER / name) as file:
        model = {k.removeprefix("state_dict.model."): v for k, v in file.arrays.items() if ".model." in k}
        assert {k: v.shape for k, v in model.items()} == {k: v.shape for k, v in WANTED.items()}  # before values
        assert file.tree["global_step"] == 1200 and file.tree["checkpoint_callback_best"] is None
        assert file.tree["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-3
        got = {k: v.read() for k, v in model.items()}
    check_equal(got, WANTED)
    assert np.shares_memory(got["weight"], got["part"])  # one storage, read once
    everything = read_arrays(FOLDER / name)
    np.testing.assert_array_equal(everything["state_dict.disc.weight"], BASE[:1])
    np.testing.assert_allclose(everything["optimizer_states.0.state.0.exp_avg"], 0.1)


def test_networks_of_a_pickle_are_read_without_their_code():
    got = read_arrays(FOLDER / "networks.pkl")  # the source in it would end this process
    weight, kernel = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float32)
    check_equal(got, {"G_ema.net.0.weight": weight, "G_ema.net.0.filter": kernel})


def safetensors(entries, data, size=None):
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def test_safetensors_are_written_as_they_are_read(tmp_path):
    wanted = {k: v for k, v in WANTED.items() if k != "complex"}
    write_safetensors(tmp_path / "a.safetensors", wanted)
    check_equal(read_arrays(tmp_path / "a.safetensors"), wanted)
    with pytest.raises(InputError, match="complex is of type complex64"):
        write_safetensors(tmp_path / "b.safetensors", WANTED)


def test_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    half = np.array([1, -2], ml_dtypes.bfloat16)
    entries = {
        "__metadata__": {"format": "pt"},
        "a.weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
        "b": {"dtype": "BF16", "shape": [2], "data_offsets": [48, 52]},
        "c": {"dtype": "I64", "shape": [], "data_offsets": [52, 60]},
    }
    data = BASE.tobytes() + half.tobytes() + np.int64(-5).tobytes()
    path.write_bytes(safetensors(entries, data))
    check_equal(read_arrays(path), {"a.weight": BASE, "b": half, "c": np.array(-5)})

    path.write_bytes(safetensors(entries, data[:-1]))
    with pytest.raises(InputError, match=r"for c of shape \(\)"):
        read_arrays(path)
    for changed, sentence in (
        ({"shape": [2**40]}, "bytes 0 to 48"),
        ({"shape": [-3, -4]}, "natural"),
        ({"dtype": "F4"}, "not known"),
        ({"data_offsets": [20, 68]}, "bytes 20 to 68|over another"),
    ):
        path.write_bytes(safetensors(entries | {"a.weight": entries["a.weight"] | changed}, data))
        with pytest.raises(InputError, match=sentence):
            read_arrays(path)
    path.write_bytes(safetensors(entries, data).replace(b'"c"', b'"b"'))
    with pytest.raises(InputError, match="twice"):
        read_arrays(path)
    path.write_bytes(safetensors(entries, data, size=2**60))
    with pytest.raises(InputError, match="layout is not known"):
        read_arrays(path)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a.pt"
    tree = {"state_dict": {"model": WANTED}, "step": 10**12, "about": "ü", "negative": -1, "flag": True}
    write_torch(path, tree)
    with opened(path) as file:
        got = {k.removeprefix("state_dict.model."): v.read() for k, v in file.arrays.items()}
        assert {k: v for k, v in file.tree.items() if k != "state_dict"} == {k: tree[k] for k in list(tree)[1:]}
    check_equal(got, WANTED)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names[0] == "archive/data.pkl" and archive.read("archive/byteorder") == b"little"
        for info in archive.infolist():  # where PyTorch wants values
            assert (info.header_offset + 30 + len(info.filename) + len(info.extra)) % 64 == 0
    first = path.read_bytes()
    write_torch(path, tree)
    assert path.read_bytes() == first
    with pytest.raises(InputError, match="a/b is of type uint16"):
        write_torch(tmp_path / "b.pt", {"a": {"b": np.zeros(2, np.uint16)}})
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


# ------------------------------------------------------------------------------------------------ hostile files
class Runs:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


HOSTILE = {
    "system": (pickle.dumps({"a": Runs(os.system, ("touch ran",))}), r"posix\.system"),
    "nested": (pickle.dumps([Runs(Runs, (Runs(eval, ("open('ran', 'w')",)),))]), r"Runs|builtins\.eval"),
    "eval": (b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", r"builtins\.eval"),
    "getattr": (b"\x80\x02cbuiltins\ngetattr\n.", r"builtins\.getattr"),
    "python2": (b"\x80\x02c__builtin__\neval\n.", r"builtins\.eval"),
    "stack global": (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"os\.system"),
    "instance": (b"(S'1'\nios\nsystem\n.", r"os\.system"),
    "object": (b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x001o.", r"os\.system"),
    "copyreg": (b"\x80\x02ccopyreg\n_reconstructor\n(cos\nsystem\nNNtR.", r"copyreg\._reconstructor"),
    "add extension": (b"\x80\x02ccopyreg\nadd_extension\n.", r"copyreg\.add_extension"),
    "extension": (b"\x80\x02\x82\x01.", "EXT1"),
    "dotted": (b"\x80\x04\x8c\x0bcollections\x8c\x19OrderedDict.__init__.__ge\x93.", "OrderedDict.__init__"),
    "calls an array": (b"\x80\x02}(X\x01\x00\x00\x00aK\x01u)R.", "calls a dict"),
    "calls text": (b"\x80\x02X\x02\x00\x00\x00os)R.", "calls a str"),
    "calls a type": (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls a _StorageType"),
    "poisons": (b"\x80\x02ccollections\nOrderedDict\n}b.", "gives a state to a Global"),
    "deep key": (b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"K\x01s.", "tuple as a key"),
    "deep list": (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "nests its containers"),
    "endless": (b"\x80\x02]q\x00h\x00a.", "nests its containers"),
    "laughs": (
        b"\x80\x02]q\x00" + b"".join(b"](" + b"h" + bytes([i]) * 1 + (b"h" + bytes([i])) * 9 + b"eq"
                                     + bytes([i + 1]) for i in range(12)) + b".",
        "entries",
    ),
    "no end": (b"\x80\x02]", "STOP"),
    "underflow": (b"\x80\x02R.", "cannot be read"),
    "memo": (b"\x80\x02h\x07.", "cannot be read"),
    "long text": (b"\x80\x02X\xff\xff\xff\xff.", "cannot be read"),
    "outside": (b"\x80\x02X\x01\x00\x00\x00aQ.", "outside of it|refers to"),
}  # fmt: skip


def as_zip(path, data, **members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
        for name, content in members.items():
            archive.writestr(f"a/data/{name}", content)


@pytest.mark.parametrize("layout", ["zip", "legacy", "networks"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_by_name(name, layout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, sentence = HOSTILE[name]
    path = tmp_path / "a.ckpt"
    if layout == "zip":
        as_zip(path, data)
    elif layout == "legacy":
        head = [MAGIC, 1001, {"little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(x, 2) for x in head) + data + pickle.dumps([], 2))
    else:
        if not data.startswith(b"\x80"):
            data = b"\x80\x02" + data
        path.write_bytes(data)
    with pytest.raises(InputError, match=sentence):
        read_arrays(path)
    assert not (tmp_path / "ran").exists()


def tensor(offset="K\x00", shape=b"K\x02\x85", strides=b"K\x01\x85", count=b"K\x02", key=b"X\x01\x00\x00\x000"):
    """A zip checkpoint's pickle of one tensor of two values."""
    offset = offset.encode() if isinstance(offset, str) else offset
    return (
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        + key + b"X\x03\x00\x00\x00cpu" + count + b"tQ" + offset + shape + strides
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip


TWO = np.array([1, 2], np.float32)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(offset="K\x01"), "in a storage of 2 values"),
        (dict(strides=b"K\x02\x85"), "in a storage of 2 values"),
        (dict(shape=b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85", strides=b"K\x00\x85"), "expanded"),
        (dict(shape=b"J\xff\xff\xff\xff\x85"), "not readable"),
        (dict(strides=b"J\xff\xff\xff\xff\x85"), "not readable"),
        (dict(shape=b"G\x40\x00\x00\x00\x00\x00\x00\x00\x85"), "not readable"),
        (dict(count=b"K\x03"), "has 8 bytes instead of 12"),
        (dict(count=b"\x8a\x06\x00\x00\x00\x00\x00\x01"), "has 8 bytes instead of"),
        (dict(key=b"X\x01\x00\x00\x001"), "storage 1 has no bytes"),
        (dict(key=b"X\x04\x00\x00\x00../0"), r"storage \.\./0 has no bytes"),
        (dict(key=b"]"), "in a way that no"),
    ],
)
def test_tensors_beyond_their_storage_are_refused(changes, sentence, tmp_path):
    path = tmp_path / "a.ckpt"
    as_zip(path, tensor(), **{"0": TWO.tobytes()})
    np.testing.assert_array_equal(read_arrays(path)["a"], TWO)
    as_zip(path, tensor(**changes), **{"0": TWO.tobytes()})
    with pytest.raises(InputError, match=sentence):
        read_arrays(path)


def test_big_endian_values(tmp_path):
    path = tmp_path / "a.ckpt"
    as_zip(path, tensor(), **{"0": TWO.astype(">f4").tobytes()})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/byteorder", "big")
    np.testing.assert_array_equal(read_arrays(path)["a"], TWO)


@pytest.mark.parametrize("name", ["zip.ckpt", "legacy.ckpt", "networks.pkl"])
def test_every_cut_is_noticed(name, tmp_path):
    path = tmp_path / name
    data = (FOLDER / name).read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut off|damaged|fetch it again|cannot be read|layout is not known"):
            read_arrays(path)


def test_a_changed_value_is_noticed(tmp_path):
    data = (FOLDER / "zip.ckpt").read_bytes()
    path = tmp_path / "a.ckpt"
    assert data.count(BASE.tobytes()) == 1
    path.write_bytes(data.replace(BASE.tobytes(), (BASE + 1).tobytes()))
    with pytest.raises(InputError, match="is damaged"):
        read_arrays(path)


@pytest.mark.parametrize("member", ["../a/data/1", "/etc/x", "a/../../x", "C:/x", "..\\x"])
def test_members_outside_of_the_archive_are_refused(member, tmp_path):
    path = tmp_path / "a.ckpt"
    as_zip(path, tensor(), **{"0": TWO.tobytes()})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, "x")
    with pytest.raises(InputError, match="outside of it"):
        read_arrays(path)


def test_bombs_are_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + b"N" * 10_000_000 + b".")
    with pytest.raises(InputError, match="compressed or encrypted"):
        read_arrays(path)
    # A stored member that claims a terabyte, and members laid over each other.
    as_zip(path, tensor(), **{"0": TWO.tobytes()})
    whole = path.read_bytes()
    at = whole.rindex(b"PK\x01\x02")
    path.write_bytes(whole[: at + 20] + struct.pack("<II", 2**31, 2**31) + whole[at + 28 :])
    with pytest.raises(InputError, match="claims 2147483648 bytes"):
        read_arrays(path)
    path.write_bytes(whole[: at + 42] + bytes(4) + whole[at + 46 :])
    with pytest.raises(InputError, match="more than the file holds"):
        read_arrays(path)
    with pytest.warns(UserWarning, match="Duplicate"):
        as_zip(path, tensor(), **{"0": TWO.tobytes()})
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("a/data/0", b"x")
    with pytest.raises(InputError, match="two members"):
        read_arrays(path)


def test_other_files_are_named(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(InputError, match="cannot be read"):
        read_arrays(path)
    for data, sentence in (
        (b"", "is empty"),
        (b"hello", "layout is not known"),
        (b"x" * 257 + b"ustar" + b"x" * 300, "tar archive"),
        (b"\x80\x02}.", "no arrays"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=sentence):
            read_arrays(path)
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(2))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="no checkpoint of PyTorch"):
        read_arrays(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/data.pkl", "a/constants.pkl", "a/code/x.py"):
            archive.writestr(name, "x")
    with pytest.raises(InputError, match="TorchScript"):
        read_arrays(path)
    shutil.copy(FOLDER / "zip.ckpt", path)  # the name does not matter
    assert read_arrays(path)


def test_arrays_of_numpy_in_a_checkpoint(tmp_path):
    path = tmp_path / "a.ckpt"
    for protocol in (2, 4):
        as_zip(path, pickle.dumps({"a": BASE, "best": np.float64(0.5), "set": {1}, "raw": b"\xff"}, protocol))
        with opened(path) as file:
            assert file.tree["best"] == 0.5 and file.tree["set"] == {1} and file.tree["raw"] == b"\xff"
            check_equal({k: v.read() for k, v in file.arrays.items()}, {"a": BASE})
