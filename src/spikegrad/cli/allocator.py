"""Memory that compiling takes, given back to the system before what was compiled runs. It tunes the whole process."""

from __future__ import annotations

import functools

import jax

from .._system import LIBC, release_memory

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of GNU's malloc.h
_LONG = 0.5  # seconds; shorter compilations free little, and there are many of them


@functools.cache
def tune() -> None:
    """Keep GNU's allocator small, once in a process, which must belong to the command."""
    if not hasattr(LIBC, "mallopt"):
        return
    LIBC.mallopt(_ARENA_MAX, 1)  # a trim does not reach the ends of other threads' heaps
    LIBC.mallopt(_MMAP_THRESHOLD, 2**25)  # to which it would grow, if the other had not been set
    LIBC.mallopt(_TRIM_THRESHOLD, 2**26)  # page faults at each call would take more time than this takes memory
    jax.monitoring.register_event_duration_secs_listener(_after_compiling)


def _after_compiling(event: str, duration_secs: float, **about: str | int) -> None:
    del about
    if event.endswith("backend_compile_duration") and duration_secs > _LONG:
        release_memory()
