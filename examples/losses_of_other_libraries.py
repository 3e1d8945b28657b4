"""Losses of other libraries, to copy into your program.

They have the values and gradients of snnTorch 1.0.0, SpikingJelly 2.0.0, sparx
0.1.1, braintools 0.4.0 and spyx 1.0.0, for outputs of shape ``(steps, examples,
classes)``.
"""

import jax
import jax.numpy as jnp
import optax

from spikegrad.losses import (
    count_error,
    first_spike_time,
    lower_bound,
    potential_error,
    rate_error,
    reduce_time,
    upper_bound,
    van_rossum,
)

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def of_logits(outputs, labels, reduction):
    return cross_entropy(reduce_time(outputs, reduction), labels).mean()


def per_step(outputs, labels):
    each = jax.vmap(cross_entropy, (0, None))(outputs, labels)
    return reduce_time(each, "mean").mean()


def one_hot(outputs, labels):
    return jax.nn.one_hot(labels, outputs.shape[-1])


def snntorch_ce_rate_loss(spikes, labels):
    return per_step(spikes, labels)


def snntorch_ce_count_loss(spikes, labels, weight=None):
    each = cross_entropy(reduce_time(spikes, "sum"), labels)
    return (each if weight is None else weight[labels] * each).mean()


def snntorch_ce_max_membrane_loss(potentials, labels):
    return of_logits(potentials, labels, "max")


def snntorch_mse_count_loss(spikes, labels, correct_rate=1, incorrect_rate=0):
    steps = len(spikes)
    on, off = int(steps * correct_rate), int(steps * incorrect_rate)
    return count_error(spikes, labels, on, off) / steps


def snntorch_mse_membrane_loss(potentials, labels, on_target=1, off_target=0):
    return potential_error(potentials, labels, on_target, off_target)


def snntorch_spike_time(spikes):  # a silent neuron has the last time step
    time = first_spike_time(spikes)
    return jnp.where(time == len(spikes), time - 1, time)


def snntorch_ce_temporal_loss(spikes, labels, inverse="negate"):
    time = snntorch_spike_time(spikes)
    logits = -time if inverse == "negate" else 1 / (time + 1)
    return cross_entropy(logits, labels).mean()


def snntorch_mse_temporal_loss(spikes, labels, on_target, off_target):
    target = jnp.where(one_hot(spikes, labels) == 1, on_target, off_target)
    error = snntorch_spike_time(spikes) - target
    return ((error / len(spikes)) ** 2).mean()


def spikingjelly_temporal_efficient_training_cross_entropy(outputs, labels):
    return per_step(outputs, labels)


# sparx returns one loss for each example
def sparx_readout_losses(outputs, labels, readout):
    if readout == "per_step":
        return per_step(outputs, labels)
    return of_logits(outputs, labels, readout)


def sparx_rate_mse(spikes, labels, correct=0.8, incorrect=0.2):
    return rate_error(spikes, labels, correct, incorrect)


# the sum over spike trains instead of their mean
def sparx_van_rossum(spikes, targets, tau):
    return van_rossum(spikes, targets, tau) * spikes[0].size


# bounds the mean rate of the examples, in spikes per time step
def sparx_rate_penalty(spikes, labels, lower=0.0, upper=1.0):
    rates = spikes.mean((0, 1), keepdims=True)
    low = lower_bound(rates, lower, 1.0)
    return low + upper_bound(rates, upper, 1.0, population=False)


# squared=True: the integral ends after the last time step
def braintools_van_rossum_loss(spikes, targets, tau):
    after = jnp.exp(jnp.arange(-len(spikes), 0.0) / tau)
    end = jnp.tensordot(after, spikes - targets, 1)
    return (van_rossum(spikes, targets, tau) - (end**2).mean() / 2) / tau


def spyx_integral_crossentropy(outputs, labels, smoothing=0.3):
    targets = optax.smooth_labels(one_hot(outputs, labels), smoothing)
    logits = reduce_time(outputs, "sum")
    return optax.softmax_cross_entropy(logits, targets).mean()


# the target of the rate is multiplied by the number of time steps
def spyx_mse_spikerate(spikes, labels, sparsity=0.25):
    return rate_error(spikes, labels, sparsity * len(spikes), 0.0)


# bounds the mean count of the examples, and adds neurons
def spyx_silence_reg(spikes, labels, min_spikes):
    counts = spikes.sum(0, keepdims=True).mean(1, keepdims=True)
    return lower_bound(counts, min_spikes, strength=counts.size)


# norm=jnp.square instead of the Huber loss, and adds examples
def spyx_sparsity_reg(spikes, labels, max_spikes):
    return upper_bound(spikes, max_spikes, strength=spikes.shape[1])
