from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
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


def test_a_png_of_few_colours_is_smaller_and_other_formats_are_refused(analysis: Analysis, tmp_path: Path) -> None:
    figure = plot(analysis.trace, analysis.energy)
    whole, few = save_plot(figure, tmp_path / "whole.png"), save_plot(figure, tmp_path / "few.png", colours=16)
    with Image.open(whole) as large, Image.open(few) as small:
        assert small.size == large.size
        assert len(small.convert("RGB").getcolors(maxcolors=16) or []) > 1
    assert few.stat().st_size < whole.stat().st_size / 2
    with pytest.raises(ValueError, match=r"colours is 16 for .*few\.svg; only a \.png"):
        save_plot(figure, tmp_path / "few.svg", colours=16)
    assert sorted(tmp_path.iterdir()) == [few, whole]
