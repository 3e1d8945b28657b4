"""The arrays of a ``.npz``: looked at before they are unpacked, and never unpickled."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._system import available_memory

UNPACKED_LIMIT = 8 * 10**9
"""Bytes that the arrays of a compressed file may take: a file of kilobytes can claim terabytes."""

_HEADER = 2**16  # bytes in which a header must end; NumPy accepts 10,000 characters
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the key and the shape."""


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int  # where the numbers begin

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_arrays(path: Path, known: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """All arrays of a file.

    Parameters
    ----------
    path : Path
        The file.
    known : tuple of str
        The keys that it may have; any, if not given.

    Raises
    ------
    DataError
        If it cannot be read, holds anything else than arrays of numbers or text, or takes more memory than there is; of
        a compressed file, also if the arrays take more than :data:`UNPACKED_LIMIT`.
    """
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            for key in members:
                if known and key not in known:
                    raise DataError(f"{path}: unknown key {key!r}; known are {', '.join(known)}")
            headers = {key: _header(f"{path}: {key}", archive, info) for key, info in members.items()}
            _check_size(path, members, headers)
            return {key: _array(f"{path}: {key}", archive, info) for key, info in members.items()}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, EOFError, UnicodeDecodeError, NotImplementedError):
        raise DataError(f"{path}: not a .npz file, or one that was cut off") from None


def _unpack(name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> bytes:
    try:
        with archive.open(info) as stream:
            return stream.read(size)
    except RuntimeError as error:  # encrypted, or packed in a way that this Python cannot unpack
        raise DataError(f"{name} cannot be unpacked: {error}") from None
    except Exception as error:  # each way of packing fails in its own way
        raise DataError(f"{name} is damaged: {error}") from None


def _header(name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Header:
    stream = io.BytesIO(_unpack(name, archive, info, _HEADER))
    try:
        version = np.lib.format.read_magic(stream)
        shape, _, dtype = _HEADERS[version](stream)
    except Exception:  # it parses Python, and fails in every way that a parser can
        raise DataError(f"{name} is no array, or its header is damaged") from None
    header = _Header(shape, dtype, stream.tell())
    if dtype.hasobject:
        raise DataError(f"{name} is an array of Python objects, which is never loaded")
    if min(shape, default=0) < 0 or info.file_size < header.start + header.nbytes:
        raise DataError(f"{name} is cut off: {dtype} of shape {shape} takes more than its {info.file_size:,} bytes")
    return header


def _check_size(path: Path, members: dict[str, zipfile.ZipInfo], headers: dict[str, _Header]) -> None:
    size = sum(header.nbytes for header in headers.values())
    if size > UNPACKED_LIMIT and any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise DataError(
            f"{path}: its arrays take {size / 1e9:,.1f} GB, and those of a compressed file may take "
            f"{UNPACKED_LIMIT / 1e9:g} GB: numpy.savez writes one that is not compressed"
        )
    available = available_memory()
    if available is not None and size > available:
        raise DataError(
            f"{path}: its arrays take {size / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} GB are free"
        )


def _array(name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    try:
        with archive.open(info) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except MemoryError:
        raise DataError(f"{name} does not fit into memory") from None
    except Exception as error:
        raise DataError(f"{name} is damaged: {error}") from None
