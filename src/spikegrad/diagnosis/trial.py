"""Short trainings on some of the examples, scored on all others, in one compiled program."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._compat import used_inputs
from .._optimizer import updates_of
from .._pytree import PyTree, is_array, merge, split
from ..network import Network, tree_where
from .moves import Move, Moves, ScaleRate, Standardize, apply_moves, keys_of

if TYPE_CHECKING:
    from optax import GradientTransformation

UPDATES = 60
"""Updates of a short training. A network that learns shows it in so many."""
HELD_OUT = 1 / 3
"""The part of the examples that the updates do not use."""
FEW_EXAMPLES = 30
"""With fewer examples, none is held out, because the rest would be too few to learn from."""
CAUTION = (1.0, 0.3, 0.1)
"""Right outputs may be too sure for examples that the updates do not use, so the best of these
parts of the distances from constant outputs counts."""
LITTLE = 0.03
"""The noise of an outcome, as a part of the loss."""
MUCH = 0.1
"""Changes must add this part, which is more than the noise of few examples. A network that removes
less for other examples learns by heart."""
LEARNS = 0.6
"""A network that removes this part of the loss of constant outputs, which is most of it, learns. It
has no issue if it removes this part also of other examples."""

PARTLY = 0.3
"""A network that removes this part of the loss, also of other examples, learns in part. Noise of
the targets bounds both parts."""


Loss: TypeAlias = Callable[[PyTree], jax.Array]
"""The loss of a user, of the outputs of the network."""


class Problem(NamedTuple):
    """A network and everything that its training needs."""

    network: Network
    inputs: Mapping[str, jax.Array]
    loss: Loss | None
    optimizer: GradientTransformation | None
    key: jax.Array | None
    mask: np.ndarray | None
    """The valid steps, ``(steps, examples)`` or ``(steps,)``."""
    floor: float = 0.0
    """The loss of perfect outputs."""
    constant: PyTree = None
    """The best constant outputs, each ``(steps, 1, ...)``."""
    symbols: frozenset[str] = frozenset()
    """The names of integer inputs with a meaning of their own, such as the indices of words."""

    @property
    def options(self) -> dict[str, Any]:
        """The options of a call. A plain scan compiles fastest, and few examples fit in memory."""
        return {"key": self.key, "mask": self.mask, "backward": "scan"}

    @property
    def valid(self) -> np.ndarray:
        """The valid steps of each example, ``(steps, examples)``."""
        steps, examples = next(iter(self.inputs.values())).shape[:2]
        mask = self.mask
        # Measures need some steps, also of a mask without any.
        if mask is None or not mask.any():
            mask = np.ones(steps, bool)
        return np.broadcast_to(mask.reshape(steps, -1), (steps, examples))

    def arguments(self, inputs: Mapping[str, jax.Array]) -> PyTree:
        """Return the inputs as a call of the network takes them."""
        names = self.network.inputs
        return inputs[names] if isinstance(names, str) else dict(inputs)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a short training of a diagnosis: how far the loss fell.

    Each number is a part of the way between two losses. 0 is the loss of the best constant
    outputs, which ignore the inputs. 1 is the lowest possible loss, which is 0 for most losses.
    """

    learned: float
    """The smaller one of the two numbers below."""
    trained: float
    """The part for the examples that the updates use."""
    held_out: float
    """The part for the examples that the updates do not use."""
    plain: float
    """The part for these examples with the outputs of the network, without making them less sure.
    It is below 0 if constants have a lower loss."""

    @property
    def score(self) -> float:
        """The mean of ``trained`` and ``held_out``, by which changes are compared.

        ``held_out`` alone is noisy for few examples, and ``trained`` alone says little for networks
        with many weights.
        """
        return (self.trained + self.held_out) / 2

    @property
    def is_too_sure(self) -> bool:
        """True if constants have a lower loss for other examples than the outputs."""
        return self.plain < 0

    @property
    def learns(self) -> bool:
        """True if a network learns, and its outputs are not too sure."""
        return self.learned >= LEARNS and not self.is_too_sure

    @property
    def is_by_heart(self) -> bool:
        """True if a network learns the examples that the updates use, and no others."""
        return self.trained >= LEARNS and self.learned < MUCH

    @property
    def is_partial(self) -> bool:
        """True if a network learns a part of the loss, also of other examples."""
        return min(self.trained, self.held_out) >= PARTLY


