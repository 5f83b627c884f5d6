"""The energy of SpikeAtConv: its formula, softmax attention beside it, and the published figures read backwards."""

import io
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import spimm
from spimm.analyze import Trace, energy, implied_rate, record
from spimm.layers import SDSA

Build = Callable[..., nn.Module]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "energy.md"
SMALL: dict[str, Any] = {"widths": (8, 16), "depths": (1, 2), "strides": (1, 2), "group_size": 3, "head_dim": 4}
FORMULA = "spikeatconv"


@torch.no_grad()
def traced(model: nn.Module, x: Tensor) -> Trace:
    with record(model) as recorder:
        model(x)
    return recorder.trace()


@pytest.fixture
def small(firing: Build) -> Trace:
    return traced(firing("spikeatconv_cifar", **SMALL, num_steps=2), torch.rand(2, 3, 16, 16))


def test_all_but_the_image_and_the_means_add_at_the_share_of_non_zero_values(small: Trace) -> None:
    report = energy(small, FORMULA, count_integers=False)
    image, *body, head = (
        small.layers[0],
        *[layer for layer in small.layers[1:] if layer.kind == "conv"],
        small.layers[-1],
    )
    additions = sum(2 * layer.dense * layer.input("x").nonzero for layer in body)
    assert report.macs == image.dense + head.dense
    assert report.acs == pytest.approx(additions)
    assert report.millijoules == pytest.approx((4.6 * report.macs + 0.9 * additions) * 1e-9)
    assert energy(small, FORMULA, count_integers=True).acs > report.acs


def test_softmax_attention_stands_beside_the_total_as_multiply_accumulates(small: Trace) -> None:
    report, within = (energy(small, formula, count_integers=False) for formula in (FORMULA, "qkformer"))
    cores = [layer for layer in small.layers if layer.kind == "attention"]
    macs = sum(2 * layer.dense for layer in cores)
    assert len(cores) == 3 and {line.layer for line in report.lines if line.beside} == {core.name for core in cores}
    assert report.beside_millijoules == pytest.approx(macs * 4.6e-9)
    assert report.millijoules == pytest.approx(sum(report.groups().values()))
    assert "attention" in within.groups() and "attention" not in report.groups()
    assert within.millijoules == pytest.approx(report.millijoules + within.groups()["attention"])
    assert within.beside_millijoules == 0
    assert report.dense_millijoules == within.dense_millijoules
    assert len(report.counted) == len(report.lines) - 6


@pytest.mark.parametrize("kind", SDSA)
def test_only_the_products_around_a_softmax_are_beside(kind: str) -> None:
    options = {"widths": (4, 8, 16, 32, 40), "depths": (1, 1, 1, 1, 1), "attention": kind}
    model = spimm.create_model("metaspikeformer_cifar", num_steps=1, **options).eval()
    report = energy(traced(model, torch.rand(1, 3, 16, 16)), FORMULA, count_integers=False)
    beside = [line.product for line in report.lines if line.beside]
    assert beside == (["q k^T", "map v"] * 2 if kind == "vsa" else [])


def test_a_given_rate_leaves_softmax_attention_as_it_is(small: Trace) -> None:
    report = energy(small, FORMULA, count_integers=False, rates=0.25)
    measured = energy(small, FORMULA, count_integers=False)
    assert report.beside_millijoules == measured.beside_millijoules > 0
    assert implied_rate(small, report.millijoules, FORMULA) == pytest.approx(0.25)
    core = next(layer.name for layer in small.layers if layer.kind == "attention")
    with pytest.raises(ValueError, match=f"no layer '{core}' of SpikeAtConv takes a rate"):
        energy(small, FORMULA, count_integers=False, rates={core: 0.1})
    assert energy(small, "qkformer", count_integers=False, rates={core: 0.1}).acs > 0


def test_a_spike_free_network_has_the_same_columns(firing: Build) -> None:
    report = energy(
        traced(firing("spikeatconv_cifar", **SMALL, spk="gelu"), torch.rand(2, 3, 16, 16)),
        FORMULA,
        count_integers=False,
    )
    assert report.acs == 0 and report.beside_millijoules > 0
    assert report.millijoules + report.beside_millijoules == pytest.approx(report.dense_millijoules)


