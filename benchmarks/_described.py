"""Compile for a device that this machine does not have, and count what the program asks of it.

JAX compiles for a device that is only described. The compiled program has the bytes of its temporaries. Its text has
all kernels, with the trip counts of the loops around them, so the number of kernels of a run is exact.

A *kernel* runs on the device. A *launch* is a command of the host: a kernel, a copy, the condition of a loop, or a CUDA
graph, which contains many kernels. XLA captures the body of a loop as one graph, unless the loop contains another loop.
The order of its commands is dumped beside the text.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# XLA reads its options once. Without a device, it cannot try kernels out to choose the fastest.
OPTIONS = "--xla_gpu_autotune_level=0"
TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}


def prepare() -> None:
    """Set the environment. Call this before the first import of JAX."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), OPTIONS])
    # Programs from a cache would have no dump.
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    os.environ.update(TPU)


H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  l2_cache_size: 52428800 device_memory_size: 84978434048 memory_bandwidth: 3352320000000
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Described(NamedTuple):
    """A device that is only described."""

    backend: str
    """The answer of ``jax.default_backend`` on it."""
    platform: str
    topology: str
    options: dict[str, str]


DEVICES = {
    "h100": Described("gpu", "cuda", "h100", {"target_config": H100, "topology": "1x1x1"}),
    "v5e": Described("tpu", "tpu", "v5e:2x2", {}),
}


class Counts(NamedTuple):
    """What one run of a compiled program asks of a GPU."""

    kernels: int
    launches: int
    converts: int
    """Instructions that convert a number to another type, alone or within a kernel."""
    products: dict[str, int]
    """The number of matrix products and convolutions, by the type of their operands."""
    temporaries: int
    """Bytes."""
    seconds: float
    """To trace and compile, of all processors together."""


def compile_for(device: str, function: Callable, *shapes: Any, options: dict | None = None) -> tuple[Any, float]:
    """Return the program compiled for a described device, and the seconds that it took to trace and compile.

    JAX answers the library that it runs on this device while it traces.
    """
    import jax  # noqa: PLC0415  (after ``prepare``)
    import numpy as np  # noqa: PLC0415
    from jax.experimental import topologies  # noqa: PLC0415
    from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: PLC0415

    described = DEVICES[device]
    topology = topologies.get_topology_desc(described.topology, described.platform, **described.options)
    place = NamedSharding(Mesh(np.array(topology.devices[:1]), ("one",)), PartitionSpec())
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), shapes)
    here = jax.default_backend
    jax.default_backend = lambda: described.backend
    start = cpu_seconds()
    try:
        lowered = jax.jit(function).trace(*shapes).lower(lowering_platforms=(described.platform,))
    finally:
        jax.default_backend = here
    program = lowered.compile(options)
    return program, cpu_seconds() - start


def cpu_seconds() -> float:
    """Return the seconds of all processors that this process and those that it started have used.

    Unlike the time of day, they change little when other programs run.
    """
    return sum(os.times()[:4])


def count(function: Callable, *shapes: Any, options: dict | None = None) -> Counts:
    """Compile a function for an H100 and count."""
    with tempfile.TemporaryDirectory() as folder:
        dump = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        program, seconds = compile_for("h100", function, *shapes, options=dump | (options or {}))
        # Passes write a second file, "..._after_thunk_passes.txt", if they change the commands.
        thunks = max(Path(folder).glob("*thunk_sequence*.txt"), key=lambda file: len(file.name)).read_text()
    text = program.as_text()
    converts, products = types_of(text)
    temporaries = program.memory_analysis().temp_size_in_bytes
    return Counts(kernels(text), launches(text, thunks), converts, products, temporaries, seconds)


# Instructions that start something on the device. The counter of a loop is one of them.
STARTS = {
    "fusion", "custom-call", "copy", "dynamic-slice", "dynamic-update-slice", "reduce", "dot", "transpose", "convert",
    "sort", "scatter", "gather", "convolution", "select", "add", "copy-start", "fusion-start", "async-start",
}  # fmt: skip


class Loop(NamedTuple):
    body: str
    trips: int


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Return the instructions of each computation of a program, and the name of the first computation to run."""
    found: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        head = re.match(r"^(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head:
            name = head.group(2)
            found[name] = []
            entry = name if head.group(1) else entry
        elif name and line.startswith("  "):
            found[name].append(line)
    return found, entry


def operation(line: str) -> str:
    found = re.search(r"= .*? ([\w\-]+)\(", line)
    return found.group(1) if found else ""


def loop_of(line: str) -> Loop:
    body = re.search(r"body=%?([\w.\-]+)", line)
    trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    return Loop(body.group(1) if body else "", int(trips.group(1)) if trips else 1)


def called(line: str) -> str:
    found = re.search(r"to_apply=%?([\w.\-]+)", line)
    return found.group(1) if found else ""


def kernels(text: str) -> int:
    """Return the number of kernels that one run of a program starts. A loop of unknown length runs once."""
    bodies, entry = computations(text)

    def inside(name: str) -> int:
        total = 0
        for line in bodies.get(name, ()):
            kind = operation(line)
            if kind == "while":
                loop = loop_of(line)
                total += loop.trips * inside(loop.body)
            elif kind == "call":
                total += inside(called(line))
            elif kind == "conditional":
                total += 2
            else:
                total += kind in STARTS
        return total

    return inside(entry)


def trips_of(text: str) -> list[int]:
    """Return the trip counts of all loops, each before the loops inside it, in the order of the program."""
    bodies, entry = computations(text)

    def inside(name: str) -> Iterator[int]:
        for line in bodies.get(name, ()):
            kind = operation(line)
            if kind == "while":
                loop = loop_of(line)
                yield loop.trips
                yield from inside(loop.body)
            elif kind == "call":
                yield from inside(called(line))

    return list(inside(entry))


# Commands that contain others, or wait for one that was counted.
NO_LAUNCH = {"kSequential", "kAsyncStart", "kAsyncDone", "kDynamicSliceFusion"}


def launches(text: str, thunks: str) -> int:
    """Return the number of commands of the host in one run, from the text and the dumped commands of a program."""
    trips = iter(trips_of(text))
    total = 0
    around: list[tuple[int, int]] = []  # the indentation and the trips of the loops around a line
    graph = None  # the indentation of the CUDA graph around a line
    for line in thunks.splitlines():
        found = re.match(r"^(\s*)\d+: (k\w+)", line)
        if not found:
            continue
        depth, kind = len(found.group(1)), found.group(2)
        while around and depth <= around[-1][0]:
            around.pop()
        if graph is not None and depth > graph:
            continue
        graph = depth if kind == "kCommandBuffer" else None
        if kind == "kWhile":
            around.append((depth, next(trips)))
        elif kind not in NO_LAUNCH:
            times = 1
            for _, loop_trips in around:
                times *= loop_trips
            total += times
    return total


def types_of(text: str) -> tuple[int, dict[str, int]]:
    """Return the number of conversions in the text, and of products by the type of their operands."""
    converts = len(re.findall(r" convert\(", text))
    types = dict(re.findall(r"%([\w.\-]+) = (\w+)\[", text))
    products: dict[str, int] = {}
    for line in text.splitlines():
        if found := re.search(r" (?:dot|convolution|custom-call)\(%([\w.\-]+)", line):
            if "custom-call(" in line and not re.search(r'target="__(cublas|cudnn)', line):
                continue
            kind = types.get(found.group(1), "unknown")
            products[kind] = products.get(kind, 0) + 1
    return converts, products
