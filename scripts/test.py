"""Pass the tests in an environment of their own, from nothing but a Python with pip.

The interpreter is the one that runs this file:

    python3 scripts/test.py                     the newest JAX
    python3.11 scripts/test.py --jax 0.6.0      a chosen JAX, without the packages that need a newer one
    python3 scripts/test.py -k sigmoid -x       everything else goes to pytest
"""

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jax", metavar="VERSION", help="version of JAX (default: the newest)")
    options, pytest_arguments = parser.parse_known_args()

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = ROOT / f".venv-test-{version}-jax-{options.jax or 'newest'}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(home, with_pip=True)

    def run(*command):
        subprocess.run([python, "-m", *command], cwd=ROOT, check=True)

    run("pip", "install", "--quiet", "--upgrade", "pip>=25.1")  # the first that knows --group
    wanted = [f"jax=={options.jax}"] if options.jax else ["--group", "newest"]
    run("pip", "install", "--quiet", "--editable", ".[train]", "--group", "test", *wanted)
    run("pytest", "-n", "2", *pytest_arguments)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
