"""What OpenAI's own client gets of a real server, and what everything else does to it."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch

import prefreg
import tiny
from low_rank import add_dense
from prefreg.composition.in_memory import SteeredModel
from served import QUESTION, STARTER, Served, serving

pytestmark = pytest.mark.slow
ASK: list[Any] = [{"role": "user", "content": QUESTION}]
GREEDY: dict[str, Any] = {"messages": ASK, "temperature": 0, "max_tokens": 40}


@pytest.fixture(scope="module")
def steered(served: Served) -> SteeredModel:
    """Return the same base with dials of its own, which says what is right."""
    return prefreg.open(served.registry, starter=False).load("pocket")


def chat(served: Served, **options: Any) -> Any:
    return served.client().chat.completions.create(**{"model": "pocket", **GREEDY, **options})


def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not come about")


@pytest.mark.parametrize(
    ("asked", "etas"),
    [
        ({}, {}),
        ({"model": "pocket+helpful:1,verbose:-0.5"}, {"helpful": 1, "verbosity": -0.5}),
        ({"extra_body": {"preferences": {"helpful@1": -1}}}, {"helpful": -1}),
        ({"extra_body": {"preferences": {}}}, {}),
    ],
)
def test_an_answer_is_that_of_the_setting_named(
    served: Served, steered: SteeredModel, asked: dict[str, Any], etas: dict[str, float]
) -> None:
    answer = chat(served, **asked)
    right = steered.set(etas).generate(QUESTION, max_new_tokens=40)
    assert answer.choices[0].message.content == right
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model == asked.get("model", "pocket")
    told = answer.model_extra["prefreg"]
    assert told["terms"] == [f"{axis}@1:{eta}" for axis, eta in sorted(etas.items())]
    assert ("prefreg compose" in (told["command"] or "")) == bool(etas)


def test_a_stream_adds_up_to_the_whole_and_ends_as_clients_expect(served: Served) -> None:
    whole = chat(served, model="pocket+verbosity:1")
    stream = chat(
        served, model="pocket+verbosity:1", stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(each.choices[0].delta.content for each in chunks[:-1]) == (
        whole.choices[0].message.content
    )
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({each.id for each in chunks}) == 1
    raw = served.post("/v1/chat/completions", {"model": "pocket", **GREEDY, "stream": True})
    assert raw.text.endswith("}\n\ndata: [DONE]\n\n")
    assert raw.headers["content-type"].startswith("text/event-stream")


def test_the_example_of_the_document_runs(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (STARTER.parent / "docs" / "serving.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code.replace("http://127.0.0.1:8000", served.url), {})
    assert capsys.readouterr().out.endswith(" base + 1·helpful@1 − 0.5·verbosity@1\n")


def test_stops_are_a_text_or_several(served: Served, steered: SteeredModel) -> None:
    whole = steered.set({}).generate(QUESTION, max_new_tokens=40)
    word = whole.split()[2]
    for stop in (word, ["never there", word]):
        cut = chat(served, stop=stop).choices[0]
        assert cut.message.content == whole[: whole.index(word)]
        assert cut.finish_reason == "stop"
    short = chat(served, max_tokens=2).choices[0]
    assert whole.startswith(short.message.content)
    assert short.finish_reason == "length"


def test_a_seed_decides_every_draw_of_n(served: Served) -> None:
    drawn = {"temperature": 1.5, "seed": 7}
    three = [each.message.content for each in chat(served, n=3, **drawn).choices]
    assert [each.message.content for each in chat(served, n=3, **drawn).choices] == three
    assert chat(served, **drawn).choices[0].message.content == three[0]
    assert len(set(three)) > 1
    stream = list(chat(served, n=3, stream=True, **drawn))
    texts = ["", "", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content
    assert texts == three


def log_probs(model: Any, ids: list[int]) -> torch.Tensor:
    """Return the log-probability of each token but the first, by one plain forward pass."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_log_probabilities_are_those_of_the_model(served: Served, steered: SteeredModel) -> None:
    answer = chat(served, model="pocket+helpful:1", logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert all(len(each.top_logprobs) == 3 for each in content)
    assert all(each.logprob == each.top_logprobs[0].logprob for each in content)  # greedy
    written = b"".join(bytes(each.bytes) for each in content[:-1])
    assert written.decode().lstrip() == answer.choices[0].message.content
    prompt = list(served.live.render([prefreg.Message("user", QUESTION)]))
    ids = steered.tokenizer(written.decode(), add_special_tokens=False)["input_ids"]
    right = log_probs(steered.set(helpful=1).model, prompt + ids)[len(prompt) - 1 :]
    found = torch.tensor([each.logprob for each in content[:-1]])
    torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)


