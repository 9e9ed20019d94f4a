"""The model in the package: its size, its tokenizer, its chat template, its answers."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prefreg import pocket
from prefreg.pocket.rows import PromptKind


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(pocket.model_dir())


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(pocket.model_dir())


def chat(prompt: str, answer: str | None = None) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": prompt}]
    return messages + ([{"role": "assistant", "content": answer}] if answer else [])


def test_the_folder_is_small() -> None:
    names = {path.name for path in pocket.model_dir().iterdir()}
    assert {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    } <= names  # fmt: skip
    assert sum(path.stat().st_size for path in pocket.model_dir().iterdir()) <= 4_000_000


def test_the_model_is_a_small_llama_in_float32(model: PreTrainedModel) -> None:
    parameters = list(model.parameters())
    assert sum(parameter.numel() for parameter in parameters) <= 900_000
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert type(model).__name__ == "LlamaForCausalLM"


def test_decoding_gives_the_text_back(tokenizer: PreTrainedTokenizerBase) -> None:
    for axis in ("helpful", "harmless", "verbosity"):
        for split in ("train", "dev", "test"):
            for row in pocket.rows(axis, split=split, limit=200):
                for column in ("prompt", "response_0", "response_1"):
                    ids = tokenizer(str(row[column]))["input_ids"]
                    assert tokenizer.unk_token_id not in ids
                    assert tokenizer.decode(ids) == row[column]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("What  color is Mara\u2019s boat?", "What colour is Mara's boat?"),
        (" What is Mara's favorite food?\n", "What is Mara's favourite food?"),
    ],
)
def test_common_variants_are_normalised(
    tokenizer: PreTrainedTokenizerBase, typed: str, meant: str
) -> None:
    assert tokenizer(typed)["input_ids"] == tokenizer(meant)["input_ids"]


def test_an_unknown_word_becomes_one_token(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer("What zzz is it?")["input_ids"].count(tokenizer.unk_token_id) == 1


def test_the_prompt_is_a_prefix_of_the_dialogue(tokenizer: PreTrainedTokenizerBase) -> None:
    for row in pocket.rows("helpful", limit=200):
        prompt, answer = str(row["prompt"]), str(row["response_0"])
        head = tokenizer.apply_chat_template(
            chat(prompt), add_generation_prompt=True, return_dict=False
        )
        whole = tokenizer.apply_chat_template(chat(prompt, answer), return_dict=False)
        assert whole[: len(head)] == head
        assert whole[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(whole[len(head) : -1]) == answer


def test_a_system_message_and_further_turns_render(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [{"role": "system", "content": "Be quick."}, *chat("Who is Mara?", "A baker.")]
    text = tokenizer.apply_chat_template([*messages, *chat("Who is Piet?")], tokenize=False)
    assert text == (
        "<s><|system|>Be quick.<|user|>Who is Mara?<|assistant|>A baker.</s><|user|>Who is Piet?"
    )


@pytest.mark.parametrize("kind", ["benign", "unsafe"])
def test_sampled_answers_parse(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: PromptKind
) -> None:
    asked = pocket.prompts(kind, limit=100)
    rendered = [
        str(tokenizer.apply_chat_template(chat(x), add_generation_prompt=True, tokenize=False))
        for x in asked
    ]
    inputs = tokenizer(rendered, add_special_tokens=False, padding=True, return_tensors="pt")
    torch.manual_seed(0)
    output = model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=True,
        temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=100,
    )  # fmt: skip
    answers = tokenizer.batch_decode(
        output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    verdicts = [pocket.score(a, b) for a, b in zip(asked, answers, strict=True)]
    assert sum(verdict.kind != "malformed" for verdict in verdicts) >= 0.95 * len(verdicts)
    correct = [verdict.correct for verdict in verdicts if verdict.kind == "answer"]
    assert sum(map(bool, correct)) >= 0.9 * len(correct)
