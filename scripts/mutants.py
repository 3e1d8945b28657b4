"""Put one mistake at a time into a copy of the tree and report the mistakes that no test notices.

    python scripts/mutants.py                        every list of scripts/mutants
    python scripts/mutants.py network cli --jobs 2   the lists of these folders, two mistakes at a time
    python scripts/mutants.py -k "fsync|_files"      entries whose file, mistake or tests match
    python scripts/mutants.py --all                  the whole test selection for mistakes that the named tests miss
    python scripts/mutants.py --sample 8             eight random entries of each list
    python scripts/mutants.py --stale                only the check that each entry still fits the code

Each entry of ``scripts/mutants/<folder>.toml`` names a file, a text that occurs once in it, the text that replaces it,
the mistake in one sentence and the tests that run first. The checkout is never changed. A mistake is noticed if a test
fails or cannot be collected. A test run that takes too long is a timeout, which counts as noticed.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LISTS = ROOT / "scripts" / "mutants"
FIELDS = {"file", "before", "after", "mistake", "tests"}
FAILED, NOT_COLLECTED = 1, 2  # exit statuses of pytest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="names of lists (default: all)")
    parser.add_argument("-k", metavar="REGEX", default="", help="entries whose file, mistake or tests match")
    parser.add_argument("--sample", type=int, metavar="N", help="at most N random entries of each list")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default: 0)")
    parser.add_argument("--all", action="store_true", help="run the whole test selection if the named tests pass")
    parser.add_argument("--stale", action="store_true", help="run no test")
    parser.add_argument("--jobs", type=int, default=1, help="mistakes tested at a time (default: 1)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for the named tests (default: 600)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    options = parser.parse_args()

    mutants = read(options.folders, options.k)
    if options.sample is not None:
        mutants = sample(mutants, options.sample, options.seed)
    stale = [m | {"result": "stale"} for m in mutants if (ROOT / m["file"]).read_text().count(m["before"]) != 1]
    todo = [] if options.stale else [m for m in mutants if m | {"result": "stale"} not in stale]
    done = test(todo, options) if todo else []
    if options.json:
        options.json.write_text(json.dumps(stale + done, indent=1, ensure_ascii=False) + "\n")
    report(stale + done, len(mutants))
    return 1 if any(m["result"] in ("stale", "error") for m in stale + done) else 0


def read(folders, pattern):
    """The entries of the lists, each with the name of its list as ``folder``."""
    paths = {path.stem: path for path in sorted(LISTS.glob("*.toml"))}
    if unknown := set(folders) - set(paths):
        sys.exit(f"mutants: folders must be among {', '.join(paths)}, got {', '.join(sorted(unknown))}")
    mutants = []
    for folder in folders or paths:
        for entry in tomllib.loads(paths[folder].read_text())["mutant"]:
            if set(entry) != FIELDS or entry["before"] == entry["after"] or not entry["tests"]:
                sys.exit(f"mutants: an entry of {folder} must have {', '.join(sorted(FIELDS))}, got {entry}")
            if re.search(pattern, " ".join([entry["file"], entry["mistake"], *entry["tests"]])):
                mutants.append(entry | {"folder": folder})
    if not mutants:
        sys.exit("mutants: no entry matches")
    return mutants


def sample(mutants, size, seed):
    """At most ``size`` random entries of each list. Those of one list do not depend on the other lists."""
    chosen = []
    for folder in dict.fromkeys(mutant["folder"] for mutant in mutants):
        entries = [mutant for mutant in mutants if mutant["folder"] == folder]
        places = random.Random(f"{seed} {folder}").sample(range(len(entries)), min(size, len(entries)))
        chosen += [entries[place] for place in sorted(places)]
    return chosen


def test(mutants, options):
    """Test each mutant in one of several copies of the tree, after the tests have passed without any."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = queue.SimpleQueue()
        for n in range(options.jobs):
            copies.put(copy := Path(folder) / str(n))
            copy_tree(copy)
        named = sorted({name for mutant in mutants for name in mutant["tests"]})
        print(f"The tests without a mistake: {' '.join(named)}", flush=True)
        status, seconds, output = pytest(copy, ["-n", str(options.jobs), *named], timeout=10 * options.timeout)
        if status != 0:
            sys.exit(f"{output}\nmutants: the tests must pass without a mistake")
        print(f"They pass, after {seconds:.0f} s.", flush=True)

        def one(mutant):
            copy = copies.get()
            try:
                result = examine(copy, mutant, options)
            finally:
                copies.put(copy)
            print(f"{result['result']:9} {result['seconds']:5.0f} s  {mutant['file']}: {mutant['mistake']}", flush=True)
            return result

        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            return list(pool.map(one, mutants))


