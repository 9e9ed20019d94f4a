"""What the environment says of several processes, and what is refused of it."""

import os
import subprocess
import sys

import pytest

from prefreg.errors import UsageError
from prefreg.launch import Launch, read_launch

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
FSDP = TORCHRUN | {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "FSDP_VERSION": "2",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}
"""What `accelerate launch --config_file fsdp2.yaml`, which trl ships, sets."""


def test_a_plain_start_is_one_process_and_touches_nothing() -> None:
    environment = {"HOME": "/home/me", "CUDA_VISIBLE_DEVICES": "0,1"}
    assert read_launch(environment) == Launch()
    assert environment == {"HOME": "/home/me", "CUDA_VISIBLE_DEVICES": "0,1"}


def test_torchrun_is_read_and_taken_away_from_the_libraries() -> None:
    environment = dict(TORCHRUN) | {"MASTER_PORT": "29500"}
    assert read_launch(environment) == Launch(rank=1, world=2, local_rank=1)
    assert environment == {"MASTER_PORT": "29500", "CUDA_VISIBLE_DEVICES": "1"}


@pytest.mark.parametrize(
    ("visible", "left"), [("4,5", "5"), ("GPU-7", "GPU-7"), ("", ""), ("3,", "")]
)
def test_a_process_sees_the_gpu_of_its_own_place_alone(visible: str, left: str) -> None:
    environment = dict(TORCHRUN) | {"CUDA_VISIBLE_DEVICES": visible}
    read_launch(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == left


def test_accelerate_s_fsdp_and_precision_are_heeded() -> None:
    environment = dict(FSDP)
    assert read_launch(environment) == Launch(1, 2, 1, shard=True, precision="bf16")
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    assert not [name for name in environment if "FSDP" in name]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"FSDP_VERSION": "1"}, "FSDP 1: set fsdp_version: 2"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "`settings=` activation_checkpointing=true"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "`settings=` torch_compile=true"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "fp8"),
        ({"WORLD_SIZE": "1", "RANK": "0"}, "asks for FSDP, and one process was started"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two' is no number"),
        ({"RANK": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
    ],
)
def test_what_would_not_be_got_is_refused(change: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_launch(dict(FSDP) | change)
    assert said in str(refused.value)


def test_accelerate_that_starts_one_of_several_is_refused() -> None:
    """`accelerate launch --cpu --num_processes 2` leaves an address, and no number of processes."""
    environment = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}
    with pytest.raises(UsageError, match="asked for several processes and started one"):
        read_launch(environment)


def test_processes_of_mpirun_are_refused() -> None:
    with pytest.raises(UsageError, match="do not know each other"):
        read_launch({"OMPI_COMM_WORLD_SIZE": "4"})


@pytest.mark.parametrize(("rank", "told"), [("0", True), ("1", False)])
def test_other_commands_run_in_one_process_and_the_first_says_so(rank: str, told: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefreg", "vectors"],
        env=os.environ | TORCHRUN | {"RANK": rank, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert ("prefreg vectors runs in one process, and 2 were started" in done.stderr) == told
    assert done.stdout == ""
