"""The peer network is the same network: parameters, logits and gradients; and what is said where it is missing."""

import sys
from dataclasses import replace

import pytest
import torch

from spimm.bench import Mismatch, peers
from spimm.bench.exact import exact_image, make_exact
from spimm.bench.peers import qkformer as peer_qkformer
from spimm.bench.workload import CIFAR_MODEL, Workload, check_networks, imagenet
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

    def test_logits_are_equal_with_copied_weights_at_full_width(self) -> None:
        generator = torch.Generator().manual_seed(0)
        images = exact_image(2, 3, 8, 8, generator=generator)
        ours = create_model(CIFAR_MODEL)
        assert isinstance(ours, QKFormer)
        make_exact(ours, images, generator)
        peer = peers.PeerQKFormer(ours.config).eval()
        peer.load_state_dict(peers.peer_tensors(ours.state_dict()))
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
        ours = peers.official_qkformer(config).network.state_dict()
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