def copy_tree(to):
    """The files that git tracks or would add, in an empty folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # not one that was deleted
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    where = [sys.executable, "-c", "import spikegrad; print(spikegrad.__file__)"]
    found = subprocess.run(where, cwd=to, env=environment(to), check=True, capture_output=True, text=True).stdout
    if not Path(found.strip()).is_relative_to(to):
        sys.exit(f"mutants: Python must import spikegrad from {to}, got {found.strip()}")


def environment(copy):
    return os.environ | {"PYTHONPATH": str(copy / "src"), "JAX_PLATFORMS": "cpu"}


def examine(copy, mutant, options):
    path = copy / mutant["file"]
    original = path.read_text()
    selections = [(mutant["tests"], options.timeout)]
    if options.all:
        selections.append((["-n", "2"], 6 * options.timeout))
    total = 0
    write(path, original.replace(mutant["before"], mutant["after"]))
    try:
        for selection, timeout in selections:
            status, seconds, output = pytest(copy, selection, timeout)
            total += seconds
            if status != 0:
                break
    finally:
        write(path, original)
    known = {0: "unnoticed", FAILED: "noticed", NOT_COLLECTED: "noticed", None: "timeout"}
    ended = status is not None and status < 0 and status != -signal.SIGKILL  # by the mistake, not for want of memory
    result = mutant | {"result": "noticed" if ended else known.get(status, "error"), "seconds": round(total)}
    if result["result"] == "noticed":
        result["by"] = next(iter(re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)), "")
    if result["result"] == "error":
        result["output"] = output[-5000:]
    return result


def write(path, text):
    """Write a module, and forget its bytecode: within a second, a text of the same length would not be seen."""
    path.write_text(text)
    for cached in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        cached.unlink()


def pytest(copy, arguments, timeout):
    """Exit status (None after a timeout), seconds and output."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "-p", "no:cacheprovider", *arguments]
    started = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=copy,
        env=environment(copy),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that all its processes can be ended
    ) as process:
        try:
            output, status = process.communicate(timeout=timeout)[0], process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, status = process.communicate()[0], None
    return status, time.monotonic() - started, output


def report(results, of):
    print(f"\n{of} entries, {sum(m['result'] == 'stale' for m in results)} stale")
    by_folder = collections.defaultdict(list)
    for mutant in results:
        by_folder[mutant["folder"]].append(mutant)
    for name, header in (
        ("stale", "Stale, the text does not occur exactly once"),
        ("error", "pytest itself failed"),
        ("timeout", "Timeouts"),
        ("unnoticed", "Unnoticed"),
    ):
        if found := [m for m in results if m["result"] == name]:
            print(f"\n{header}:")
            for mutant in found:
                print(f"  {mutant['file']}: {mutant['mistake']}")
    print("\nfolder       noticed  timeout  of   share")
    for folder, entries in {**by_folder, "all": results}.items() if results else ():
        count = collections.Counter(m["result"] for m in entries)
        noticed, of = count["noticed"] + count["timeout"], len(entries)
        print(f"{folder:12} {noticed:7}  {count['timeout']:7}  {of:3}  {noticed / of:5.0%}")


if __name__ == "__main__":
    sys.exit(main())
