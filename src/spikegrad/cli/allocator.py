"""Return of memory to the system after compilations. It changes the allocator of the process."""

from __future__ import annotations

import functools

import jax

from .._system import LIBC, release_memory

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # from GNU's malloc.h
_LONG = 0.5  # seconds. Shorter compilations are frequent and free little memory.


@functools.cache
def tune() -> None:
    """Tune GNU's allocator once, in a process of the command."""
    if not hasattr(LIBC, "mallopt"):
        return
    LIBC.mallopt(_ARENA_MAX, 1)  # a trim does not reach the ends of other threads' heaps
    LIBC.mallopt(_MMAP_THRESHOLD, 2**25)  # its maximum. Without the next line it would grow by itself.
    LIBC.mallopt(_TRIM_THRESHOLD, 2**26)  # less would cost page faults at each call
    jax.monitoring.register_event_duration_secs_listener(_after_compiling)


def _after_compiling(event: str, duration_secs: float, **about: str | int) -> None:
    del about
    if event.endswith("backend_compile_duration") and duration_secs > _LONG:
        release_memory()
