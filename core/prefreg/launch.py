"""Several processes that carry out one run: what torchrun or accelerate says of this one.

Each of them is told by its environment. That is read and taken away once, so that no library below
starts or joins a group of its own, or falls back to another mode than the one asked for in silence.
"""

import os
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

from prefreg.errors import UsageError

_OURS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_OF_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_TORCHRUN = "torchrun (docs/scale.md)"
_NO = ("", "no", "false", "0")
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed, which prefreg does not use: FSDP 2 does the same",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM, which prefreg does not use",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config; prefreg knows DDP and FSDP 2",
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params, which prefreg does not do: take more processes",
    "FSDP_ACTIVATION_CHECKPOINTING": "fsdp_activation_checkpointing: leave it to "
    "--set activation_checkpointing=true",
    "ACCELERATE_DYNAMO_BACKEND": "a dynamo backend: leave it to --set torch_compile=true",
}
"""What a configuration of accelerate may ask for and would not get, by its variable."""


@dataclass(frozen=True, slots=True)
class Launch:
    """This process among those of its run."""

    rank: int = 0
    world: int = 1
    """How many processes there are."""
    local_rank: int = 0
    """Which one it is on its machine."""
    shard: bool = False
    """Whether accelerate's configuration asks for FSDP 2."""
    precision: str | None = None
    """What accelerate's configuration computes in: `bf16` or `fp16`; None where it does not say."""


def read_launch(environment: MutableMapping[str, str]) -> Launch:
    """Read how this process was started, and take away what a library below would act on.

    Raises:
        UsageError: It was started in another way than was asked for, or in one that is not known.
    """
    accelerated = "ACCELERATE_MIXED_PRECISION" in environment
    world = _number(environment, "WORLD_SIZE", 1)
    if world == 1 and accelerated and "MASTER_ADDR" in environment and "RANK" not in environment:
        raise UsageError(
            "accelerate was asked for several processes and started one, as it does without a GPU: "
            f"use {_TORCHRUN}."
        )
    if world == 1 and any(_number(environment, name, 1) > 1 for name in _OF_MPI):
        raise UsageError(f"mpirun starts processes that do not know each other: use {_TORCHRUN}.")
    asked = {name: environment.get(name, "").lower() for name in _REFUSED}
    if refused := [what for name, what in _REFUSED.items() if asked[name] not in _NO]:
        raise UsageError(f"accelerate's configuration asks for {refused[0]}.")
    shard = environment.get("ACCELERATE_USE_FSDP", "").lower() not in _NO
    if shard and environment.get("FSDP_VERSION", "1") != "2":
        raise UsageError("accelerate's configuration asks for FSDP 1: set fsdp_version: 2.")
    if shard and world == 1:
        raise UsageError("accelerate's configuration asks for FSDP, and one process was started.")
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", "bf16", "fp16"):
        raise UsageError(
            f"accelerate's configuration asks for {precision}; bf16 and fp16 are done."
        )
    rank, local = (_number(environment, name, 0) for name in ("RANK", "LOCAL_RANK"))
    if world > 1 and not 0 <= rank < world:
        raise UsageError(f"RANK={rank} is not below WORLD_SIZE={world}: {_TORCHRUN} sets both.")
    if world > 1:
        _leave_one_gpu(environment, local)
    for name in list(environment):
        if name in _OURS or name.startswith("FSDP_") or name == "ACCELERATE_USE_FSDP":
            del environment[name]
    if accelerated:
        environment["ACCELERATE_MIXED_PRECISION"] = "no"  # it becomes a setting, which is recorded
    return Launch(rank, world, local, shard, None if precision == "no" else precision)


def _leave_one_gpu(environment: MutableMapping[str, str], local_rank: int) -> None:
    """Let this process see the GPU of its own place alone, so that every library takes that one."""
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    if not visible:
        if "CUDA_VISIBLE_DEVICES" not in environment:
            environment["CUDA_VISIBLE_DEVICES"] = str(local_rank)
        return
    devices = visible.split(",")
    if len(devices) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = "".join(devices[local_rank : local_rank + 1])


def _number(environment: MutableMapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdigit():
        raise UsageError(f"{name}={text!r} is no number: {_TORCHRUN} sets it.")
    return int(text)


_launch: Launch | None = None
_may_tell: Callable[[], bool] | None = None


def current() -> Launch:
    """Return how this process was started; the first call reads the environment."""
    global _launch
    if _launch is None:
        _launch = read_launch(os.environ)
    return _launch


def tells() -> bool:
    """Whether this process is the one that says why the run ended: others say the same, or less."""
    if _may_tell is not None:
        return _may_tell()
    return _launch is None or _launch.rank == 0


def tell_by(may_tell: Callable[[], bool] | None) -> None:
    """Let those that know the other processes decide which one tells."""
    global _may_tell
    _may_tell = may_tell
