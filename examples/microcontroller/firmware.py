"""A network on a bare-metal Arm Cortex-M, without an operating system or a C
library.

The script trains a network on images of digits, rounds it to integers, writes
it as C with a test, and compiles the test to ``firmware.elf``. With
``--emulate`` it runs the firmware in an emulator of the processor. Run with
``python examples/microcontroller/firmware.py FOLDER``. It needs the extra
``train``, and the Arm GNU toolchain or ``pip install ziglang``. The emulator is
``pip install unicorn``.
"""

import argparse
import shutil
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import jax
import optax

from spikegrad import LIF, Network
from spikegrad.data import load, rate_encoding, scale
from spikegrad.integers import quantize, to_c
from spikegrad.training import fit

HERE = Path(__file__).parent
STEPS = 20
FLASH, FLASH_SIZE = 0x08000000, 256 * 1024  # as in link.ld
RAM, RAM_SIZE = 0x20000000, 64 * 1024


def trained(epochs=10):
    """A network of integers of 4 bits for images of digits, and spikes of two
    test images."""
    split = load("digits")
    batches = split.train.batches(64, seed=0)

    def spikes(images, key):
        images = scale(images, split.low, split.high)
        return rate_encoding(images.reshape(-1, 64), STEPS, key)

    def loss(network, batch, key):
        scores = network(spikes(batch.x[0], key))[1].mean(0)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            scores, batch.y
        )
        return losses.mean(), {}

    key = jax.random.key(0)
    inputs = spikes(next(iter(batches)).x[0], key)
    network = Network.init(key, inputs, (64, 10), LIF(0.9, reset="value"))
    if epochs:
        network = fit(
            loss,
            network,
            batches,
            optimizer=optax.adam(5e-3),
            key=key,
            epochs=epochs,
        ).trainable
    network, _ = quantize(network, "fixed", inputs, bits=4)
    return network, spikes(split.test.as_batch().x[0][:2], key)


def compiler():
    """The command of a compiler for Arm with its options, or None."""
    if shutil.which("arm-none-eabi-gcc"):
        return ["CC=arm-none-eabi-gcc"]
    if find_spec("ziglang"):
        zig = f"{sys.executable} -m ziglang cc -target thumb-freestanding-eabi"
        return [f"CC={zig}", "LIBRARIES="]
    return None


def build(folder, network, examples, core="cortex-m4"):
    """Write the program and its test, and compile them to firmware.elf."""
    folder = Path(folder)
    report = to_c(network, folder / "net", inputs="bits", examples=examples)
    for name in "startup.c", "link.ld", "Makefile":
        shutil.copy(HERE / name, folder)
    compile_in(folder, core)
    return report


def compile_in(folder, core):
    """Compile the files in a folder to firmware.elf."""
    command = compiler()
    if "ziglang" in command[0]:
        core = core.replace("-", "_")
    subprocess.run(["make", *command, f"CORE={core}"], cwd=folder, check=True)


class Run(NamedTuple):
    """A run of the firmware in the emulator."""

    wrong: int
    """The number of wrong outputs."""
    instructions: int
    """All instructions, from the start to the end of the test."""
    stack: int
    """The most bytes of the stack."""
    flash: int
    """Bytes of instructions, tables and the data of the test."""


def emulate(path):
    """Run the firmware until it writes its result at the start of the RAM."""
    import unicorn  # noqa: PLC0415
    from unicorn import arm_const  # noqa: PLC0415

    data = Path(path).read_bytes()
    # The headers of an ELF file: the parts that are loaded into memory.
    start, size, count = (
        *struct.unpack_from("<I", data, 28),
        *struct.unpack_from("<HH", data, 42),
    )
    processor = unicorn.Uc(
        unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS
    )
    processor.mem_map(FLASH, FLASH_SIZE)
    processor.mem_map(RAM, RAM_SIZE)
    flash = 0
    for n in range(count):
        kind, offset, _, physical, length = struct.unpack_from(
            "<5I", data, start + n * size
        )
        if kind == 1 and length and FLASH <= physical < FLASH + FLASH_SIZE:
            processor.mem_write(physical, data[offset : offset + length])
            flash += length
    stack, reset = struct.unpack("<2I", processor.mem_read(FLASH, 8))
    seen = {"instructions": 0, "lowest": stack}

    def count_instruction(processor, address, size, user):
        seen["instructions"] += 1
        pointer = processor.reg_read(arm_const.UC_ARM_REG_SP)
        seen["lowest"] = min(seen["lowest"], pointer)

    def end(processor, access, address, size, value, user):
        seen["wrong"] = value
        processor.emu_stop()

    processor.hook_add(unicorn.UC_HOOK_CODE, count_instruction)
    processor.hook_add(unicorn.UC_HOOK_MEM_WRITE, end, begin=RAM, end=RAM + 3)
    processor.reg_write(arm_const.UC_ARM_REG_SP, stack)
    processor.emu_start(reset, 0, timeout=60_000_000)
    return Run(
        seen["wrong"], seen["instructions"], stack - seen["lowest"], flash
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--core", default="cortex-m4")
    parser.add_argument("--emulate", action="store_true")
    options = parser.parse_args()
    if not compiler():
        parser.error(
            "no compiler for Arm; install gcc-arm-none-eabi or ziglang"
        )
    options.folder.mkdir(parents=True, exist_ok=True)
    network, examples = trained()
    print(build(options.folder, network, examples, options.core))
    if options.emulate:
        print(emulate(options.folder / "firmware.elf"))


if __name__ == "__main__":
    main()
