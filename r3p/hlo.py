"""Traffic of a compiled program, from its text: bytes to and from memory, and collectives by kind.

The compiler's own count sees the body of a loop once and is empty for GPUs. Here a loop counts as often as it runs and
the dearest branch of a condition counts. Arrays are as large as their tiles make them: on a TPU the last two axes are
padded. What stays in a TPU's vector memory is not counted.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_BITS = {"pred": 8, "s4": 4, "u4": 4, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?(%?[\w.-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?(%?[\w.-]+) (?:\(.*\) -> .*)?\{$")
_OPERATION = re.compile(r"^\s*([a-z][\w-]*)\(")
_NAME = re.compile(r"%[\w.-]+")

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
# What moves nothing by itself.
_FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "iota", "opt-barrier", "async-update", "add-dependency", "async-start", "async-done",
}  # fmt: skip
_SLICES = {"dynamic-slice", "slice", "gather"}


@dataclasses.dataclass
class Array:
    """An array of the program: its axes, bytes in memory (0 in a TPU's vector memory), bytes without padding."""

    shape: tuple[int, ...]
    stored: float
    size: float


@dataclasses.dataclass
class Collective:
    """A collective: how often a step runs it, the arrays it gives, and what a device sends for it, in bytes."""

    kind: str
    results: list[tuple[int, ...]]
    group: int
    sent: float
    times: float
    source: str


@dataclasses.dataclass
class _Instruction:
    name: str
    operation: str
    results: list[Array]
    operands: list[str]
    rest: str


@dataclasses.dataclass
class Traffic:
    """`stored` bytes to and from memory of one device in a step; collectives, each once with its number of times."""

    stored: float
    collectives: list[Collective]


def arrays(text: str) -> list[Array]:
    """The arrays of a type: `bf16[8,128]{1,0:T(8,128)(2,1)}`, or a tuple of such."""
    return [_array(*m.groups()) for m in _ARRAY.finditer(text)]


def _array(kind: str, axes: str, layout: str | None) -> Array:
    digits = re.search(r"\d+", kind)
    bits = _BITS[kind] if kind in _BITS else int(digits.group()) if digits else 0
    shape = tuple(int(n) for n in axes.split(",") if n)
    order, _, details = (layout or "").partition(":")
    padded = [shape[int(k)] for k in order.split(",") if k] or list(shape[::-1])
    tile = re.search(r"T\(([\d,]+)\)", details)
    if tile and shape:
        for k, side in enumerate(reversed([int(n) for n in tile.group(1).split(",")])):
            if k < len(padded):
                padded[k] = -(-padded[k] // side) * side
    inside = re.search(r"S\(([1-9]\d*)\)", details) is not None
    return Array(shape, 0.0 if inside else math.prod(padded) * bits / 8, math.prod(shape) * bits / 8)


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    found: dict[str, list[_Instruction]] = {}
    current: list[_Instruction] = []
    entry = ""
    for line in text.splitlines():
        started = _COMPUTATION.match(line)
        if started:
            current = found.setdefault(started.group(2).lstrip("%"), [])
            entry = started.group(2).lstrip("%") if started.group(1) else entry
            continue
        matched = _INSTRUCTION.match(line)
        if matched:
            current.append(_instruction(matched.group(1).lstrip("%"), matched.group(2)))
    return found, entry


def _instruction(name: str, text: str) -> _Instruction:
    end = _closing(text) if text.startswith("(") else (text.find(" ") if " " in text else len(text)) - 1
    kind, rest = text[: end + 1], text[end + 1 :]
    operation = _OPERATION.match(rest)
    start = rest.find("(")
    stop = start + _closing(rest[start:]) if start >= 0 else -1
    operands = [n.lstrip("%") for n in _NAME.findall(rest[start : stop + 1])]
    what = operation.group(1) if operation else ""
    after = rest[start + 1 : stop] if what in ("constant", "parameter") else rest[stop + 1 :]
    return _Instruction(name, what, arrays(kind), operands, after)


def _closing(text: str) -> int:
    """Where the bracket that `text` begins with ends."""
    depth = 0
    for k, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return k
    return len(text) - 1


def _called(rest: str, *names: str) -> Iterator[str]:
    for name in names:
        for found in re.finditer(rf"\b{name}=(?:\{{([^}}]*)\}}|(%?[\w.-]+))", rest):
            yield from (part.strip().lstrip("%") for part in (found.group(1) or found.group(2)).split(","))


def _group(rest: str, devices: int) -> int:
    """Devices that take part in one collective."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    if listed:
        return len(listed.group(1).split(","))
    folded = re.search(r"replica_groups=\[(\d+),(\d+)\]", rest)
    if folded:
        return int(folded.group(2))
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh.group(1))}
        # An axis may be split: 'axis_0':(1)4 is the part of size 4 from stride 1 on.
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh.group(2))
        return math.prod(int(part) if part else sizes[name] for name, part in parts)
    return devices


class _Reader:
    def __init__(self, text: str) -> None:
        self.computations, self.entry = _computations(text)
        header = text[: text.find("\n")]
        parts = [re.search(rf"{name}=(\d+)", header) for name in ("num_partitions", "replica_count")]
        self.devices = math.prod(int(p.group(1)) for p in parts if p)
        self.seen: set[str] = set()

    def turns(self, loop: _Instruction) -> int:
        """How often a loop runs; once where that is not known."""
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known.group(1))
        condition = self.computations.get(next(_called(loop.rest, "condition"), ""), [])
        compared = [i for i in condition if i.operation == "compare" and "direction=LT" in i.rest]
        bounds = [int(i.rest) for i in condition if i.operation == "constant" and i.rest.isdigit()]
        return max(bounds) if compared and bounds else 1

    def walk(self, name: str, times: float, fused: bool = False) -> tuple[float, list[Collective]]:
        """Bytes and collectives of a computation that runs `times` times."""
        stored, collectives = 0.0, []
        body = self.computations.get(name, [])
        known = {i.name: i for i in body}
        for i in body:
            kind = i.operation.removesuffix("-start")
            if kind in KINDS:
                collectives += self.collective(i, kind, name, known, times)
            if i.operation == "while":
                turns = times * self.turns(i)
                parts = [self.walk(part, turns) for part in _called(i.rest, "body")]
            elif i.operation == "conditional":
                names = ("branch_computations", "true_computation", "false_computation")
                parts = [self.walk(part, times) for part in _called(i.rest, *names)]
                parts = [max(parts, key=lambda part: part[0])] if parts else []
            elif i.operation in ("call", "async-start"):
                parts = [self.walk(part, times) for part in _called(i.rest, "to_apply", "calls")]
            elif i.operation == "fusion":
                parts = [(0.0, self.walk(part, times, fused=True)[1]) for part in _called(i.rest, "calls")]
            else:
                parts = []
            stored += sum(part[0] for part in parts)
            collectives += [c for part in parts for c in part[1]]
            if not fused:
                stored += times * self.moved(i, known)
        return stored, collectives

    def collective(
        self, i: _Instruction, kind: str, computation: str, known: dict[str, _Instruction], times: float
    ) -> list[Collective]:
        # The parts of one that runs beside other work share its channel.
        channel = re.search(r"channel_id=(\d+)", i.rest)
        key = channel.group(1) if channel else i.name
        if key in self.seen:
            return []
        self.seen.add(key)
        given = [a for n in i.operands if n in known for a in known[n].results]
        if kind == "all-reduce" and "all-reduce-scatter" in computation:
            kind = "reduce-scatter"
        n = _group(i.rest, self.devices)
        results = i.results
        if i.operation.endswith("-start") and len(results) > len(given) > 0 and kind != "all-reduce":
            results = results[len(given) : 2 * len(given)]
        whole = sum(a.size for a in (given if kind == "reduce-scatter" else results))
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0, "collective-broadcast": 1.0}
        source = re.search(r'op_name="([^"]*)"', i.rest)
        sent = whole * share.get(kind, (n - 1) / n)
        return [Collective(kind, [a.shape for a in results], n, sent, times, source.group(1) if source else "")]

    def moved(self, i: _Instruction, known: dict[str, _Instruction]) -> float:
        """Bytes that an instruction reads and writes."""
        if i.operation in _FREE or i.operation.endswith("-done") or "AllocateBuffer" in i.rest:
            return 0.0
        written = sum(a.stored for a in i.results)
        given = [sum(a.stored for a in known[n].results) if n in known else 0.0 for n in i.operands]
        if i.operation in ("copy-start", "slice-start"):
            into, out_of = i.results[0], i.results[1] if len(i.results) > 1 else i.results[0]
            size = min(into.size, out_of.size)
            return size * ((into.stored > 0) + (out_of.stored > 0))
        if i.operation in _SLICES:
            return 2 * written if given and given[0] else written
        if i.operation == "dynamic-update-slice":
            return 2 * given[1]
        if i.operation == "fusion":
            return self.of_fusion(i, written, given)
        return written + sum(given)

    def of_fusion(self, i: _Instruction, written: float, given: list[float]) -> float:
        """Of an operand of which the fusion looks at slices only these count; likewise of a result updated in place."""
        body = self.computations.get(next(_called(i.rest, "calls"), ""), [])
        names = {p.name: k for k, p in enumerate(sorted(_parameters(body), key=_number))}
        total = written
        users: dict[str, list[_Instruction]] = {}
        for inner in body:
            for operand in inner.operands:
                users.setdefault(operand, []).append(inner)
        by_name = {inner.name: inner for inner in body}
        for name, k in names.items():
            if k >= len(given) or not given[k]:
                continue
            using = list(users.get(name, []))
            read, sliced = 0.0, bool(using)
            while using:
                user = using.pop()
                if user.operation == "bitcast":
                    using += users.get(user.name, [])
                elif user.operation in _SLICES:
                    read += sum(a.size for a in user.results)
                elif user.operation == "dynamic-update-slice" and user.operands[0] != user.operands[1]:
                    update = by_name.get(user.operands[1])
                    size = sum(a.size for a in update.results) if update else 0.0
                    # The whole result was counted as written; only the update is.
                    total -= max(sum(a.stored for a in user.results) - size, 0.0) if written >= given[k] else 0.0
                else:
                    sliced = False
            total += min(read, given[k]) if sliced else given[k]
        return max(total, 0.0)


def _parameters(body: list[_Instruction]) -> list[_Instruction]:
    return [i for i in body if i.operation == "parameter"]


def _number(i: _Instruction) -> int:
    return int(i.rest) if i.rest.isdigit() else 0


def traffic(text: str) -> Traffic:
    """Of `compiled.as_text()`."""
    reader = _Reader(text)
    return Traffic(*reader.walk(reader.entry, 1.0))