RATE = ScaleRate(None, None)
"""The slot of the learning rate."""


def rate_of(moves: Iterable[Move]) -> float:
    """Return the factor of the learning rate in the moves."""
    return next((move.value for move in moves if isinstance(move, ScaleRate)), 1.0)


def with_moves(problem: Problem, moves: Iterable[Move]) -> Problem:
    """Return the problem after the moves."""
    for move in moves:
        network, optimizer = move.apply(problem.network), problem.optimizer
        optimizer = None if optimizer is None else move.change_optimizer(optimizer)
        problem = problem._replace(network=network, optimizer=optimizer)
    return problem


class Constant(NamedTuple):
    """Constant outputs: equal for all examples, so they ignore the inputs."""

    loss: jax.Array
    outputs: PyTree
    """Each ``(steps, examples, ...)``."""


def better_constant(loss: Loss, outputs: PyTree) -> Constant:
    """Return the better one of two constants, zeros and the means of the examples.

    Means may be far from any sensible output, but zeros may be. A loss that compares examples, such
    as a correlation, is NaN for all constants. Then it returns the outputs in another order of the
    examples, which ignore the inputs too.
    """

    def mean_of_examples(output: jax.Array) -> jax.Array:
        # (steps, examples, ...)
        mean = output.mean(1, keepdims=True)
        return jnp.broadcast_to(mean, output.shape)

    def of_other_examples(output: jax.Array) -> jax.Array:
        return jax.random.permutation(jax.random.key(0), output, 1)

    zeros = jax.tree.map(jnp.zeros_like, outputs)
    means = jax.tree.map(mean_of_examples, outputs)
    found = lower(Constant(loss(zeros), zeros), Constant(loss(means), means))
    others = jax.tree.map(of_other_examples, outputs)
    return tree_where(jnp.isnan(found.loss), Constant(loss(others), others), found)


def lower(first: Constant, second: Constant) -> Constant:
    """Return the constant with the lower loss. A loss of NaN is the highest."""
    is_lower = (second.loss < first.loss) | jnp.isnan(first.loss)
    return tree_where(is_lower, second, first)


def between(first: PyTree, last: PyTree, part: ArrayLike) -> PyTree:
    """Return the outputs at this part of the way from the first to the last ones."""

    def moved(first: jax.Array, last: jax.Array) -> jax.Array:
        return first + (part * (last - first)).astype(last.dtype)

    return jax.tree.map(moved, first, last)


def compiled(
    function: Callable, problem: Problem, neutral: Moves, **options: Any
) -> Callable[..., PyTree]:
    """Return a compiled function of a network, of the values of moves and further arguments."""
    arrays, others = split(problem.network, is_array)

    @functools.partial(jax.jit, **options)
    def run(
        arrays: Network,
        inputs: Mapping[str, jax.Array],
        values: list[PyTree],
        *arguments: ArrayLike,
    ) -> PyTree:
        moves = {
            slot: dataclasses.replace(slot, value=value)
            for slot, value in zip(neutral, values, strict=True)
        }
        # A join would rename the sources of weights, and the optimizer uses their names for its
        # state.
        changed = dict(inputs)
        for slot, move in [*moves.items()]:
            if isinstance(move, Standardize):
                changed[slot.place] = move.standardize(inputs[slot.place])
                del moves[slot]
        return function(problem, merge(arrays, others), changed, moves, *arguments)

    def call(moves: Moves, *arguments: ArrayLike) -> PyTree:
        # Every slot gets a value, in one order, so all calls have one structure and one program.
        values = [moves.get(slot, move).value for slot, move in neutral.items()]
        return jax.device_get(run(arrays, dict(problem.inputs), values, *arguments))

    return call


def symbols_of(problem: Problem) -> frozenset[str]:
    """Return the names of integer inputs without a derivative, or that cannot be floats at all."""
    inputs = problem.inputs
    return frozenset(
        name
        for name, x in inputs.items()
        if jnp.issubdtype(x.dtype, jnp.integer) and not _is_number(problem, name)
    )


