"""Reading of ``.npz`` files: headers are checked before arrays are unpacked, and pickles are rejected."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from .._checks import brief
from ._accepted import DataError, check_memory, native, some
from ._reading import opened

UNPACKED_LIMIT = 8 * 10**9
"""Limit for the arrays of a compressed file in bytes: a file of kilobytes can claim terabytes."""

_HEADER = 2**16  # most bytes of a header. NumPy accepts 10,000 characters.
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int  # offset of the numbers

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_arrays(path: Path, known: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Read all arrays of a file.

    Parameters
    ----------
    path : Path
        The file.
    known : tuple of str
        The accepted keys. By default all are accepted.

    Raises
    ------
    DataError
        If it cannot be read, contains other things than arrays of numbers or text, or does not fit into memory. A
        compressed file also raises if its arrays exceed :data:`UNPACKED_LIMIT`.
    """
    try:
        with opened(path) as stream, zipfile.ZipFile(stream) as archive:
            members = _members(path, archive)
            for key in members:
                if known and key not in known:
                    raise DataError(f"{path}: unknown key {key!r}, known are {', '.join(known)}")
            headers = {key: _member_header(f"{path}: {key}", archive, info) for key, info in members.items()}
            _check_size(path, members, headers)
            return {key: _member(f"{path}: {key}", archive, info) for key, info in members.items()}
    except _NOT_ZIP:
        raise DataError(f"{path}: not a .npz file, or one that was cut off") from None


_NOT_ZIP = (zipfile.BadZipFile, EOFError, UnicodeDecodeError, NotImplementedError)


def keys_of(path: Path) -> set[str]:
    """Return the keys of a file. If it cannot be read, the set is empty."""
    try:
        with opened(path) as stream, zipfile.ZipFile(stream) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (DataError, *_NOT_ZIP):
        return set()


def read_array(path: Path) -> np.ndarray:
    """Read the array of a ``.npy`` file."""
    with opened(path) as stream:
        header = _header(f"{path}:", stream.read(_HEADER), path.stat().st_size)
        check_memory(f"{path}:", header.nbytes)
        stream.seek(0)
        return _array(f"{path}:", stream)


def missing_key(path: Any, key: str, arrays: Iterable[str]) -> DataError:
    """Return the error for a missing key."""
    return DataError(f"{path}: key {key!r} is missing, got {some(sorted(arrays))}")


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        key = info.filename.removesuffix(".npy")
        if key in members:
            raise DataError(f"{path}: the key {key!r} occurs twice")
        members[key] = info
    return members


def _member_header(name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Header:
    try:
        with archive.open(info) as stream:
            start = stream.read(_HEADER)
    except RuntimeError as error:  # encrypted, or a compression that this Python lacks
        raise DataError(f"{name} cannot be unpacked: {error}") from None
    except Exception as error:  # each compression fails differently
        raise DataError(f"{name} is damaged: {error}") from None
    return _header(name, start, info.file_size)


def _header(name: str, start: bytes, size: int) -> _Header:
    """Parse the header at the start of an array file of ``size`` bytes."""
    stream = io.BytesIO(start)
    try:
        version = np.lib.format.read_magic(stream)
        shape, _, dtype = _HEADERS[version](stream)
    except Exception:  # it parses Python and can raise any error of a parser
        raise DataError(f"{name} is not an array, or its header is damaged") from None
    header = _Header(shape, dtype, stream.tell())
    if dtype.hasobject:
        raise DataError(f"{name} is an array of Python objects, which is never loaded")
    if min(shape, default=0) < 0 or size < header.start + header.nbytes:
        raise DataError(f"{name} is cut off: {dtype} of shape {brief(shape)} takes more than its {size:,} bytes")
    return header


def _check_size(path: Path, members: dict[str, zipfile.ZipInfo], headers: dict[str, _Header]) -> None:
    size = sum(header.nbytes for header in headers.values())
    if size > UNPACKED_LIMIT and any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise DataError(
            f"{path}: its arrays take {size / 1e9:,.1f} GB, and arrays of a compressed file may take "
            f"{UNPACKED_LIMIT / 1e9:g} GB; save without compression by numpy.savez"
        )
    check_memory(f"{path}: its arrays", size)


def _member(name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as stream:  # its header has been read, so it opens
        return _array(name, stream)


def _array(name: str, stream: IO[bytes]) -> np.ndarray:
    try:
        return native(np.lib.format.read_array(stream, allow_pickle=False))
    except MemoryError:
        raise DataError(f"{name} does not fit into memory") from None
    except Exception as error:
        raise DataError(f"{name} is damaged: {error}") from None
