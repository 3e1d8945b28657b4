"""What a surrogate gradient is not, and what it is: three experiments on
networks so small that the truth is known.

After Gygax and Zenke 2025, "Elucidating the theoretical underpinnings of
surrogate gradient learning in spiking neural networks". Run ``python
benchmarks/not_a_gradient.py``. The functions ``draw_...`` make the figures of the documentation.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from spikegrad import (
    LIF,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    Surrogate,
    parameter,
    soft,
    spike,
    unroll,
)

# --- It is the gradient of no function ----------------------------------------

STEEPNESS, RADIUS, POINTS = 1e4, 1.8, 1500
PLANE = (  # rows 0 and 1 of scipy.stats.ortho_group.rvs(5, random_state=124)
    (
        0.11681338662768548,
        -0.2180221214227635,
        -0.8262964981731294,
        0.501974747253086,
        0.06384698506517264,
    ),
    (
        -0.3031082765192074,
        -0.8068900418182605,
        0.3674928859509496,
        0.3028788828988258,
        0.17397469410659305,
    ),
)


class Mismatched(Surrogate, pure=True):
    """The output of one logistic function, with ``soft``, and the slope of
    another."""

    output: float = parameter(default=STEEPNESS, above=0)
    slope: float = parameter(default=5.0, above=0)

    def surrogate_fun(self, x):
        return Sigmoid(self.output).surrogate_fun(x)

    def surrogate_grad(self, x):
        return Sigmoid(self.slope).surrogate_grad(x)


def small_network(weights, fire):
    """One unit that drives two, which drive the last one. The input is 1."""
    w, v1, v2, u1, u2 = weights
    g = fire(w)
    return fire(u1 * fire(v1 * g) + u2 * fire(v2 * g))


def around_a_circle(fire):
    """The output along a circle in the space of weights, and the change that
    the surrogate gradient says of each step.

    Were it the gradient of any function, the changes would add up to 0.
    """
    angle = 2 * jnp.pi * jnp.arange(POINTS) / POINTS
    first, second = jnp.asarray(PLANE)
    weights = RADIUS * (jnp.outer(jnp.sin(angle), first) + jnp.outer(jnp.cos(angle), second))
    steps = RADIUS * (jnp.outer(jnp.cos(angle), first) - jnp.outer(jnp.sin(angle), second)) * 2 * jnp.pi / POINTS
    outputs, slopes = jax.vmap(lambda w: jax.value_and_grad(small_network)(w, fire))(weights)
    return outputs, (slopes * steps).sum(1)


# --- It may point the other way -----------------------------------------------


def along_a_line(fire):
    """Values of the first weight, where the two hidden units nearly cancel; the
    output there, and its derivative."""
    line = jnp.linspace(-0.2, 0.2, 2001)
    output = jax.value_and_grad(lambda w: small_network((w, 0.05, 0.1, 1.0, -1.0), fire))
    return line, *jax.vmap(output)(line)


# --- With noise, there is a gradient to compare it with -----------------------


class Given:
    """A spike that is known beforehand, with the slope of a surrogate, or a
    constant."""

    def __init__(self, spikes, surrogate):
        self.spikes, self.surrogate = spikes, surrogate

    def __call__(self, x):
        if self.surrogate is None:
            return self.spikes
        # a number of the right sign, whose derivative in x is 1
        return spike(
            x + jax.lax.stop_gradient(2 * self.spikes - 1 - x),
            self.surrogate.surrogate_grad(x),
        )


def if_it_fired(spikes, weights, inputs, cell, noise, surrogate):
    """The probability of these spikes, ``(steps, layers, neurons)``, and the
    readout's mean over the steps."""
    *hidden, last = weights
    states, currents, probability = (
        [jnp.zeros(w.shape[1]) for w in hidden],
        [],
        1.0,
    )
    for x, now in zip(inputs, spikes, strict=True):
        for n, (w, s) in enumerate(zip(hidden, now, strict=True)):
            u = cell.integrate(states[n], x @ w)
            p = noise.surrogate_fun(u - cell.threshold)
            probability *= jnp.where(s > 0, p, 1 - p).prod()
            states[n], x = replace(cell, surrogate=Given(s, surrogate)).fire(u)
        currents.append(x @ last)
    return probability, unroll(LeakyReadout(cell.decay), jnp.stack(currents))[1].mean(0)