def _is_number(problem: Problem, name: str) -> bool:
    def outputs_of(x: jax.Array) -> PyTree:
        inputs = {**problem.inputs, name: x}
        return problem.network(problem.arguments(inputs), **problem.options)[1]

    def tangent_of(x: jax.Array, tangent: jax.Array) -> PyTree:
        return jax.jvp(outputs_of, (x,), (tangent,))[1]

    x = jax.ShapeDtypeStruct(problem.inputs[name].shape, jnp.float32)
    try:
        # An index must be an integer, and one_hot warns of a float.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            program = jax.make_jaxpr(tangent_of)(x, x)
    except (TypeError, IndexError, Warning):
        return False
    # The tangent of a comparison, as in one_hot, does not depend on the tangent of the input.
    return used_inputs(program)[1]


class Budget:
    """The time for trainings: seconds from the construction, or no limit."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = math.inf if seconds is None else seconds
        self.start = time.monotonic()

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.seconds - (time.monotonic() - self.start)


@dataclasses.dataclass
class Durations:
    """The longest times so far, to estimate the time of the next training."""

    compilation: float = 0.0
    """Seconds to compile one program."""
    update: float = 0.0
    """Seconds of one update."""


class Trials:
    """Short trainings of a network with moves.

    Moves in slots and the learning rate are arguments of one compiled program. Other moves need a
    program of their own. Programs and results are remembered, because the search tries the same
    moves again, for example to prune them.
    """

    def __init__(self, problem: Problem, slots: Moves, budget: Budget) -> None:
        self.problem, self.slots, self.budget = problem, slots, budget
        self.durations = Durations()
        # By the moves that are no arguments of a program.
        self.programs: dict[frozenset, Callable[..., Removed]] = {}
        # By all moves and the number of updates.
        self.outcomes: dict[tuple[frozenset, int], Outcome] = {}
        examples = problem.valid.shape[1]
        # Held-out examples show if a change generalizes. A network may learn the labels of few
        # examples by heart, whatever its faults.
        self.is_split = examples >= FEW_EXAMPLES
        # A permutation, because examples may be sorted by class.
        order = np.argsort(np.random.default_rng(0).permutation(examples))
        count = int(HELD_OUT * examples) if self.is_split else 0
        self.held = order < count  # (examples,)

    def __call__(self, moves: Moves, updates: int = UPDATES) -> Outcome:
        """Train the network with moves."""
        key = keys_of(moves.values()), updates
        if key not in self.outcomes:
            self.outcomes[key] = self._train(moves, updates)
        return self.outcomes[key]

    def allows(self, moves: Moves, updates: int = UPDATES) -> bool:
        """Return True if the training is known already, or should end within the budget."""
        if (keys_of(moves.values()), updates) in self.outcomes:
            return True
        expected = updates * self.durations.update
        if keys_of(self._own_program(moves)) not in self.programs:
            expected += self.durations.compilation
        return expected < self.budget.left

    def _own_program(self, moves: Moves) -> list[Move]:
        """Return the moves that are no arguments of a program."""
        others = []
        for slot, move in moves.items():
            if slot in self.slots or slot == RATE:
                continue
            if isinstance(move, ScaleRate):
                # The learning rate of a replaced optimizer is an argument too.
                move = dataclasses.replace(move, value=1.0)
            others.append(move)
        return others

    def _train(self, moves: Moves, updates: int) -> Outcome:
        others = self._own_program(moves)
        program = keys_of(others)
        rate = np.float32(rate_of(moves.values()))
        if program not in self.programs:
            changed = with_moves(self.problem, others)
            run = self.programs[program] = compiled(_train, changed, self.slots)
            start = time.monotonic()
            # No updates, so this is the time of the compilation alone.
            run(moves, self.held, rate, 0)
            self.durations.compilation = max(
                self.durations.compilation, time.monotonic() - start
            )
        start = time.monotonic()
        parts = self.programs[program](moves, self.held, rate, updates)
        self.durations.update = max(
            self.durations.update, (time.monotonic() - start) / updates
        )
        # The loss of perfect outputs is an estimate, which a network may reach and pass. And a part
        # of the examples may have more than its share of the loss.
        trained, held_out = (
            float(np.clip(np.nan_to_num(part), 0.0, 1.0))
            for part in (parts.trained, parts.held_out)
        )
        learned = min(trained, held_out) if self.is_split else trained
        return Outcome(learned, trained, held_out, float(np.nan_to_num(parts.plain)))


class Removed(NamedTuple):
    """The parts of the loss that a training removes, as in :class:`Outcome`."""

    trained: jax.Array
    held_out: jax.Array
    plain: jax.Array


def _train(
    problem: Problem,
    network: Network,
    inputs: Mapping[str, jax.Array],
    moves: Moves,
    held: jax.Array,
    rate: jax.Array,
    updates: int,
) -> Removed:
    """Train the network, and return the parts of the loss that the training removes.

    ``held`` is True for the held-out examples, ``(examples,)``.
    """
    trainable, static = apply_moves(network, moves)
    loss, optimizer = problem.loss, problem.optimizer
    assert loss is not None
    assert optimizer is not None

    def outputs_of(trainable: PyTree, key: jax.Array | None) -> PyTree:
        network = merge(trainable, static)
        options: dict[str, Any] = problem.options | {"key": key}
        return network(problem.arguments(inputs), **options)[1]

    @functools.partial(jax.vmap, in_axes=(0, 1, 1), out_axes=1)
    def choose(condition: jax.Array, first: PyTree, second: PyTree) -> PyTree:
        return jax.tree.map(functools.partial(jnp.where, condition), first, second)

    def update(step: int, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        trainable, state = carry
        key = None if problem.key is None else jax.random.fold_in(problem.key, step)

        def loss_of(trainable: PyTree) -> jax.Array:
            out = outputs_of(trainable, key)
            # The loss takes the outputs of all examples, and labels may be in its closure, so no
            # example can be left out. Held-out ones keep their values but get no gradient.
            return loss(choose(held, jax.lax.stop_gradient(out), out))

        value, gradient = jax.value_and_grad(loss_of)(trainable)
        updates, state = updates_of(
            optimizer, gradient, state, trainable, value, loss_of
        )

        def moved(w: jax.Array, change: jax.Array) -> jax.Array:
            # The rate multiplies the update, so it can be an argument of the program. In float32,
            # because half precision would round small updates before they are scaled.
            scaled = rate * change.astype(jnp.float32)
            return w + scaled.astype(w.dtype)

        return jax.tree.map(moved, trainable, updates), state

    start = trainable, optimizer.init(trainable)
    trainable, _ = jax.lax.fori_loop(0, updates, update, start)
    out = outputs_of(trainable, problem.key)
    # The reference is a network that ignores its inputs. Removing a part of this loss needs
    # information from them. Perfect outputs remove all of it.
    own = better_constant(loss, out)
    best = jax.tree.map(_like, problem.constant, out)
    before, constant = lower(own, Constant(loss(best), best))

    def parts(certainty: jax.Array) -> jax.Array:
        """Return the parts that less sure outputs of used and of held-out examples remove,
        ``(2,)``.
        """
        outputs = between(own.outputs, out, certainty)
        of_used = loss(choose(held, constant, outputs))
        of_held = loss(choose(held, outputs, constant))
        of_all = loss(outputs)
        # A loss may compare examples, such as a ranking. So a fall is the mean of two: with
        # constant outputs of the other examples, and with the outputs of the network. They are
        # equal for a mean over examples.
        used_fall = (before - of_used) / 2 + (of_held - of_all) / 2
        held_fall = (before - of_held) / 2 + (of_used - of_all) / 2
        falls = jnp.stack([used_fall, held_fall])
        shares = jnp.stack([(~held).mean(), held.mean()])
        # Dividing by the share gives the part for these examples.
        return falls / (before - problem.floor) / shares

    # (certainties,). The first certainty is 1.
    used_parts, held_parts = jax.lax.map(parts, jnp.asarray(CAUTION)).T
    return Removed(jnp.nanmax(used_parts), jnp.nanmax(held_parts), held_parts[0])


def _like(constant: np.ndarray, output: jax.Array) -> jax.Array:
    """Return outputs ``(steps, 1, ...)`` for all examples."""
    return jnp.broadcast_to(constant, output.shape).astype(output.dtype)
