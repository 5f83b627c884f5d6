"""docs/results/README.md tells what was measured."""

import json

from .test_docs import ROOT

RESULTS = ROOT / "docs" / "results"
PAGE = (RESULTS / "README.md").read_text(encoding="utf-8")


def test_the_twin_on_spikingjelly_is_told_as_it_was_measured() -> None:
    found = json.loads((RESULTS / "cifar10_jpeg_twin" / "twin.json").read_text(encoding="utf-8"))
    told = PAGE.split("## cifar10_jpeg_twin")[1].split("\n## ")[0]
    for run in found["runs"]:
        assert f"{run['top1']:.2f}" in told and f"| {run['seconds']:.0f} |" in told
    assert f"{found['time_ratio']}x" in told
