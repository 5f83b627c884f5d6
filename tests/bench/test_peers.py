"""The peer network is the same network: parameters, logits and gradients; and what is said where it is missing."""

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

import spimm
from spimm.bench import Mismatch, peers
from spimm.bench.exact import LEAST_RATE, exact_image, make_exact
from spimm.bench.peers import metaspikeformer as peer_metaspikeformer
from spimm.bench.peers import qkformer as peer_qkformer
from spimm.bench.peers import spikeatconv as peer_spikeatconv
from spimm.bench.workload import (
    CIFAR_MODEL,
    Workload,
    check_networks,
    imagenet,
    meta_cifar,
    meta_imagenet,
    spikeatconv_cifar,
    spikeatconv_imagenet,
)
from spimm.layers import GroupAttention, SpikingAttention
from spimm.models import create_model
from spimm.models.qkformer import QKFormer, QKFormerConfig

SMALL = Workload({"embed_dim": 48, "num_heads": 4}, batch_size=3, size=8)


def test_a_missing_peer_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spikingjelly.activation_based", None)
    with pytest.raises(ImportError, match=r"pip install 'spimm\[peers\]'"):
        peers.lif_node()


@pytest.mark.parametrize(
    ("library", "build", "install"),
    [
        ("snntorch", peers.SnnTorchLIF, r"pip install 'spimm\[peers\]'"),
        ("norse.torch", peers.NorseLIF, "LGPL-3.0 .* pip install norse"),
    ],
)
def test_each_missing_peer_is_named_with_what_to_install(
    library: str, build: type, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=install):
        build()


def test_without_a_peer_the_network_is_checked_against_the_reference_backend() -> None:
    images, labels = SMALL.batch()
    found = check_networks(SMALL.exact_networks(("spimm",), images), images, labels)
    assert found["logits"] == 0


def test_a_silent_network_is_no_check() -> None:
    images, labels = SMALL.batch()
    # Statistics of an untrained network, mean 0 and variance 1, are far too large for its potentials: nothing fires.
    with pytest.raises(Mismatch, match="silent"):
        check_networks({"spimm": SMALL.network("spimm").eval()}, images, labels)


def test_exact_weights_make_norms_divide_by_powers_of_two() -> None:
    images, _ = SMALL.batch()
    model = SMALL.exact_networks(("spimm",), images)["spimm"]
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert norm.running_var is not None
        exponent = torch.log2(norm.running_var + norm.eps) / 2
        assert torch.equal(exponent, exponent.round())
        assert norm.momentum == 0.1


@pytest.mark.parametrize(
    "work",
    [meta_cifar(True), meta_imagenet(True, 1), spikeatconv_cifar(True), spikeatconv_imagenet(True, 1)],
    ids=lambda work: work.model,
)
def test_exact_weights_let_every_attention_fire(work: Workload) -> None:
    torch.manual_seed(0)
    images, _ = work.batch()
    model = work.exact_networks(("spimm",), images)["spimm"]
    rates: list[float] = []
    for module in model.modules():
        if isinstance(module, SpikingAttention):
            module.core.register_forward_hook(lambda _, __, spikes: rates.append(float(spikes.float().mean())))
    with torch.no_grad():
        model(images)
    assert rates and min(rates) >= LEAST_RATE / 2


@pytest.mark.parametrize("num_steps", [1, 4])
def test_with_exact_weights_float32_rounds_nothing_in_rows_of_convolutions_either(num_steps: int) -> None:
    work = meta_imagenet(True, num_steps)
    images, _ = work.batch()
    model = work.exact_networks(("spimm",), images)["spimm"]
    with torch.no_grad():
        features = model.forward_features(images)
        for norm in model.double().modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                assert norm.running_var is not None
                norm.running_var.copy_(torch.exp2(torch.log2(norm.running_var + norm.eps).round()))
                norm.eps = 0.0
        assert torch.equal(model.forward_features(images.double()), features.double())
    assert features.unique().numel() > 100 and features.abs().max() < 100


@pytest.mark.parametrize("work", [spikeatconv_cifar(True), spikeatconv_imagenet(True, 1)], ids=lambda work: work.model)
def test_with_exact_weights_no_neuron_behind_a_softmax_is_decided_by_rounding(work: Workload) -> None:
    images, _ = work.batch()
    model = work.exact_networks(("spimm",), images)["spimm"]
    seen = 0
    for core in (module for module in model.modules() if isinstance(module, GroupAttention)):

        def compare(core, inputs, spikes):
            nonlocal seen
            attended = core.attend(inputs[0])
            seen += 1
            for error in (-1e-5, 1e-5):
                assert torch.equal(core.spk(attended * (1 + error)), spikes)

        core.register_forward_hook(compare)
    with torch.no_grad():
        model(images)
    assert seen == 4