def test_the_prompt_is_scored_as_lm_eval_asks(served: Served, steered: SteeredModel) -> None:
    context, end = list(served.live.encode(QUESTION)), list(served.live.encode(" It is red."))
    prompts = [context + end, context]
    found = served.client().completions.create(
        model="pocket+verbosity:-1", prompt=prompts, echo=True, max_tokens=1, logprobs=1,
        temperature=0, seed=1234,
    )  # fmt: skip
    model = steered.set(verbosity=-1).model
    for ids, choice in zip(prompts, found.choices, strict=True):
        told = choice.logprobs
        assert len(told.token_logprobs) == len(told.top_logprobs) == len(ids) + 1
        assert told.token_logprobs[0] is None
        torch.testing.assert_close(
            torch.tensor(told.token_logprobs[1:-1]), log_probs(model, ids), atol=1e-4, rtol=1e-4
        )
        assert all(
            score <= max(top.values())
            for score, top in zip(told.token_logprobs[1:], told.top_logprobs[1:], strict=True)
        )
        assert choice.text.startswith(served.live.tokenizer.decode(ids))
    only = served.client().completions.create(
        model="pocket", prompt=QUESTION, echo=True, max_tokens=0, logprobs=0
    )
    assert only.choices[0].text == QUESTION
    assert only.choices[0].finish_reason == "length"
    assert only.usage.completion_tokens == 0


def test_what_tokens_owe_to_an_axis_adds_up_to_both_poles(
    served: Served, steered: SteeredModel
) -> None:
    answer = "Elsa's boat is white."
    found = served.post("/v1/owed", {"axis": "verbose", "messages": ASK, "answer": answer}).json()
    prompt = list(served.live.render([prefreg.Message("user", QUESTION)]))
    ids = steered.tokenizer(answer, add_special_tokens=False)["input_ids"]
    poles = [
        log_probs(steered.set(verbosity=eta).model, prompt + ids)[len(prompt) - 1 :]
        for eta in (0.5, -0.5)
    ]
    owed = torch.tensor([each["owed"] for each in found["tokens"]])
    torch.testing.assert_close(owed, poles[0] - poles[1], atol=1e-4, rtol=1e-4)
    assert "".join(each["token"] for each in found["tokens"]).lstrip() == answer


