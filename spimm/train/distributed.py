"""Ranks: the processes of one run that torchrun starts. How they find each other, hear each other and part.

Each rank has a copy of the model, or a shard of it, and a share of every batch.
"""

import inspect
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from spimm.layers import SyncBatchNorm2d
from spimm.train.checkpoint import last_kept
from spimm.train.config import Recipe

STARTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")
"""What torchrun sets in the environment of every process."""
LOSSES = ("gloo", "nccl", "connection", "socket")
"""Words by which an error tells that another rank does not answer."""


class RankLost(RuntimeError):
    """Another rank ended or does not answer; what the last checkpoint holds is safe."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run: `rank` of `world_size`, alone by default."""

    rank: int = 0
    world_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which logs and writes."""
        return self.rank == 0

    @property
    def many(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1

    def total(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place; equal on all, bit for bit."""
        if self.many:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Returns once every rank has come here."""
        if self.many:
            dist.barrier()

    def agree(self, what: str, value: int) -> None:
        """RuntimeError on every rank where they differ in `value`."""
        if not self.many:
            return
        seen: list[int] = [0] * self.world_size
        dist.all_gather_object(seen, value)
        if len(set(seen)) > 1:
            raise RuntimeError(f"ranks differ in {what}: {seen}; out_dir must be one folder that all machines see")


def started_rank() -> int:
    """The rank that torchrun gave this process, 0 without torchrun."""
    return int(os.environ["RANK"]) if all(name in os.environ for name in STARTED) else 0


@contextmanager
def process_group(device: str, timeout: float) -> Iterator[Ranks]:
    """The ranks that torchrun started, connected for as long as the context lasts; one rank without torchrun.

    device: auto, cpu or cuda. GPUs speak NCCL, each rank on the GPU of its local rank, and CPUs gloo. timeout: seconds
    after which a rank that waits for another gives up. A process group that is there already is used and left alone.
    ValueError for a device with a number, or more ranks than GPUs on a machine.
    """
    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
    elif not all(name in os.environ for name in STARTED):
        yield Ranks()
    else:
        on_gpu = _take_gpu(device, int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=timedelta(seconds=timeout))
        yield Ranks(dist.get_rank(), dist.get_world_size())
        dist.destroy_process_group()  # not after an error: it would wait for ranks that may be gone


def _take_gpu(device: str, local_rank: int) -> bool:
    """Makes the GPU of the local rank this process's own, if it is to compute on one."""
    if device.startswith("cuda:") and int(os.environ["WORLD_SIZE"]) > 1:
        raise ValueError(f"device must be auto, cpu or cuda for several ranks, which take a GPU each, got {device!r}")
    count = torch.cuda.device_count()
    if device == "cpu" or device.startswith("cuda:") or (device == "auto" and not count):
        return False
    if local_rank >= count:
        raise ValueError(f"local rank {local_rank} wants a GPU of its own, torch sees {count}: start fewer processes")
    torch.cuda.set_device(local_rank)
    return True


@contextmanager
def naming_lost_ranks(ranks: Ranks, out: Path) -> Iterator[None]:
    """Turns what a collective says when another rank is gone into RankLost, which tells how to go on with `out`."""
    try:
        yield
    except RuntimeError as error:
        plain = type(error) is RuntimeError or isinstance(error, dist.DistError)
        if not (ranks.many and plain and any(word in str(error).lower() for word in LOSSES)):
            raise
        raise RankLost(
            f"rank {ranks.rank} of {ranks.world_size} lost another rank, which ended or did not answer; "
            f"{last_kept(out / 'checkpoints' / 'last')}. The same command goes on from there, on any number of ranks. "
            f"({error})"
        ) from error


def check_share(recipe: Recipe, ranks: Ranks) -> None:
    """ValueError unless the recipe's batch divides into equal pieces for the ranks, and these into `accumulate`."""
    pieces = ranks.world_size * recipe.accumulate
    if recipe.batch_size % pieces:
        wanted = f"a multiple of ranks x accumulate = {ranks.world_size} x {recipe.accumulate}"
        raise ValueError(f"batch_size must be {wanted}, got {recipe.batch_size}")
    if recipe.parallel == "fsdp" and not dist.is_initialized():
        raise ValueError("parallel must be ddp for one process, got 'fsdp': torchrun starts processes to split over")


def replicated(model: nn.Module) -> nn.Module:
    """`model` behind a call that averages gradients over ranks, which all start from the weights of rank 0."""
    where = [torch.cuda.current_device()] if next(model.parameters()).is_cuda else None
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # renamed by torch 2.14
    return DistributedDataParallel(model, device_ids=where, **{name: False})  # type: ignore[arg-type]


def shard(model: nn.Module) -> None:
    """Splits weights, gradients and optimiser state over the ranks (FSDP2), block by block; buffers stay whole.

    Weights are those of rank 0. ValueError for a parameter without axes, which cannot be split.
    """
    scalars = [name for name, parameter in model.named_parameters() if parameter.dim() == 0]
    if scalars:
        raise ValueError(f"parallel=fsdp cannot split parameters of one number: {', '.join(scalars[:3])}")
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), 0)
    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    for part in list(model.modules()):
        blocks = getattr(part, "blocks", None)
        for block in blocks if isinstance(blocks, nn.Sequential | nn.ModuleList) else ():
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def gradients_stay(model: nn.Module, *, local: bool) -> AbstractContextManager[None]:
    """Within it backward passes add to a rank's own gradients if `local`, and average over ranks if not."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(not local)
    return model.no_sync() if local and isinstance(model, DistributedDataParallel) else nullcontext()


@torch.no_grad()
def average_statistics(model: nn.Module, ranks: Ranks) -> None:
    """Gives every rank the mean over ranks of the running statistics of batch norm, after a step that moved them."""
    if not ranks.many:
        return
    norms = [norm for norm in model.modules() if isinstance(norm, _BatchNorm) and not isinstance(norm, SyncBatchNorm2d)]
    running = [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var) if tensor is not None]
    if running:
        mean = ranks.total(torch.cat(running)) / ranks.world_size
        for tensor, value in zip(running, mean.split([len(tensor) for tensor in running]), strict=True):
            tensor.copy_(value)
