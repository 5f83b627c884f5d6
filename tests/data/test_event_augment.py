import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from spimm.data import Augment, ImageSplit, Loader, load_data
from spimm.data.event_augment import CUT_AREA, drop_events, roll, wide_policy

SIDE = 25


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counts_of(batch: int, frames: int = 3, size: tuple[int, int] = (9, 7), mean: float = 2.0) -> Tensor:
    """Random event counts of two channels, uint8 [B, T * C, H, W]."""
    counts = torch.poisson(torch.full((batch, frames * 2, *size), mean), generator=seeded(1))
    return counts.to(torch.uint8).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    "change",
    [wide_policy, lambda x, draw: roll(x, 3, draw), lambda x, draw: drop_events(x, 0.9, draw, frames=3)],
    ids=["wide", "roll", "drop"],
)
def test_a_change_keeps_shape_and_dtype_repeats_by_seed_and_spares_its_input(change, dtype, layout):
    sequences = counts_of(8).to(dtype).contiguous(memory_format=layout)
    before = sequences.clone()
    result = change(sequences, seeded())
    assert (result.shape, result.dtype) == (sequences.shape, dtype)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(sequences, before)
    assert torch.equal(result, change(sequences, seeded()))
    assert not torch.equal(result, change(sequences, seeded(1)))


def policy_step(row: Tensor, column: Tensor) -> str:
    """Which of the policy's changes made a sequence whose pixels held their own row and column, from 1. [H, W] each."""
    y, x = torch.meshgrid(torch.arange(1.0, SIDE + 1), torch.arange(1.0, SIDE + 1), indexing="ij")
    seen = row > 0
    still = bool((row[seen] == y[seen]).all() and (column[seen] == x[seen]).all())
    if still and seen.all():
        return "identity"
    if still:
        rows, columns = (~seen).any(1).sum(), (~seen).any(0).sum()
        assert rows == columns and rows * columns == (~seen).sum()
        low, high = (round(math.sqrt(share * SIDE**2)) for share in CUT_AREA)
        assert max(low, 1) <= rows <= high
        return "cutout"
    points = torch.stack([y[seen], x[seen], torch.ones(int(seen.sum()))], 1) - (SIDE + 1) / 2 * torch.tensor([1, 1, 0])
    sources = torch.stack([row[seen], column[seen]], 1) - (SIDE + 1) / 2
    fitted = torch.linalg.lstsq(points, sources).solution  # of y, x and 1 [3, 2]
    assert (points @ fitted - sources).abs().max() < 0.75, "not one affine map, sampled at the nearest pixel"
    (yy, yx), (xy, xx), shift = fitted.tolist()
    if torch.equal(fitted[:2].round(decimals=3), torch.eye(2)):
        down, across = (round(value) for value in shift)
        assert 0 in (down, across) and 1 <= abs(down) + abs(across) <= 5
        return "down" if down else "across"
    assert max(map(abs, shift)) < 0.1
    if abs(yy - 1) < 0.01 and abs(xy) < 0.01:
        assert abs(xx - 1) < 0.01 and abs(yx) < math.tan(0.3) + 0.02
        return "shear"
    turn = math.atan2(yx, xx)
    assert abs(turn) < math.radians(30) + 0.02
    assert fitted[:2].flatten().tolist() == pytest.approx(
        [math.cos(turn), math.sin(turn), -math.sin(turn), math.cos(turn)], abs=0.02
    )
    return "rotate"


def test_the_wide_policy_makes_one_of_six_changes_all_as_often():
    row, column = torch.meshgrid(torch.arange(1, SIDE + 1), torch.arange(1, SIDE + 1), indexing="ij")
    sequences = torch.stack([row, column]).to(torch.uint8).expand(1500, 2, SIDE, SIDE)
    found = Counter(policy_step(row, column) for row, column in wide_policy(sequences, seeded()).float())
    # A shift below a pixel is none, nor are the smallest slants and turns: 5 of 31 steps, and 3 and 1.
    still = (5 / 31 + 5 / 31 + 3 / 31 + 1 / 31) / 6
    expected = {"identity": 1 / 6 + still, "across": 26 / 186, "down": 26 / 186, "shear": 28 / 186, "rotate": 30 / 186}
    assert set(found) == {*expected, "cutout"}
    for name, share in {**expected, "cutout": 1 / 6}.items():
        assert found[name] / 1500 == pytest.approx(share, abs=4 * math.sqrt(share / 1500)), name


def test_a_roll_is_cyclic_by_at_most_its_limit_in_both_ways():
    images = counts_of(60)
    shifts = Counter()
    for image, result in zip(images, roll(images, 2, seeded()), strict=True):
        [shift] = [
            (down, across)
            for down in range(-2, 3)
            for across in range(-2, 3)
            if torch.equal(result, image.roll((down, across), (1, 2)))
        ]
        shifts[shift] += 1
    assert len(shifts) > 15