def mean_loss(weights, inputs, loss, cell, noise, surrogate=None):
    """The mean loss of a network whose spikes are drawn: a sum over all
    patterns of spikes that there are.

    Its derivative is the true one. With a surrogate, it is instead the mean of
    the surrogate gradients.

    Parameters
    ----------
    weights : list of array
        Those of hidden layers of equal width, and of the readout.
    inputs : array
        ``(steps, inputs)``.
    loss : callable
        A function of the readout.
    cell : LIF
        The neurons, but for their spikes.
    noise : Surrogate
        Its primal is the probability of a spike.
    surrogate : Surrogate, optional
        Its slope takes the place of the derivative of a spike.
    """
    shape = len(inputs), len(weights) - 1, weights[0].shape[1]
    bits = shape[0] * shape[1] * shape[2]
    patterns = ((jnp.arange(2**bits)[:, None] >> jnp.arange(bits)) & 1).astype(inputs.dtype).reshape(-1, *shape)

    def share(spikes):
        probability, readout = if_it_fired(spikes, weights, inputs, cell, noise, surrogate)
        return (probability if surrogate is None else jax.lax.stop_gradient(probability)) * loss(readout)

    return jax.vmap(share)(patterns).sum()


def plain_loss(weights, inputs, loss, cell, surrogate):
    """The loss of the same network without noise."""
    layers = [Layer(w, replace(cell, surrogate=surrogate)) for w in weights[:-1]]
    return loss(Network([*layers, Layer(weights[-1], LeakyReadout(cell.decay))])(inputs)[1].mean(0))


def cosine(a, b):
    """The cosine of the angle between two pytrees of arrays."""
    a, b = (jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in (a, b))
    # squares of small numbers would be 0
    a, b = a / abs(a).max(), b / abs(b).max()
    return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


CELL, NOISE = LIF(0.9), Sigmoid(10.0)


def drawn_network(key, depth, neurons=2, steps=2, examples=16, inputs=4, outputs=2):
    """Weights, inputs ``(examples, steps, inputs)`` and labels; potentials vary
    by about a threshold."""
    *keys, of_inputs, of_labels = jax.random.split(key, depth + 3)
    sizes = [inputs, *[neurons] * depth, outputs]
    weights = [
        jax.random.normal(k, (n, m)) * (2 / n) ** 0.5 for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    spikes = jax.random.bernoulli(of_inputs, 0.5, (examples, steps, inputs)).astype(weights[0].dtype)
    return (
        weights,
        spikes,
        jax.random.randint(of_labels, (examples,), 0, outputs),
    )


def agreement(key, depth, steepness):
    """Cosine between the true gradient of the mean loss, in all hidden layers,
    and the mean surrogate gradient."""
    weights, inputs, labels = drawn_network(key, depth)

    def gradient(surrogate):
        def loss(weights):
            def of_one(x, label):
                return mean_loss(
                    weights,
                    x,
                    lambda out: -jax.nn.log_softmax(out)[label],
                    CELL,
                    NOISE,
                    surrogate,
                )

            return jax.vmap(of_one)(inputs, labels).mean()

        return jax.grad(loss)(weights)[:-1]

    true = gradient(None)
    return jax.vmap(lambda alpha: cosine(gradient(Sigmoid(alpha)), true))(steepness)


def agreements(depth, steepness, networks=64):
    """The mean over random networks, and its standard error."""
    keys = jax.random.split(jax.random.key(0), networks)
    found = jax.jit(jax.vmap(lambda key: agreement(key, depth, steepness)))(keys)
    return found.mean(0), found.std(0) / networks**0.5


# --- Figures and numbers ------------------------------------------------------


def draw_circle():
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, 3, figsize=(9, 3.1), sharex=True, layout="constrained")
    angle = 360 * jnp.arange(POINTS) / POINTS
    for ax, slope in zip(axes, (1.0, 5.0, 20.0), strict=True):
        output, changes = around_a_circle(soft(Mismatched(STEEPNESS, slope)))
        own, exact = around_a_circle(soft(Sigmoid(slope)))
        ax.plot(angle, output, color="0.55", label="output")
        ax.plot(angle, own, "--", color="C0", label="smooth output")
        ax.plot(
            angle,
            own[0] + jnp.cumsum(exact),
            color="C0",
            lw=1,
            label="its gradient, added up",
        )
        ax.plot(
            angle,
            own[0] + jnp.cumsum(changes),
            color="C1",
            label="surrogate gradient, added up",
        )
        ax.set_title(
            f"slope of steepness {slope:g}: {changes.sum():.2f} after a turn",
            fontsize=9,
        )
        ax.set_xticks([0, 180, 360])
        ax.set_xlabel("angle, degrees", fontsize=8)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
    )
    axes[0].set_ylabel("output, integral", fontsize=8)
    _tidy(axes)
    return figure


