"""The bundled model: a little Llama, the village it knows, and exact scores of its answers."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from prefreg.pocket.questions import Question, parse
from prefreg.pocket.rows import crossed_rows, prompts, rows
from prefreg.pocket.scoring import Verdict, score
from prefreg.pocket.village import VILLAGE
from prefreg.pocket.world import World

__all__ = [
    "TRAINING",
    "VILLAGE",
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

# Chosen on the dev split so that eta = 1 lies well inside the valid range of every axis.
TRAINING: Mapping[str, object] = MappingProxyType(
    {
        "max_steps": 80,
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 1,
        "learning_rate": 7e-5,
        "beta": 0.1,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "max_length": 160,
    }
)


def model_dir() -> Path:
    """Return the folder of the bundled model."""
    return Path(__file__).parent / "model"
