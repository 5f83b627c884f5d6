from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from spimm.analyze import Analysis, analyze, plot, save_plot

Build = Callable[..., nn.Module]


@pytest.fixture
def analysis(firing: Build) -> Analysis:
    return analyze(firing(), [torch.rand(2, 1, 8, 8)], model_name="digits")


def test_the_picture_shows_every_neuron_layer_and_all_the_energy(analysis: Analysis) -> None:
    figure = plot(analysis.trace, analysis.energy)
    rates, joules = figure.axes
    widths = [bar.get_width() for bar in rates.patches]
    assert widths == pytest.approx(list(analysis.trace.firing_rates().values()))
    assert len(rates.get_yticklabels()) == len(widths)
    dots = [tuple(points.get_offsets()[:, 0]) for points in rates.collections if len(points.get_offsets()) == 4]
    assert dots == [layer.step_rates for layer in analysis.trace.layers if layer.step_rates]
    assert sum(bar.get_width() for bar in joules.patches) == pytest.approx(1000 * analysis.energy.millijoules)
    assert joules.get_xlabel() == "µJ per sample"


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_files_appear_whole(analysis: Analysis, tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = save_plot(plot(analysis.trace, analysis.energy), tmp_path / f"rates.{suffix}")
    assert path.read_bytes().startswith(magic)
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_format_leaves_nothing_behind(analysis: Analysis, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mp3"):
        save_plot(plot(analysis.trace, analysis.energy), tmp_path / "rates.mp3")
    assert list(tmp_path.iterdir()) == []


def test_one_step_is_drawn_without_a_spread(firing: Build, tmp_path: Path) -> None:
    trace, report, _ = analyze(firing(num_steps=1), [torch.rand(2, 1, 8, 8)])
    figure = plot(trace, report)
    assert not figure.axes[0].collections
    assert save_plot(figure, tmp_path / "one.png").stat().st_size > 0
