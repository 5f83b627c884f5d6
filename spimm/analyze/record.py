"""Recording a model while it runs: hooks in, hooks out, and nothing left on the model.

T time, B batch, C channels. The batch size is that of the model's input, an image [B, C, H, W] or a sequence
[B, T, C, H, W]; from it follows how many steps a layer computed, whichever way time is folded.
"""

import contextlib
import itertools
import math
from collections.abc import Container, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spimm.analyze.ops import Probe, probes_of
from spimm.analyze.tally import LayerSums, count_spikes, sum_times, sum_values
from spimm.analyze.trace import Trace
from spimm.analyze.uncounted import WatchProducts, calling_module, check_counted, unknown_layers
from spimm.neurons import hooks_unseen


class Recorder:
    """Sums of all batches that ran to their end; `trace` may be asked for at any time."""

    def __init__(self, model_name: str):
        self.model_name = model_name
        self._sums: dict[str, LayerSums] = {}
        self._num_steps: int | None = None
        self._samples = 0
        self._running: dict[str, LayerSums] | None = None
        self._input_shape: torch.Size = torch.Size()
        self._uncounted: dict[str, str] = {}
        self._inside = 0  # layers that count their work, or a measurement

    def trace(self) -> Trace:
        """What was recorded. Raises ValueError if no batch ran."""
        if not self._sums or self._num_steps is None:
            raise ValueError(f"no batch of {self.model_name} was recorded; call the model itself within `record`")
        layers = tuple(sums.summary(name) for name, sums in self._sums.items())
        return Trace(self.model_name, self._num_steps, self._samples, layers)

    def attach(self, model: nn.Module, hooks: contextlib.ExitStack, kinds: Container[str] | None = None) -> None:
        """Puts hooks on the model's layers, those of the `kinds` or all, for as long as `hooks` is open."""
        hooks.callback(model.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
        counting: set[nn.Module] = set()
        for label, module, found in probes_of(model):
            if kinds is None or found.kind in kinds:
                measure = partial(self._measure, label or self.model_name, found)
                hooks.callback(module.register_forward_hook(measure, with_kwargs=True).remove)
                counting |= {module} if found.counts else set()
        if kinds is None:
            self._watch(model, hooks, counting)
        hooks.callback(model.register_forward_hook(self._end).remove)

    def _watch(self, model: nn.Module, hooks: contextlib.ExitStack, counting: set[nn.Module]) -> None:
        """Notes what runs outside of every layer that counts its work."""
        for module in counting:
            hooks.callback(module.register_forward_pre_hook(self._enter).remove)
            hooks.callback(module.register_forward_hook(self._leave).remove)
        for name, module in unknown_layers(model):
            note = partial(self._note_layer, name or self.model_name)
            hooks.callback(module.register_forward_hook(note).remove)
        names = {module: name or self.model_name for name, module in model.named_modules()}
        hooks.enter_context(WatchProducts(partial(self._note_product, names)))

    def _enter(self, *_: object) -> None:
        self._inside += 1

    def _leave(self, *_: object) -> None:
        self._inside -= 1

    def _note_layer(self, name: str, module: nn.Module, *_: object) -> None:
        if not self._inside:
            self._uncounted[name] = type(module).__name__

    def _note_product(self, names: dict[nn.Module, str], op: str) -> None:
        if self._running is not None and not self._inside:
            module = calling_module(names)
            where = self.model_name if module is None else names[module]
            self._uncounted.setdefault(where, f"{op} in {type(module).__name__}")

    @torch.no_grad()
    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if not tensors or tensors[0].dim() < 1 or not len(tensors[0]):
            raise ValueError(f"{self.model_name} was called without a sample; wanted an input [B, ...], B >= 1")
        self._input_shape = tensors[0].shape
        self._running, self._uncounted, self._inside = {}, {}, 0

    def _measure(self, *call: Any) -> None:
        """Measures without being measured."""
        self._inside += 1
        with torch.no_grad(), hooks_unseen():
            self._take_in(*call)
        self._inside -= 1

    def _take_in(
        self, name: str, found: Probe, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        if self._running is None:
            raise ValueError(f"layer {name!r} ran outside a call of {self.model_name}; call the model itself")
        inputs = found.take(args, len(found.inputs))
        if len(inputs) < len(found.inputs):
            raise ValueError(f"layer {name!r} was called with {len(inputs)} positional inputs; wanted {found.inputs}")
        given = found.result(args, kwargs, output)
        times = sum_times(given, name) if found.timed else None
        given = given.isfinite().to(given.dtype) if found.timed else given
        batch, is_neuron = self._input_shape[0], found.kind == "neuron"
        *xs, y = (_unfold(x.detach(), batch, found.leading, name) for x in (*inputs, given))
        self._running[self._label(name)] = LayerSums(
            probe=found,
            input_shapes=tuple(tuple(x.shape[2:]) for x in xs) or (tuple(y.shape[2:]),),
            output_shape=tuple(y.shape[2:]),
            steps=len(y),
            samples=batch,
            values=tuple(sum_values(x, name) for x in xs),
            work=found.work(tuple(xs), y),
            fired=count_spikes(y, found.channel_axis, name) if is_neuron else None,
            places=y[0].numel() // y.shape[found.channel_axis] if is_neuron else 0,
            times=times,
        )

    def _label(self, name: str) -> str:
        """The name, told apart from that of an earlier call within the same call of the model."""
        calls = itertools.chain([name], (f"{name}#{call}" for call in itertools.count(2)))
        return next(label for label in calls if label not in (self._running or {}))

    @torch.no_grad()
    def _end(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        assert self._running is not None
        running, self._running = self._running, None
        check_counted(self.model_name, self._uncounted)
        num_steps = self._steps_of(running)
        if self._num_steps not in (None, num_steps):
            before = f"{self.model_name} ran {self._num_steps} steps before"
            raise ValueError(f"{before} and {num_steps} now; record them apart")
        if self._sums and self._sums.keys() != running.keys():
            odd = sorted(self._sums.keys() ^ running.keys())
            raise ValueError(f"layers {odd} of {self.model_name} do not run for every batch")
        merged = {name: self._sums[name].merge(sums, name) if self._sums else sums for name, sums in running.items()}
        self._sums, self._num_steps = merged, num_steps
        self._samples += self._input_shape[0]

    def _steps_of(self, running: dict[str, LayerSums]) -> int:
        if len(self._input_shape) == 5:
            return self._input_shape[1]
        neurons = [sums.steps for sums in running.values() if sums.probe.kind == "neuron"]
        return max(neurons or [sums.steps for sums in running.values()], default=1)


@contextlib.contextmanager
def record(
    model: nn.Module, *, model_name: str | None = None, kinds: Container[str] | None = None
) -> Iterator[Recorder]:
    """Records every call of `model` within the context; sums grow over batches, tensors are not kept.

    Layers are named as the modules are (`#2` is added for a second call within one of the model); a neuron inside a
    fused op is `<unit>.neuron`. The model's outputs, mode, state and attributes stay as they are, also after an error;
    a call that fails counts for nothing. kinds: of layers that are recorded, such as "neuron"; None is all. Raises
    ValueError, naming the layer, if a neuron gives anything but 0 and 1, and, where all kinds are recorded, for weights
    and matrix products that no probe counts.
    """
    recorder = Recorder(model_name or type(model).__name__)
    with contextlib.ExitStack() as hooks:
        recorder.attach(model, hooks, kinds)
        yield recorder


def _unfold(x: Tensor, batch: int, leading: int | None, name: str) -> Tensor:
    """x with its leading axes as [T, B]; steps come before samples in each form of folding, and in joined steps."""
    candidates = range(1, x.dim() + 1) if leading is None else (leading,)
    for axes in candidates:
        runs = math.prod(x.shape[:axes])
        if axes <= x.dim() and runs % batch == 0:
            return x.flatten(0, axes - 1).unflatten(0, (runs // batch, batch))
    raise ValueError(f"layer {name!r} has a tensor {tuple(x.shape)}, which does not hold whole batches of {batch}")
