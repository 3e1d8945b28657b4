"""Record what other libraries' surrogates do: what comes out, and the slope, at the same points.

``tests/surrogates/test_presets.py`` holds ``spikegrad.surrogates.presets`` against these files. Run with a folder for
environments, which are made there if they are missing, and with names of libraries or none for all:

    python scripts/record_surrogates.py FOLDER [snntorch norse ...]

stork, lava-dl and the repository of norse are no packages that can be installed everywhere: the folder has a checkout
of each, in ``stork``, ``lava-dl`` and ``norse``. Of a library whose package asks for more than its surrogates need, the
module of the surrogates alone is run.

Recorded in float64 on a CPU (mlx-snn: float32), and written in float32, with PyTorch 2.13.0, JAX 0.12.0 and MLX 0.32.4;
stork at commit 258a2d6, lava-dl at d825ac5, norse's repository at 065a3b4.

Of each library a file holds the points ``x``, potentials minus thresholds, and for each of its ``specs``, the names of
``spikegrad.get``, a row of ``values`` and of ``slopes``; NaN where the library has none. ``signatures`` are those of
what has the name there, as ``name(parameters)``, if it has any.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
import types
import venv
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "recorded" / "surrogates"
GRID = np.arange(-24, 25) / 8
NEAR = 2.0 ** -np.arange(4, 21, 2)
FAR = np.array([3.5, 4.25, 4.5, 5.5, 8.0, 9.5, 10.25, 11.0, 30.0, 100.0, 1000.0, 10000.0])
X = np.sort(np.concatenate([GRID, NEAR, -NEAR, FAR, -FAR]))  # float32 has them exactly

ENVIRONMENTS = {  # packages, and packages without what they ask for
    "torch": (
        ["torch", "torchvision", "scipy", "tqdm", "h5py", "pandas", "pyyaml", "matplotlib", "pbr"],
        [
            *("snntorch==1.0.0", "spikingjelly==2.0.0", "norse==1.1.0", "sinabs==3.1.3"),
            *("braincog==0.2.7.19", "rockpool==3.1.0", "nir", "nirtorch"),
        ],
    ),
    "jax": (
        ["jax", "equinox", "flax", "optax", "chex", "scikit-learn", "braintools==0.4.0"],
        ["spyx==1.0.0", "jaxpike==0.1.4", "slax==0.0.1", "snnax==0.0.1", "sparxml==0.1.1"],
    ),
    "mlx": (["mlx[cpu]", "mlx-snn==0.5.0"], []),
}

RECORDED = {  # library: environment, and what is recorded
    "snntorch": (
        "torch",
        "straight_through_estimator() triangular() triangular(threshold=0.5) fast_sigmoid() fast_sigmoid(slope=5.5)"
        " atan() atan(alpha=5.0) heaviside() sigmoid() sigmoid(slope=2.5) spike_rate_escape()"
        " spike_rate_escape(beta=3,slope=0.5) SFS() SFS(slope=4,B=0.25) SFS(B=0)",
    ),
    "spikingjelly": (
        "torch",
        "PiecewiseQuadratic() PiecewiseQuadratic(alpha=2.0) PiecewiseQuadratic(spiking=False) PiecewiseExp()"
        " PiecewiseExp(alpha=3.0) PiecewiseExp(spiking=False) Sigmoid() Sigmoid(alpha=1.5) Sigmoid(spiking=False)"
        " SoftSign() SoftSign(alpha=5.0) SoftSign(spiking=False) SuperSpike() SuperSpike(alpha=3.0) ATan()"
        " ATan(alpha=5.0) ATan(spiking=False) NonzeroSignLogAbs() NonzeroSignLogAbs(alpha=3.0)"
        " NonzeroSignLogAbs(spiking=False) Erf() Erf(alpha=0.5) Erf(spiking=False) PiecewiseLeakyReLU()"
        " PiecewiseLeakyReLU(w=0.5,c=0.25) PiecewiseLeakyReLU(spiking=False) SquarewaveFourierSeries()"
        " SquarewaveFourierSeries(n=4,T_period=3.0) SquarewaveFourierSeries(n=3,spiking=False) S2NN()"
        " S2NN(alpha=2.0,beta=0.5) S2NN(spiking=False) QPseudoSpike() QPseudoSpike(alpha=1.5)"
        " QPseudoSpike(alpha=3.0,spiking=False) LeakyKReLU() LeakyKReLU(leak=0.25,k=2.0) LeakyKReLU(0.5,spiking=False)"
        " FakeNumericalGradient() FakeNumericalGradient(alpha=4.0) LogTailedReLU() LogTailedReLU(alpha=0.25)"
        " LogTailedReLU(alpha=0.25,spiking=False) DeterministicPass() DeterministicPass(spiking=False) PoissonPass()"
        " PoissonPass(spiking=False) Rect() Rect(alpha=2.0) Rect(spiking=False)",
    ),
    "norse": (
        "torch",
        "super() super(alpha=10.0) super_git() super_git(alpha=10.0) triangle() triangle(alpha=0.3) tanh()"
        " tanh(alpha=2.0) circ() circ(alpha=0.5) heavi_erfc() heavi_erfc(alpha=2.0)",
    ),
    "sinabs": (
        "torch",
        "Heaviside() Heaviside(window=0.5,spike_threshold=2.0) Gaussian() Gaussian(mu=0.5,sigma=0.75,grad_scale=3.0)"
        " MultiGaussian() MultiGaussian(mu=0.25,sigma=0.75,h=0.25,s=3.0,grad_scale=2.0) SingleExponential()"
        " SingleExponential(grad_width=0.25,grad_scale=3.0,spike_threshold=2.0) PeriodicExponential()"
        " PeriodicExponential(grad_width=0.25,grad_scale=3.0,spike_threshold=2.0) MultiSpike()"
        " MaxSpike(max_num_spikes_per_bin=3)",
    ),
    "lava_dl": (
        "torch",
        "Spike(tau_rho=0.5,scale_rho=3.0) cuba(threshold=1.25) cuba(threshold=0.5,tau_grad=0.2,scale_grad=2.0)"
        " alif(threshold=1.25,tau_grad=0.01) rf_iz(threshold=1.25) adrf_iz(threshold=1.25)",
    ),
    "rockpool": (
        "torch",
        "StepPWL() StepPWL(threshold=2.0,window=0.25,max_spikes_per_dt=4) step_pwl(threshold=1.0,max_spikes_per_dt=4)"
        " PeriodicExponential() PeriodicExponential(threshold=2.0,window=0.25,max_spikes_per_dt=4)",
    ),
    "stork": (
        "torch",
        "SuperSpike() SuperSpike(beta=5) CustomSpike() CustomSpike(surrogate_type='sigmoid')"
        " CustomSpike(surrogate_type='exponential',p0=0.5,delta_u=1.5) CustomSpike('sigmoid','sigmoid')"
        " CustomSpike('exponential','exponential',p0=0.5,delta_u=1.5) SuperSpike_MemClamp() SuperSpike_MemClamp(beta=3)"
        " SuperSpike_rescaled() SuperSpike_rescaled(beta=3) MultiSpike() MultiSpike(beta=4,maxspk=3)"
        " SuperSpike_asymptote() SuperSpike_asymptote(beta=3) TanhSpike() TanhSpike(beta=3) EsserSpike()"
        " EsserSpike(beta=2) HardTanhSpike() HardTanhSpike(beta=2)",
    ),
    "braincog": (
        "torch",
        "SigmoidGrad() SigmoidGrad(alpha=4.0) AtanGrad() AtanGrad(alpha=5.0,requires_grad=False) GateGrad()"
        " GateGrad(alpha=4.0) QGateGrad() QGateGrad(alpha=4.0) ReLUGrad() ReLUGrad(alpha=0.5,requires_grad=True)"
        " RoundGrad() straight_through_estimator() STDPGrad() BackEIGateGrad()",
    ),
    "braintools": (
        "jax",
        "Sigmoid() Sigmoid(alpha=2.0) PiecewiseQuadratic() PiecewiseExp() SoftSign() Arctan() NonzeroSignLog() ERF()"
        " PiecewiseLeakyRelu() PiecewiseLeakyRelu(c=0.25,w=0.5) SquarewaveFourierSeries() S2NN() QPseudoSpike()"
        " QPseudoSpike(alpha=1.5) LeakyRelu() LogTailedRelu() LogTailedRelu(alpha=0.25) ReluGrad() GaussianGrad()"
        " MultiGaussianGrad() InvSquareGrad() SlayerGrad()",
    ),
    "spyx": (
        "jax",
        "custom() tanh() tanh(k=3) boxcar() boxcar(width=1,height=2.0) triangular() triangular(k=0.5) arctan()"
        " arctan(k=0.5) superspike() superspike(k=5)",
    ),
    "jaxpike": (
        "jax",
        "FastSigmoid() FastSigmoid(slope=5.0) ATan() ATan(alpha=5.0) Triangular() Triangular(width=0.5) Boxcar()"
        " Boxcar(width=2.0)",
    ),
    "slax": (
        "jax",
        "fast_sigmoid() fast_sigmoid(slope=5) atan() atan(alpha=5.0) multi_gauss()"
        " multi_gauss(gamma=1.0,lens=0.5,scale=3.0,height=0.25)",
    ),
    "snnax": (
        "jax",
        "superspike_surrogate() superspike_surrogate(beta=2.0) piecewise_surrogate() piecewise_surrogate(beta=2.0)",
    ),
    "sparx": (
        "jax",
        "ATan() ATan(alpha=5.0) Sigmoid() Sigmoid(alpha=1.5) FastSigmoid() FastSigmoid(slope=5.0) Triangle()"
        " Triangle(width=0.5,scale=3.0) Rectangle() Rectangle(width=2.0) Gaussian() Gaussian(sigma=2.0)"
        " StraightThrough()",
    ),
    "mlx_snn": (
        "mlx",
        "fast_sigmoid_surrogate() fast_sigmoid_surrogate(scale=5.0) arctan_surrogate() arctan_surrogate(alpha=5.0)"
        " straight_through_surrogate() sigmoid_surrogate() sigmoid_surrogate(slope=2.5) triangular_surrogate()"
        " triangular_surrogate(scale=3.0)",
    ),
}


def bare(name, root=None):
    """A module of a package, of which nothing else is run: the packages around it are folders."""
    top, *inner = name.split(".")
    if root is None:
        found = (
            sys.modules[top].__path__
            if top in sys.modules
            else importlib.util.find_spec(top).submodule_search_locations
        )
        root = found[0]
    package, path = top, Path(root)
    for part in inner:
        if package not in sys.modules:
            sys.modules[package] = types.ModuleType(package)
            sys.modules[package].__path__ = [str(path)]
        package, path = f"{package}.{part}", path / part
    return importlib.import_module(name)


def having(signature, make):
    """What has the parameters and defaults, given by name, that something has in the library."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    make.__signature__ = inspect.Signature([inspect.Parameter(n, kind, default=d) for n, d in signature.items()])
    return make


