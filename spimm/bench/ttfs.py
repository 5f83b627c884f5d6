"""Cases of networks of spike times: a training step and inference against the same equations in torch alone."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spimm.bench.agreement import near
from spimm.bench.limits import matmul, matmul_limit
from spimm.bench.peers import PlainTTFS
from spimm.bench.registry import Options, Plan, Ratio, register_case
from spimm.bench.timing import stopwatch
from spimm.bench.workload import inference_run, logits_and_gradients, training_step
from spimm.models import create_model
from spimm.models.ttfs import TTFSNet

GOAL = 1.5
"""Training, over torch alone."""
SIZES = {"ttfs_vgg11": 64, "ttfs_mnist_cnn": 64}
"""Images a step."""
QUICK = {
    "ttfs_vgg11": {"convs": "8,M,8,8,M", "hidden": "16", "image_size": 8},
    "ttfs_mnist_cnn": {"convs": "4,M,4,M", "hidden": "16"},
}
OURS, THEIRS = "spimm fp32", "torch fp32"
LOGITS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-3
INK = 0.2
"""Share of pixels that are not black, as in MNIST."""


def network_of(model: str, quick: bool) -> TTFSNet:
    """The network with random weights, the same at every call, or a tiny one."""
    torch.manual_seed(0)
    network = create_model(model, **(QUICK[model] if quick else {}))
    assert isinstance(network, TTFSNet)
    return network


def batch_of(network: TTFSNet, images: int, *, ink: float = INK) -> tuple[Tensor, Tensor]:
    """Images and labels, the same at every call; `ink`: share of pixels that are not black, where pixels are coded."""
    generator = torch.Generator().manual_seed(0)
    config = network.config
    shape = images, config.in_chans, config.image_size, config.image_size
    if config.code == "direct":
        x = torch.randn(shape, generator=generator)
    else:
        x = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < ink)
    return x.contiguous(memory_format=torch.channels_last), torch.arange(images) % config.num_classes


def _peer(network: TTFSNet) -> PlainTTFS:
    return PlainTTFS(network.config, list(network.state_dict().values()))


def _differences(network: TTFSNet, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Of logits and of the gradients of all weights, ours in float32 from theirs in float64."""
    peer = _peer(network).double()
    found = [logits_and_gradients(network, images, labels), logits_and_gradients(peer, images.double(), labels)]
    (logits, ours), (expected, theirs) = found
    ours = peer.in_order(ours)
    floor = 1e-3 * max(float(gradient.norm()) for gradient in theirs.values())
    errors = [
        near(ours[name], theirs[name], tolerance=GRADIENT_TOLERANCE, floor=floor, what=f"gradient of {name}")
        for name in theirs
    ]
    return {
        "logits": near(logits, expected, tolerance=LOGITS_TOLERANCE, what="logits"),
        "largest of all gradients": max(errors),
    }


def _plan(
    options: Options, model: str, run: Callable[[nn.Module, Tensor, Tensor], Callable[[], object]], goal: float | None
) -> Plan:
    network = network_of(model, options.quick)
    images, labels = batch_of(network, 2 if options.quick else SIZES[model])
    peer = _peer(network)
    sides = {OURS: stopwatch(run(network_of(model, options.quick), images, labels))}
    if options.peers:
        sides[THEIRS] = stopwatch(run(peer, images.contiguous(), labels))
    sides[matmul("fp32")], limit = matmul_limit("fp32", options.quick)
    return Plan(
        setting={"model": model, "batch_size": len(images), "image": list(images.shape[1:])},
        check=lambda: _differences(network, images[:8], labels[:8]),
        sides=sides,
        ratios=[Ratio(THEIRS, OURS, goal)] if options.peers else [],
        work={matmul("fp32"): limit},
        warmup=1 if options.quick else 3,
        repeats=2 if options.quick else 9,
    )


def _training(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    return training_step(model, images, labels, "fp32")


def _inference(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    return inference_run(model, images, "fp32")


@register_case("ttfs_train_step", "training step of the TTFS VGG11 for 32x32, one spike a neuron")
def ttfs_train_step(options: Options) -> Plan:
    """Goal: 1.5 times as fast as the same equations in torch alone."""
    return _plan(options, "ttfs_vgg11", _training, GOAL)


@register_case("ttfs_mnist_train_step", "training step of the TTFS network for MNIST")
def ttfs_mnist_train_step(options: Options) -> Plan:
    """Goal as `ttfs_train_step`."""
    return _plan(options, "ttfs_mnist_cnn", _training, GOAL)


@register_case("ttfs_inference", "inference of the TTFS VGG11 for 32x32")
def ttfs_inference(options: Options) -> Plan:
    """In closed form, both sides."""
    return _plan(options, "ttfs_vgg11", _inference, None)


@register_case("ttfs_mnist_inference", "inference of the TTFS network for MNIST")
def ttfs_mnist_inference(options: Options) -> Plan:
    """In closed form, both sides."""
    return _plan(options, "ttfs_mnist_cnn", _inference, None)
