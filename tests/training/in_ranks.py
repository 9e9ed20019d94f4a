"""Runs of a pair in one process or several, which are forked after the imports and may be ended."""

import gc
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from interrupted import settings

import worded
from axis_runs import make_run
from prefreg.axes.axis import Axis
from prefreg.checkpoints.bases import resolve_base
from prefreg.data.pairs import build_pairs
from prefreg.errors import PrefregError
from prefreg.launch import Launch
from prefreg.models.ranks import several
from prefreg.training import callbacks
from prefreg.training.add_axis import extract_pair
from prefreg.training.axis_request import LoraOptions
from prefreg.training.behaviour import observe
from prefreg.training.pair import train_pair
from prefreg.vectors import open_vector

PATIENCE = 120.0


def run(rank: int, port: int, wanted: dict[str, Any]) -> dict[str, Any]:
    """Train the pair as one of several processes, and return φ and what was told."""
    os.environ |= {"PREFREG_CACHE": wanted["cache"], "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    callbacks.SAVE_INTERVAL = 0.0
    stages: list[str] = []
    notes: list[str] = []

    def progress(stage: str, step: int, total: int, loss: float | None = None, /) -> None:
        stages.append(f"{stage} {step}")
        if wanted.get("end") == [rank, stage, step]:
            os.kill(os.getpid(), signal.SIGKILL)
        if wanted.get("stop") == [stage, step]:
            os.kill(os.getpid(), signal.SIGTERM)

    rows = worded.pairs()
    if rank == wanted.get("other"):
        rows = [rows[0].switched(), *rows[1:]]
    made = make_run(
        resolve_base(wanted["base"]),
        Axis("red", "Red things.", {"none": lambda request: []}, label=lambda row: None),
        build_pairs(rows, axis_name="red", seed=0),
        settings(*wanted.get("set", ())),
        lora=LoraOptions(rank=2, alpha=4.0) if wanted.get("lora") else None,
        seed=0,
        keep_anyway=True,
    )
    started = Launch(rank, wanted.get("world", 1), rank)
    with several(started, shard=bool(wanted.get("shard"))) as ranks:
        pair = train_pair(made, progress=progress, note=notes.append, resumable=True)
        vector = Path(wanted["cache"]) / "vector.safetensors"
        ranks.once(lambda: vector.unlink(missing_ok=True))
        ranks.once(lambda: extract_pair(pair, vector))
        behaviour = observe(pair, vector)
    phi = open_vector(vector, kind="low-rank" if made.lora else "dense")
    return {
        "phi": torch.cat([phi.tensor(name).flatten() for name in phi.names]).tolist(),
        "stages": stages,
        "notes": notes,
        "behaviour": behaviour.to_json()["answers"],
        "report": pair.positive.report.to_json(),
        "losses": [point.loss for point in pair.positive.curve],
        "stopped": str(pair.positive.stop or ""),
        "checks": [check.margin for check in pair.positive.checks],
    }


def begin(rank: int, port: int, wanted: dict[str, Any]) -> int:
    """Fork a process, which writes what came out; return its number."""
    child = os.fork()
    if child:
        return child
    out = Path(f"{wanted['cache']}-{rank}.json")
    try:
        out.write_text(json.dumps(run(rank, port, wanted)))
        os._exit(0)
    except (PrefregError, KeyboardInterrupt) as error:
        out.write_text(json.dumps({"said": str(error)}))
        os._exit(getattr(error, "exit_code", 130))
    except BaseException:
        traceback.print_exc()
        os._exit(70)


def main() -> None:
    """Carry out each run of a list in its processes, and print what each said."""
    results = []
    gc.freeze()  # every child would look through what the imports have made
    for wanted in json.loads(sys.argv[1]):
        ranks = range(wanted.get("world", 1))
        for rank in ranks:
            Path(f"{wanted['cache']}-{rank}.json").unlink(missing_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        began = time.monotonic()
        children = [begin(rank, port, wanted) for rank in ranks]
        codes: dict[int, int] = {}
        while len(codes) < len(children):
            for rank, child in enumerate(children):
                if rank not in codes and (ended := os.waitpid(child, os.WNOHANG))[0]:
                    codes[rank] = os.waitstatus_to_exitcode(ended[1])
                elif rank not in codes and time.monotonic() - began > PATIENCE:
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        found = []
        for rank in ranks:
            out = Path(f"{wanted['cache']}-{rank}.json")
            told = json.loads(out.read_text()) if out.exists() else {}
            found.append({"code": codes[rank]} | told)
        results.append(found)
        print(f"{wanted} {time.monotonic() - began:.1f} s", file=sys.stderr)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