def defaults(function, *names):
    """Its parameters, or the named ones, each with its default."""
    found = inspect.signature(function).parameters
    return {name: found[name].default for name in names or found}


# --- the names of each library ----------------------------------------------------------------------------------------
# Each gives what its specs call. What comes of a call takes x, potentials minus thresholds.


def snntorch(_):
    return vars(importlib.import_module("snntorch.surrogate"))


def spikingjelly(_):
    import torch  # noqa: PLC0415

    module = importlib.import_module("spikingjelly.activation_based.surrogate")

    def poisson_pass(spiking=True):  # of a probability alone
        def fire(x):
            inside = (x >= 0) & (x <= 1)
            y = module.PoissonPass(spiking)(torch.where(inside, x, 0))
            return torch.where(inside, y, torch.nan) if spiking else module.PoissonPass(spiking)(x)

        return fire

    return {**vars(module), "PoissonPass": having(defaults(module.PoissonPass), poisson_pass)}


def norse(folder):
    release = importlib.import_module("norse.torch.functional.threshold").threshold
    alpha = float(importlib.import_module("norse.torch.functional.lif").LIFParameters().alpha)
    for name in [name for name in sys.modules if name.partition(".")[0] == "norse"]:
        del sys.modules[name]
    git = bare("norse.torch.functional.threshold", folder / "norse" / "norse").threshold

    def method(threshold, name):
        return having({"alpha": alpha}, lambda alpha=alpha: lambda x: threshold(x, name, alpha))

    methods = {name: method(release, name) for name in ("super", "triangle", "tanh", "circ", "heavi_erfc")}
    return {**methods, "super_git": method(git, "super")}


