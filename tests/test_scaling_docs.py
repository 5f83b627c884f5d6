"""The plan of scaling.md is what its script computes."""

import runpy
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_plan_is_computed() -> None:
    page = (DOCS / "scaling.md").read_text(encoding="utf-8")
    computed = runpy.run_path(str(DOCS / "scaling_table.py"))["rows"]()
    assert "\n".join(computed) in page