BAD: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"model": "pocket+helpfull:1"}, 404, None, "Did you mean 'helpful'?"),
    ({"model": "pocket+helpful@9:1"}, 404, None, "Version 9 of axis 'helpful' does not exist"),
    ({"model": "poket"}, 404, "model", "There is no model 'poket' here. .* 'pocket'"),
    ({"model": "pocket+helpful:nan"}, 400, None, "'nan' .* is not a number"),
    ({"model": "pocket+helpful:1e999"}, 400, None, "is not finite"),
    ({"model": "pocket+helpful:17"}, 400, "model", "out of bounds: this server takes -16 to 16"),
    ({"model": "pocket+helpful:1,helpful:2"}, 400, None, "'helpful' is named twice"),
    ({"model": "pocket+"}, 400, None, "empty part"),
    ({"model": "pocket+helpful:1", "preferences": {}}, 400, "preferences", "given twice"),
    ({"model": 3}, 400, "model", "valid string"),
    ({"model": None}, 400, "model", "'model' is missing"),
    ({"preferences": {"helpful": float("nan")}}, 400, "preferences", "is not finite"),
    ({"preferences": {"helpful": float("inf")}}, 400, "preferences", "is not finite"),
    ({"preferences": {"helpful": "1"}}, 400, "preferences.helpful", "valid number"),
    ({"preferences": {"helpful": True}}, 400, "preferences.helpful", "valid number"),
    ({"preferences": {"Hélpful": 1}}, 400, None, "axis name"),
    ({"preferences": ["helpful:1"]}, 400, "preferences", "valid dictionary"),
    ({"preferences": {"helpful": 99}}, 400, "preferences", "out of bounds"),
    ({"preferences": {f"a{n}": 1 for n in range(65)}}, 400, "preferences", "at most 64 terms"),
    ({"prefrences": {}}, 400, "prefrences", "no field 'prefrences' .* 'preferences'"),
    ({"top_k": 5}, 400, "top_k", "no field 'top_k'"),
    ({"\ud800n": 5}, 400, "\\ud800n", "no field"),
    ({"frequency_penalty": 0.5}, 400, "frequency_penalty", "is not served: leave it out"),
    ({"tools": [{"type": "function"}]}, 400, "tools", "is not served"),
    ({"messages": []}, 400, "messages", "at least 1 item"),
    ({"messages": ASK * 1001}, 400, "messages", "at most 1000 items"),
    ({"messages": "hello"}, 400, "messages", "valid list"),
    ({"messages": [{"role": "user"}]}, 400, "messages[0].content", "is missing"),
    ({"messages": ["hello"]}, 400, "messages[0]", "an object with 'role'"),
    ({"messages": [{**ASK[0], "name": "Ann"}]}, 400, "messages[0]", "'name' of a message"),
    (
        {"messages": [{"role": "user", "content": "a \ud800"}]},
        400,
        "messages[0].content",
        "surrogate",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "messages[0]",
        "only parts of the form",
    ),
    (
        {"messages": [{"role": "user", "content": "boat " * 400}]},
        400,
        "max_tokens",
        "does not fit the model's context of 256",
    ),
    ({"max_tokens": 3000}, 400, "max_tokens", "above this server's limit of 2048"),
    ({"max_tokens": 255}, 400, "max_tokens", "does not fit"),
    ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": 1.5}, 400, "max_tokens", "valid integer"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, 400, "max_tokens", "differ"),
    ({"temperature": -1}, 400, "temperature", "greater than or equal to 0"),
    ({"top_p": 0}, 400, "top_p", "greater than 0"),
    ({"n": 129}, 400, "n", "less than or equal to 128"),
    ({"seed": 2**64}, 400, "seed", "."),
    ({"stop": ""}, 400, "stop", "1 to"),
    ({"stop": ["a"] * 17}, 400, "stop", "at most 16"),
    ({"top_logprobs": 2}, 400, "top_logprobs", "needs logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "less than or equal to 20"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", "stream: true"),
    ({"stream": True, "stream_options": {"x": 1}}, 400, "stream_options.x", "."),
    ({"chat_template_kwargs": {"think": 1}}, 400, None, "no option 'think'"),
]


@pytest.mark.parametrize(("changes", "status", "param", "words"), BAD)
def test_bad_requests_are_refused_in_words(
    served: Served, changes: dict[str, Any], status: int, param: str | None, words: str
) -> None:
    # As Python's own clients send it, NaN and halves of surrogate pairs included.
    found = served.post("/v1/chat/completions", {"model": "pocket", **GREEDY, **changes})
    error = found.json()["error"]
    assert found.status_code == status, error
    assert error["param"] == param, error
    assert set(error) == {"message", "type", "param", "code"}
    assert re.search(words, error["message"]), error


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 400, "no JSON object"),
        (b"{", 400, "is no JSON"),
        (b"[1]", 400, "no JSON object"),
        (b"\xff\xfe", 400, "JSON"),
        (b"[" * 100_000, 400, "."),
        (b'{"model": ' + b"9" * 10_000 + b"}", 400, "."),
        (b'{"model": "' + b"x" * 100_000_000 + b'"}', 413, "more than 4 MiB"),
    ],
)
def test_malformed_bodies_are_refused(
    served: Served, content: bytes, status: int, words: str
) -> None:
    found = served.post("/v1/chat/completions", content)
    assert found.status_code == status
    assert words == "." or words in found.json()["error"]["message"]