def sinabs(_):
    slopes = bare("sinabs.activation.surrogate_gradient_fn")
    spikes = bare("sinabs.activation.spike_generation")

    def at(threshold, spike, slope):
        return lambda x: spike.apply(x + threshold, threshold, slope)

    def alone(slope):
        def make(*args, spike_threshold=1.0, **kwargs):
            return at(spike_threshold, spikes.SingleSpike, slope(*args, **kwargs))

        return having(defaults(slope), make)

    names = ("Heaviside", "Gaussian", "MultiGaussian", "SingleExponential", "PeriodicExponential")
    default = slopes.SingleExponential()
    return {
        **{name: alone(getattr(slopes, name)) for name in names},
        "MultiSpike": lambda: at(1.0, spikes.MultiSpike, default),
        "MaxSpike": having(defaults(spikes.MaxSpike), lambda **kwargs: at(1.0, spikes.MaxSpike(**kwargs), default)),
    }


def lava_dl(folder):
    import torch  # noqa: PLC0415

    root = folder / "lava-dl" / "src" / "lava"
    spike = bare("lava.lib.dl.slayer.spike.spike", root).Spike
    neurons = {name: bare(f"lava.lib.dl.slayer.neuron.{name}", root) for name in ("cuba", "alif", "rf_iz", "adrf_iz")}

    def plain(tau_rho, scale_rho):
        return lambda x: spike.apply(x + 1.0, 1.0, tau_rho, scale_rho, False, 0, 1)

    def of(name):
        more = {
            "cuba": {"current_decay": 0.5, "voltage_decay": 0.5},
            "alif": {
                "current_decay": 0.5,
                "voltage_decay": 0.5,
                "threshold_decay": 0.5,
                "refractory_decay": 0.5,
                "threshold_step": 0.5,
            },
            "rf_iz": {"period": 10, "decay": 0.5},
            "adrf_iz": {
                "period": 10,
                "decay": 0.5,
                "threshold_decay": 0.5,
                "refractory_decay": 0.5,
                "threshold_step": 0.5,
            },
        }[name]

        def make(**kwargs):
            neuron = neurons[name].Neuron(**kwargs, **more)

            def fire(x):
                v = (x + neuron.threshold if name in ("cuba", "rf_iz") else x + kwargs["threshold"]).reshape(1, 1, -1)
                nothing = torch.zeros_like(v)
                if name == "cuba":
                    return neuron.spike(v)
                if name == "rf_iz":
                    return neuron.spike(nothing, v)
                if name == "alif":
                    return neuron.spike(v, nothing + kwargs["threshold"], nothing)
                return neuron.spike(nothing, v, nothing + kwargs["threshold"], nothing)

            return fire

        return having(defaults(neurons[name].Neuron, "threshold", "tau_grad", "scale_grad"), make)

    return {"Spike": plain, **{name: of(name) for name in neurons}}