def test_tables_and_json_show_both(small: Trace) -> None:
    report = energy(small, FORMULA, count_integers=False)
    data = json.loads(report.to_json())
    assert data["totals"]["millijoules"] == report.millijoules
    assert data["totals"]["beside_millijoules"] == report.beside_millijoules
    assert sum(line["beside"] for line in data["lines"]) == 6
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(report.table())
    text = console.export_text()
    assert f"{report.millijoules:.6f}" in text and "beside it, softmax attention" in text
    assert f"{report.beside_millijoules:.6f}" in text
    console.print(energy(small, "qkformer", count_integers=False).table())
    assert "beside it" not in console.export_text()


def test_a_trace_remembers_which_products_stand_around_a_softmax(small: Trace) -> None:
    again = Trace.from_json(small.to_json())
    assert again == small
    assert energy(again, FORMULA, count_integers=False) == energy(small, FORMULA, count_integers=False)


SIZES = {
    "tiny_table": ((64, 128, 256, 512), (1, 3, 6, 1), 3.8),
    "base_table": ((96, 192, 384, 768), (2, 6, 8, 2), 14.2),
    "base_text": ((128, 256, 512, 1024), (2, 6, 12, 2), 14.2),
    "large_table": ((128, 256, 512, 1024), (2, 6, 12, 2), 32.0),
    "large_text": ((160, 320, 640, 1280), (2, 6, 16, 2), 32.0),
}
"""Widths, depths and printed mJ."""


def counted(widths: tuple[int, ...], depths: tuple[int, ...], pixels: int) -> tuple[int, int, int]:
    """By hand: operations of the first convolution, of all behind the first neuron, and of softmax attention."""
    half, side = widths[0] // 2, pixels // 2
    first, body, attention = 27 * half * side**2, 9 * half * widths[0] * side**2, 0
    before = widths[0]
    for dim, depth in zip(widths, depths, strict=True):
        side //= 2
        places, groups = side**2, -(-side // 7)
        met = sum(len(range(start, side, groups)) ** 2 for start in range(groups)) ** 2
        depthwise, dense = 4 * 49 * dim, 8 * dim**2 + 4 * dim**2 + 8 * dim**2
        body += places * (depth * (depthwise + dense) + before * dim)  # a 1x1 convolution in a stage's first shortcut
        attention += depth * 2 * met * dim
        before = dim
    return first, body + 1000 * widths[-1], attention


def test_a_recording_agrees_with_the_count_by_hand() -> None:
    trace = traced(spimm.create_model("spikeatconv_tiny_table").eval(), torch.rand(1, 3, 64, 64))
    report = energy(trace, FORMULA, count_integers=False)
    assert counted(*SIZES["tiny_table"][:2], 64) == (
        trace.layers[0].dense,
        sum(line.dense for line in report.counted if line.group != "input"),
        sum(line.dense for line in report.lines if line.beside),
    )


@pytest.mark.parametrize("size", SIZES)
def test_the_documented_figures_follow_from_the_count_by_hand(size: str) -> None:
    widths, depths, millijoules = SIZES[size]
    first, body, attention = counted(widths, depths, 224)
    cells = [
        f"{millijoules}",
        f"{first / 1e9:.4f}",
        f"{body / 1e9:.2f}",
        f"{(millijoules - 4.6e-9 * first) / (0.9e-9 * body):.2f}",
        f"{attention / 1e9:.3f}",
        f"{4.6e-9 * attention:.2f}",
    ]
    row = f"| `spikeatconv_{size}` | {' | '.join(cells)} |"
    assert row in PAGE.read_text(encoding="utf-8")


def test_the_script_knows_the_sizes_of_the_page() -> None:
    script = runpy.run_path(str(PAGE.with_name("energy_table.py")))
    assert script["SPIKEATCONV"] == {f"spikeatconv_{size}": millijoules for size, (*_, millijoules) in SIZES.items()}
    rows = re.findall(r"^\| `spikeatconv_\w+` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(rows) == len(SIZES)
