"""Record losses of other libraries: values and gradients.

``tests/losses/test_losses_of_other_libraries.py`` compares the functions of
``examples/losses_of_other_libraries.py`` with these files. Run with the names of installed libraries:

    python scripts/record_losses.py snntorch spikingjelly
    python scripts/record_losses.py sparx
    python scripts/record_losses.py braintools spyx

The first line needs torch 2.13.0, snntorch 1.0.0 and spikingjelly 2.0.0, the second sparxml 0.1.1 (JAX 0.11.2), the
third braintools 0.4.0 and spyx 1.0.0 (JAX 0.12.0).

A file has one record per case. Its fields are the outputs ``x`` of ``(steps, examples, classes)``, the ``labels`` or
``targets``, numbers that are parameters, the ``loss`` and its gradient ``d_x``. Libraries get 64-bit inputs. sparx
casts outputs to 32 bits for all losses except ``van_rossum``, and snnTorch sums some losses over time in 32 bits.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np

STEPS, EXAMPLES, CLASSES = 10, 4, 3
FOLDER = Path(__file__).resolve().parent.parent / "tests" / "recorded" / "losses"

RNG = np.random.default_rng(0)
POTENTIALS = RNG.normal(size=(STEPS, EXAMPLES, CLASSES)).astype(np.float16)
SOFT = RNG.uniform(size=POTENTIALS.shape).astype(np.float16)
SPIKES = (RNG.uniform(size=POTENTIALS.shape) < 0.15).astype(np.float16)  # three neurons are silent
TARGETS = (RNG.uniform(size=POTENTIALS.shape) < 0.3).astype(np.float16)
LABELS = np.array([0, 2, 1, 2])


def snntorch():
    import torch  # noqa: PLC0415
    from snntorch.functional import loss as library  # noqa: PLC0415

    weight = np.array([0.5, 2.0, 1.25])
    yield "ce_rate_loss", POTENTIALS, library.ce_rate_loss(), {}
    yield "ce_count_loss", SOFT, library.ce_count_loss(), {}
    yield "ce_count_loss/weight", SOFT, library.ce_count_loss(weight=torch.tensor(weight)), {"weight": weight}
    yield "ce_max_membrane_loss", POTENTIALS, library.ce_max_membrane_loss(), {}
    yield "mse_count_loss", SOFT, library.mse_count_loss(), {}
    rates = {"correct_rate": 0.75, "incorrect_rate": 0.25}  # 7.5 and 2.5 spikes
    yield "mse_count_loss/truncated", SOFT, library.mse_count_loss(**rates), rates
    targets = {"on_target": 1.5, "off_target": 0.25}
    yield "mse_membrane_loss", POTENTIALS, library.mse_membrane_loss(**targets), targets
    yield "ce_temporal_loss", SPIKES, library.ce_temporal_loss(), {}
    inverse = {"inverse": "reciprocal"}
    yield "ce_temporal_loss/reciprocal", SPIKES, library.ce_temporal_loss(**inverse), inverse
    targets = {"on_target": 2, "off_target": 7}
    yield "mse_temporal_loss", SPIKES, library.mse_temporal_loss(**targets), targets
    both = {"on_target": 0, "off_target": 0}  # off_target=-1, the last step, becomes 0
    yield "mse_temporal_loss/defaults", SPIKES, library.mse_temporal_loss(), both


def spikingjelly():
    from spikingjelly.activation_based.functional import loss  # noqa: PLC0415

    name = "temporal_efficient_training_cross_entropy"
    yield name, POTENTIALS, getattr(loss, name), {}


def sparx():
    from sparx import losses  # noqa: PLC0415
    from sparx.rates import rate_penalty  # noqa: PLC0415

    for readout in losses.READOUTS:
        loss = functools.partial(losses.readout_losses, readout)
        yield f"readout_losses/{readout}", POTENTIALS, loss, {"readout": readout}
    targets = {"correct": 0.7, "incorrect": 0.1}
    yield "rate_mse", SOFT, lambda x, labels: losses.rate_mse(x, labels, **targets), targets
    yield "van_rossum", SOFT, lambda x, targets: losses.van_rossum(x, targets, 3.0), {"tau": 3.0}
    bounds = {"lower": 0.5, "upper": 0.55}
    yield "rate_penalty", SOFT, lambda x, _: rate_penalty({"layer": {"rate": x.mean(0)}}, **bounds), bounds


def braintools():
    from braintools.fit import losses  # noqa: PLC0415

    def van_rossum(x, targets):
        flat = (len(x), -1)
        return losses.van_rossum_loss(x.reshape(flat), targets.reshape(flat), 3.0, 1.0, squared=True)

    yield "van_rossum_loss", SOFT, van_rossum, {"tau": 3.0}


def spyx():
    import jax.numpy as jnp  # noqa: PLC0415
    from spyx import fn  # noqa: PLC0415

    def of(loss):
        return lambda x, labels: loss(x.swapaxes(0, 1), labels)

    yield "integral_crossentropy", POTENTIALS, of(fn.integral_crossentropy(0.3)), {"smoothing": 0.3}
    yield "mse_spikerate", SOFT, of(fn.mse_spikerate(0.25)), {"sparsity": 0.25}
    yield "silence_reg", SOFT, lambda x, _: fn.silence_reg(5.5)(x.sum(0)), {"min_spikes": 5.5}
    squares = fn.sparsity_reg(4.5, norm=jnp.square)
    yield "sparsity_reg", SOFT, lambda x, _: squares(x.sum(0)), {"max_spikes": 4.5}


def torch_gradient(loss, x, second):
    import torch  # noqa: PLC0415

    x = torch.tensor(x, requires_grad=True)
    value = loss(x, torch.tensor(second)).mean()
    value.backward()
    return value.item(), x.grad.numpy()


def jax_gradient(loss, x, second):
    import jax  # noqa: PLC0415

    return jax.value_and_grad(lambda x: loss(x, jax.numpy.asarray(second)).mean())(jax.numpy.asarray(x))


LIBRARIES = {f.__name__: f for f in (snntorch, spikingjelly, sparx, braintools, spyx)}


def main(names):
    FOLDER.mkdir(exist_ok=True)
    is_torch = {"snntorch", "spikingjelly"} >= {*names}
    if not is_torch:
        import jax  # noqa: PLC0415

        jax.config.update("jax_enable_x64", True)
    for name in names:
        cases = {}
        for case, x, loss, numbers in LIBRARIES[name]():
            key, second = ("targets", TARGETS) if case.startswith("van_rossum") else ("labels", LABELS)
            wide = second if key == "labels" else second.astype(float)
            value, gradient = (torch_gradient if is_torch else jax_gradient)(loss, x.astype(float), wide)
            print(f"{name}.{case:42} {float(value):.6f}")
            assert np.any(gradient), case
            found = {"x": x, key: second, **numbers, "loss": np.float64(value), "d_x": np.asarray(gradient, float)}
            found = {field: np.asarray(array) for field, array in found.items()}
            cases[case] = np.zeros((), [(field, array.dtype, array.shape) for field, array in found.items()])
            for field, array in found.items():
                cases[case][field] = array
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, **cases)
        print(f"{path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1:] or LIBRARIES)
