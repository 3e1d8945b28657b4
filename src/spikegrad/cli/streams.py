"""Standard output and standard error, which may be closed, full, or unable to encode Greek letters."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO

_SPELT = {"±": "+-", "−": "-", "×": "x", "·": "*", "√": "sqrt", "≤": "<=", "≥": ">=", "²": "^2", "³": "^3"}
_LONGEST = 600
"""A longer error message is shortened in the middle."""


def prepare() -> None:
    """Make both streams usable: discard the output of closed streams, and replace missing characters by ASCII."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream.closed:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="spell")


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    places = range(error.start, error.end)
    return "".join(_ascii(*error.object[place : place + 2]) for place in places), error.end


codecs.register_error("spell", _spell)


def spelt(text: str, encoding: str) -> str:
    """Return the text as a stream of this encoding writes it."""
    return text.encode(encoding, "spell").decode(encoding)


def _ascii(character: str, following: str = "") -> str:
    name = unicodedata.name(character, "")
    apart = " " * following.isalpha()  # otherwise a product would read as one name
    if name.startswith("GREEK"):
        return name.split()[-1].lower() + apart
    if name.startswith("SUPERSCRIPT"):
        return _SPELT.get(character, "?") + apart
    return _SPELT.get(character) or unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"


def fail(message: str, code: int) -> int:
    """Print an error in one line, and return the exit code. A long message, such as of a long name, is shortened."""
    line = " ".join(message.split())
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    try:
        print(f"spikegrad: error: {line}", file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)
    return code


def brief(error: Exception) -> str:
    """Format an error as part of a line."""
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return message if len(message) <= _BRIEF else f"{message[:_BRIEF]}..."


_BRIEF = 200


class Output:
    """A standard stream. A reader that closes the pipe is not an error.

    If ``optional``, no failure is an error, because progress output must not end training.
    """

    def __init__(self, stream: TextIO, optional: bool) -> None:
        self._stream = stream
        self._optional = optional

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._guard():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._guard():
            self._stream.flush()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            discard(self._stream)
            if not self._optional and not isinstance(error, BrokenPipeError):
                raise OSError(f"standard output cannot be written: {error.strerror or error}") from None


def discard(stream: TextIO) -> None:
    """Discard the output and the buffer of a stream. Otherwise Python would fail again at exit."""
    with contextlib.suppress(OSError, ValueError):  # a stream may lack a descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
