"""Runs of a pair in processes that are ended at chosen moments, as a user's may be."""

import gc
import hashlib
import json
import os
import pickle
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import worded
from axis_runs import train
from prefreg.axes.axis import Axis
from prefreg.checkpoints.bases import resolve_base
from prefreg.data.pairs import build_pairs
from prefreg.errors import PrefregError
from prefreg.training import callbacks
from prefreg.training.axis_request import LoraOptions
from prefreg.training.pair import TrainedPair
from prefreg.training.settings import Settings, resolve_settings

_STEPS = 6


def settings(*assignments: str) -> Settings:
    return resolve_settings(
        assignments=assignments,
        default={
            "num_train_epochs": 3.0,
            "max_steps": _STEPS,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
            "max_length": 48,
        },
    )


def run(
    base: Path, cache: Path, *, end: Sequence[object] = (), lora: bool = False, fresh: bool = False
) -> dict[str, object]:
    """Train the pair, and end this process at a stage and step; say what was done and told."""
    os.environ["PREFREG_CACHE"] = str(cache)
    callbacks.SAVE_INTERVAL = 0.0
    stages: list[list[object]] = []
    notes: list[str] = []
    moments = [(end[0], int(str(end[1])))] if end else []

    def progress(stage: str, step: int, total: int, loss: float | None = None, /) -> None:
        stages.append([stage, step])
        if moments and stage == moments[-1][0] and step >= moments[-1][1]:
            moments.pop()  # a second Ctrl-C would not wait for the checkpoint
            os.kill(os.getpid(), signal.SIGINT if end[2:] == ["interrupt"] else signal.SIGKILL)

    made = train(
        base=resolve_base(str(base)),
        axis=Axis("red", "Red things.", {"none": lambda request: []}, label=lambda row: None),
        pairs=build_pairs(worded.pairs(), axis_name="red", seed=0),
        settings=settings(),
        seed=0,
        lora=LoraOptions(rank=2, alpha=4.0) if lora else None,
        keep_anyway=True,
        resumable=True,
        fresh=fresh,
        progress=progress,
        note=notes.append,
    )
    return {"sha256": digest(made), "stages": stages, "notes": notes, "curves": curves(made)}


def digest(made: TrainedPair) -> str:
    """Return the sha256 of all weights of both poles."""
    total = hashlib.sha256()
    for pole in (made.positive, made.negative):
        for name, weight in sorted(pole.weights.items()):
            total.update(name.encode() + weight.numpy().tobytes())
    return total.hexdigest()


def curves(made: TrainedPair) -> list[list[list[float]]]:
    return [
        [[point.step, point.loss, point.margin] for point in pole.curve]
        for pole in (made.positive, made.negative)
    ]


def forge(path: Path) -> None:
    """Put what is none of ours in a file's place, with the sums that say that it is whole."""
    if path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"facts": {"report": {}}}))
        return
    path.write_bytes(pickle.dumps(print, protocol=2))
    mark = path.with_name("complete.json")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {path.name: digest}))


def main() -> None:
    """Carry out each run of a list in a child, whose end harms no other; print what came out."""
    results = []
    gc.freeze()  # every child would look through what the imports have made
    for wanted in json.loads(sys.argv[1]):
        out = Path(wanted["cache"]).with_suffix(".json")
        out.unlink(missing_ok=True)
        for path in Path(wanted["cache"]).glob(f"runs/*/{wanted.get('damage', 'none')}"):
            path.write_bytes(path.read_bytes()[:-1] + b"!")
        for path in Path(wanted["cache"]).glob(f"runs/*/{wanted.get('forge', 'none')}"):
            forge(path)
        child = os.fork()
        if not child:
            try:
                found = run(
                    Path(wanted["base"]),
                    Path(wanted["cache"]),
                    end=wanted.get("end", ()),
                    lora=wanted.get("lora", False),
                    fresh=wanted.get("fresh", False),
                )
                out.write_text(json.dumps(found))
                os._exit(0)
            except KeyboardInterrupt as error:
                out.write_text(json.dumps({"interrupted": str(error)}))
                os._exit(130)
            except PrefregError as error:
                out.write_text(json.dumps({"error": type(error).__name__, "said": str(error)}))
                os._exit(error.exit_code)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        results.append({"code": code} | (json.loads(out.read_text()) if out.exists() else {}))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
