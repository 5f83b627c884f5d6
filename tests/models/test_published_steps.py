"""Time steps of the published networks: T of the papers' tables."""

import pytest

import spimm

STEPS = {
    "metaspikeformer_15m": 1,
    "metaspikeformer_31m": 1,
    "metaspikeformer_55m": 1,
    "metaspikeformer_124m": 1,
    "metaspikeformer_18m_dvs": 8,
    "qkformer_10_384": 4,
    "qkformer_10_512": 4,
    "qkformer_10_768": 4,
    "qkformer_4_384_cifar": 4,
    "qkformer_2_256_dvs": 16,
    "spikeatconv_tiny_table": 1,
    "spikeatconv_base_table": 1,
    "spikeatconv_large_table": 1,
    "ttfs_vgg16": 1,
}


@pytest.mark.parametrize("name", STEPS)
def test_a_published_network_has_the_time_steps_of_its_paper(name: str) -> None:
    assert spimm.model_card(name).num_steps == STEPS[name]
