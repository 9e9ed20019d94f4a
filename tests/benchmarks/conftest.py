import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from prefreg.checkpoints import resolve_base
from prefreg.models.loading import load_model, load_tokenizer, quiet

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# At the end: some scripts have the names of packages.
sys.path.append(str(BENCHMARKS))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """Return the bundled model's tokenizer."""
    with quiet():
        return load_tokenizer(resolve_base("pocket"))


@pytest.fixture
def plain(tokenizer: PreTrainedTokenizerBase):
    """Return the bundled model as a policy."""
    from rivals.policies import ModelPolicy

    with quiet():
        model = load_model(resolve_base("pocket"))
    model.train(False)
    return ModelPolicy(model, tokenizer)