def lost_by(before: Tensor, after: Tensor) -> str:
    """How a sequence [T, C, H, W] lost events."""
    if torch.equal(before, after):
        return "nothing"
    differs = (before != after).flatten(1).any(1)
    if not after[differs].any() and not differs.all():
        assert differs.nonzero().diff(dim=0).eq(1).all(), "frames that follow one another"
        return "time"
    rows, columns = (((before > 0) & (after == 0)).any(dim=dims).nonzero().flatten() for dims in ((0, 1, 3), (0, 1, 2)))
    inside = torch.zeros(before.shape, dtype=torch.bool)
    inside[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    if torch.equal(after, before.masked_fill(inside, 0)):
        assert 1 <= len(rows) <= 5 and len(rows) == len(columns)
        return "area"
    assert (after <= before).all()
    return "chance"


def test_dropped_events_go_by_time_by_area_or_by_chance_all_as_often():
    before = counts_of(1200, frames=4, size=(20, 20), mean=3.0)
    after = drop_events(before, 0.75, seeded(), frames=4)
    pairs = [(one.unflatten(0, (4, 2)), two.unflatten(0, (4, 2))) for one, two in zip(before, after, strict=True)]
    found = Counter(lost_by(*pair) for pair in pairs)
    # Some spans of time hold no frame's middle, or all of them.
    assert found["nothing"] + found["time"] == pytest.approx(600, abs=70)
    assert found["time"] == pytest.approx(220, abs=60)
    assert [found["area"], found["chance"]] == pytest.approx([300, 300], abs=60)
    kept = torch.tensor([two.sum() / one.sum() for one, two in pairs if lost_by(one, two) == "chance"])
    assert ((kept * 10 - (kept * 10).round()).abs() < 0.4).all()
    assert kept.mean() == pytest.approx(0.5, abs=0.05)
    assert set((kept * 10).round().int().tolist()) == set(range(1, 10))


def test_thinned_counts_are_binomial():
    before = torch.full((300, 1, 30, 30), 8, dtype=torch.uint8)
    after = drop_events(before, 1.0, seeded(), frames=1).flatten(1).float()
    # A rectangle leaves 0 and 8, a span of time nothing or all.
    thinned = after[((after > 0) & (after < 8)).any(1)] / 8
    assert len(thinned) == pytest.approx(100, abs=35)
    share = thinned.mean(1)
    torch.testing.assert_close(thinned.var(1), share * (1 - share) / 8, rtol=0.25, atol=0)


def test_a_sequence_never_loses_its_last_event():
    single = torch.zeros(300, 8, 5, 5)
    single[:, 3, 2, 2] = 1
    assert torch.equal(drop_events(single, 1.0, seeded(), frames=4), single)


def test_no_probability_drops_nothing():
    sequences = counts_of(50)
    assert torch.equal(drop_events(sequences, 0.0, seeded(), frames=3), sequences)


SETTINGS = {"event_policy": "wide", "event_drop": 0.75, "roll": 2}


def test_augmented_sequences_resume_in_mid_epoch_and_are_those_of_any_number_of_workers():
    images = counts_of(23).permute(0, 2, 3, 1).unflatten(-1, (3, 2)).contiguous()
    split = ImageSplit(images, torch.arange(23))
    settings = {"mean": (0.0, 0.0), "std": (1 / 255, 1 / 255), "shuffle": True, "augment": Augment(**SETTINGS)}
    whole = list(Loader(split, 6, **settings).iterate(2))
    for left in (Loader(split, 6, **settings).iterate(2, 2), Loader(split, 6, **settings, num_workers=1).iterate(2, 2)):
        for (images, labels), (others, same) in zip(left, whole[2:], strict=True):
            assert torch.equal(images, others) and torch.equal(labels, same)
    plain = list(Loader(split, 6, **{**settings, "augment": None}).iterate(2))
    assert not any(torch.equal(images, others) for (images, _), (others, _) in zip(whole, plain, strict=True))


def test_counts_stay_the_integers_they_are():
    data = load_data("digits-dvs", frames=4)
    split = data.train.subset(range(64))
    loader = Loader(split, 64, mean=data.mean, std=data.std, augment=Augment(**SETTINGS))
    images, _ = next(iter(loader))
    assert torch.allclose(images, images.round(), atol=1e-5)
    assert isinstance(split.images, Tensor)
    assert images.sum() < split.images.sum()


@pytest.mark.parametrize("setting", [{"event_policy": "wide"}, {"event_drop": 0.5}])
def test_what_changes_events_is_refused_for_images(setting):
    split = ImageSplit(torch.zeros(4, 6, 5, 3, dtype=torch.uint8), torch.arange(4))
    [(name, value)] = setting.items()
    with pytest.raises(ValueError, match=f"are for sequences of frames, got .*{name}={value}.* for images"):
        Loader(split, 2, mean=(0.5,) * 3, std=(0.5,) * 3, augment=Augment(**setting))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"event_policy": "broad"}, "event_policy must be None or wide, got 'broad'"),
        ({"event_drop": 1.5}, r"event_drop must be a probability in \[0, 1\], got 1.5"),
        ({"roll": -1}, "roll must be at least 0 pixels, got -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Augment(**setting)