class TestWithSpikingJelly:
    @pytest.fixture(autouse=True)
    def needs_the_peer(self) -> None:
        pytest.importorskip("spikingjelly")

    def test_the_peer_has_the_published_number_of_parameters(self) -> None:
        assert sum(p.numel() for p in peers.PeerQKFormer(QKFormerConfig()).parameters()) == 6_706_234

    @pytest.mark.parametrize("size", [8, 12])
    def test_logits_are_equal_and_gradients_nearly_so_with_copied_weights(self, size: int) -> None:
        work = replace(SMALL, size=size)
        images, labels = work.batch()
        networks = work.exact_networks(("spimm", "spikingjelly"), images)
        found = check_networks(networks, images, labels)
        assert found["logits"] == 0
        assert found["largest of all gradients"] < 1e-4

    @pytest.mark.parametrize("model", [CIFAR_MODEL, "qkformer_4_96_cifar"])
    def test_logits_are_equal_with_copied_weights_at_full_width(self, model: str) -> None:
        generator = torch.Generator().manual_seed(0)
        images = exact_image(2, 3, 16, 16, generator=generator)
        ours = create_model(model)
        assert isinstance(ours, QKFormer)
        make_exact(ours, images, generator)
        peer = peers.PeerQKFormer(ours.config).eval()
        peer.load(ours.state_dict())
        with torch.no_grad():
            logits = ours(images)
            torch.testing.assert_close(logits, peer(images), rtol=0, atol=1e-6)
        assert (logits[0] - logits[1]).abs().max() > 1e-3

    def test_the_peer_keeps_nothing_between_batches(self) -> None:
        images, _ = SMALL.batch()
        peer = SMALL.exact_networks(("spimm", "spikingjelly"), images)["spikingjelly"]
        with torch.no_grad():
            assert torch.equal(peer(images), peer(images))

    def test_another_scale_in_the_peers_attention_is_a_mismatch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        images, labels = SMALL.batch()
        networks = SMALL.exact_networks(("spimm", "spikingjelly"), images)
        monkeypatch.setattr(peer_qkformer, "SSA_SCALE", 0.5)
        with pytest.raises(Mismatch, match="logits"):
            check_networks(networks, images, labels)

    @pytest.mark.parametrize("num_steps", [1, 4])
    def test_the_peers_own_network_gives_our_logits_and_gradients_with_copied_weights(self, num_steps: int) -> None:
        work = imagenet(True, num_steps)
        found = work.check(("spimm", "spikingjelly"))
        assert found["logits"] == 0

    def test_the_peers_own_network_is_built_as_it_builds_it(self) -> None:
        config = imagenet(False, 4).ours().config
        ours = peers.OfficialQKFormer(config).network.state_dict()
        theirs = peers.spikingjelly().qkformer.qkformer_10_384().state_dict()
        assert {name: value.shape for name, value in ours.items()} == {k: v.shape for k, v in theirs.items()}

    @pytest.mark.parametrize("official", [False, True])
    def test_memopt_changes_neither_loss_nor_gradients(self, official: bool) -> None:
        work = imagenet(True, 2) if official else SMALL
        images, _ = work.batch()
        network = work.exact_networks(("spikingjelly",), images)["spikingjelly"]

        def gradients() -> list[torch.Tensor]:
            return list(torch.autograd.grad(network(images).square().sum(), list(network.parameters())))

        before = gradients()
        peers.with_memopt(network, images)
        assert any("Checkpoint" in type(module).__name__ for module in network.modules())
        for left, right in zip(before, gradients(), strict=True):
            torch.testing.assert_close(left, right)


