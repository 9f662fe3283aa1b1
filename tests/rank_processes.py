"""Ranks of a run: processes that train together, each forked in milliseconds from one that has imported torch."""

from __future__ import annotations

import os
import pickle
import socket
import struct
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from fork_server import CONTEXT
from jsonargparse._deprecated import JsonargparseDeprecationWarning
from lightning.pytorch import Trainer
from small_runs import quiet_trainer
from torch import distributed

from lightning_subnets.training import strategies


def on_ranks(function: Callable[..., Any], *arguments: Any, ranks: int = 2, limit: float = 60.0) -> list[Any]:
    """Return what a function returns on each rank; a Trainer that it builds belongs to these ranks.

    An error of a rank is an AssertionError with its traceback. Warnings are errors there too.
    """
    port, pipes, processes = free_port(), [], []
    for rank in range(ranks):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_run, args=(theirs, rank, ranks, port, function, arguments))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    end = time.monotonic() + limit
    results: list[Any] = []
    try:
        for rank, pipe in enumerate(pipes):
            assert pipe.poll(max(0.0, end - time.monotonic())), f"rank {rank} has not come to an end in {limit} seconds"
            result, failure = pickle.loads(pipe.recv_bytes())
            assert failure is None, f"rank {rank}:\n{failure}"
            results.append(result)
        return results
    finally:
        for process in processes:
            process.join(max(0.0, end - time.monotonic()) if len(results) == ranks else 0.0)
            process.kill()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _run(
    pipe: Connection, rank: int, ranks: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("error")
    # As in pyproject.toml, and what Lightning says where SLURM is installed.
    warnings.filterwarnings("ignore", category=JsonargparseDeprecationWarning)
    for harmless in (".*LeafSpec.* is deprecated", "The `srun` command is available"):
        warnings.filterwarnings("ignore", message=harmless)
    result: tuple[Any, str | None]
    try:
        result = function(*arguments), None
    except BaseException:
        result = None, traceback.format_exc()
    pipe.send_bytes(pickle.dumps(result))  # whole, for tensors would be lent by a process that is about to end
    if distributed.is_initialized():
        distributed.destroy_process_group()


def trainer(**options: Any) -> Trainer:
    """Return a Trainer of all ranks on the CPU that prints and saves nothing."""
    strategies.register()
    return quiet_trainer(devices=int(os.environ["WORLD_SIZE"]), **options)


def bytes_sent() -> int:
    """Return the bytes that this process has sent through its open sockets, by the kernel's count."""
    total = 0
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:  # no socket, or the listing's own, which is closed
            continue
        if connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6):
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            sent, again = struct.unpack_from("<QQ", info, 200)  # tcpi_bytes_sent and _retrans, see linux/tcp.h
            total += sent - again
        connection.detach()
    return total
