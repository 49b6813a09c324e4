"""Files of `torch.save`: the zip layout (since 1.6) and the older stream of pickles; and EG3D's pickled networks.

A tensor is a view of a storage: its pickle names the storage, an offset, sizes and strides. Values are read when they
are asked for, from a file whose every size was checked against its length before.
"""

import io
import mmap
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import IO, Any

import ml_dtypes
import numpy as np

from r3p.checkpoint_files import arrays
from r3p.checkpoint_files.inert import Admitted, Instance, Name, StandIn, interpret
from r3p.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C  # of the older layout
_PROTOCOL = 1001
DTYPES = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint64": np.dtype("<u8"),
    "uint32": np.dtype("<u4"),
    "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
    "complex64": np.dtype("<c8"),
    "complex128": np.dtype("<c16"),
}
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}


class _StorageType:
    """A storage class; without type of its own, it counts bytes."""

    def __init__(self, dtype: np.dtype | None) -> None:
        self.dtype = dtype


@dataclass(eq=False)
class _Bytes:
    """The bytes of one storage, read once; `read` is set when it is known where they are."""

    size: int
    read: Callable[[], bytes] | None = None
    big_endian: bool = False

    @cached_property
    def data(self) -> bytes:
        if self.read is None:
            raise InputError("the file names a tensor's values but does not hold them: it is cut off")
        data = self.read()
        if len(data) != self.size:
            raise InputError(f"the file holds {len(data)} bytes where {self.size} are needed: it is cut off")
        return data


@dataclass(eq=False)
class _Storage(StandIn):
    dtype: np.dtype | None
    of: _Bytes
    start: int = 0  # in bytes

    def build(self, state: Any) -> None:
        pass


def _natural(*numbers: Any) -> bool:
    return all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**62 for n in numbers)


