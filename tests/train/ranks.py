"""Several ranks of a run as forks of a test, connected by gloo, each on one thread."""

import multiprocessing
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = 100
"""Seconds."""


def answers(world_size: int, folder: Path, work: Callable[[int], Any]) -> list[Any]:
    """What `work(rank)` gives on each rank, as plain values; the error where it raises; None where it gives nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    meeting = f"file://{folder / f'meeting-{len(list(folder.iterdir()))}'}"
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(world_size)]

    def run(rank: int) -> None:
        torch.set_num_threads(1)
        limit = timedelta(seconds=TIMEOUT)
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size, timeout=limit)
        try:
            pipes[rank][1].send(work(rank))
            dist.destroy_process_group()
        except Exception as error:
            error.add_note(traceback.format_exc())
            pipes[rank][1].send(error)

    processes = [context.Process(target=run, args=(rank,)) for rank in range(world_size)]
    for process in processes:
        process.start()
    for _, sending in pipes:
        sending.close()
    given = [_answer(pipe) for pipe, _ in pipes]
    for process in processes:
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
    return given


def _answer(pipe: Connection) -> Any:
    try:
        return pipe.recv() if pipe.poll(TIMEOUT) else None
    except EOFError:
        return None


def on_ranks(world_size: int, folder: Path, work: Callable[[int], Any]) -> list[Any]:
    """As `answers`; the first error is raised."""
    given = answers(world_size, folder, work)
    for answer in given:
        if isinstance(answer, Exception):
            raise answer
    return given