def draw_line():
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.1), sharex=True, sharey=True, layout="constrained")
    line, _, true = along_a_line(soft(Sigmoid(100.0)))
    for ax, slope in zip(axes, (15.0, 30.0), strict=True):
        _, _, surrogate = along_a_line(soft(Mismatched(100.0, slope)))
        _, _, smooth = along_a_line(soft(Sigmoid(slope)))
        ax.fill_between(
            line,
            -1,
            1,
            true * surrogate < 0,
            color="0.5",
            alpha=0.25,
            label="signs differ",
        )
        for derivative, style in (
            (true, "0.4"),
            (smooth, "C0"),
            (surrogate, "C1"),
        ):
            ax.plot(line, derivative / abs(derivative).max(), color=style)
        ax.set_title(f"slope of steepness {slope:g}", fontsize=9)
        ax.set_xlabel("first weight", fontsize=8)
    for curve, label in zip(
        axes[0].lines,
        ("derivative", "of the smoother network", "surrogate"),
        strict=True,
    ):
        curve.set_label(label)
    axes[0].set_ylabel("share of its peak", fontsize=8)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
    )
    _tidy(axes)
    return figure


def draw_noise():
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    steepness = NOISE.alpha * 2.0 ** jnp.arange(-4, 3)
    for depth in (1, 2):
        mean, error = agreements(depth, steepness)
        ax.errorbar(
            steepness / NOISE.alpha,
            mean,
            error,
            marker=".",
            label=f"hidden layers: {depth}",
        )
    ax.set_xscale("log", base=2)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("steepness of the slope, relative to that of the noise", fontsize=8)
    ax.set_ylabel("cosine with the true gradient", fontsize=8)
    ax.legend(fontsize=8, frameon=False)
    _tidy([ax])
    return figure


def _tidy(axes):
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.3)


def main():
    for slope in (1.0, 5.0, 20.0):
        fires = (
            soft(Mismatched(STEEPNESS, slope)),
            Sigmoid(slope),
            soft(Sigmoid(slope)),
        )
        steep, step, own = (float(around_a_circle(fire)[1].sum()) for fire in fires)
        print(f"a turn, slope {slope:4}: {steep:6.3f}, with a step {step:6.3f}, with the slope's own output {own:.0e}")
    _, _, true = along_a_line(soft(Sigmoid(100.0)))
    for slope in (15.0, 30.0):
        line, _, surrogate = along_a_line(soft(Mismatched(100.0, slope)))
        wrong = line[true * surrogate < 0]
        print(f"a line, slope {slope:4}: the signs differ from {wrong.min():.3f} to {wrong.max():.3f}")
    for depth in (1, 2):
        mean, error = agreements(depth, NOISE.alpha * jnp.array([0.25, 1.0, 4.0]))
        shown = ", ".join(f"{m:.2f} ± {e:.2f}" for m, e in zip(mean, error, strict=True))
        print(f"noise, {depth} layers: cosines {shown} for slopes a quarter, once and four times as steep as the noise")


if __name__ == "__main__":
    main()
