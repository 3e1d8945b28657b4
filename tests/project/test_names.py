"""Names in the code are nouns of the field, and seldom words without a content."""

import ast
import collections

from conftest import ROOT

LIBRARY = ROOT / "src" / "spikegrad"
VAGUE = {
    *(
        "alone",
        "few",
        "found",
        "given",
        "kept",
        "looked",
        "made",
        "mine",
        "more",
        "of",
        "one",
        "own",
    ),
    *("rest", "seen", "several", "shown", "taken", "there", "those", "told", "wanted", "ways"),
    *("what", "where", "which", "whole"),
}
FILES = [*LIBRARY.rglob("*.py")]


def bindings(source):
    """Yield the names that a source binds: variables, fields and parameters."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def test_few_names_are_vague():
    counts = {
        path.relative_to(LIBRARY): collections.Counter(bindings(path.read_text())) for path in FILES
    }
    vague = {
        str(path): {name: count[name] for name in VAGUE & count.keys()}
        for path, count in counts.items()
    }
    rate = (
        1000
        * sum(sum(names.values()) for names in vague.values())
        / sum(map(sum, map(dict.values, counts.values())))
    )
    assert rate <= 4, (
        f"{rate:.1f} vague names in 1,000 bindings: "
        f"{ ({p: names for p, names in vague.items() if names}) }"
    )
