"""Issues on networks that are broken on purpose, and how much their fixes gain.

Each network of ``_broken.py`` is diagnosed, the first fix that is offered is applied, and the network is diagnosed
again, at most three times. Accuracies are those on the test set after 60 updates: of the broken network, with the
fixes, and of the healthy twin. A network learns if it goes nine tenths of the way from chance to its twin. A fix
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


def fixed(case: Case) -> tuple[Case, tuple, list]:
    """The network after the fixes, the first issues, and the fixes."""
    first, fixes = None, []
    for _ in range(ROUNDS):
        issues = found_in(case).issues
        first = issues if first is None else first
        fix = next((issue.fix for issue in issues if issue.fix), None)
        if fix is None:
            break
        fixes.append(str(fix))
        if fix.change == "learning rate":
            case = case._replace(learning_rate=case.learning_rate * fix.value)
        else:
            case = case._replace(network=fix.apply(case.network))
    return case, first or (), fixes


def row(fault: Fault, seed: int, twin: float) -> dict:
    case = broken(fault, seed)
    better, first, fixes = fixed(case)
    before = accuracy(case)
    after = accuracy(better) if fixes else before
    return {
        "network": fault.of,
        "fault": fault.name,
        "found": any(issue.index in fault.layers for issue in first[:2]),
        "issue": str(first[0]) if first else "no issues found",
        "fixes": fixes,
        "as it was": before,
        "fixed": after,
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
            alarms = [str(issue) for issue in found_in(healthy(name, options.seed)).issues]
            rows.append({"network": name, "fault": "", "issue": "; ".join(alarms), "healthy": twin(name)})
            print(rows[-1], flush=True)
    for fault in FAULTS:
        if options.only in f"{fault.of} {fault.name}":
            rows.append(row(fault, options.seed, twin(fault.of)))
            print(rows[-1], flush=True)
    report(rows, options.json)


if __name__ == "__main__":
    main()
