"""What importing the library brings, and what it does not."""

import importlib.metadata
import importlib.resources
import pathlib
import subprocess
import sys
import types

import pytest

import spikegrad


def printed(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.slow
def test_importing_loads_jax_and_itself():
    extra = set(
        printed(
            "import sys, jax, jax.numpy; b = {*sys.modules}; import spikegrad; "
            "print(*{*sys.modules} - b)"
        )
    )
    foreign = (
        {name.partition(".")[0] for name in extra} - set(sys.stdlib_module_names) - {"spikegrad"}
    )
    # jax itself may come with a part that it loads on demand, such as jax.typing
    assert foreign <= {"jax", "jaxlib"}
    assert {name for name in extra if name.startswith("spikegrad.")}.isdisjoint(
        {
            "spikegrad.cli",
            "spikegrad.training",
            "spikegrad.data",
            "spikegrad.reports.plot",
            "spikegrad.exchange",
        }
        | {"spikegrad.neurons", "spikegrad.network", "spikegrad.reports"}
    )
    heavy_standard_library = {
        "asyncio",
        "multiprocessing",
        "unittest",
        "tkinter",
        "sqlite3",
        "http",
        "xml",
    }
    assert heavy_standard_library.isdisjoint(extra)


def test_all_lists_every_public_name():
    names = spikegrad.__all__
    assert len(names) == len(set(names))
    public = {
        name
        for name, value in vars(spikegrad).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public <= set(names) <= set(dir(spikegrad))
    assert not hasattr(spikegrad, "nothing")


MODULES = """
import sys
sys.modules["optax"] = None  # as if it were not installed
import spikegrad
print(*dir(spikegrad))
print(*{"spikegrad.testing", "spikegrad.losses"} & {*sys.modules})
print(spikegrad.losses.count_error.__name__, hasattr(spikegrad, "training"))
for statement in "spikegrad.Network", "spikegrad.network.Network", "from spikegrad import Network":
    for name in [name for name in sys.modules if name.startswith("spikegrad")]:
        del sys.modules[name]
    import spikegrad
    print("spikegrad.network" in sys.modules)
    exec(statement)
    print("spikegrad.network" in sys.modules)
"""


@pytest.mark.slow
def test_modules_are_imported_at_their_first_use():
    source = pathlib.Path(spikegrad.__file__).parent
    modules = {path.parent.name for path in source.glob("[!_]*/__init__.py")}
    words = printed(MODULES)
    assert words[-6:] == 3 * ["False", "True"]
    *listed, function, has_training = words[:-6]
    assert {*listed} == {*spikegrad.__all__, *modules, "__version__"} == {*dir(spikegrad)}
    assert (function, has_training) == ("count_error", "False")
    for name in modules:
        assert getattr(spikegrad, name) is sys.modules[f"spikegrad.{name}"]


@pytest.mark.parametrize(
    "name",
    ["surrogates.sigmoid", "network.match_widths", "diagnosis.LayerReport", "surrogates.Bounded"],
)
def test_missing_name_names_its_module(name):
    module, _, last = name.rpartition(".")
    with pytest.raises(AttributeError, match=f". Write spikegrad.{name}$"):
        getattr(spikegrad, last)
    assert not hasattr(spikegrad, last)
    with pytest.raises(ImportError, match=f". Write from spikegrad.{module} import {last}$"):
        exec(f"from spikegrad import {last}")


FIRST_UPDATES = """
import jax, jax.numpy as jnp
from spikegrad import LIF, Layer, LeakyReadout, Network
x, w, out = jnp.ones((4, 2, 2)), jnp.ones((2, 3)), jnp.ones((3, 1))
def loss(w, mode):
    layers = Layer(w, LIF(0.9), recurrent=jnp.ones((3, 3))), Layer(out, LeakyReadout(0.9))
    return Network(layers)(x, backward=mode)[1].sum()
update = jax.jit(jax.grad(loss), static_argnums=1)
for mode in 2 * ("exact", "8-bit"):
    update(w, mode)
print(update._cache_size())
"""


@pytest.mark.slow
def test_first_update_compiles_once():
    """An import within the first update may add settings to JAX, and then the second update
    compiles again.
    """
    assert printed(FIRST_UPDATES) == ["2"]


def test_package_is_typed_and_has_a_version():
    assert importlib.resources.files("spikegrad").joinpath("py.typed").is_file()
    assert importlib.metadata.version("spikegrad") == spikegrad.__version__


def test_everything_public_is_documented():
    for name in spikegrad.__all__:
        text = getattr(spikegrad, name).__doc__
        assert text, name
        assert text[0] not in " \n", name


def test_an_old_name_gives_the_new_one_with_a_warning(monkeypatch):
    monkeypatch.setitem(spikegrad._RENAMED, "mean_over_time", ("losses.reduce_time", "0.3.0"))
    text = (
        r"spikegrad\.mean_over_time is now spikegrad\.losses\.reduce_time. Version 0\.3\.0 "
        r"removes the old name"
    )
    with pytest.warns(DeprecationWarning, match=text) as warned:
        assert spikegrad.mean_over_time is spikegrad.losses.reduce_time
    assert warned[0].filename == __file__
