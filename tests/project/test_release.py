"""Files of a release: each version and license is the package's."""

import re
import tomllib

from conftest import ROOT

import spikegrad


def test_versions_and_licenses_agree():
    citation = dict(
        re.findall(r"^([\w-]+): *(.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == spikegrad.__version__
    assert citation["license"] == project["license"]
    assert {"message", "title", "abstract", "authors", "type", "keywords"} <= {*citation}
    assert re.search(
        rf"^## \[{re.escape(spikegrad.__version__)}\]",
        (ROOT / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )
