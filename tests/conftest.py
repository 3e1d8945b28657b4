"""Strictness for every test, and several devices, which JAX only makes before it starts."""

import contextlib
import ctypes
import gc
import importlib.metadata
import itertools
import os
import sys
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Modules, workers and processes of a run compile many equal programs: the first one stores it for
# the others.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _PROGRAMS = tempfile.TemporaryDirectory(
        prefix="spikegrad-tests-"
    )  # the next run starts without
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _PROGRAMS.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
if importlib.metadata.version("jax").startswith(
    "0.6."
):  # which reads some loops wrongly from its cache
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax
import pytest

from spikegrad._compat import in_double_precision as enable_x64
from spikegrad.network.engine._modes import MODES as _MODES

MODES = tuple(_MODES)
STORAGES = {name: mode.storage for name, mode in _MODES.items() if mode.storage.encodes}
"""The storage of each mode that keeps states in few bits."""
GRADIENT_ERRORS = {name: storage.gradient_error for name, storage in STORAGES.items()}

LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
ROOT = Path(__file__).resolve().parent.parent

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    with enable_x64():
        yield


@pytest.fixture
def default_promotion():
    """A reader's JAX, not the strict one of the other tests."""
    strict = jax.config.jax_numpy_dtype_promotion, jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    jax.config.update("jax_numpy_dtype_promotion", strict[0])
    jax.config.update("jax_numpy_rank_promotion", strict[1])


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory(request):
    """No file of tests needs what another has compiled, which would add up to gigabytes. Docstrings
    share theirs.
    """
    yield
    if not request.path.is_relative_to(ROOT / "tests"):
        return
    jax.clear_caches()
    if hasattr(LIBC, "malloc_trim"):  # GNU's allocator
        LIBC.malloc_trim(0)


@pytest.fixture(autouse=True, scope="module")
def _optimised(request):
    """A module that says so is about what LLVM makes of a formula."""
    if getattr(request.module, "OPTIMISED", False):
        jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", not request.config.getoption("every"))


def pytest_addoption(parser):
    parser.addoption(
        "--every",
        action="store_true",
        help="all combinations, of which a part stands for the others",
    )
    parser.addoption(
        "--part",
        help="of the chosen tests, one part: 2/6 is every sixth of them, from the second on",
    )


def pytest_configure(config):
    for mark in (
        "every: a combination for which others stand, run with --every alone",
        "ci: of these, a combination that .ci/run does not leave out. It takes one part of them",
        "slow: takes half a second or more, so a run without chosen marks leaves it out, "
        "and .ci/run takes it as one of ci",
        "oldest: depends most on JAX's transformations, so .ci/run also takes the oldest and the "
        "newest JAX",
        "newest: changes with JAX and Python, so .ci/run also takes the newest ones",
    ):
        config.addinivalue_line("markers", mark)
    # Tests have more to compile than to run, small programs by the thousand. LLVM does less for
    # most of them and gets each in one piece. XLA writes loops in its older way, in two thirds of
    # the time, where it still has it: a flag that it does not know would end the process.
    jax.config.update("jax_disable_most_optimizations", not config.getoption("every"))
    if not config.getoption("every"):
        os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
        if jax.__version_info__ < (0, 11):
            os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session):
    """Import modules with doctests under their names. pytest would import a second copy before a
    test does.
    """
    source = session.config.rootpath / "src"
    for argument in session.config.args:
        path = Path(argument.partition("::")[0]).resolve()
        if path.is_relative_to(source):
            for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
                if file.suffix == ".py" and file.name != "__main__.py":
                    with contextlib.suppress(ImportError):  # pytest reports it
                        name = ".".join(file.relative_to(source).with_suffix("").parts)
                        importlib.import_module(name.removesuffix(".__init__"))


def pytest_collection_finish():
    # tracing makes many objects that go by themselves; to look for circles among all that stays is
    # a tenth of the time
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


@pytest.hookimpl(wrapper=True)  # pytest selects by -m within the yield
def pytest_collection_modifyitems(config, items):
    slow = {
        item
        for item in items
        if item.get_closest_marker("slow") and not item.get_closest_marker("every")
    }
    if config.getoption("every"):
        for item in slow:
            item.add_marker("every")
            item.add_marker("ci")
    else:
        left_out = {item for item in items if item.get_closest_marker("every")}
        if not config.getoption("markexpr"):
            left_out |= slow
        config.hook.pytest_deselected(items=[*left_out])
        items[:] = [item for item in items if item not in left_out]
    yield
    if config.getoption("part"):
        first, parts = map(int, config.getoption("part").split("/"))
        chosen = items[first - 1 :: parts]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


def pytest_generate_tests(metafunc):
    """``combination``: values of the factors that a module names, those that EVERY names with
    --every alone.
    """
    if "combination" in metafunc.fixturenames:
        factors = metafunc.module.FACTORS
        rows = list(itertools.product(*factors.values()))
        if not metafunc.config.getoption("every"):
            left_out = getattr(metafunc.module, "EVERY", {})
            rows = [
                row
                for row in rows
                if not any(v in left_out.get(k, ()) for k, v in zip(factors, row, strict=True))
            ]
            rows = pairwise(rows)
        names = ["-".join(map(metafunc.module.label, row)) for row in rows]
        metafunc.parametrize(
            "combination", [dict(zip(factors, row, strict=True)) for row in rows], ids=names
        )


_compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: _compiled.append(event)
)


def compilations(function):
    """The number of programs that XLA compiles while the function runs."""
    before = len(_compiled)
    function()
    return _compiled[before:].count("/jax/core/compile/backend_compile_duration")


def few(values, *chosen, ci=()):
    """Values or rows to parametrize with: the chosen ones stand for the others, which run with
    --every alone.

    Those in ``ci`` also run in .ci/run.
    """

    def marks(value):
        if value in chosen:
            return ()
        return (pytest.mark.every, pytest.mark.ci) if value in ci else pytest.mark.every

    rows = [(value, value if isinstance(value, tuple) else (value,)) for value in values]
    return [pytest.param(*row, marks=marks(value)) for value, row in rows]


def pairwise(rows):
    """Few of the rows, which still have all pairs of values of any two columns."""

    def pairs(row):
        return {
            (i, j, repr(row[i]), repr(row[j]))
            for i, j in itertools.combinations(range(len(row)), 2)
        }

    missing = set().union(*map(pairs, rows))
    chosen = []
    while missing:
        chosen.append(max(rows, key=lambda row: len(pairs(row) & missing)))
        missing -= pairs(chosen[-1])
    return chosen
