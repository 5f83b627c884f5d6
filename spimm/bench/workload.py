"""A network of ours, the same one of SpikingJelly's, a batch, and whether the two agree.

To be compared both get equal weights under which arithmetic is exact (see exact.py): logits must then be equal, and
every gradient nearly so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from spimm.bench import peers
from spimm.bench.agreement import Mismatch, near
from spimm.bench.exact import exact_image, make_exact
from spimm.bench.precision import compute_in
from spimm.kernels import use_backend
from spimm.models import create_model
from spimm.models.hierarchy import HierarchicalModel
from spimm.models.settings import ModelConfig

CIFAR_MODEL = "qkformer_4_384_cifar"
IMAGENET_MODEL = "qkformer_10_384"
META_CIFAR_MODEL = "metaspikeformer_cifar"
META_IMAGENET_MODEL = "metaspikeformer_15m"
SPIKEATCONV_CIFAR_MODEL = "spikeatconv_cifar"
SPIKEATCONV_IMAGENET_MODEL = "spikeatconv_tiny_table"
LEARNING_RATE = 1e-3
LOGITS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
GRADIENT_FLOOR = 1e-3
"""Share of the largest gradient's norm. Far from the threshold a surrogate's derivative is lost in rounding; a gradient
made of nothing else is small and has no right digits."""


@dataclass(frozen=True)
class Workload:
    """Size of the network and of a batch of images."""

    options: Mapping[str, Any]
    """Given to create_model; `num_steps` is among them."""
    batch_size: int
    size: int
    """Height and width."""
    model: str = CIFAR_MODEL
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Options of ours that change no output, such as how activations are kept."""
    peer: type[peers.PeerNetwork] = peers.PeerQKFormer
    """The same network of SpikingJelly's; it is built from the configuration of ours."""

    def ours(self) -> HierarchicalModel:
        """Our network with random weights."""
        network = create_model(self.model, **self.options, **self.extra)
        assert isinstance(network, HierarchicalModel)
        return network

    def network(self, library: str) -> nn.Module:
        """A network with random weights, ours or the peer's."""
        if library == "spimm":
            return self.ours()
        config = replace(self, extra={}).ours().config
        assert isinstance(config, ModelConfig)
        return self.peer(config)

    def exact_networks(self, libraries: tuple[str, ...], images: Tensor) -> dict[str, nn.Module]:
        """Networks of equal weights, in eval mode, whose neurons fire on these images; arithmetic is exact."""
        ours = self.ours()
        networks: dict[str, nn.Module] = {"spimm": ours}
        for name, parameter in ours.named_parameters():
            if name.endswith(self.peer.lacks):
                nn.init.zeros_(parameter)
        make_exact(ours, images, torch.Generator().manual_seed(0))
        if "spikingjelly" in libraries:
            peer = networks["spikingjelly"] = self.network("spikingjelly")
            assert isinstance(peer, peers.PeerNetwork)
            peer.load(ours.state_dict())
            peer.eval()
        return networks

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] and labels [B], the same at every call."""
        generator = torch.Generator().manual_seed(0)
        images = exact_image(self.batch_size, 3, self.size, self.size, generator=generator)
        return images, torch.arange(self.batch_size) % 10

    def check(self, libraries: tuple[str, ...]) -> dict[str, float]:
        """`check_networks` of new networks on two images or more."""
        images, labels = replace(self, batch_size=max(self.batch_size, 2)).batch()
        return check_networks(self.exact_networks(libraries, images), images, labels)

    def flops(self, *, training: bool) -> float:
        """Operations of convolutions and products of our network for the batch, as if no input were 0.

        What is the same at every step counts once. In training the backward counts as well.
        """
        images, labels = replace(self, batch_size=1).batch()
        network = replace(self, extra={}).ours().eval()
        counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward_flops})
        with use_backend("reference"), counter, torch.set_grad_enabled(training):
            loss = cross_entropy(network(images), labels)
            if training:
                loss.backward()
        return float(counter.get_total_flops() * self.batch_size)

    def setting(self) -> dict[str, object]:
        settled = {"model": self.model, **self.options, **self.extra}
        return settled | {"batch_size": self.batch_size, "image": [3, self.size, self.size]}


def _backward_flops(
    grad_shape: list[int], x_shape: list[int], weight_shape: list[int], *settings: Any, **_: Any
) -> int:
    """As much as forward for each of input and weights that has a gradient; torch's own count ignores groups."""
    of_input, of_weight, _ = settings[-1]
    return conv_flop_count(x_shape, weight_shape, grad_shape) * (of_input + of_weight)


def cifar(quick: bool, **changes: Any) -> Workload:
    """QKFormer 4-384 with 16 images of 32x32 and 4 steps, or a tiny one; with `changes` to the workload's fields."""
    if quick:
        options = {"embed_dim": 32, "num_heads": 4, "num_steps": 2}
        return replace(Workload(options, batch_size=2, size=8), **changes)
    return replace(Workload({"num_steps": 4}, batch_size=16, size=32), **changes)


