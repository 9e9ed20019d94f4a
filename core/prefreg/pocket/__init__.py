"""The bundled model: a little Llama, the village it knows, and exact scores of its answers."""

from pathlib import Path

from prefreg.axes.bundled_base import BundledBase
from prefreg.axes.hookspecs import hookimpl
from prefreg.pocket.pocket_world import TRAINING, PocketWorld
from prefreg.pocket.questions import Question, parse
from prefreg.pocket.rows import crossed_rows, prompts, rows
from prefreg.pocket.scoring import Verdict, score
from prefreg.pocket.village import VILLAGE
from prefreg.pocket.world import World

__all__ = [
    "TRAINING",
    "VILLAGE",
    "PocketWorld",
    "Question",
    "Verdict",
    "World",
    "crossed_rows",
    "model_dir",
    "parse",
    "prompts",
    "rows",
    "score",
]


def model_dir() -> Path:
    """Return the folder of the bundled model."""
    return Path(__file__).parent / "model"


@hookimpl
def prefreg_register_bases() -> list[BundledBase]:
    """Bring the bundled model."""
    return [
        BundledBase(
            name="pocket",
            summary="A Llama of .85 M parameters that knows a village; it trains in seconds.",
            find=model_dir,
            licence="Apache-2.0",
            training=TRAINING,
            world=PocketWorld(),
        )
    ]
