"""Verdicts on networks that are broken on purpose, and how much their remedies gain.

Each network of ``_broken.py`` is diagnosed, the first remedy that is offered is applied, and the network is diagnosed
again, at most three times. Accuracies are those on the test set after 60 updates: of the broken network, with the
remedies, and of the healthy twin. A network learns if it goes nine tenths of the way from chance to its twin. A remedy
harms if the accuracy is lower than without it by more than two standard errors.
"""

from __future__ import annotations

import functools
import math

import optax
from _broken import CLASSES, EXAMPLES, FAULTS, NETWORKS, VARIANTS, Case, Fault, accuracy, broken, healthy
from _measure import arguments, report

from spikegrad import diagnose

ROUNDS, LEARNS, DIAGNOSED = 3, 0.9, 100
CHANCE = 1 / CLASSES


def found_in(case: Case):
    task = case.task.first(DIAGNOSED)
    return diagnose(case.network, task.inputs, task.loss, optimizer=optax.adam(case.learning_rate))


def remedied(case: Case) -> tuple[Case, tuple, list]:
    """The network after the remedies, the first verdicts, and the remedies."""
    first, remedies = None, []
    for _ in range(ROUNDS):
        verdicts = found_in(case).verdicts
        first = verdicts if first is None else first
        remedy = next((verdict.remedy for verdict in verdicts if verdict.remedy), None)
        if remedy is None:
            break
        remedies.append(str(remedy))
        if remedy.change == "learning rate":
            case = case._replace(learning_rate=case.learning_rate * remedy.value)
        else:
            case = case._replace(network=remedy.apply(case.network))
    return case, first or (), remedies


def row(fault: Fault, seed: int, twin: float) -> dict:
    case = broken(fault, seed)
    better, first, remedies = remedied(case)
    before = accuracy(case)
    after = accuracy(better) if remedies else before
    return {
        "network": fault.of,
        "fault": fault.name,
        "found": any(verdict.index in fault.layers for verdict in first[:2]),
        "verdict": str(first[0]) if first else "nothing is amiss",
        "remedies": remedies,
        "as it was": before,
        "remedied": after,
        "healthy": twin,
        "learns": after - CHANCE >= LEARNS * (twin - CHANCE),
        "harmed": before - after > 2 * math.sqrt(before * (1 - before) / EXAMPLES),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of the names to run")
    options = parser.parse_args()
    rows, twin = [], functools.cache(lambda name: accuracy(healthy(name, options.seed)))
    for name in [*NETWORKS, *VARIANTS]:
        if options.only in name:
            alarms = [str(verdict) for verdict in found_in(healthy(name, options.seed)).verdicts]
            rows.append({"network": name, "fault": "", "verdict": "; ".join(alarms), "healthy": twin(name)})
            print(rows[-1], flush=True)
    for fault in FAULTS:
        if options.only in f"{fault.of} {fault.name}":
            rows.append(row(fault, options.seed, twin(fault.of)))
            print(rows[-1], flush=True)
    report(rows, options.json)


if __name__ == "__main__":
    main()
