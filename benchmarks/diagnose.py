"""Issues on networks that are broken on purpose, and how much their repair gains.

Each network of ``_broken.py`` is diagnosed once, and trained with all changes of the diagnosis. Accuracies are those on
the test set after 60 updates: of the broken network, of the repaired one, and of the healthy twin. A network learns if
it goes nine tenths of the way from chance to its twin. A repair harms if the accuracy is lower than without it by more
than two standard errors of the difference.
"""

from __future__ import annotations

import functools
import math

import optax
from _broken import CLASSES, EXAMPLES, FAULTS, NETWORKS, VARIANTS, Case, Fault, accuracy, broken, healthy
from _measure import arguments, report

from spikegrad import diagnose

LEARNS, DIAGNOSED = 0.9, 100
CHANCE = 1 / CLASSES


def diagnosis_of(case: Case):
    task = case.task.first(DIAGNOSED)
    return diagnose(case.network, task.inputs, task.loss, optimizer=optax.adam(case.learning_rate))


def row(fault: Fault, seed: int, twin: float) -> dict:
    case = broken(fault, seed)
    diagnosis = diagnosis_of(case)
    rate = case.learning_rate * diagnosis.rate
    repaired = case._replace(network=diagnosis.repaired, learning_rate=rate)
    fixes = [fix.text for issue in diagnosis.issues for fix in issue.fixes]
    before = accuracy(case)
    after = accuracy(repaired) if fixes else before
    return {
        "network": fault.of,
        "fault": fault.name,
        "place": any(issue.place in fault.layers for issue in diagnosis.issues[:2]),
        "issue": str(diagnosis.issues[0]) if diagnosis.issues else "no issue",
        "verdict": diagnosis.verdict,
        "fixes": fixes,
        "before": before,
        "repaired": after,
        "healthy": twin,
        "learns": after - CHANCE >= LEARNS * (twin - CHANCE),
        "harmed": before - after > 2 * math.hypot(standard_error(before), standard_error(after)),
    }


def standard_error(accuracy: float) -> float:
    return math.sqrt(accuracy * (1 - accuracy) / EXAMPLES)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of the names to run")
    options = parser.parse_args()
    rows, twin = [], functools.cache(lambda name: accuracy(healthy(name, options.seed)))
    for name in [*NETWORKS, *VARIANTS]:
        if options.only in name:
            alarms = [str(issue) for issue in diagnosis_of(healthy(name, options.seed)).issues]
            rows.append({"network": name, "fault": "", "issue": "; ".join(alarms), "healthy": twin(name)})
            print(rows[-1], flush=True)
    for fault in FAULTS:
        if options.only in f"{fault.of} {fault.name}":
            rows.append(row(fault, options.seed, twin(fault.of)))
            print(rows[-1], flush=True)
    report(rows, options.json)


if __name__ == "__main__":
    main()