@dataclass(eq=False)
class Tensor(StandIn):
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements, like `offset`
    dtype: np.dtype

    def build(self, state: Any) -> None:
        """Attributes that Python code gave a tensor are let go."""

    def read(self) -> np.ndarray:
        """The values, a read-only view of the storage where the file's byte order allows it."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        data: Any = self.storage.of.data
        if self.storage.of.big_endian:
            parts = 2 if self.dtype.kind == "c" else 1
            data = np.frombuffer(data, f"u{self.dtype.itemsize // parts}").byteswap().data.cast("B")
        start = self.storage.start + self.offset * self.dtype.itemsize
        span = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        flat = np.frombuffer(data, self.dtype, span, start)
        strides = [s * self.dtype.itemsize for s in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any, dtype: Any = None) -> Tensor:
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise InputError("the pickle holds a tensor that is no view of a storage: it is damaged")
    dtype = storage.dtype if dtype is None else dtype
    if not isinstance(dtype, np.dtype) or not _natural(offset, *shape, *strides) or len(shape) != len(strides):
        raise InputError(f"the pickle holds a tensor of shape {shape}, strides {strides}, type {dtype}: not readable")
    count = (storage.of.size - storage.start) // dtype.itemsize
    total, last = 1, offset
    for n, s in zip(shape, strides, strict=True):
        total, last = total * n, last + (n - 1) * s
    # `total` too: a value repeated by strides of zero could claim any amount of memory.
    if total and (last >= count or total > count):
        raise InputError(
            f"the pickle holds a tensor of shape {shape}, strides {strides} and offset {offset} in a storage of "
            f"{count} values: it is damaged, or an expanded tensor, which has to be saved as a copy"
        )
    return Tensor(storage, offset, shape, strides, dtype)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    return _tensor(storage, offset, shape, strides, dtype=dtype)


def _parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise InputError(f"the pickle holds a parameter that is a {type(data).__name__}: it is damaged")
    return data


def _size(items: Any = ()) -> tuple[int, ...]:
    return tuple(items)


def _mapping(items: Any = ()) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    for pair in items:
        k, value = pair
        out[arrays.key(k)] = value
    return out


_CALLS: dict[Name, Callable[..., Any]] = {
    **arrays.CALLS,
    ("collections", "OrderedDict"): _mapping,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "Size"): _size,
    ("torch", "device"): lambda *parts: ":".join(map(str, parts)),
}
_VALUES = {
    **arrays.VALUES,
    **{("torch", name): _StorageType(DTYPES[dtype]) for name, dtype in STORAGES.items()},
    **{(module, "UntypedStorage"): _StorageType(None) for module in ("torch", "torch.storage")},
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


def _reference(given: Any, kind: str) -> tuple[Any, str, int, Any]:
    """Storage type, key, number of bytes and what follows of a persistent id."""
    if not isinstance(given, tuple) or len(given) < 5 or given[0] != "storage":
        raise InputError(f"the pickle refers to {str(given)[:60]!r}: a {kind} refers to storages alone")
    _, of, key, _, count, *rest = given
    if not isinstance(of, _StorageType) or not isinstance(key, str | int) or not _natural(count):
        raise InputError(f"the pickle refers to a storage in a way that no {kind} does: it is damaged")
    return of, str(key), count * (1 if of.dtype is None else of.dtype.itemsize), rest


# ------------------------------------------------------------------------------------------------ zip layout
def check_members(archive: zipfile.ZipFile, length: int) -> None:
    """Refuses an archive whose members lie outside of it, overlap, or claim more than the file has."""
    names = set()
    end = length
    for info in sorted(archive.infolist(), key=lambda i: i.header_offset, reverse=True):
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise InputError(f"the archive has a member {info.filename!r}, outside of it: do not trust this file")
        if info.filename in names:
            raise InputError(f"the archive has two members {info.filename!r}: do not trust this file")
        names.add(info.filename)
        if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise InputError(
                f"the archive's member {info.filename} is compressed or encrypted ({info.compress_size} bytes for "
                f"{info.file_size}), which PyTorch never writes: store it without compression"
            )
        if info.header_offset + 30 + len(info.filename) + info.compress_size > end:
            raise InputError(
                f"the archive's member {info.filename} claims {info.file_size} bytes, more than the file holds: "
                "it is damaged; fetch it again"
            )
        end = info.header_offset


def read_zip(file: IO[bytes], length: int) -> Any:
    """The tree of a zip checkpoint; its tensors read from `file` later."""
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # a broken archive may raise nearly anything
        raise InputError(f"the archive is cut off or damaged ({error}): fetch it again") from None
    check_members(archive, length)
    members = {info.filename: info for info in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) != 1 or any(name.endswith("/constants.pkl") for name in members):
        what = "a TorchScript program" if any("/code/" in name for name in members) else "no checkpoint of PyTorch"
        raise InputError(f"the archive is {what}: expected a file of torch.save")
    (root,) = roots

    def member(name: str) -> bytes:
        try:
            return archive.read(members[root + name])
        except KeyError:
            raise InputError(f"the archive has no member {root + name}: it is damaged; fetch it again") from None
        except Exception as error:
            raise InputError(f"the archive's member {root + name} is damaged ({error}): fetch it again") from None

    big = root + "byteorder" in members and member("byteorder") == b"big"
    known: dict[str, _Bytes] = {}

    def storage(given: Any) -> _Storage:
        of, key, size, _ = _reference(given, "zip checkpoint")
        info = members.get(f"{root}data/{key}")
        if info is None or info.file_size != size:
            raise InputError(
                f"the archive's storage {key} has {'no' if info is None else info.file_size} bytes instead of {size}: "
                "it is damaged; fetch it again"
            )
        data = known.setdefault(key, _Bytes(size, lambda: member(f"data/{key}"), big))
        return _Storage(of.dtype, data)

    return interpret(io.BytesIO(member("data.pkl")), Admitted(_CALLS, _VALUES, persistent=storage))


# ------------------------------------------------------------------------------------------------ older layout
def is_legacy(head: bytes) -> bool:
    """Whether a file that begins so is of the older layout."""
    return head[:2] == b"\x80\x02" and head[2:14] == b"\x8a\x0a" + MAGIC.to_bytes(10, "little")


def read_legacy(stream: mmap.mmap | io.BytesIO, length: int) -> Any:
    """The tree of a checkpoint in the older layout; its tensors read from `stream` later."""
    plain = Admitted()
    if interpret(stream, plain) != MAGIC or interpret(stream, plain) != _PROTOCOL:
        raise InputError(f"the file is no checkpoint of PyTorch of protocol {_PROTOCOL}: save it with a newer version")
    system = interpret(stream, plain)
    big = isinstance(system, dict) and system.get("little_endian") is False
    known: dict[str, tuple[_Bytes, int]] = {}

    def storage(given: Any) -> _Storage:
        of, key, size, rest = _reference(given, "checkpoint")
        width = 1 if of.dtype is None else of.dtype.itemsize
        data, expected = known.setdefault(key, (_Bytes(size, big_endian=big), width))
        if expected != width or data.size != size or size > length:
            raise InputError(f"the file gives storage {key} {size} and {data.size} bytes: it is damaged or cut off")
        start = 0
        if rest and rest[0] is not None:  # a view of the storage
            _, offset, count = rest[0]
            if not _natural(offset, count) or (offset + count) * width > size:
                raise InputError(f"the file views storage {key} beyond its end: it is damaged")
            start = offset * width
        return _Storage(of.dtype, data, start)

    tree = interpret(stream, Admitted(_CALLS, _VALUES, persistent=storage))
    keys = interpret(stream, plain)
    if not isinstance(keys, list) or {str(k) for k in keys} != known.keys() or len(keys) != len(known):
        raise InputError("the file lists other storages than its tensors use: it is damaged")
    for key in map(str, keys):
        data, width = known[key]
        count = stream.read(8)
        order = ">" if big else "<"
        if len(count) != 8 or struct.unpack(order + "q", count)[0] * width != data.size:
            raise InputError(f"the file ends, or is damaged, before storage {key}: fetch it again")
        start = stream.tell()
        if start + data.size > length:
            raise InputError(f"the file ends within storage {key} of {data.size} bytes: it is cut off; fetch it again")

        def piece(start: int = start, size: int = data.size) -> bytes:
            stream.seek(start)
            return stream.read(size)

        data.read = piece
        stream.seek(start + data.size)
    return tree


# ------------------------------------------------------------------------------------------------ EG3D
def _from_bytes(data: Any) -> _Storage:
    """A storage that was saved into bytes of its own."""
    if not isinstance(data, bytes):
        raise InputError("the pickle holds a storage that is no bytes: it is damaged")
    read = read_legacy if is_legacy(data[:14]) else read_zip
    out = read(io.BytesIO(data), len(data))
    if not isinstance(out, _Storage):
        raise InputError(f"the pickle holds a {type(out).__name__} as a storage: it is damaged")
    return out


def _persistent_object(meta: Any) -> Instance:
    """An object that was pickled with the source of its class; the source is dropped unread."""
    meta = meta.entries if isinstance(meta, Instance) else meta
    if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
        raise InputError("the pickle holds a network without its state: it is no file of EG3D")
    return Instance(str(meta.get("class_name")), state=meta["state"])


def _network_class(module: str, name: str) -> bool:
    """Classes whose recorded states a file of EG3D consists of, beside the persistent ones."""
    return (module, name) == ("dnnlib.util", "EasyDict") or module.startswith(("torch.nn.modules.", "training."))


def read_networks(stream: mmap.mmap | io.BytesIO) -> Any:
    """The tree of a pickle of networks as StyleGAN and EG3D write it: recorded states, nothing of their code."""
    calls: dict[Name, Callable[..., Any]] = {
        **_CALLS,
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_object,
        ("torch.storage", "_load_from_bytes"): _from_bytes,
    }
    return interpret(stream, Admitted(calls, _VALUES, _network_class))