def rockpool(_):
    import torch  # noqa: PLC0415

    module = importlib.import_module("rockpool.nn.modules.torch.lif_torch")

    def of(function):
        def make(threshold=1.0, window=0.5, max_spikes_per_dt=2.0**16):
            numbers = [torch.tensor(number) for number in (threshold, window, float(max_spikes_per_dt))]
            return lambda x: function.apply(x + threshold, *numbers)

        there = defaults(function.forward, "threshold", "window", "max_spikes_per_dt")
        return having({name: float(number) for name, number in there.items()}, make)

    names = {name: of(getattr(module, name)) for name in ("StepPWL", "PeriodicExponential")}
    of_jax = lambda **given: names["StepPWL"](**given)  # noqa: E731, PLW0108  # its text is the same, for an older JAX
    return {**names, "step_pwl": of_jax}


def stork(folder):
    module = bare("stork.activations", folder / "stork" / "stork")

    def of(name):
        def make(*types, **kwargs):
            function = getattr(module, name)
            types = {**dict(zip(("escape_noise_type", "surrogate_type"), types, strict=False)), **kwargs}
            attributes = {k: v for k, v in types.items() if k not in ("p0", "delta_u")}
            if name == "CustomSpike":
                numbers = {"beta": 10, "p0": 0.01, "delta_u": 0.133, **kwargs}
                attributes = {"escape_noise_type": "step", "surrogate_type": "SuperSpike", **attributes}
                attributes = {**attributes, "escape_noise_params": numbers, "surrogate_params": numbers}

            def fire(x):
                before = {k: vars(function)[k] for k in attributes if k in vars(function)}
                for k, v in attributes.items():
                    setattr(function, k, v)
                return function.apply(x), lambda: [setattr(function, k, v) for k, v in before.items()]

            return fire

        there = {k: v for k, v in vars(getattr(module, name)).items() if k in ("beta", "maxspk")}
        custom = module.CustomSpike
        types = {"escape_noise_type": custom.escape_noise_type, "surrogate_type": custom.surrogate_type}
        return having({**types, **custom.surrogate_params} if name == "CustomSpike" else there, make)

    return {name: of(name) for name in vars(module) if "Spike" in name}


