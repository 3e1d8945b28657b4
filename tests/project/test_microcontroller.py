"""The example for a bare-metal Cortex-M, compiled for Arm and run in an emulator."""

import importlib.util
import shutil

import numpy as np
import pytest
from conftest import ROOT

from spikegrad import Layer, Network
from spikegrad.integers import FixedLIF

PATH = ROOT / "examples" / "microcontroller" / "firmware.py"
STEPS = 8


CORES = [
    ("cortex-m4", 12_000),
    pytest.param("cortex-m0", 22_000, marks=pytest.mark.every),
]


@pytest.mark.parametrize(("core", "most"), CORES)
def test_firmware_equals_replay(core, most, tmp_path):
    """A recurrent network of 16, 64 and 4 neurons has the outputs of ``replay`` on the processor,
    with few instructions a step and little stack.
    """
    pytest.importorskip("optax")
    pytest.importorskip("unicorn", reason="needs an emulator of Arm: pip install unicorn")
    spec = importlib.util.spec_from_file_location("firmware", PATH)
    firmware = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(firmware)
    if not (firmware.compiler() and shutil.which("make")):
        pytest.skip("needs make, and arm-none-eabi-gcc or ziglang")
    rng = np.random.default_rng(0)
    first, recurrent, last = (
        rng.integers(-128, 128, shape) for shape in ((16, 64), (64, 64), (64, 4))
    )
    hidden = FixedLIF(3686, 500, synaptic_decay=3000)
    network = Network([Layer(first, hidden, recurrent), Layer(last, FixedLIF(3686, None))])
    spikes = (rng.random((STEPS, 1, 16)) < 0.2).astype(int)
    report = firmware.build(tmp_path, network, spikes, core)
    run = firmware.emulate(tmp_path / "firmware.elf")
    assert run.wrong == 0
    assert run.instructions < most * STEPS
    # The test calls the step from two functions.
    assert 0 < run.stack < report.stack + 64
    assert report.tables < run.flash < report.tables + 5_000
    # A wrong threshold gives wrong outputs.
    program = tmp_path / "net.c"
    text = program.read_text()
    assert "threshold[2] = {500," in text
    program.write_text(text.replace("threshold[2] = {500,", "threshold[2] = {100,"))
    firmware.compile_in(tmp_path, core)
    assert firmware.emulate(tmp_path / "firmware.elf").wrong > 0
