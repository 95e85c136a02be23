"""MindSpore checkpoints (``.ckpt``) without MindSpore: a stream of named tensors in protobuf's wire format.

::

    Checkpoint = Value*                          each Value is field 1
    Value      = 1: name, 2: Tensor
    Tensor     = 1: dimension*, 2: name of the type, 3: bytes, little-endian

A long tensor is split into several consecutive Values of the same name. After the stream, 17 bytes
``crc_num`` + CRC-32 may follow. Such a file contains no code.
"""

import binascii
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from car.errors import WeightsError, system_errors

_TYPES = {
    "Float32": torch.float32,
    "Float64": torch.float64,
    "Float16": torch.float16,
    "BFloat16": torch.bfloat16,
    "Int8": torch.int8,
    "Int16": torch.int16,
    "Int32": torch.int32,
    "Int64": torch.int64,
    "UInt8": torch.uint8,
    "Bool": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_CRC_MARK = b"crc_num"
_CRC_BYTES = 10
_SLICE_BYTES = 512 << 20  # MindSpore cuts longer tensors
_MAX_NAME = 1024
_MAX_DIMENSIONS = 16
_MAX_SIDE = 1 << 31


@dataclass
class _Entry:
    shape: tuple[int, ...]
    kind: str
    content: list[memoryview]


def read_ckpt(path: Path) -> dict[str, torch.Tensor | None]:
    """Return every entry of a MindSpore checkpoint by name; None for entries that are not tensors.

    Raises:
        WeightsError: the file cannot be read, is encrypted, cut off, damaged, or not such a checkpoint.
    """
    try:
        with system_errors(f"{path}: cannot be read", WeightsError), path.open("rb") as file:
            # mapped, so that false lengths cost no memory; not closed, because errors hold views
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return {name: _tensor(name, entry) for name, entry in _entries(_checked(view)).items()}
    except ValueError as error:
        raise WeightsError(f"{path}: not a readable MindSpore checkpoint ({error})") from error


def ckpt_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return a MindSpore checkpoint that holds `tensors` (any device, little-endian, no CRC)."""
    parts: list[bytes] = []
    for name, tensor in tensors.items():
        head = b"".join(b"\x08" + _varint(size) for size in tensor.shape)
        head += _field(2, _NAMES[tensor.dtype].encode())
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        for start in range(0, max(len(content), 1), _SLICE_BYTES):
            piece = head + _field(3, content[start : start + _SLICE_BYTES])
            parts.append(_field(1, _field(1, name.encode()) + _field(2, piece)))
    return b"".join(parts)


def _checked(view: memoryview) -> memoryview:
    """Check and remove the CRC, if there is one."""
    tail = len(_CRC_MARK) + _CRC_BYTES
    if len(view) <= tail or bytes(view[-tail:-_CRC_BYTES]) != _CRC_MARK:
        return view
    body = view[:-tail]
    if binascii.crc32(body) != int.from_bytes(view[-_CRC_BYTES:], "big"):
        raise ValueError("its checksum does not match: damaged")
    return body


def _entries(view: memoryview) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    last = ""
    for number, value in _fields(view):
        if number != 1 or not isinstance(value, memoryview):
            raise ValueError("the stream holds something other than named values; is it encrypted?")
        name, entry = _value(value)
        if name not in entries:
            entries[name] = entry
        elif name != last or (entries[name].shape, entries[name].kind) != (entry.shape, entry.kind):
            raise ValueError(f"{name} occurs twice")
        else:
            entries[name].content += entry.content
        last = name
    if not entries:
        raise ValueError("it holds nothing")
    return entries


def _value(view: memoryview) -> tuple[str, _Entry]:
    name, entry = "", _Entry((), "", [])
    for number, value in _fields(view):
        if not isinstance(value, memoryview):
            raise ValueError("a value is not a tensor")  # noqa: TRY004 - an error of the file, not of an argument
        if number == 1:
            if len(value) > _MAX_NAME:
                raise ValueError("a name is too long")
            name = bytes(value).decode()
        elif number == 2:
            entry = _tensor_entry(value)
    if not name:
        raise ValueError("a value has no name")
    return name, entry


def _tensor_entry(view: memoryview) -> _Entry:
    shape: list[int] = []
    entry = _Entry((), "", [])
    for number, value in _fields(view):
        if number == 1:
            # one by one, or packed into one field
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == 2 and isinstance(value, memoryview):
            entry.kind = bytes(value[:_MAX_NAME]).decode()
        elif number == 3 and isinstance(value, memoryview):
            entry.content.append(value)
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"a tensor has {len(shape)} dimensions")
    entry.shape = tuple(shape)
    return entry


def _tensor(name: str, entry: _Entry) -> torch.Tensor | None:
    if entry.kind not in _TYPES:
        return None
    dtype = _TYPES[entry.kind]
    # MindSpore writes a single number with one dimension of size 0
    shape = () if entry.shape == (0,) and any(map(len, entry.content)) else entry.shape
    size = sum(map(len, entry.content))
    if math.prod(shape) * dtype.itemsize != size or max(shape, default=0) > _MAX_SIDE:
        raise ValueError(f"{name} claims the shape {shape} of {entry.kind} but has {size} bytes")
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    # joining copies: the tensor owns its memory and outlives the file
    return torch.frombuffer(bytearray().join(entry.content), dtype=dtype).reshape(shape)


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, content) of a protobuf message: a number, or a view of a run of bytes."""
    place = 0
    while place < len(view):
        key, place = _read_varint(view, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _read_varint(view, place)
            yield number, value
            continue
        if wire == 2:
            length, place = _read_varint(view, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"no protobuf at byte {place}")
        if number == 0:
            raise ValueError(f"no protobuf at byte {place}")
        if length > len(view) - place:
            raise ValueError("it ends early: cut off?")
        yield number, view[place : place + length]
        place += length


def _varints(view: memoryview) -> list[int]:
    numbers: list[int] = []
    place = 0
    while place < len(view) and len(numbers) <= _MAX_DIMENSIONS:
        number, place = _read_varint(view, place)
        numbers.append(number)
    return numbers


def _read_varint(view: memoryview, place: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(view):
            raise ValueError("it ends early: cut off?")
        byte = view[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError(f"no protobuf at byte {place}")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content
