"""The kernels and launches that benchmarks count, in a small program that XLA has compiled for an
H100.

The program multiplies and squashes bfloat16 numbers, in a loop of five turns within a loop of
three. Its text lacks notes on where it comes from.
"""

import sys

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import _described

RECORDED = ROOT / "tests" / "recorded" / "gpu"
PROGRAM, COMMANDS = ((RECORDED / name).read_text() for name in ("program.txt", "commands.txt"))


def test_kernels_are_those_of_each_turn_of_a_loop():
    # two copies, three turns of a copy, a counter and a product, and five turns each of three
    # products and a counter
    assert _described.kernels(PROGRAM) == 2 + 3 * (3 + 5 * 4)
    assert _described.trips_of(PROGRAM) == [3, 5]
    unknown = PROGRAM.replace('"known_trip_count":{"n":"3"},', "")
    assert _described.kernels(unknown) == 2 + 3 + 5 * 4


def test_launches_count_conditions_of_loops_and_a_graph_once():
    assert _described.launches(PROGRAM, COMMANDS) == 2 + 3 * (1 + 3 + 5 * (1 + 4))
    lines = COMMANDS.splitlines()
    first = next(n for n, line in enumerate(lines) if "009:" in line)
    body = [f"    {line}" for line in lines[first : first + 4]]
    captured = [
        *lines[:first],
        "        000: kCommandBuffer [source | sink]",
        *body,
        *lines[first + 4 :],
    ]
    assert _described.launches(PROGRAM, "\n".join(captured)) == 2 + 3 * (1 + 3 + 5 * (1 + 1))


def test_commands_that_wait_or_hold_others_are_no_launches():
    commands = [
        "001: kAsyncStart [source | sink] async_id=1",
        "    003: kDynamicSliceFusion [source | sink]",
        "        002: kCopy [source | sink] kCopy",
        "004: kAsyncDone [source | sink] async_id=1",
    ]
    assert _described.launches(PROGRAM, "\n".join(commands)) == 1


def test_types_are_those_of_operands():
    assert _described.types_of(PROGRAM) == (6, {"bf16": 3})
    call = (
        "  %a = f32[4,4]{1,0} parameter(0)\n  %b = f32[4,4] custom-call(%a, %a), "
        'custom_call_target="'
    )
    assert _described.types_of(f'{call}__cublas$gemm"')[1] == {"f32": 1}
    assert _described.types_of(f'{call}AllocateBuffer"')[1] == {}
