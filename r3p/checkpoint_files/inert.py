"""Pickles as data: an interpreter of the pickle opcodes that builds plain containers and runs nothing of the file.

A pickle is a program that may call any importable function. Here no name of it is ever imported: each is looked up in
a table of admitted names (`Admitted`), to which our own functions belong, and any other is refused by name. Python's
unpickler is not used, so neither its extension registry nor `__setstate__`, `__reduce__` or `__dict__` of a real class
can be reached. The few value types that are made: plain containers, numbers, text, bytes, and `StandIn`s.
"""

import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from r3p.errors import InputError

Name = tuple[str, str]

_PLAIN = (str, bytes, int, float, type(None))
_PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class StandIn:
    """What stands for an object of the file. `build` takes the state that the file holds for it."""

    def build(self, state: Any) -> None:
        raise InputError(f"the pickle gives a state to a {type(self).__name__}: the file is not what it should be")


@dataclass(eq=False)
class Instance(StandIn):
    """The recorded state of an instance of a class that was admitted by name; `entries` when it is a mapping."""

    cls: str
    args: tuple = ()
    state: dict[str, Any] = field(default_factory=dict)
    entries: dict[Any, Any] = field(default_factory=dict)

    def build(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.state.update(part)
            elif part is not None:
                raise InputError(f"the pickle holds a {self.cls} whose state is no dict: it cannot be read")


@dataclass(frozen=True)
class Global:
    """An admitted name; it is no callable."""

    name: Name

    def __str__(self) -> str:
        return ".".join(self.name)


@dataclass(frozen=True)
class Admitted:
    """What a pickle may name.

    Attributes:
      calls: our function for a name that the pickle calls.
      values: what a name stands for that is only mentioned.
      classes: says of any other name whether its instances may be kept as `Instance`s; their code stays unknown.
      persistent: our function for a persistent id.
      remedy: ends the sentence of a refusal.
    """

    calls: Mapping[Name, Callable[..., Any]] = field(default_factory=dict)
    values: Mapping[Name, Any] = field(default_factory=dict)
    classes: Callable[[str, str], bool] = lambda module, name: False
    persistent: Callable[[Any], Any] | None = None
    remedy: str = "use a file that holds weights alone"

    def find(self, module: str, name: str) -> Any:
        """The value or `Global` of a name. Raises InputError when it is not admitted."""
        module = _PYTHON2.get(module, module)
        if (module, name) in self.values:
            return self.values[module, name]
        if (module, name) in self.calls or self.classes(module, name):
            return Global((module, name))
        raise InputError(
            f"the pickle asks for {module}.{name}: only arrays in plain containers are read, "
            f"and nothing of it was run; {self.remedy}"
        )

    def call(self, target: Any, args: Any) -> Any:
        """What a call gives: of our function, or an `Instance`."""
        if not isinstance(target, Global) or not isinstance(args, tuple):
            raise InputError(f"the pickle calls a {type(target).__name__}: it is damaged or not what it should be")
        if target.name in self.calls:
            return self.calls[target.name](*args)
        return Instance(str(target), args)


def key(value: Any) -> Any:
    """A dict's key or a set's element: plain, since the hash of nested tuples can be made to overflow the stack."""
    if not isinstance(value, _PLAIN):
        raise InputError(f"the pickle uses a {type(value).__name__} as a key: expected text or a number")
    return value


def interpret(stream: IO[bytes] | Any, admitted: Admitted) -> Any:
    """The object that the pickle at the stream's position holds; the stream then stands behind it.

    Raises:
      InputError: when it is cut off or damaged, or asks for what is not admitted.
    """
    try:
        return _run(stream, admitted)
    except InputError:
        raise
    except Exception as e:  # a broken pickle may raise nearly anything
        raise InputError(f"the pickle cannot be read ({type(e).__name__}: {e}): fetch the file again") from e


def _run(stream: IO[bytes] | Any, admitted: Admitted) -> Any:
    stack: list[Any] = []
    marked: list[list[Any]] = []  # the stacks below the open marks
    memo: dict[int, Any] = {}

    def to_mark() -> list[Any]:
        nonlocal stack
        items, stack = stack, marked.pop()
        return items

    opcodes: Iterator[tuple[Any, Any, Any]] = pickletools.genops(stream)
    for opcode, arg, _ in opcodes:
        name = opcode.name
        if name in _PUSHED:
            stack.append(arg)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[arg])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            marked.append(stack)
            stack = []
        elif name == "TUPLE":
            items = to_mark()
            stack.append(tuple(items))
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "DICT":
            items = to_mark()
            stack.append({})
            _set_items(stack[-1], items)
        elif name == "SETITEM":
            value, k = stack.pop(), stack.pop()
            _set_items(stack[-1], [k, value])
        elif name == "SETITEMS":
            items = to_mark()
            _set_items(stack[-1], items)
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "LIST":
            items = to_mark()
            stack.append(items)
        elif name == "APPEND":
            item = stack.pop()
            _append(stack[-1], [item])
        elif name == "APPENDS":
            items = to_mark()
            _append(stack[-1], items)
        elif name == "EMPTY_SET":
            stack.append(set())
        elif name == "ADDITEMS":
            items = to_mark()
            if not isinstance(stack[-1], set):
                raise InputError(f"the pickle adds to a {type(stack[-1]).__name__}: it is damaged")
            stack[-1].update(map(key, items))
        elif name == "FROZENSET":
            items = to_mark()
            stack.append(frozenset(map(key, items)))
        elif name == "GLOBAL":
            stack.append(admitted.find(*arg.rsplit(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(admitted.find(str(module), str(attribute)))
        elif name in ("REDUCE", "NEWOBJ"):
            args = stack.pop()
            stack[-1] = admitted.call(stack[-1], args)
        elif name == "NEWOBJ_EX":
            options, args = stack.pop(), stack.pop()
            if options:
                raise InputError(f"the pickle makes a {stack[-1]} with keywords: that is not read")
            stack[-1] = admitted.call(stack[-1], args)
        elif name == "OBJ":
            target, *rest = to_mark()
            stack.append(admitted.call(target, tuple(rest)))
        elif name == "INST":
            rest = to_mark()
            stack.append(admitted.call(admitted.find(*arg.rsplit(" ", 1)), tuple(rest)))
        elif name == "BUILD":
            _build(stack[-2], stack[-1])
            stack.pop()
        elif name in ("PERSID", "BINPERSID"):
            if admitted.persistent is None:
                raise InputError("the pickle refers to something outside of it: the file is not what it should be")
            stack.append(admitted.persistent(arg if name == "PERSID" else stack.pop()))
        elif name == "POP":
            if stack:
                stack.pop()
            else:
                to_mark()
        elif name == "POP_MARK":
            to_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise InputError(f"the pickle uses {name}, with which no weights are written: nothing of it was run")
    raise InputError("the pickle ends before its end: the file is cut off; fetch it again")


def _set_items(target: Any, items: list[Any]) -> None:
    entries = target.entries if isinstance(target, Instance) else target
    if not isinstance(entries, dict) or len(items) % 2:
        raise InputError(f"the pickle sets entries of a {type(target).__name__}: it is damaged")
    for k, value in zip(items[::2], items[1::2], strict=True):
        entries[key(k)] = value


def _append(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise InputError(f"the pickle appends to a {type(target).__name__}: it is damaged")
    target.extend(items)


def _build(target: Any, state: Any) -> None:
    if isinstance(target, StandIn):
        target.build(state)
    elif not isinstance(target, dict):  # attributes of a mapping, such as the versions of a state dict, are let go
        raise InputError(f"the pickle gives a state to a {type(target).__name__}: it is damaged")