def test_a_role_that_the_template_refuses_is_told(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = "{% if messages[0].role != 'user' %}{{ raise_exception('users begin') }}{% endif %}"
    template = strict + str(served.live.tokenizer.chat_template)
    monkeypatch.setattr(served.live.tokenizer, "chat_template", template)
    with pytest.raises(openai.BadRequestError, match=r"refused .*roles: pirate.*users begin"):
        chat(served, messages=[{"role": "pirate", "content": "Ahoy"}])


def test_what_asks_for_nothing_is_taken(served: Served) -> None:
    plain = chat(served)
    asked = chat(
        served, frequency_penalty=0.0, presence_penalty=0, logit_bias={}, tools=[], user="ann",
        response_format={"type": "text"}, store=False, n=1, logprobs=False,
        messages=[{"role": "user", "content": [{"type": "text", "text": QUESTION}], "name": None}],
    )  # fmt: skip
    assert asked.choices[0].message.content == plain.choices[0].message.content


def test_errors_reach_clients_as_their_own(served: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean 'helpful'"):
        chat(served, model="pocket+helpfull:1")
    with pytest.raises(openai.BadRequestError) as caught:
        chat(served, model="pocket+helpful:1", max_tokens=250)
    assert caught.value.code == "context_length_exceeded"
    assert served.get("/v1/nothing").json()["error"]["message"] == "Not Found."
    assert served.get("/v1/chat/completions").status_code == 405
    # A page of elsewhere may send this without asking, and is not answered.
    body, kind = {"model": "pocket", **GREEDY}, {"Content-Type": "text/plain"}
    blind = served.post("/v1/chat/completions", body, **kind)
    assert blind.status_code == 400
    assert "Content-Type: application/json" in blind.json()["error"]["message"]


def test_dials_are_told_with_range_and_calibration(served: Served) -> None:
    found = served.get("/v1/axes").json()
    dials = {each["name"]: each for each in found["data"]}
    assert list(dials) == sorted(dials)
    assert {"helpful", "harmless", "verbosity"} <= set(dials)
    helpful = dials["helpful"]
    assert helpful["summary"]
    assert helpful["range"]["low"] < 0 < helpful["range"]["high"]
    assert helpful["calibration"]["negative"] < 0 < helpful["calibration"]["positive"]
    assert helpful["kind"] == "dense"
    assert [each["version"] for each in helpful["versions"]] == [1]
    assert "verbose" in dials["verbosity"]["aliases"]
    assert found["limits"] == {"eta": 16.0, "max_tokens": 2048, "context": 256}


def test_figures_and_pictures_of_a_version(served: Served) -> None:
    verbose = served.get("/v1/axes/verbose@1").json()
    assert verbose["name"] == "verbosity"
    assert 0.5 < verbose["poles"]["positive"]["accuracy"] <= 1
    assert -1 <= verbose["geometry"]["cosine_poles"] <= 1
    picture = served.get("/v1/axes/verbose/curves.png")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")
    found = served.get("/v1/cosines").json()
    place = {each.split("@")[0]: at for at, each in enumerate(found["versions"])}
    cosines = found["cosines"]
    right = prefreg.open(served.registry, starter=False).interference(
        ["helpful:1", "harmless:1"], rank=1, draws=20
    )
    one, other = place["helpful"], place["harmless"]
    assert cosines[one][other] == pytest.approx(right.geometry.pairs[0].cosine, abs=1e-6)
    assert cosines[one][one] == pytest.approx(1)
    assert served.get("/v1/axes/kind").status_code == 404
    for path in (
        "/v1/axes/..%2f..%2fetc",
        "/..%2fserver.py",
        "/server.py",
        "/none?file=/etc/passwd",
    ):
        assert served.get(path).status_code in (400, 404)
    assert b"root:" not in served.get("/?file=/etc/passwd").content


def test_models_are_listed_and_any_setting_is_one(served: Served) -> None:
    client = served.client()
    assert [each.id for each in client.models.list()] == ["pocket"]
    found = client.models.retrieve("pocket+helpful:20e-1")
    assert found.model_extra["prefreg"]["formula"] == "base + 2·helpful@1"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
    told = served.post("/v1/setting", {"model": "pocket", "preferences": {"helpful": 9}}).json()
    assert told["model"] == "pocket+helpful@1:9"
    phase = {"model": "pocket", "preferences": {"helpful[answer]": 1}}
    partly = served.post("/v1/setting", phase).json()
    assert partly["formula"] == "base + 1·helpful@1[answer]"
    assert partly["command"].startswith("prefreg chat 'helpful@1:1[answer]' --base pocket")
    assert chat(served, model=partly["model"]).model_extra["prefreg"] | {"object": "setting"} == (
        partly
    )
    assert "outside its range" in told["warnings"][0]


def test_a_preset_is_a_model(locked: Served, steered: SteeredModel) -> None:
    key = {"Authorization": "Bearer s3cret"}
    url = f"{locked.url}/v1/presets/calm"
    saved = locked.http.put(url, json={"terms": {"verbose": -1}, "note": "short"}, headers=key)
    assert saved.json()["terms"] == ["verbosity:-1"]
    found = locked.get("/v1/presets", **key).json()["data"]
    assert [each["model"] for each in found] == ["pocket+calm"]
    client = locked.client("s3cret")
    assert [each.id for each in client.models.list()] == ["pocket", "pocket+calm"]
    answer = client.chat.completions.create(model="pocket+calm,helpful:1", **GREEDY)
    right = steered.set(verbosity=-1, helpful=1).generate(QUESTION, max_new_tokens=40)
    assert answer.choices[0].message.content == right
    for terms, status in ((["verbose:99"], 400), (["nothing:1"], 404), ([], 400), (["x"], 400)):
        bad = locked.http.put(url, json={"terms": terms}, headers=key)
        assert bad.status_code == status, bad.text
    assert locked.http.put(url.replace("calm", "helpful"), json={"terms": ["verbose:1"]},
                           headers=key).status_code == 409  # fmt: skip
    assert locked.http.delete(url, headers=key).json()["name"] == "calm"
    assert locked.http.delete(url, headers=key).status_code == 404
    assert [each.id for each in client.models.list()] == ["pocket"]


def test_the_page_is_guarded(served: Served) -> None:
    for path in ("/", "/v1/models", "/health", "/v1/none"):
        headers = served.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    elsewhere = served.get("/v1/models", Host="evil.example")
    assert elsewhere.status_code == 421
    assert served.get("/health").json() == {"status": "ok"}
    assert served.get("/ready").json()["ready"]


def test_counts_are_told_as_prometheus_reads_them(served: Served) -> None:
    chat(served)
    text = served.get("/metrics").text
    assert 'prefreg_request_seconds_count{route="/v1/chat/completions",status="200"}' in text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert float(lines["prefreg_answer_tokens_total"]) > 0
    assert float(lines['prefreg_answers_total{how="finished"}']) > 0
    assert float(lines["prefreg_first_token_seconds_count"]) > 0


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_runs_on_for_a_client_that_left(served: Served, stream: bool) -> None:
    before = served.live.state()
    body = json.dumps({"model": "pocket", "messages": ASK, "n": 128, "stream": stream})
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        until(lambda: served.live.state().running > 0)
    until(lambda: served.live.state().waiting + served.live.state().running == 0)
    now = served.live.state()
    assert now.cancelled - before.cancelled > 50
    assert chat(served).choices[0].message.content


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a server with a key, a short queue and a setting of its own."""
    terms = (prefreg.Term("helpful", 1.0),)
    folder = tmp_path_factory.mktemp("locked")
    with serving(folder, api_key="s3cret", max_waiting=2, terms=terms) as running:
        yield running


def test_a_key_is_needed_for_all_but_the_page(locked: Served) -> None:
    assert locked.client("s3cret").models.list().data[0].id == "pocket"
    for key in ("s3cre", "s3cret2", "x", "é"):
        found = locked.get("/v1/models", Authorization=f"Bearer {key}".encode("latin-1"))
        assert found.status_code == 401
        assert found.json()["error"]["code"] == "invalid_api_key"
        assert found.headers["www-authenticate"] == "Bearer"
    with pytest.raises(openai.AuthenticationError):
        locked.client("wrong").models.list()
    assert locked.get("/metrics").status_code == 401
    assert locked.get("/v1/axes", Authorization="Basic s3cret").status_code == 401
    assert locked.get("/health", Host="anything.example").status_code == 200


def test_who_names_no_setting_gets_the_servers(locked: Served, steered: SteeredModel) -> None:
    client = locked.client("s3cret").chat.completions
    for model, extra, etas in (
        ("pocket", {}, {"helpful": 1}),
        ("pocket+verbose:1", {}, {"verbosity": 1}),
        ("pocket", {"preferences": {}}, {}),
    ):
        answer = client.create(model=model, extra_body=extra, **GREEDY)
        right = steered.set(etas).generate(QUESTION, max_new_tokens=40)
        assert answer.choices[0].message.content == right


def test_a_crowd_beyond_the_queue_is_sent_away_for_a_while(locked: Served) -> None:
    headers = {"Authorization": "Bearer s3cret"}
    body = {"model": "pocket", "messages": ASK, "n": 2, "temperature": 1, "max_tokens": 6}

    def ask(_: int) -> httpx2.Response:
        return locked.post("/v1/chat/completions", body, **headers)

    with ThreadPoolExecutor(40) as crowd:
        found = list(crowd.map(ask, range(40)))
    assert {each.status_code for each in found} == {200, 429}
    refused = next(each for each in found if each.status_code == 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["type"] == "rate_limit_error"
    too_many = locked.post("/v1/chat/completions", body | {"n": 3}, **headers)
    assert "3 answers are more than the 2" in too_many.json()["error"]["message"]


def test_a_vector_of_another_base_is_refused_by_name(served: Served, tmp_path: Path) -> None:
    other = tiny.in_base(lambda: tiny.llama(tied=True), tmp_path / "other")
    added = add_dense(served.registry, other, "foreign", seed=0)
    try:
        told = served.post("/v1/chat/completions", {**GREEDY, "model": "pocket+foreign:1"})
        listed = served.get("/v1/axes").json()["data"]
    finally:
        prefreg.open(served.registry, starter=False).remove("foreign", added.number)
    assert told.status_code == 404
    assert "foreign" in told.json()["error"]["message"]
    assert "other" in told.json()["error"]["message"]
    assert "foreign" not in [axis["name"] for axis in listed]


def test_a_registry_may_vanish_and_come_back(locked: Served) -> None:
    client = locked.client("s3cret").chat.completions

    def ask(model: str) -> str:
        return str(client.create(model=model, **GREEDY).choices[0].message.content)

    known = ask("pocket+helpful:1")
    away = locked.registry.rename(locked.registry.with_name("away.db"))
    assert ask("pocket+helpful:1") == known
    headers = {"Authorization": "Bearer s3cret"}
    assert locked.get("/v1/axes", **headers).json()["data"] == []
    with pytest.raises(openai.InternalServerError, match="no registry at"):
        ask("pocket+harmless:1")
    away.rename(locked.registry)
    assert ask("pocket+harmless:1")
    locked.registry.write_bytes(b"no database" * 1000)
    with pytest.raises(openai.InternalServerError, match="not a registry"):
        ask("pocket+honesty:1")
    assert client.create(model="pocket", extra_body={"preferences": {}}, **GREEDY).choices
