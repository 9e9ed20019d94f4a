import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from prefreg import BaseModelError, Message, pocket
from prefreg.checkpoints import resolve_base
from prefreg.evaluation.rewards import RewardModel

PROMPTS = [(Message("user", "Where does Mara live?"),), (Message("user", "How do I row?"),)]
ANSWERS = ["By the sea.", "You should wear boots."]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFREG_CACHE", str(tmp_path / "cache"))


def make(folder: Path, *, outputs: int = 1) -> Path:
    """Save a random classifier with the tokenizer of the bundled model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=438,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        pad_token_id=0,
        num_labels=outputs,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pocket.model_dir() / name, folder / name)
    return folder


def load(folder: Path) -> RewardModel:
    return RewardModel(resolve_base(str(folder)))


def by_hand(folder: Path, text: str) -> float:
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        return float(model(torch.tensor([ids])).logits[0, 0])


def test_answers_are_scored_as_the_template_writes_them(tmp_path: Path) -> None:
    folder = make(tmp_path / "reward")
    found = load(folder).score(PROMPTS, ANSWERS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt, answer, value in zip(PROMPTS, ANSWERS, found, strict=True):
        turns = [prompt[0]._asdict(), {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        assert value == pytest.approx(by_hand(folder, text), abs=1e-5)
    assert found[0] != found[1]


def test_batches_change_nothing(tmp_path: Path) -> None:
    model = load(make(tmp_path / "reward"))
    one = model.score(PROMPTS * 3, ANSWERS * 3, batch_size=1)
    assert model.score(PROMPTS * 3, ANSWERS * 3, batch_size=4) == pytest.approx(one, abs=1e-5)


def test_a_beaver_keeps_its_own_names_and_form(tmp_path: Path) -> None:
    plain = make(tmp_path / "plain")
    beaver = Path(shutil.copytree(plain, tmp_path / "beaver"))
    weights = load_file(beaver / "model.safetensors")
    weights["score_head.weight"] = weights.pop("score.weight")
    save_file(weights, beaver / "model.safetensors", {"format": "pt"})
    config = json.loads((beaver / "config.json").read_text())
    config["architectures"] = ["LlamaForScore"]
    (beaver / "config.json").write_text(json.dumps(config))
    (found,) = load(beaver).score(PROMPTS[:1], ANSWERS[:1])
    tokenizer = AutoTokenizer.from_pretrained(plain)
    text = f"BEGINNING OF CONVERSATION: USER: Where does Mara live? ASSISTANT:{ANSWERS[0]}"
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    model = LlamaForSequenceClassification.from_pretrained(plain).eval()
    with torch.no_grad():
        assert found == pytest.approx(float(model(torch.tensor([ids])).logits[0, 0]), abs=1e-5)


def test_what_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"has 3 outputs; a reward model has one"):
        load(make(tmp_path / "three", outputs=3))
    with pytest.raises(BaseModelError, match=r"pocket is no reward model: it lacks score.weight"):
        RewardModel(resolve_base("pocket"))
    broken = make(tmp_path / "broken")
    (broken / "config.json").write_text("{}")
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load(broken)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = make(tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseModelError):
        load(folder)


def test_an_answer_longer_than_the_context_is_told(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="does not fit the context of 64 of the reward model"):
        load(make(tmp_path / "reward")).score(PROMPTS[:1], ["boat " * 80])
