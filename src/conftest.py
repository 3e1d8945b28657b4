"""Doctests of a module run in the copy that tests import."""

import contextlib
import importlib
from pathlib import Path

SOURCE = Path(__file__).parent


def pytest_collect_file(file_path):
    """Import a module under its name before pytest does, which would leave its own copy out of ``sys.modules``."""
    parts = file_path.relative_to(SOURCE).with_suffix("").parts
    if file_path.suffix == ".py" and parts[-1] not in ("__main__", "conftest"):
        with contextlib.suppress(ImportError):  # pytest reports it
            importlib.import_module(".".join(parts).removesuffix(".__init__"))
