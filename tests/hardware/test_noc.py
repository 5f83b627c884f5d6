"""Traffic against routes walked link by link."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest

from spimm.hardware import CoreMap, Mesh, Tile, TimeCosts, congestion, latency, map_layers, send

Link = tuple[Tile, Tile]
BOTH = pytest.mark.parametrize("delivery", ["multicast", "unicast"])


def walk(start: Tile, end: Tile) -> list[Link]:
    """A link at a time, in x first."""
    links, here = [], start
    while here != end:
        if here.x != end.x:
            there = Tile(here.x + (1 if end.x > here.x else -1), here.y)
        else:
            there = Tile(here.x, here.y + (1 if end.y > here.y else -1))
        links.append((here, there))
        here = there
    return links


def walked(chip: CoreMap, tiles: tuple[Tile, ...], delivery: str) -> tuple[Counter[Link], Counter[int], Counter[int]]:
    """Packets over links, spikes by hops and deliveries by distance, from every route on its own."""
    stages = chip.stage_cores()
    sends = [(tiles[core], chip.cores[core].spikes, to) for stage, to in itertools.pairwise(stages) for core in stage]
    if chip.input_spikes:
        sends.append((Tile(0, 0), chip.input_spikes, stages[0]))
    loads, hops, distances = Counter(), Counter(), Counter()
    for start, spikes, receivers in sends:
        routes = [walk(start, tiles[receiver]) for receiver in receivers]
        crossed = [link for route in routes for link in route]
        crossed = list(set(crossed)) if delivery == "multicast" else crossed
        hops[len(crossed)] += spikes
        for link in crossed:
            loads[link] += spikes
        for route in routes:
            distances[len(route)] += spikes
    return loads, hops, distances


def close(found: dict, wanted: dict) -> bool:
    return {key: value for key, value in found.items() if value} == pytest.approx(wanted)


@BOTH
@pytest.mark.parametrize("seed", range(12))
def test_traffic_is_that_of_all_routes_walked_one_by_one(random_trace, delivery, seed):
    chip = map_layers(random_trace(seed), neurons_per_core=3, count_input=seed % 2 == 1)
    least = Mesh.fitting(len(chip.cores))
    mesh = Mesh(least.columns + seed % 3, least.rows + seed % 2)
    tiles = tuple(random.Random(seed).sample(mesh.tiles(), len(chip.cores)))
    traffic, (loads, hops, distances) = send(chip, mesh, tiles, delivery), walked(chip, tiles, delivery)
    assert close(traffic.loads().links(), loads)
    assert close(dict(enumerate(traffic.hop_histogram())), hops)
    assert close(dict(enumerate(traffic.distance_histogram())), distances)
    assert traffic.hops == pytest.approx(traffic.loads().flat().sum()) == pytest.approx(sum(loads.values()))
    assert len(traffic.loads().links()) == mesh.num_links == traffic.loads().flat().size


def test_one_packet_for_all_crosses_no_more_links_than_one_for_each(random_trace):
    saved = 0
    for seed in range(10):
        chip = map_layers(random_trace(seed), neurons_per_core=3)
        mesh = Mesh.fitting(len(chip.cores))
        tiles = mesh.tiles()[: len(chip.cores)]
        one, each = (send(chip, mesh, tiles, delivery) for delivery in ("multicast", "unicast"))
        assert (one.loads().flat() <= each.loads().flat() + 1e-9).all()
        assert one.mean_distance == pytest.approx(each.mean_distance)
        saved += one.hops < each.hops
    assert saved >= 5


@pytest.fixture
def crossroads(neuron, trace):
    """One core at the middle of the left column sends 2 spikes to three cores: right above, right, right below."""
    chip = map_layers(trace(neuron("a", (2,), [1.0, 1.0]), neuron("b", (6,), [0.5] * 6)), neurons_per_core=2)
    return chip, Mesh(3, 3), (Tile(0, 1), Tile(2, 0), Tile(2, 1), Tile(2, 2))


def test_a_tree_counted_by_hand(crossroads):
    traffic = send(*crossroads)
    assert traffic.loads().right.tolist() == [[0, 0], [2, 2], [0, 0]]
    assert traffic.loads().up.tolist() == [[0, 0, 2], [0, 0, 0]]
    assert traffic.loads().down.tolist() == [[0, 0, 0], [0, 0, 2]]
    assert not traffic.loads().left.any()
    assert traffic.hops == 2 * 4
    assert traffic.hop_histogram() == (0, 0, 0, 0, 2)
    assert traffic.distance_histogram() == (0, 0, 2, 4)
    assert traffic.mean_distance == pytest.approx(8 / 3)
    each = send(*crossroads, "unicast")
    assert each.loads().right.tolist() == [[0, 0], [6, 6], [0, 0]]
    assert (each.hops, each.hop_histogram()[8]) == (2 * 8, 2)


def test_time_and_congestion_counted_by_hand(crossroads):
    chip, mesh, _ = crossroads
    each = send(*crossroads, "unicast")
    times = TimeCosts(window_us=10, link_capacity=4, hop_ns=100)
    full = congestion(each, times)
    assert (full.peak, full.overloaded) == (6 / 4, 2)
    assert full.mean == pytest.approx(16 / (mesh.num_links * 4))
    time = latency(chip, each, times)
    assert (time.windows, time.drain, time.path) == pytest.approx((2 * 10, 10 * 6 / 4, 3 * 0.1))
    assert time.total == pytest.approx(20 + 15 + 0.3)


def test_steps_send_in_windows_of_their_own(neuron, trace):
    chip = map_layers(trace(neuron("a", (1,), [0.75], 4), neuron("b", (1,), [0.5])))
    traffic, times = (
        send(chip, Mesh(2, 1), (Tile(0, 0), Tile(1, 0))),
        TimeCosts(window_us=1, link_capacity=1, hop_ns=1000),
    )
    assert congestion(traffic, times).peak == 0.75
    time = latency(chip, traffic, times)
    assert (time.windows, time.drain, time.path) == (5, 3, 4)


def test_a_network_of_one_layer_sends_nothing(neuron, trace):
    chip = map_layers(trace(neuron("a", (4,), [1.0] * 4)))
    traffic = send(chip, Mesh(1, 1), (Tile(0, 0),))
    assert (traffic.hops, traffic.mean_distance, traffic.hop_histogram()) == (0, 0, ())
    assert congestion(traffic, TimeCosts()).peak == 0
    assert np.array_equal(traffic.loads().flat(), [])


def test_an_unknown_delivery_is_refused(crossroads):
    with pytest.raises(ValueError, match="delivery is 'broadcast'; wanted multicast or unicast"):
        send(*crossroads, "broadcast")
