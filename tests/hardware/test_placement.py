import itertools

import pytest

from spimm.hardware import Mesh, map_layers, place, send

BOTH = pytest.mark.parametrize("delivery", ["multicast", "unicast"])


def test_rows_and_snake_fill_the_mesh_row_by_row(neuron, trace):
    chip = map_layers(trace(neuron("a", (5,), [1.0] * 5)), neurons_per_core=1)
    assert place(chip, Mesh(3, 2), "row") == ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1))
    assert place(chip, Mesh(3, 2), "snake") == ((0, 0), (1, 0), (2, 0), (2, 1), (1, 1))


@BOTH
def test_the_search_never_ends_worse_than_rows_and_snake(random_trace, delivery):
    gained = 0
    for seed in range(5):
        chip = map_layers(random_trace(seed), neurons_per_core=4, count_input=seed % 2 == 1)
        mesh = Mesh.fitting(len(chip.cores))
        placed = {how: place(chip, mesh, how, delivery=delivery, seed=seed) for how in ("row", "snake", "hops")}
        assert len(set(placed["hops"])) == len(chip.cores)
        assert set(placed["hops"]) <= set(mesh.tiles())
        hops = {how: send(chip, mesh, tiles, delivery).hops for how, tiles in placed.items()}
        assert hops["hops"] <= min(hops["row"], hops["snake"]) * (1 + 1e-9)
        gained += hops["hops"] < 0.9 * min(hops["row"], hops["snake"])
    assert gained >= 3


@BOTH
def test_the_search_finds_the_best_of_all_orders_on_a_small_mesh(neuron, trace, delivery):
    layers = [neuron(name, (2,), [0.3, 0.9]) for name in "abc"]
    chip, mesh = map_layers(trace(*layers), neurons_per_core=1), Mesh(3, 2)
    best = min(send(chip, mesh, order, delivery).hops for order in itertools.permutations(mesh.tiles()))
    assert send(chip, mesh, place(chip, mesh, delivery=delivery), delivery).hops == pytest.approx(best)


def test_the_same_seed_gives_the_same_tiles(random_trace):
    chip = map_layers(random_trace(3), neurons_per_core=4)
    mesh = Mesh.fitting(len(chip.cores))
    assert place(chip, mesh, seed=1) == (again := place(chip, mesh, seed=1))
    assert again != place(chip, mesh, seed=2)


def test_a_network_that_never_fires_is_placed_too(neuron, trace):
    chip = map_layers(trace(neuron("a", (4,), [0.0] * 4), neuron("b", (4,), [0.0] * 4)), neurons_per_core=1)
    assert len(set(place(chip, Mesh(3, 3)))) == 8


def test_a_mesh_too_small_is_an_error_that_names_the_cores_needed(neuron, trace):
    chip = map_layers(trace(neuron("a", (10,), [1.0] * 10)), neurons_per_core=1)
    with pytest.raises(ValueError, match="net needs 10 cores and a mesh of 3x3 has 9; 4x3 would do"):
        place(chip, Mesh(3, 3))
    with pytest.raises(ValueError, match="placement is 'best'; wanted row, snake or hops"):
        place(chip, Mesh(4, 4), "best")


@pytest.mark.parametrize("cores", range(1, 60))
def test_the_smallest_mesh_fits_and_has_no_empty_row(cores):
    mesh = Mesh.fitting(cores)
    assert mesh.columns * mesh.rows >= cores > mesh.columns * (mesh.rows - 1)
    assert 0 <= mesh.columns - mesh.rows <= 1


@pytest.mark.parametrize("text", ["12", "12x", "x4", "12 x 12", "-1x2", "ax3"])
def test_a_mesh_is_written_as_columns_x_rows(text):
    assert Mesh.parse("12x7") == Mesh(12, 7)
    with pytest.raises(ValueError, match="wanted COLUMNSxROWS"):
        Mesh.parse(text)


def test_a_mesh_has_at_least_one_tile():
    with pytest.raises(ValueError, match="mesh is 0x3; wanted at least 1x1"):
        Mesh(0, 3)


def test_a_mesh_beyond_every_machine_is_refused_before_it_is_laid_out() -> None:
    with pytest.raises(ValueError, match=r"mesh is 1000000x1000000; expected at most 65,536 tiles"):
        Mesh.parse("1000000x1000000")
