"""What a client of vLLM gets from the dials."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from scratch_vectors import AXES, BASE, DENSE, HUGE, add_version
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm_server import TOKENS, Server

import prefreg
from prefreg.serving.setting_adapters import SETTLING
from prefreg.serving.vllm import SLOTS
from prefreg.terms import as_terms

PROMPT = "Tell me about the sea."
SETTINGS = [
    f"{AXES[0]}:1",
    f"{AXES[1]}:-1",
    f"{AXES[2]}:1.5",
    f"{AXES[0]}:1,{AXES[1]}:1",
    f"{AXES[1]}:0.7,{AXES[2]}:-0.7",
    f"{AXES[0]}:0.5,{AXES[1]}:0.5,{AXES[2]}:0.5",
]


@pytest.fixture
def dials(server: Server) -> Iterator[Server]:
    """Leave every dial at 0."""
    yield server
    assert server.set_preferences({}).status_code == 200


def composed_answer(server: Server, setting: str, folder: Path) -> str:
    """Compose a checkpoint and return its greedy answer, as transformers gives it."""
    terms = as_terms(setting.split(","))
    registry = prefreg.open(server.registry, starter=False)
    registry.compose(terms, folder, base=BASE)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    made = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    new = made[0, inputs["input_ids"].shape[1] :]
    answer: str = tokenizer.decode(new, skip_special_tokens=True)
    return answer


def test_settings_answer_alone_as_they_do_together(server: Server) -> None:
    asked = [BASE, *(f"{BASE}+{each}" for each in SETTINGS)]

    alone = [server.ask(each, PROMPT) for each in asked]
    together = server.ask_together(asked, PROMPT)

    assert together == alone
    assert len(set(alone)) == len(alone)  # no setting is lost


@pytest.mark.parametrize("setting", SETTINGS[4:])
def test_a_setting_answers_as_its_composed_checkpoint(
    server: Server, setting: str, tmp_path: Path
) -> None:
    expected = composed_answer(server, setting, tmp_path / "composed")

    assert server.ask(f"{BASE}+{setting}", PROMPT) == expected


def test_dense_dials_answer_as_a_composed_checkpoint_and_go_back(
    dials: Server, tmp_path: Path
) -> None:
    setting = f"{DENSE}:1,{AXES[0]}:0.5"
    base = dials.ask(BASE, PROMPT)
    expected = composed_answer(dials, setting, tmp_path / "composed")

    put = dials.set_preferences({DENSE: 1, AXES[0]: 0.5})
    turned = dials.ask(BASE, PROMPT)
    stood = dials.http.get("/v1/preferences").json()["preferences"]
    dials.set_preferences({})

    assert put.status_code == 200
    assert stood == {f"{DENSE}@1": 1.0, f"{AXES[0]}@1": 0.5}
    assert turned == expected != base
    assert dials.ask(BASE, PROMPT) == base


def test_a_setting_comes_on_top_of_what_stands(dials: Server) -> None:
    expected = dials.ask(f"{BASE}+{AXES[0]}:1,{AXES[1]}:1", PROMPT)

    dials.set_preferences({AXES[0]: 1})

    assert dials.ask(f"{BASE}+{AXES[1]}:1", PROMPT) == expected


def test_an_answer_under_way_keeps_its_weights(dials: Server) -> None:
    alone = dials.ask(BASE, PROMPT, 48)
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(dials.ask, BASE, PROMPT, 48)
        time.sleep(1)
        dials.set_preferences({DENSE: 1})
        after = dials.ask(BASE, PROMPT, 48)

    assert under_way.result() == alone
    assert after != alone


def test_dials_beyond_numbers_leave_the_base(dials: Server) -> None:
    base = dials.ask(BASE, PROMPT)

    response = dials.set_preferences({DENSE: 1, HUGE: 1e37})

    assert response.status_code == 400
    assert "overflows" in response.json()["error"]["message"]
    assert dials.http.get("/v1/preferences").json()["preferences"] == {}
    assert dials.ask(BASE, PROMPT) == base


def test_a_dial_at_zero_answers_as_the_base(server: Server) -> None:
    assert server.ask(f"{BASE}+{AXES[0]}:0", PROMPT) == server.ask(BASE, PROMPT)


@pytest.mark.parametrize(
    ("setting", "status", "said"),
    [
        (f"{AXES[0][:-1]}:1", 404, f"Did you mean '{AXES[0]}'?"),
        (f"{AXES[0]}@7:1", 404, "Version 7"),
        (f"{AXES[0]}:nan", 400, "is not a number"),
        (f"{AXES[0]}:1,{AXES[0]}:2", 400, "named twice"),
        (f"{DENSE}:1", 400, "PUT /v1/preferences"),
        ("", 400, "empty part"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(
    server: Server, setting: str, status: int, said: str
) -> None:
    response = server.post(f"{BASE}+{setting}", PROMPT)

    assert response.status_code == status
    assert said in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"preferences": {"dept": 1}}, 404, "Did you mean 'depth'?"),
        ({"preferences": {DENSE: "much"}}, 400, "is no number: 'much'"),
        ({"preferences": {DENSE: True}}, 400, "is no number"),
        ({"preferences": [1]}, 400, "holds no axes"),
        ({"preferences": {}, "more": 1}, 400, "no more"),
        ([], 400, "no more"),
    ],
)
def test_dials_that_cannot_be_are_refused(
    server: Server, body: object, status: int, said: str
) -> None:
    response = server.http.put("/v1/preferences", json=body)

    assert response.status_code == status
    assert said in response.json()["error"]["message"]


def test_one_setting_has_one_name(server: Server) -> None:
    one = f"{BASE}+{AXES[0]}:0.25,{AXES[1]}:1"
    ways = [one, f"{BASE}+{AXES[1]}:1.0,{AXES[0]}:.25", f"{BASE}+{AXES[0]}:0.2500004,{AXES[1]}:1"]

    names = {server.post(each, PROMPT, 1).json()["model"] for each in ways}

    assert names == {f"{BASE}+{','.join(sorted(one.partition('+')[2].split(',')))}"}
    assert server.models().count(names.pop()) == 1


def test_more_settings_than_slots_wait_and_are_forgotten(server: Server) -> None:
    names = [f"{BASE}+{AXES[0]}:{0.1 + step / 10:.3g}" for step in range(2 * SLOTS)]

    together = server.ask_together(names, PROMPT)
    time.sleep(SETTLING)
    server.ask(f"{BASE}+{AXES[0]}:-0.5", PROMPT)

    assert len(set(together)) > 1
    assert len(server.models()) <= 1 + SLOTS
    assert server.ask(names[0], PROMPT) == together[0]


def test_a_new_version_is_taken_up(server: Server) -> None:
    asked = f"{BASE}+{AXES[2]}:1"
    before = server.ask(asked, PROMPT)
    expected = server.ask(f"{BASE}+{AXES[1]}:1", PROMPT)

    add_version(server.registry, AXES[2], seed=1)  # the factors of AXES[1]

    assert before != expected
    assert server.ask(asked, PROMPT) == expected
    assert server.ask(f"{BASE}+{AXES[2]}@1:1", PROMPT) == before
