from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from spimm.analyze import plot_attended, plot_branches, plot_responses, save_plot
from spimm.analyze.spk_plots import attended, response
from spimm.layers import GroupAttention, create_spk
from spimm.neurons import LIF, PLIF, MultiLIF, Neuron


def block(kind: str, **options: object) -> nn.Module:
    return create_spk(kind, 2, neuron_fn=LIF, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["sum", "concat"])
def test_a_response_is_a_staircase_whose_steps_at_one_time_step_are_at_tau_times_the_thresholds(form: str) -> None:
    inputs = torch.tensor([-1.0, 0.39, 0.41, 1.9, 2.1, 3.9, 4.1, 7.9, 8.1])
    levels = torch.tensor([0.0, 0, 1, 1, 2, 2, 3, 3, 4])
    assert torch.equal(response(block("mbpl", form=form), inputs, 1), levels[:, None].expand(-1, 2))


def test_a_response_to_several_steps_is_the_rate_of_a_neuron() -> None:
    # charges to 0.75 x in two steps, to 0.875 x in three: fires at none, the third, every second and every step
    found = response(block("sl"), torch.tensor([1.0, 1.2, 1.4, 2.1]), 3)
    assert found[:, 0].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1])


def test_each_curve_is_the_response_and_halves_that_differ_have_a_panel_each() -> None:
    inputs = torch.linspace(-1, 5, 25)
    blocks = {"one": block("sl"), "two halves": block("hsl")}
    first, *halves = plot_responses(blocks, inputs, steps=(1, 3)).axes
    assert [axes.get_title("left") for axes in (first, *halves)] == ["one", "two halves, half 1", "two halves, half 2"]
    for line, count in zip(first.lines, (1, 3), strict=True):
        assert line.get_label() == f"T = {count}"
        assert list(line.get_ydata()) == response(blocks["one"], inputs, count)[:, 0].tolist()
    for i, axes in enumerate(halves):
        assert list(axes.lines[1].get_ydata()) == response(blocks["two halves"], inputs, 3)[:, i].tolist()


def test_panels_without_a_block_are_hidden() -> None:
    figure = plot_responses({str(i): block("relu") for i in range(5)}, torch.linspace(-1, 1, 3))
    assert [axes.get_visible() for axes in figure.axes] == [True] * 5 + [False]
    labelled = [axes.xaxis.get_tick_params()["labelbottom"] for axes in figure.axes[:5]]
    assert labelled == [False, False, True, True, True]


@pytest.mark.parametrize("steps", [(), (1, 2, 3, 4, 5)])
def test_more_curves_than_colours_are_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="wanted 1 to 4 numbers of steps"):
        plot_responses({"one": block("sl")}, torch.zeros(1), steps=steps)


@pytest.mark.parametrize(
    "neuron", [LIF(), LIF(3.0, decay_input=False, v_reset=None), LIF(v_reset=-0.5), PLIF(3.0)], ids=str
)
def test_spikes_and_potentials_over_time_are_those_of_each_neuron(neuron: Neuron) -> None:
    thresholds, x = (0.5, 1.0, 2.5), 3 * torch.rand(20, generator=torch.Generator().manual_seed(0))
    figure = plot_branches(MultiLIF(neuron, thresholds), {"noise": x}, branch=1)
    currents, potential, raster, total = figure.axes
    assert [bar.get_height() for bar in currents.patches] == pytest.approx(x.tolist())
    fired = []
    for threshold, lines in zip(thresholds, raster.collections, strict=True):
        neuron.threshold = threshold
        spikes = neuron(x.view(-1, 1)).flatten().bool()
        assert [segment[0, 0] for segment in lines.get_segments()] == (1 + spikes.nonzero().flatten()).tolist()
        fired.append(spikes)
    assert [bar.get_height() for bar in total.patches] == torch.stack(fired).sum(0).tolist()
    path, tops = potential.lines[0], potential.lines[2]
    charged, reset = torch.as_tensor(np.asarray(path.get_ydata())).view(-1, 2).T
    assert torch.equal(charged >= 1.0, fired[1]) and fired[1].any() and not fired[1].all()
    torch.testing.assert_close(charged[~fired[1]], reset[~fired[1]])
    dropped = reset[fired[1]]
    to = charged[fired[1]] - 1.0 if neuron.v_reset is None else torch.full_like(dropped, neuron.v_reset)
    torch.testing.assert_close(dropped, to)
    assert list(tops.get_ydata()) == charged[fired[1]].tolist()


@pytest.mark.parametrize("branch", [-1, 2])
def test_a_branch_that_is_not_there_is_refused(branch: int) -> None:
    with pytest.raises(ValueError, match=rf"branch is {branch}; the block has 2, from 0"):
        plot_branches(MultiLIF(LIF(), (1.0, 2.0)), {"x": torch.zeros(3)}, branch=branch)


def core(partition: str) -> GroupAttention:
    return GroupAttention(1, 7, nn.Identity(), partition=partition)  # type: ignore[arg-type]


def test_what_a_token_attends_to_is_a_grid_over_the_map_a_window_or_the_map() -> None:
    grid, window, full = (attended(core(name), 14, 14, (5, 9)) for name in ("grid", "window", "full"))
    assert grid.nonzero().tolist() == [[row, column] for row in range(1, 14, 2) for column in range(1, 14, 2)]
    assert window.nonzero().tolist() == [[row, column] for row in range(7) for column in range(7, 14)]
    assert full.all()


@pytest.mark.parametrize("scale", [1, 255])
def test_the_picture_keeps_its_colours_where_the_token_attends_alone(scale: int) -> None:
    generator = np.random.default_rng(0)
    image = generator.random((64, 32, 3)) if scale == 1 else generator.integers(0, 256, (64, 32, 3), dtype=np.uint8)
    figure = plot_attended(image, {"grid": core("grid"), "full": core("full")}, reductions=(2, 8), at=(0.5, 0.99))
    assert len(figure.axes) == 4
    for axes, name, reduction in zip(figure.axes, ("grid", "grid", "full", "full"), (2, 8, 2, 8), strict=True):
        rows, columns = 64 // reduction, 32 // reduction
        token = (rows // 2, columns - 1)
        mask = attended(core(name), rows, columns, token)
        shown = axes.images[0].get_array()
        same = (shown == image / scale).all(-1)
        assert np.array_equal(same, mask.numpy().repeat(reduction, 0).repeat(reduction, 1))
        assert same.all() == (name == "full" or columns <= 7 >= rows)
        x, y = axes.patches[0].get_xy()
        assert (y + 1.5, x + 1.5) == (token[0] * reduction, token[1] * reduction)
        assert axes.get_xlabel() == f"attends to {mask.sum()}"


@pytest.mark.parametrize(
    ("shape", "message"),
    [((64, 64), r"shape \(64, 64\); wanted \[height, width, 3\]"), ((64, 60, 3), r"64 x 60 pixels; wanted multiples")],
)
def test_pictures_of_another_form_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_attended(np.zeros(shape), {"grid": core("grid")})


def test_a_picture_is_written_as_the_others_are(tmp_path: Path) -> None:
    path = save_plot(plot_attended(np.zeros((32, 32, 3)), {"grid": core("grid")}), tmp_path / "grid.png")
    assert path.read_bytes().startswith(b"\x89PNG")
