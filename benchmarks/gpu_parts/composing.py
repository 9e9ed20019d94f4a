"""Three dense vectors composed on the CPU and with `--device cuda`: seconds, and the bytes."""

from pathlib import Path
from typing import Any

import prefreg
from gpu_parts.inputs import DEVICE, make_base, make_registry, seconds
from prefreg.files import hash_file

TERMS = {"first": 1.0, "second": 0.5, "third": -0.3}
TURNS = 2
"""The first warms the cache of files and whatever is compiled."""


def measure(record: Any, part: str, folder: Path, *, small: bool) -> None:
    """Compose one checkpoint on each device."""
    shape = "small" if small else "Llama-3.2-1B"
    base = make_base(folder / "base", shape)
    record.say(f"{shape}: {base.fingerprint.parameters:,} parameters written")
    registry = prefreg.open(make_registry(folder, base, list(TERMS)), starter=False)
    record.say("three vectors stored")
    hashes = {}
    for device in dict.fromkeys(["cpu", DEVICE]):
        for turn in range(TURNS):
            target = folder / device

            def compose(device: str = device, target: Path = target) -> None:
                registry.compose(TERMS, target, device=device, overwrite=True)

            record.add("seconds", shape=shape, device=device, turn=turn, seconds=seconds(compose))
        hashes[device] = {file.name: hash_file(file) for file in target.glob("*.safetensors")}
    same = all(each == hashes["cpu"] for each in hashes.values())
    record.add("bytes", devices=list(hashes), same=same)
    if not same:
        raise AssertionError(f"the devices wrote other bytes: {hashes}")
