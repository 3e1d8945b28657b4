"""Verdicts on networks that are broken on purpose, and how much their remedies gain.

Each network of ``_broken.py`` is diagnosed, the first remedy that is offered is applied, and the network is diagnosed
again, at most three times. Accuracies are those on the test set after 60 updates: of the broken network, with the
remedies, and of the healthy twin. A network learns if it goes nine tenths of the way from chance to its twin. A remedy
harms if the accuracy is lower than without it by more than two standard errors.
"""

from __future__ import annotations

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


def remedied(case: Case) -> tuple[Case, list]:
    """The network after the remedies, and the verdicts of each round."""
    rounds = []
    for _ in range(ROUNDS):
        rounds.append(found_in(case).verdicts)
        remedy = next((verdict.remedy for verdict in rounds[-1] if verdict.remedy), None)
        if remedy is None:
            break
        if remedy.change == "learning rate":
            case = case._replace(learning_rate=case.learning_rate * remedy.value)
        else:
            case = case._replace(network=remedy.apply(case.network))
    return case, [verdicts for verdicts in rounds if verdicts]


def row(fault: Fault, seed: int, twin: float) -> dict:
    case = broken(fault, seed)
    better, rounds = remedied(case)
    first = rounds[0] if rounds else ()
    before = accuracy(case)
    after = accuracy(better) if better != case else before
    return {
        "network": fault.of,
        "fault": fault.name,
        "found": any(verdict.index in fault.layers for verdict in first[:2]),
        "verdict": str(first[0]) if first else "nothing is amiss",
        "remedies": [str(verdicts[0].remedy) for verdicts in rounds if verdicts[0].remedy],
        "as it was": before,
        "remedied": after,
        "healthy": twin,
        "curable": bool(first and first[0].remedy) or fault.name not in ("inputs zero", "loss not a number"),
        "learns": after - CHANCE >= LEARNS * (twin - CHANCE),
        "harmed": before - after > 2 * math.sqrt(before * (1 - before) / EXAMPLES),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of the names to run")
    options = parser.parse_args()
    rows, twins = [], {}
    for name in [*NETWORKS, *VARIANTS]:
        twins[name] = accuracy(healthy(name, options.seed))
        if options.only in name:
            alarms = [str(verdict) for verdict in found_in(healthy(name, options.seed)).verdicts]
            print(f"{name}: {twins[name]:.3f} {alarms or ''}", flush=True)
            rows.append({"network": name, "fault": "", "verdict": "; ".join(alarms), "healthy": twins[name]})
    for fault in FAULTS:
        if options.only in f"{fault.of} {fault.name}":
            rows.append(row(fault, options.seed, twins[fault.of]))
            print({k: v for k, v in rows[-1].items() if k != "curable"}, flush=True)
    report(rows, options.json)


if __name__ == "__main__":
    main()