def braincog(_):
    module = bare("braincog.base.strategy.surrogate")
    return {**vars(module), "straight_through_estimator": lambda: module.straight_through_estimator.apply}


def braintools(_):
    return vars(importlib.import_module("braintools.surrogate"))


def spyx(_):
    return vars(bare("spyx.axn"))


def jaxpike(_):
    return vars(bare("jaxpike.surrogate"))


def slax(_):
    return vars(bare("slax.models.surrogates"))


def snnax(_):
    return vars(bare("snnax.functional.surrogate"))


def sparx(_):
    return vars(bare("sparx.surrogate"))


def mlx_snn(_):
    return vars(importlib.import_module("mlxsnn.surrogate"))


# --- running them -----------------------------------------------------------------------------------------------------


def with_torch(fire):
    import torch  # noqa: PLC0415

    torch.manual_seed(0)
    x = torch.tensor(X, requires_grad=True)
    y = fire(x)
    y, restore = y if isinstance(y, tuple) else (y, lambda: None)
    y.sum().backward()
    restore()
    slope = torch.zeros_like(x) if x.grad is None else x.grad
    return y.detach().numpy().reshape(X.shape), slope.numpy()


def with_jax(fire):
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    y, back = jax.vjp(fire, jnp.asarray(X))
    return np.asarray(y), np.asarray(back(jnp.ones_like(y))[0])


def with_mlx(fire):
    import mlx.core as mx  # noqa: PLC0415

    x = mx.array(X.astype(np.float32))
    (y,), (slope,) = mx.vjp(lambda x: [fire(x)], [x], [mx.ones_like(x)])
    return np.array(y), np.array(slope)


def record(library, folder):
    environment, specs = RECORDED[library]
    if environment == "jax":
        import jax  # noqa: PLC0415

        jax.config.update("jax_enable_x64", True)
    names = globals()[library](folder)
    run = globals()[f"with_{environment}"]
    rows = [run(eval(spec, dict(names))) for spec in specs.split()]  # one of the strings above
    signatures = []
    for name in dict.fromkeys(spec.partition("(")[0] for spec in specs.split()):
        if names[name].__module__ == "__main__" and not hasattr(names[name], "__signature__"):
            continue
        signature = inspect.signature(names[name])
        shown = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
        signatures.append(f"{name}{signature.replace(parameters=shown, return_annotation=inspect.Parameter.empty)}")
    FOLDER.mkdir(exist_ok=True)
    values, slopes = (np.array(part, np.float32) for part in zip(*rows, strict=True))
    np.savez_compressed(
        FOLDER / f"{library}.npz",
        x=X.astype(np.float32),
        specs=np.array(specs.split()),
        values=values,
        slopes=slopes,
        signatures=np.array(signatures),
    )
    print(f"{library}: {len(rows)} surrogates at {len(X)} points")


def python_of(name, folder):
    """The interpreter of an environment, which is made if it is missing."""
    python = folder / name / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        venv.create(folder / name, with_pip=True)
        packages, alone = ENVIRONMENTS[name]
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        if alone:
            subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *alone], check=True)
    return python


def main(folder, *libraries):
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    inside = "--inside" in libraries
    for library in [name for name in libraries if name != "--inside"] or RECORDED:
        if inside:
            record(library, folder)
        else:  # each in a process of its own, since their modules are found in ways of their own
            python = python_of(RECORDED[library][0], folder)
            subprocess.run([python, __file__, str(folder), "--inside", library], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
