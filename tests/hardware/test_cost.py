import pytest

from spimm.hardware import EnergyCosts, TimeCosts, frame_energy


def test_equation_12_with_the_counts_as_printed_and_as_they_must_be():
    printed = frame_energy(71e6, 45.4e6)
    assert (printed.spikes, printed.hops, printed.static) == pytest.approx((1420, 4540, 3.52))
    assert f"{printed.total:.1f}" == "5963.5"
    meant = frame_energy(71e3, 454e3)
    assert (meant.spikes, meant.hops) == pytest.approx((1.42, 45.4))
    assert f"{meant.total:.2f}" == "50.34"
    assert meant.total == pytest.approx(50.36, abs=0.021)  # the paper's total
    assert f"{454 / 71:.1f}" == "6.4"


def test_every_coefficient_counts():
    energy = frame_energy(1e6, 2e6, EnergyCosts(sop_pj=3, hop_pj=5, static_uj=7))
    assert (energy.spikes, energy.hops, energy.static, energy.total) == (3, 10, 7, 20)


def test_impossible_coefficients_are_refused():
    with pytest.raises(ValueError, match="hop_pj is -1; wanted at least 0"):
        EnergyCosts(hop_pj=-1)
    with pytest.raises(ValueError, match="link_capacity=0"):
        TimeCosts(link_capacity=0)
    with pytest.raises(ValueError, match="window_us=0"):
        TimeCosts(window_us=0)