def imagenet(quick: bool, num_steps: int) -> Workload:
    """QKFormer 10-384 with 2 images of 224x224, or a tiny one."""
    options: dict[str, Any] = {"num_steps": num_steps}
    if quick:
        options |= {"embed_dim": 16, "num_heads": 2, "depths": (1, 1, 1), "num_classes": 10}
        return Workload(options, batch_size=2, size=32, model=IMAGENET_MODEL, peer=peers.OfficialQKFormer)
    return Workload(options, batch_size=2, size=224, model=IMAGENET_MODEL, peer=peers.OfficialQKFormer)


def meta_cifar(quick: bool) -> Workload:
    """Small Meta-SpikeFormer with 16 images of 32x32 and 4 steps, or a tiny one."""
    if quick:
        return _tiny_meta(META_CIFAR_MODEL, num_steps=2, size=16)
    options = {"num_steps": 4}
    return Workload(options, batch_size=16, size=32, model=META_CIFAR_MODEL, peer=peers.PeerMetaSpikeFormer)


def meta_imagenet(quick: bool, num_steps: int) -> Workload:
    """Meta-SpikeFormer of 15.1 M parameters with 2 images of 224x224, or a tiny one."""
    if quick:
        return _tiny_meta(META_IMAGENET_MODEL, num_steps=num_steps, size=32)
    options = {"num_steps": num_steps}
    return Workload(options, batch_size=2, size=224, model=META_IMAGENET_MODEL, peer=peers.PeerMetaSpikeFormer)


def _tiny_meta(model: str, *, num_steps: int, size: int) -> Workload:
    options = {"widths": (8, 16, 16, 32, 48), "depths": (1,) * 5, "num_heads": 4, "num_classes": 10}
    options |= {"num_steps": num_steps}
    return Workload(options, batch_size=2, size=size, model=model, peer=peers.PeerMetaSpikeFormer)


def spikeatconv_cifar(quick: bool) -> Workload:
    """Small SpikeAtConv with 16 images of 32x32 and 2 steps, or a tiny one."""
    model, peer = SPIKEATCONV_CIFAR_MODEL, peers.PeerSpikeAtConv
    if quick:
        options = {"widths": (8, 16, 16), "depths": (1, 2, 1), "head_dim": 8, "group_size": 2, "num_steps": 2}
        return Workload(options, batch_size=2, size=16, model=model, peer=peer)
    return Workload({"num_steps": 2}, batch_size=16, size=32, model=model, peer=peer)


def spikeatconv_imagenet(quick: bool, num_steps: int) -> Workload:
    """SpikeAtConv-Tiny with 2 images of 224x224, or a tinier one."""
    options: dict[str, Any] = {"num_steps": num_steps}
    model, peer = SPIKEATCONV_IMAGENET_MODEL, peers.PeerSpikeAtConv
    if quick:
        options |= {"widths": (8, 8, 16, 16), "depths": (1,) * 4, "head_dim": 8, "group_size": 2, "num_classes": 10}
        return Workload(options, batch_size=2, size=64, model=model, peer=peer)
    return Workload(options, batch_size=2, size=224, model=model, peer=peer)


def check_networks(networks: Mapping[str, nn.Module], images: Tensor, labels: Tensor) -> dict[str, float]:
    """Relative differences of our logits and gradients from the peer's, or, without one, from the reference backend's.

    float32, eval mode. Raises Mismatch where they are too large, or where the logits do not depend on the image.
    """
    ours, peer = networks["spimm"], networks.get("spikingjelly")
    logits, gradients = logits_and_gradients(ours, images, labels)
    if float((logits - logits[:1]).abs().max()) < 1e-4:
        raise Mismatch("the network is silent: its logits are the same for every image")
    if peer is not None:
        assert isinstance(peer, peers.PeerNetwork)
        gradients = peer.tensors(gradients)
        expected_logits, expected = logits_and_gradients(peer, images, labels)
        assert gradients.keys() <= expected.keys()
    else:
        with use_backend("reference"):
            expected_logits, expected = logits_and_gradients(ours, images, labels)
    floor = GRADIENT_FLOOR * max(float(gradient.norm()) for gradient in expected.values())
    found = {"logits": near(logits, expected_logits, tolerance=LOGITS_TOLERANCE, what="logits")}
    errors = {
        name: near(
            gradients[name], expected[name], tolerance=GRADIENT_TOLERANCE, floor=floor, what=f"gradient of {name}"
        )
        for name in gradients
    }
    return found | {"largest of all gradients": max(errors.values())}


def logits_and_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits [B, K], and the gradient of the cross-entropy for each parameter by name."""
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


def inference_run(model: nn.Module, images: Tensor, precision: str) -> Callable[[], Tensor]:
    """A function that gives the logits in eval mode, without gradients."""
    model.eval()

    def run() -> Tensor:
        with torch.no_grad(), compute_in(precision):
            return model(images)

    return run
