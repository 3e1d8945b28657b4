"""Energy: named prices of operations, applied to the counts of a network."""

from __future__ import annotations

import textwrap
from typing import Any, NamedTuple

from .._table import aligned


class EnergyPrices(NamedTuple):
    """Energy of the operations of a device in picojoules, to convert counts of :func:`cost_report`
    to energy.

    Examples
    --------
    >>> from spikegrad.reports import EnergyPrices
    >>> chip = EnergyPrices(
    ...     "my chip",
    ...     "its data sheet, 28 nm",
    ...     addition=0.05,
    ...     multiplication=0.4,
    ...     word=1.5,
    ... )
    """

    name: str
    """Name of the device, which is printed with every energy."""
    source: str
    """Publication that the numbers are from."""
    addition: float
    """Energy of one synaptic operation of a spike: one addition of a weight to a potential."""
    multiplication: float | None
    """Energy of one multiplication with an addition. None if the device does not multiply."""
    word: float = 0.0
    """Energy of reading or writing one number in memory. 0 if the other numbers include it."""
    update: float | None = None
    """Energy of one update of a neuron in a time step. By default one multiplication for each
    number of its state.
    """


_HOROWITZ = (
    "Horowitz 2014 (ISSCC), 45 nm, 0.9 V, words from an 8 kB memory, 10 pJ per 64 bits"
)
_DAVIES = "Davies et al. 2018, as quoted by KerasSpiking 0.3.0"
_HOEPPNER = "Höppner et al. 2019 (arXiv:1903.08941), as quoted by KerasSpiking 0.3.0"
PRESETS = {
    prices.name: prices
    for prices in (
        # A multiplication includes its addition: 3.7 + 0.9 pJ in fp32, and 0.2 + 0.03 pJ in int8.
        EnergyPrices("45nm fp32", _HOROWITZ, 0.9, 4.6, 5.0),
        EnergyPrices("45nm fp16", _HOROWITZ, 0.4, 1.5, 2.5),
        EnergyPrices("45nm int32", _HOROWITZ, 0.1, 3.2, 5.0),
        EnergyPrices("45nm int8", _HOROWITZ, 0.03, 0.23, 1.25),
        EnergyPrices("Loihi", _DAVIES, 23.6 + 3.5, None, update=81.0),
        EnergyPrices("SpiNNaker", _HOEPPNER, 13_300.0, None, update=26_000.0),
        EnergyPrices("SpiNNaker2", _HOEPPNER, 450.0, None, update=2_190.0),
    )
}


class EnergyRange(NamedTuple):
    """The energy of one example, in picojoules."""

    prices: EnergyPrices
    low: float
    """All operands are in registers, and weights of zero are skipped."""
    high: float
    """Every operand comes from memory, and weights of zero are not skipped."""


class EnergyReport(NamedTuple):
    """Energies of a spiking and a dense network. It prints as a table with all assumptions."""

    spiking: tuple[EnergyRange, ...]
    """One range for each set of prices."""
    dense: EnergyRange
    """The range of the dense network."""
    passes: int
    """Number of passes of the dense network per example."""

    @property
    def ratio(self) -> tuple[float, float]:
        """Smallest and largest ratio of the energies of the spiking and the dense network."""
        low = min(row.low for row in self.spiking)
        high = max(row.high for row in self.spiking)
        # The bounds of a quotient: the least over the largest, and the largest over the least.
        return low / self.dense.high, high / self.dense.low

    def __str__(self) -> str:
        spiking = [("spiking", row) for row in self.spiking]
        named = [*spiking, ("dense", self.dense)]
        rows = [
            (kind, row.prices.name, f"{_joules(row.low)} to {_joules(row.high)}")
            for kind, row in named
        ]
        low, high = self.ratio
        prices = {row.prices.name: row.prices for _, row in named}
        notes = (
            f"spiking over dense: {low:.2g} to {high:.2g}",
            "per example, every neuron updated in every valid time step",
            "low: operands in registers, weights of zero skipped",
            "high: three words of memory per synaptic operation, two per multiply-add of the dense "
            "network, and all words of states",
            f"passes of the dense network per example: {self.passes:,}, one multiply-add per "
            "connection, of unknown accuracy",
            "not included: leakage, routing of spikes, input and output of a chip, operations of "
            "joins",
            *(f"{name}: {each.source}" for name, each in prices.items()),
        )
        lines = [textwrap.fill(note, 80, subsequent_indent="  ") for note in notes]
        return "\n".join([*aligned(rows), *lines])


def energy_of(
    cost: Any, examples: int, prices: tuple, dense: str | EnergyPrices, passes: int
) -> EnergyReport:
    """Return the energies for counts. The counts are sums over all examples."""
    if not prices:
        raise TypeError(
            "energy: prices are missing. Pass an EnergyPrices or the name of a preset: "
            f"{', '.join(PRESETS)}"
        )
    all_prices = [_prices(each) for each in prices]
    spiking = tuple(_spiking(each, cost, examples) for each in all_prices)
    dense_prices = _prices(dense)
    # A dense network multiplies in every connection, whatever its inputs are.
    # Connections are those of one example. The other counts are sums over all examples.
    macs = cost.connections * passes
    if dense_prices.multiplication is None:
        raise ValueError(
            f"energy: dense must have a price of a multiplication, got {dense_prices.name!r}"
        )
    # The price of a multiplication includes the sum.
    low = macs * dense_prices.multiplication
    # Each multiply-add reads a weight and an input.
    high = low + 2 * macs * dense_prices.word
    return EnergyReport(spiking, EnergyRange(dense_prices, low, high), passes)


def _prices(prices: str | EnergyPrices) -> EnergyPrices:
    if isinstance(prices, EnergyPrices):
        return prices
    if prices not in PRESETS:
        raise ValueError(
            f"energy: prices must be an EnergyPrices or one of {', '.join(map(repr, PRESETS))}, "
            f"got {prices!r}"
        )
    return PRESETS[prices]


def _spiking(prices: EnergyPrices, cost: Any, examples: int) -> EnergyRange:
    multiplication = prices.multiplication
    if multiplication is None:
        if count := cost.graded.effective + cost.real.effective:
            raise ValueError(
                f"energy: prices must have a price of a multiplication for {count:,} "
                f"multiplications, got {prices.name!r}. Encode the inputs as spikes, or pass "
                "EnergyPrices"
            )
        # No value needs a multiplication. An update without a price of its own then costs nothing.
        multiplication = 0.0
    # Without a price, an update is a multiply-add for each number of the state, which is read and
    # written.
    update = (
        cost.updates * prices.update
        if prices.update is not None
        else cost.state_words / 2 * multiplication
    )

    def energy(field: str, words_of_each: int, words: float) -> float:
        # A spike of 1 or -1 adds its weight. All other values multiply it.
        added = getattr(cost.spikes, field)
        multiplied = getattr(cost.graded, field) + getattr(cost.real, field)
        words += words_of_each * (added + multiplied)
        operations = added * prices.addition + multiplied * multiplication
        return (operations + update + words * prices.word) / examples

    # A synaptic operation reads a weight, and reads and writes a potential.
    high = energy("fan_out", 3, cost.state_words)
    return EnergyRange(prices, energy("effective", 0, 0), high)


def _joules(picojoules: float) -> str:
    for unit, size in (("mJ", 1e9), ("µJ", 1e6), ("nJ", 1e3)):
        if picojoules >= size:
            return f"{picojoules / size:.3g} {unit}"
    return f"{picojoules:.3g} pJ"
