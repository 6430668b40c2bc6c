"""Devices: the one that was asked for, computing in the precision that was asked for."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")


class DeviceLostError(RuntimeError):
    """A device fails, or is gone."""


def find_device(name: str) -> torch.device:
    """Return a torch device that is really there, or raise ValueError.

    ``"auto"`` is the first of CUDA, MPS and CPU that is there. Under torchrun and Slurm, ``"auto"``
    and ``"cuda"`` give each process of a machine another GPU.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        # Of the processes that torchrun or Slurm starts on one machine each has a GPU of its own.
        rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
        name = f"cuda:{int(rank) % torch.cuda.device_count()}" if rank.isdigit() else "cuda"
    there = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if name == "auto":
        return torch.device([*there, "cpu"][0])
    allowed = f"Allowed here: {', '.join([*there, 'cpu', 'auto'])}."
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"The device {name!r} is unknown. {allowed}") from error
    try:
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        why = str(error).splitlines()[0].split(". ")[0]  # A page of PyTorch's follows.
        raise ValueError(f"The device {name!r} is not available: {why}. {allowed}") from error
    return device


def computes_in(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether a device has instructions for a precision; else it is slower than float32.

    True where PyTorch does not say.
    """
    if device.type == "cuda" and dtype == torch.bfloat16:
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu" and dtype != torch.float32:
        name = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
        supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", lambda: True)
        return bool(supported())
    return True


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies in bfloat16, several times as fast as in float32.

    Processors with AVX512-BF16 or AMX do, and GPUs from NVIDIA's Ampere on. False where PyTorch
    does not say.
    """
    if device.type == "cpu":
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, lambda: False)() for name in names)
    return device.type == "cuda" and computes_in(device, torch.bfloat16)


@contextmanager
def no_tf32() -> Iterator[None]:
    """Compute float32 products in float32, whatever the process is set to."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def only_deterministic(wanted: bool) -> Iterator[None]:
    """Use no algorithm whose results change from run to run, if that is wanted."""
    if not wanted:
        yield
        return
    # cuBLAS reads it when it starts; PyTorch refuses its products otherwise.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.benchmark = before[1]


@contextmanager
def naming_loss(device: torch.device) -> Iterator[None]:
    """Raise `DeviceLostError` where a GPU fails, which may be as late as when it is copied from."""
    try:
        yield
    except RuntimeError as error:
        if "CUDA error" not in str(error):
            raise
        raise DeviceLostError(
            f"{device} failed: {str(error).splitlines()[0]}. What was extracted before is "
            "stored. Run it again when the device is back, or with another --device."
        ) from error


def n_lanes(device: torch.device) -> int:
    """Give the batches that a device works on at a time."""
    return {"cpu": torch.get_num_threads(), "cuda": 2}.get(device.type, 1)


def in_lanes(
    device: torch.device, tasks: Iterable[Callable[[], Result]]
) -> Generator[Result, None, None]:
    """Run tasks beside each other, each on the device alone.

    On the CPU, one for each core that PyTorch would use: threads that share a batch wait for each
    other after every operation, whenever anything else takes a core. On a CUDA device, two with a
    stream each, so that one copies while the other computes. Tasks are taken one by one, no more
    than one beyond those that run, and their results given in order; no thread stays when the
    generator is closed.
    """
    threads = torch.get_num_threads()

    def begin() -> None:
        if device.type == "cpu":
            torch.set_num_threads(1)
        elif device.type == "cuda":
            torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]

    n = n_lanes(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    pool = ThreadPoolExecutor(n, initializer=begin)
    pending: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(task))
            if len(pending) > n:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # What a thread sets, threads begun later begin with.
