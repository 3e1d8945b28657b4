"""Pass the tests in an environment of their own, from nothing but a Python with pip.

The interpreter is the one that runs this file:

    python3 scripts/test.py                     the newest JAX
    python3.11 scripts/test.py --jax 0.6.0      a chosen JAX, without the packages that need a newer one
    python3 scripts/test.py --jax nightly       JAX's nightly build, from the index in PIP_EXTRA_INDEX_URL
    python3 scripts/test.py -k sigmoid -x       everything else goes to pytest
"""

import argparse
import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHOWN = 10  # packages of at least so many megabytes are shown while they come


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jax", metavar="VERSION", help="version of JAX (default: the newest)")
    options, pytest_arguments = parser.parse_known_args()

    started = time.monotonic()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = ROOT / f".venv-test-{version}-jax-{options.jax or 'newest'}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    say(f"The tests of spikegrad, on Python {version}, JAX {options.jax or '(the newest)'}: 4 minutes on two cores.")
    if python.exists():
        say(f"Bringing {home.name} up to date.")
    else:
        say(f"Installing what they need, 1.4 GB, into {home.name}.")
        venv.create(home, with_pip=True)

    install(python, "--upgrade", "pip>=25.1")  # the first that knows --group
    is_nightly = options.jax == "nightly"
    wanted = ["--group", "newest"] if is_nightly or not options.jax else [f"jax=={options.jax}"]
    install(python, "--editable", ".[train]", "--group", "test", *wanted)
    install(python, "--no-deps", "--group", "shipped")
    if is_nightly:
        install(python, "--upgrade", "--pre", "jax", "jaxlib")
    say(f"Installed after {time.monotonic() - started:.0f} seconds.")
    # The tests start many processes. With this variable, each of them compiles JAX from its source again.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([python, "-m", "pytest", "-n", "2", *pytest_arguments], cwd=ROOT, env=environment, check=True)


def install(python, *wanted):
    """What pip says, but for the large packages alone; errors and warnings are passed on."""
    options = "--progress-bar", "off", "--disable-pip-version-check", "--no-compile"  # Python compiles what it imports
    command = [python, "-u", "-m", "pip", "install", *options, *wanted]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            size = re.search(r"\((\d+)\.\d MB\)", line)
            if size and int(size[1]) >= SHOWN:
                say(f"  {line.strip()}")
            if line.startswith("Installing collected packages"):
                say(f"  Unpacking {line.count(',') + 1}")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def say(line):
    print(line, flush=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
