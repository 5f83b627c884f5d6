"""Operations and energies of the published Meta-SpikeFormers. Yao et al. 2024, table 2."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.analyze import Trace, energy, implied_rate, record
from spimm.deploy import fold

SIZES = {"15m": (32, 360), "31m": (48, 480), "55m": (64, 640)}
"""C, and the width of the last stage."""
DOCS = Path(__file__).resolve().parents[2] / "docs"


@torch.no_grad()
def traced(model: nn.Module, x: Tensor) -> Trace:
    with record(model) as recorder:
        model(x)
    return recorder.trace()


def spiking_operations(trace: Trace) -> int:
    lines = energy(trace, "metaspikeformer", count_integers=False).lines
    return sum(line.dense for line in lines if line.group != "input")


@pytest.fixture(scope="module")
def large() -> Trace:
    """The 15.1 M size at 224 pixels, T = 1."""
    model = spimm.create_model("metaspikeformer_15m").eval()
    return traced(model, torch.rand(1, 3, 224, 224))


@pytest.fixture(scope="module")
def operations() -> Callable[..., int]:
    """Operations at 224 pixels behind the first neuron by C and last width, of the model or folded with this `merge`.

    They are quadratic in C and in the last width: six small networks tell all others. But for the classifier they are
    proportional to the pixels.
    """
    points = [(4, 40), (8, 40), (12, 40), (4, 48), (4, 56), (8, 48)]
    terms = [(i, j) for i in range(3) for j in range(3 - i)]
    found: dict[str | None, np.ndarray] = {}

    def small(base: int, last: int, merge: str | None) -> int:
        widths = (base, 2 * base, 4 * base, 8 * base, last)
        model = spimm.create_model("metaspikeformer_31m", widths=widths).eval()
        trace = traced(model if merge is None else fold(model, merge=merge), torch.rand(1, 3, 16, 16))
        head = trace.layer("head").dense
        return (spiking_operations(trace) - head) * (224 // 16) ** 2 + head

    def build(base: int, last: int, merge: str | None) -> int:
        if merge not in found:
            matrix = np.array([[a**i * b**j for i, j in terms] for a, b in points], dtype=float)
            found[merge] = np.linalg.solve(matrix, [small(a, b, merge) for a, b in points])
        return round(sum(c * base**i * last**j for c, (i, j) in zip(found[merge], terms, strict=True)))

    return build


@pytest.mark.parametrize(
    ("size", "merge", "gflop"),
    [
        ("15m", "dense", 15.06),
        ("31m", "dense", 32.73),
        ("55m", "dense", 58.19),
        ("15m", None, 6.64),
        ("31m", None, 14.39),
        ("55m", None, 25.52),
    ],
)
def test_operations_behind_the_first_neuron(
    operations: Callable[..., int], size: str, merge: str | None, gflop: float
) -> None:
    assert operations(*SIZES[size], merge) / 1e9 == pytest.approx(gflop, abs=5e-3)


def test_a_network_that_is_folded_without_merging_does_the_operations_of_the_unfolded_one() -> None:
    model = spimm.create_model("metaspikeformer_31m", widths=(4, 8, 16, 32, 40)).eval()
    split, plain = (traced(network, torch.rand(1, 3, 32, 32)) for network in (fold(model, merge="split"), model))
    assert spiking_operations(split) == spiking_operations(plain)


def test_a_recording_at_full_size_agrees_with_the_small_ones(large: Trace, operations: Callable[..., int]) -> None:
    assert spiking_operations(large) == operations(*SIZES["15m"], None)
    assert large.layer("head").dense == 360 * 1000


@pytest.mark.parametrize(("size", "gmac"), [("15m", 0.0590), ("31m", 0.0885), ("55m", 0.1180)])
def test_the_first_convolution(large: Trace, size: str, gmac: float) -> None:
    base, _ = SIZES[size]
    first = large.layers[0].dense * base // 32  # linear in C
    assert first == 7 * 7 * 112 * 112 * 3 * base
    assert first / 1e9 == pytest.approx(gmac, abs=5e-5)


@pytest.mark.parametrize(
    ("size", "single", "four", "rates", "split"),
    [
        ("15m", 4.0, 16.7, (0.275, 0.303, 0.288), 0.62),
        ("31m", 7.8, 32.8, (0.251, 0.275, 0.265), 0.57),
        ("55m", 13.0, 52.4, (0.238, 0.248, 0.240), 0.54),
    ],
)
def test_the_rates_that_the_published_energies_imply(
    operations: Callable[..., int],
    size: str,
    single: float,
    four: float,
    rates: tuple[float, float, float],
    split: float,
) -> None:
    base, last = SIZES[size]
    first = 4.6e-9 * 7 * 7 * 112 * 112 * 3 * base
    merged, apart = (0.9e-9 * operations(base, last, merge) for merge in ("dense", None))
    assert (single - first) / merged == pytest.approx(rates[0], abs=1e-3)
    assert (four - first) / (4 * merged) == pytest.approx(rates[1], abs=1e-3)
    assert (four - 4 * first) / (4 * merged) == pytest.approx(rates[2], abs=1e-3)
    assert (single - first) / apart == pytest.approx(split, abs=5e-3)


def test_a_given_rate_makes_the_published_energy_of_the_implied_one(large: Trace) -> None:
    rate = implied_rate(large, 4.0, "metaspikeformer")
    assert rate == pytest.approx(0.62, abs=5e-3)
    report = energy(large, "metaspikeformer", count_integers=False, rates=rate)
    assert report.millijoules == pytest.approx(4.0)
    assert report.mac_millijoules == pytest.approx(0.271, abs=5e-4)
    assert [line.layer for line in report.lines if line.operation == "MAC"] == ["stages.0.embed.unit.conv"]


def test_attention_counts_its_full_width_in_the_paper_and_that_of_a_head_otherwise(large: Trace) -> None:
    tokens, cores = 14 * 14, {3: 256, 4: 360}
    full, heads = (energy(large, formula, count_integers=False).lines for formula in ("metaspikeformer", "qkformer"))
    for stage, width in cores.items():
        core = f"stages.{stage}.blocks.0.attention.branch.core"
        assert [line.dense for line in full if line.layer == core] == [tokens * width**2] * 2
        assert [line.dense for line in heads if line.layer == core] == [tokens * width**2 // 8] * 2
    rest = [[line for line in lines if line.group != "attention"] for lines in (full, heads)]
    assert rest[0] == rest[1]


@pytest.fixture(scope="module")
def page() -> str:
    return (DOCS / "energy.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("size", SIZES)
def test_the_documented_operations_are_these(operations: Callable[..., int], page: str, size: str) -> None:
    rows = re.findall(rf"^\| `metaspikeformer_{size}` \|(.*)\|$", page, flags=re.MULTILINE)
    cells = [cell.strip() for cell in rows[0].split("|")]
    assert cells[2:4] == [f"{operations(*SIZES[size], merge) / 1e9:.2f}" for merge in ("dense", None)]


def test_the_documented_purity_is_what_the_script_prints(page: str) -> None:
    script = runpy.run_path(str(DOCS / "energy_table.py"))
    for line in script["purity_rows"]("membrane"):
        assert line in page


def test_the_documented_example_runs_on_a_smaller_network(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    example = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0]
    names: dict[str, Trace] = {}
    exec(example.replace("metaspikeformer_15m", "metaspikeformer_cifar").replace("224", "32"), names)
    rate, millijoules = map(float, capsys.readouterr().out.split())
    assert rate > 1  # 4.0 mJ are more than this network can take
    assert implied_rate(names["trace"], millijoules, "metaspikeformer") == pytest.approx(0.275)
