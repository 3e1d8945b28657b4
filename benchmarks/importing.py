"""Importing: a fresh process that imports spikegrad, as a ratio to one that imports jax alone."""

from __future__ import annotations

import os
import subprocess
import sys

from _measure import arguments, interleave, ratio, report


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()

    # with its bytecode, as an installed package has it
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def importing(module: str):
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=environment)

    modules = ("jax", "spikegrad")
    seconds = interleave({module: importing(module) for module in modules}, options.rounds)
    report(
        [{"import": module, "s": min(seconds[module]), **ratio(seconds[module], seconds["jax"])} for module in modules],
        options.json,
    )


if __name__ == "__main__":
    main()
