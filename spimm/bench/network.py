"""Cases of whole networks: a training step and inference of QKFormer 4-384, fp32 and bf16 autocast.

Before that both networks get equal weights under which arithmetic is exact (see exact.py), and logits and every
gradient must agree.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from spimm.bench import peers
from spimm.bench.agreement import Mismatch, near
from spimm.bench.exact import exact_image, make_exact
from spimm.bench.precision import PRECISIONS, compute_in
from spimm.bench.registry import Options, Plan, Ratio, register_case
from spimm.bench.timing import stopwatch
from spimm.kernels import use_backend
from spimm.models import create_model
from spimm.models.qkformer import QKFormer

MODEL = "qkformer_4_384_cifar"
LEARNING_RATE = 1e-3
LOGITS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Workload:
    """Size of the network and of a batch of images."""

    options: Mapping[str, Any]
    """Given to create_model."""
    batch_size: int
    size: int
    """Height and width."""

    def network(self, library: str) -> nn.Module:
        """A network with random weights, ours or the peer's."""
        ours = create_model(MODEL, **self.options)
        assert isinstance(ours, QKFormer)
        return ours if library == "spimm" else peers.PeerQKFormer(ours.config)

    def exact_networks(self, libraries: tuple[str, ...], images: Tensor) -> dict[str, nn.Module]:
        """Networks of equal weights, in eval mode, whose neurons fire on these images; arithmetic is exact."""
        networks = {"spimm": self.network("spimm")}
        make_exact(networks["spimm"], images, torch.Generator().manual_seed(0))
        if "spikingjelly" in libraries:
            peer = self.network("spikingjelly")
            peer.load_state_dict(peers.peer_tensors(networks["spimm"].state_dict()))
            networks["spikingjelly"] = peer.eval()
        return networks

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] and labels [B], the same at every call."""
        generator = torch.Generator().manual_seed(0)
        images = exact_image(self.batch_size, 3, self.size, self.size, generator=generator)
        return images, torch.arange(self.batch_size) % 10

    def setting(self) -> dict[str, object]:
        return {"model": MODEL, **self.options, "batch_size": self.batch_size, "image": [3, self.size, self.size]}


def workload(quick: bool) -> Workload:
    """The published network with 16 images, or a tiny one."""
    if quick:
        return Workload({"embed_dim": 32, "num_heads": 4, "num_steps": 2}, batch_size=2, size=8)
    return Workload({"num_steps": 4}, batch_size=16, size=32)


def check_networks(networks: Mapping[str, nn.Module], images: Tensor, labels: Tensor) -> dict[str, float]:
    """Relative differences of our logits and gradients from the peer's, or, without one, from the reference backend's.

    float32, eval mode. Raises Mismatch where they are too large, or where the logits do not depend on the image.
    """
    ours, peer = networks["spimm"], networks.get("spikingjelly")
    logits, gradients = _logits_and_gradients(ours, images, labels)
    if float((logits - logits[:1]).abs().max()) < 1e-4:
        raise Mismatch("the network is silent: its logits are the same for every image")
    if peer is not None:
        gradients = peers.peer_tensors(gradients)
        expected_logits, expected = _logits_and_gradients(peer, images, labels)
    else:
        with use_backend("reference"):
            expected_logits, expected = _logits_and_gradients(ours, images, labels)
    found = {"logits": near(logits, expected_logits, tolerance=LOGITS_TOLERANCE, what="logits")}
    errors = {
        name: near(gradients[name], expected[name], tolerance=GRADIENT_TOLERANCE, what=f"gradient of {name}")
        for name in expected
    }
    return found | {"largest of all gradients": max(errors.values())}


def _logits_and_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    logits = model(images)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(cross_entropy(logits, labels), parameters)
    return logits.detach(), dict(zip(names, gradients, strict=True))


def training_step(model: nn.Module, images: Tensor, labels: Tensor, precision: str) -> Callable[[], None]:
    """A function that takes one step: forward, cross-entropy, backward, AdamW.

    The step raises Mismatch for a loss of nan or inf.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def step() -> None:
        with compute_in(precision):
            loss = cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if not torch.isfinite(loss.detach()):
            raise Mismatch(f"the loss of {type(model).__name__} in {precision} is {loss.item()}")

    return step


def _inference(model: nn.Module, images: Tensor, precision: str) -> Callable[[], Tensor]:
    model.eval()

    def run() -> Tensor:
        with torch.no_grad(), compute_in(precision):
            return model(images)

    return run


def ratios_of(options: Options, *, fp32_goal: float | None = None, mixed_goal: float | None = None) -> list[Ratio]:
    """The peer over ours: both in fp32, ours in bf16, both in bf16; none without a peer."""
    if not options.peers:
        return []
    return [
        Ratio("spikingjelly fp32", "spimm fp32", fp32_goal),
        Ratio("spikingjelly fp32", "spimm bf16", mixed_goal),
        Ratio("spikingjelly bf16", "spimm bf16"),
    ]


@register_case("train_step", "training step of QKFormer 4-384: forward, cross-entropy, backward, AdamW")
def train_step(options: Options) -> Plan:
    """Goals: 1.8 times the peer's speed with both in fp32, 4 times with ours in bf16. Every side trains a copy."""
    work = workload(options.quick)
    images, labels = work.batch()
    return Plan(
        setting=work.setting() | {"optimizer": "AdamW, fused"},
        check=lambda: check_networks(work.exact_networks(options.libraries, images), images, labels),
        sides={
            f"{library} {precision}": stopwatch(training_step(work.network(library), images, labels, precision))
            for library in options.libraries
            for precision in PRECISIONS
        },
        ratios=ratios_of(options, fp32_goal=1.8, mixed_goal=4.0),
        warmup=1 if options.quick else 2,
        repeats=2 if options.quick else 7,
    )


@register_case("inference", "inference of QKFormer 4-384, eval mode, no gradients")
def inference(options: Options) -> Plan:
    """The networks timed are those of the check; nothing is folded on either side."""
    work = workload(options.quick)
    images, labels = work.batch()
    networks = work.exact_networks(options.libraries, images)
    return Plan(
        setting=work.setting(),
        check=lambda: check_networks(networks, images, labels),
        sides={
            f"{library} {precision}": stopwatch(_inference(network, images, precision))
            for library, network in networks.items()
            for precision in PRECISIONS
        },
        ratios=ratios_of(options),
        warmup=1 if options.quick else 2,
        repeats=2 if options.quick else 10,
    )