class TestMetaSpikeFormerWithSpikingJelly:
    @pytest.fixture(autouse=True)
    def needs_the_peer(self) -> None:
        pytest.importorskip("spikingjelly")

    def test_the_peer_has_the_published_number_of_parameters(self) -> None:
        network = meta_imagenet(False, 1).network("spikingjelly")
        assert sum(p.numel() for p in network.parameters()) == 15_112_208

    @pytest.mark.parametrize("work", [meta_cifar(True), meta_imagenet(True, 1), meta_imagenet(True, 4)])
    def test_logits_are_equal_and_gradients_nearly_so_with_copied_weights(self, work: Workload) -> None:
        found = work.check(("spimm", "spikingjelly"))
        assert found["logits"] == 0
        assert found["largest of all gradients"] < 1e-4

    def test_batches_have_the_same_statistics_in_training(self) -> None:
        """With weights of any kind, rounding may decide spikes behind the first neurons: their input is compared."""
        work = meta_cifar(True)
        images, _ = work.batch()
        ours, peer = (work.network(library).train() for library in ("spimm", "spikingjelly"))
        assert isinstance(peer, peers.PeerMetaSpikeFormer)
        peer.load(ours.state_dict())
        for network in (ours, peer):
            network(images)
        expected, found = peer.tensors(ours.state_dict()), peer.state_dict()
        for name in ("running_mean", "running_var"):
            key = f"stages.0.embed.norm.{name}"
            torch.testing.assert_close(found[key], expected[key])
        assert expected.keys() == found.keys()

    def test_the_peer_keeps_nothing_between_batches(self) -> None:
        work = meta_cifar(True)
        images, _ = work.batch()
        peer = work.exact_networks(("spimm", "spikingjelly"), images)["spikingjelly"]
        with torch.no_grad():
            assert torch.equal(peer(images), peer(images))

    def test_another_scale_in_the_peers_attention_is_a_mismatch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        work = meta_cifar(True)
        monkeypatch.setattr(peer_metaspikeformer, "SCALE", 0.5)
        with pytest.raises(Mismatch, match="logits"):
            work.check(("spimm", "spikingjelly"))

    def test_a_peer_whose_repconv_is_padded_with_0_is_a_mismatch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        work = meta_cifar(True)
        monkeypatch.setattr(peer_metaspikeformer.RepConv, "pad", lambda _, x: torch.nn.functional.pad(x, [1] * 4))
        with pytest.raises(Mismatch, match="logits"):
            work.check(("spimm", "spikingjelly"))


class TestSpikeAtConvWithSpikingJelly:
    @pytest.fixture(autouse=True)
    def needs_the_peer(self) -> None:
        pytest.importorskip("spikingjelly")

    @pytest.mark.parametrize(
        "work", [spikeatconv_cifar(False), spikeatconv_imagenet(False, 1)], ids=lambda work: work.model
    )
    def test_the_peer_has_our_number_of_parameters(self, work: Workload) -> None:
        count = sum(p.numel() for p in work.network("spikingjelly").parameters())
        assert count == spimm.model_card(work.model).params

    @pytest.mark.parametrize(
        "work", [spikeatconv_cifar(True), spikeatconv_imagenet(True, 1), spikeatconv_imagenet(True, 2)]
    )
    def test_logits_are_equal_and_gradients_nearly_so_with_copied_weights(self, work: Workload) -> None:
        found = work.check(("spimm", "spikingjelly"))
        assert found["logits"] == 0
        assert found["largest of all gradients"] < 1e-4

    def test_batches_have_the_same_statistics_in_training(self) -> None:
        """With weights of any kind, rounding may decide spikes behind the first neurons: their input is compared."""
        work = spikeatconv_cifar(True)
        images, _ = work.batch()
        ours, peer = (work.network(library).train() for library in ("spimm", "spikingjelly"))
        assert isinstance(peer, peers.PeerSpikeAtConv)
        peer.load(ours.state_dict())
        for network in (ours, peer):
            network(images)
        expected, found = peer.tensors(ours.state_dict()), peer.state_dict()
        for name in ("running_mean", "running_var"):
            key = f"stem.first.norm.{name}"
            torch.testing.assert_close(found[key], expected[key])
        assert expected.keys() == found.keys()

    def test_the_peer_keeps_nothing_between_batches(self) -> None:
        work = spikeatconv_cifar(True)
        images, _ = work.batch()
        peer = work.exact_networks(("spimm", "spikingjelly"), images)["spikingjelly"]
        with torch.no_grad():
            assert torch.equal(peer(images), peer(images))

    def test_a_peer_that_turns_distances_round_is_a_mismatch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        right = peer_spikeatconv.relative_index
        monkeypatch.setattr(peer_spikeatconv, "relative_index", lambda side: right(side).mT)
        with pytest.raises(Mismatch, match=r"logits|gradient"):
            spikeatconv_cifar(True).check(("spimm", "spikingjelly"))

    @pytest.mark.parametrize(
        "other",
        [{"partition": "window"}, {"thresholds": "0.2,1,2,3"}, {"surrogate": "sigmoid"}, {"detach_reset": False}],
        ids=lambda other: next(iter(other)),
    )
    def test_a_network_of_ours_that_the_peer_is_not_is_a_mismatch(self, other: dict[str, Any]) -> None:
        work = replace(spikeatconv_cifar(True), extra=other)
        with pytest.raises(Mismatch, match=r"logits|gradient"):
            work.check(("spimm", "spikingjelly"))
