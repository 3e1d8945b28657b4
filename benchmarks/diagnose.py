"""Verdicts on networks that are broken on purpose, and what their remedies gain: accuracies before and after.

Six faults, each in a network of two layers of LIF neurons and in a recurrent layer of AdaptiveLIF neurons, with the
healthy twins (``_broken.py`` has them and their two tasks). The first remedy is made, whatever else the verdict offers,
and the network diagnosed again, until nothing is amiss. Every accuracy is of held-out examples after 60 updates.
"""

from __future__ import annotations

import numpy as np
import optax
from _broken import ARCHITECTURES, BROKEN, accuracy, broken
from _measure import arguments, report

from spikegrad import diagnose


def row(what: str, architecture: str, seed: int) -> dict:
    case = broken(what, architecture, seed)
    network, rate, said = case.network, case.learning_rate, []
    for _ in range(4):
        optimizer = optax.adam(rate) if case.fault == "overshoots" else None
        found = diagnose(network, case.task.inputs, case.task.loss, optimizer=optimizer)
        if not found.verdicts:
            break
        verdict = found.verdicts[0]
        said.append((verdict.fault, verdict.index, str(verdict)))
        if verdict.remedy.change == "learning rate":
            rate *= verdict.remedy.value
        else:
            network = verdict.remedy.apply(network)
    return {
        "broken": what,
        "architecture": architecture,
        "seed": seed,
        "found": bool(said) and said[0][:2] == (case.fault, case.index),
        "verdict": said[0][2] if said else "nothing is amiss",
        "rounds": len(said),
        "accuracy, broken": accuracy(case.network, case.task, case.learning_rate),
        "accuracy, remedied": accuracy(network, case.task, rate),
        "accuracy, healthy": accuracy(case.healthy, case.task),
        "healthy": "; ".join(map(str, diagnose(case.healthy, case.task.inputs, case.task.loss).verdicts)),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for what in BROKEN:
        for architecture in ARCHITECTURES:
            of_seeds = [row(what, architecture, seed) for seed in range(options.seeds)]
            first = of_seeds[0]
            rows.append({name: first[name] for name in ("broken", "architecture", "verdict")})
            rows[-1] |= {"seeds": len(of_seeds)}
            rows[-1]["found"] = sum(r["found"] for r in of_seeds)
            rows[-1]["false alarms"] = sum(bool(r["healthy"]) for r in of_seeds)
            rows[-1]["rounds"] = max(r["rounds"] for r in of_seeds)
            for name, of in (("as it was", "broken"), ("remedied", "remedied"), ("healthy", "healthy")):
                accuracies = [r[f"accuracy, {of}"] for r in of_seeds]
                rows[-1] |= {name: float(np.mean(accuracies)), f"{name}, least": min(accuracies)}
                rows[-1] |= {f"{name}, most": max(accuracies)}
    report(rows, options.json)


if __name__ == "__main__":
    main()
