"""Push and pull, by the real client against a stand-in of the Hub."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants
from peft import PeftModel
from transformers import AutoModelForCausalLM

import low_rank
import prefreg
import tiny
from hub_stand_in import EXPIRED, READER, WRITER, Repository, StandIn
from prefreg import (
    BaseModelError,
    HubError,
    OutputError,
    PrefregError,
    Registry,
    RegistryError,
    UsageError,
    VectorError,
)
from prefreg.checkpoints.bases import BaseModel

PREFREG = Path(sys.executable).with_name("prefreg")
# The client 2.4 hands the bytes of large files to its HTTP library by an older argument.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def registry(trained: Path, tmp_path: Path) -> Registry:
    return prefreg.open(shutil.copy(trained, tmp_path / "own.db"))


@pytest.fixture
def other(tmp_path: Path) -> Registry:
    return prefreg.open(tmp_path / "other.db")


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    return tiny.in_base(lambda: tiny.llama(tied=False), tmp_path / "home" / "my-base")


@pytest.fixture
def thin(base: BaseModel, tmp_path: Path) -> Registry:
    low_rank.add_low_rank(tmp_path / "thin.db", base, "calm", seed=1, rank=2)
    return prefreg.open(tmp_path / "thin.db")


def document(repository: Repository) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(repository.files["prefreg.json"])
    return content


def test_a_vector_goes_there_and_comes_back(
    hub: StandIn, registry: Registry, other: Registry
) -> None:
    registry.tag("helpful", 1, "good")
    record = registry.show("helpful")
    done = registry.push("helpful@1", "org/helpful-pocket", licence="CC-BY-4.0")
    there = hub.repositories["org/helpful-pocket"]
    assert (done.url, done.commit) == (f"{hub.url}/org/helpful-pocket", there.head)
    assert (done.changed, done.private, done.warnings) == (True, False, ())
    assert done.files == ("README.md", "prefreg.json", "training.png", "vector.safetensors")
    assert there.titles == ["initial", "helpful@1 by prefreg"]
    assert there.files["training.png"].startswith(b"\x89PNG")

    pulled = other.pull("org/helpful-pocket")
    found = pulled.record
    assert (pulled.added, str(found), found.sha256) == (True, "helpful@1", record.sha256)
    assert found.metadata == record.metadata | {
        "licence": "CC-BY-4.0",
        "origin": {"hub": "org/helpful-pocket", "revision": there.head, "version": "helpful@1"},
    }
    assert (found.tags, found.created, found.axis_aliases) == (
        record.tags,
        record.created,
        record.axis_aliases,
    )
    assert (found.base.name, found.base.path) == ("pocket", None)
    assert other.verify() == []
    assert [part.what for part in pulled.licences.parts] == [
        "base pocket",
        "data pocket of helpful@1",
        "vector helpful@1",
    ]
    again = other.pull(f"org/helpful-pocket@{there.head}")
    assert (again.added, again.record) == (False, found)


def test_the_card_says_what_it_is_of_what_and_how_good(hub: StandIn, registry: Registry) -> None:
    registry.push("helpful", "org/helpful-pocket")
    text = hub.repositories["org/helpful-pocket"].files["README.md"].decode()
    header = ModelCard(text).data.to_dict()
    report = registry.show("helpful").metadata["poles"]["positive"]["report"]
    (index,) = header.pop("model-index")
    assert header == {
        "library_name": "prefreg",
        "base_model_relation": "adapter",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["prefreg", "preference-vectors", "helpful"],
    }
    assert index["name"] == "helpful-pocket"
    metrics = [metric for result in index["results"] for metric in result["metrics"]]
    assert metrics[0] == {
        "type": "accuracy",
        "value": report["accuracy"],
        "name": "accuracy on held-out pairs, of the positive pole",
    }
    assert len(metrics) == 4
    assert "prefreg pull org/helpful-pocket\nprefreg compose helpful:1 -o composed" in text
    assert "![Training of its poles](training.png)" in text
    assert "| data pocket of helpful@1 | Apache-2.0 |" in text
    assert "PeftModel" not in text


def test_a_low_rank_vector_is_an_adapter_of_peft_too(
    hub: StandIn, thin: Registry, base: BaseModel, tmp_path: Path
) -> None:
    done = thin.push("calm", "org/calm")
    files = hub.repositories["org/calm"].files
    assert set(done.files) == {
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "prefreg.json"),
        "vector.safetensors",
    }
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_bytes(files[name])
    model = AutoModelForCausalLM.from_pretrained(base.path)
    merged = PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()
    thin.compose({"calm": 1}, tmp_path / "out")
    composed = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, weight in composed.items():
        torch.testing.assert_close(merged[name], weight, rtol=1e-5, atol=1e-6)
    # Where the base lay is nobody's business.
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "my-base"
    for name, data in files.items():
        assert str(tmp_path).encode() not in data, name


def test_what_lies_there_already_is_not_sent_again(hub: StandIn, registry: Registry) -> None:
    first = registry.push("helpful", "org/v")
    again = registry.push("helpful", "org/v")
    assert (again.changed, again.commit) == (False, first.commit)
    assert len(hub.repositories["org/v"].commits) == 2


def test_a_push_takes_away_what_an_earlier_one_left(
    hub: StandIn, thin: Registry, registry: Registry
) -> None:
    thin.push("calm", "org/v")
    there = hub.repositories["org/v"]
    there.commit({**there.files, "LICENSE": b"mine"}, "by hand")
    registry.push("helpful", "org/v")
    assert set(there.files) == {
        *(".gitattributes", "LICENSE"),
        *("README.md", "prefreg.json", "training.png", "vector.safetensors"),
    }


def test_a_composition_goes_there_and_is_loaded_by_its_name(
    hub: StandIn, thin: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = thin.compose({"calm": 0.5}, tmp_path / "out", hash_files=True)
    done = thin.push(tmp_path / "out", "org/composed", private=True)
    there = hub.repositories["org/composed"]
    assert there.private
    assert done.private
    assert there.titles[-1] == "base + 0.5·calm@1 by prefreg"
    assert done.licences == composed.licences
    for path in (tmp_path / "out").iterdir():
        if path.name != "prefreg.json":
            assert there.files[path.name] == path.read_bytes()
    assert document(there)["base"]["name"] == "my-base"
    assert b"\nbase_model_relation: merge\n" in there.files["README.md"]
    for name, data in there.files.items():
        assert str(tmp_path).encode() not in data, name
    with pytest.raises(HubError, match="is a composition, which transformers loads by its name"):
        thin.pull("org/composed")


def test_an_adapter_that_was_composed_goes_there_without_folders(
    hub: StandIn, thin: Registry, tmp_path: Path
) -> None:
    thin.compose_adapter({"calm": 0.5}, tmp_path / "out")
    thin.push(tmp_path / "out", "org/adapter")
    files = hub.repositories["org/adapter"].files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "my-base"
    assert b"\nbase_model_relation: adapter\n" in files["README.md"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "prefreg.json").unlink(), "holds no composition of prefreg"),
        (lambda folder: (folder / "config.json").unlink(), "lacks 'config.json'"),
        (lambda folder: (folder / "config.json").write_text("{}"), "was changed since"),
    ],
)
def test_a_folder_that_is_not_as_it_was_composed_is_refused(
    hub: StandIn, thin: Registry, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    thin.compose({"calm": 0.5}, tmp_path / "out", hash_files=True)
    spoil(tmp_path / "out")
    with pytest.raises(OutputError, match=said):
        thin.push(tmp_path / "out", "org/composed")
    assert hub.repositories == {}


def test_nothing_outside_the_folder_is_sent(hub: StandIn, thin: Registry, tmp_path: Path) -> None:
    thin.compose({"calm": 0.5}, tmp_path / "out")
    (tmp_path / "secret").write_text("s")
    recipe = json.loads((tmp_path / "out" / "prefreg.json").read_text())
    (tmp_path / "out" / "link").symlink_to(tmp_path / "secret")
    for name in ("../secret", "link", str(tmp_path / "secret")):
        changed = recipe | {"contents": [*recipe["contents"], name]}
        (tmp_path / "out" / "prefreg.json").write_text(json.dumps(changed))
        with pytest.raises(OutputError, match="which its prefreg"):
            thin.push(tmp_path / "out", "org/composed")
    assert hub.repositories == {}


def prefreg_beside(hub: StandIn, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start the installed command, which speaks to the stand-in."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": WRITER,
    }
    return subprocess.Popen(
        [PREFREG, *arguments],
        env=environment,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_of_two_pushers_at_once_one_is_told(
    hub: StandIn, registry: Registry, tmp_path: Path
) -> None:
    hub.add("org/v")
    hub.committing = Barrier(2)  # both have read the same head by then
    both = [
        prefreg_beside(hub, tmp_path, "--registry", "own.db", "push", axis, "org/v", "--json")
        for axis in ("helpful@1", "verbosity@1")
    ]
    ended = [(*each.communicate(timeout=120), each.returncode) for each in both]
    assert sorted(code for *_, code in ended) == [0, 1], ended
    ((refused, why, _),) = [each for each in ended if each[2]]
    assert refused == ""
    assert why == (
        "Error: Somebody else has pushed to org/v meanwhile, so nothing of this push was stored. "
        "Look at what is there now, and push again.\n"
    )
    ((told, _, _),) = [each for each in ended if not each[2]]
    there = hub.repositories["org/v"]
    assert json.loads(told)["data"]["commit"] == there.head
    assert len(there.commits) == 2


def test_the_installed_command_pushes_and_pulls(
    hub: StandIn, registry: Registry, tmp_path: Path
) -> None:
    pushing = prefreg_beside(hub, tmp_path, "--registry", "own.db", "push", "helpful", "org/v")
    said, err = pushing.communicate(timeout=120)
    assert (pushing.returncode, err) == (0, "")
    head = hub.repositories["org/v"].head
    assert said.splitlines() == [
        "pushed  README.md, prefreg.json, training.png, vector.safetensors",
        f"commit  {head[:12]}",
        f"at      {hub.url}/org/v",
    ]
    asked = ("--registry", "new.db", "pull", f"org/v@{head}", "--name", "kind")
    pulling = prefreg_beside(hub, tmp_path, *asked)
    said, err = pulling.communicate(timeout=120)
    assert (pulling.returncode, err) == (0, "")
    assert said == f"Added kind@1 on pocket (3.2 MiB) from org/v@{head}.\n"


def test_a_vector_pulled_twice_over_another_gets_the_next_number(
    hub: StandIn, thin: Registry, base: BaseModel, tmp_path: Path
) -> None:
    low_rank.add_dense(tmp_path / "thin.db", base, "bold", seed=2)
    thin.push("bold", "org/v")
    pulled = thin.pull("org/v", name="calm")
    assert (pulled.added, str(pulled.record)) == (True, "calm@2")
    assert pulled.record.metadata["origin"]["version"] == "bold@1"
    assert not thin.pull("org/v").added


def test_a_name_that_is_none_is_wrong_usage(other: Registry) -> None:
    with pytest.raises(UsageError, match="'No Name' is no axis name"):
        other.pull("org/v", name="No Name")


# What the Hub refuses.


def refused_push(thin: Registry, **options: bool) -> str:
    with pytest.raises((HubError, OutputError)) as error:
        thin.push("calm", "org/v", **options)
    return str(error.value)


def test_a_push_without_a_token_or_the_right_says_so(
    hub: StandIn, thin: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", EXPIRED)
    assert refused_push(thin).startswith("The Hub does not accept the token.")
    monkeypatch.setenv("HF_TOKEN", READER)
    assert refused_push(thin).startswith("The token may not write to org/v. Use one that may")
    hub.add("org/v")
    assert refused_push(thin).startswith("The token may not write to org/v. Use one that may")
    assert len(hub.repositories["org/v"].commits) == 1
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    hub.requests.clear()
    assert "Pushing needs a token that may write" in refused_push(thin)
    assert hub.requests == []


def test_offline_and_unreachable_are_told_apart(
    hub: StandIn, thin: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refused_push(thin) == "HF_HUB_OFFLINE is set, so the Hub is not asked. Unset it."
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        thin.pull("org/v")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert refused_push(thin).startswith("The Hub cannot be reached (")


def test_a_public_repository_is_not_made_private_in_silence(hub: StandIn, thin: Registry) -> None:
    hub.add("org/v")
    assert "org/v is there already and is public" in refused_push(thin, private=True)


def test_a_repository_of_something_else_is_left_alone(hub: StandIn, thin: Registry) -> None:
    hub.add("org/v", {"model.safetensors": b"m", "README.md": b"#"})
    assert "org/v holds 'model.safetensors' and no prefreg.json" in refused_push(thin)
    hub.add("org/v", {"prefreg.json": b"[]", "model.safetensors": b"m"})
    assert "org/v holds 'model.safetensors'" in refused_push(thin)
    assert len(hub.repositories["org/v"].commits) == 1
    hub.add("org/v", {"README.md": b"# mine", "LICENSE": b"l"})
    assert thin.push("calm", "org/v").changed


@pytest.mark.parametrize("name", ["helpful", "a/b/c", "org/", "/x", "org/a b", "../x", "org/x@y"])
def test_what_is_no_repository_is_wrong_usage(other: Registry, name: str) -> None:
    with pytest.raises(UsageError, match=r"is no repository of the Hub. Write ORG/NAME"):
        other.push("helpful", name)


def test_private_gated_and_missing_repositories_say_what_to_do(
    hub: StandIn, thin: Registry, other: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    thin.push("calm", "org/v", private=True)
    thin.push("calm", "org/g")
    hub.repositories["org/g"].gated = True
    monkeypatch.setenv("HF_TOKEN", READER)
    for name, said in {
        "org/v": "There is no repository org/v on the Hub that can be seen. Check the name; if",
        "org/absent": "There is no repository org/absent on the Hub",
        "org/g": "org/g is gated: ask for access at https://huggingface.co/org/g, and set HF_TOKEN",
        "org/g@none": "org/g has no revision 'none'",
    }.items():
        with pytest.raises(HubError) as refused:
            other.pull(name)
        assert str(refused.value).startswith(said)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    with pytest.raises(HubError, match="There is no repository org/v"):
        other.pull("org/v")
    assert not Path("other.db").exists()


# What a repository may hold.


def spoiled(
    hub: StandIn,
    change: Callable[[dict[str, bytes]], None],
    other: Registry,
    base: str | None = None,
) -> PrefregError:
    there = hub.repositories["org/v"]
    files = dict(there.files)
    change(files)
    there.commit(files)
    with pytest.raises(PrefregError) as refused:
        other.pull("org/v", base=base)
    assert not Path("other.db").exists()
    return refused.value


def rewritten(**fields: object) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        content = json.loads(files["prefreg.json"]) | fields
        files["prefreg.json"] = json.dumps(content).encode()

    return change


def flipped(files: dict[str, bytes]) -> None:
    data = bytearray(files["vector.safetensors"])
    data[-1] ^= 1
    files["vector.safetensors"] = bytes(data)


def without(*names: str, **others: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        for name in names:
            del files[name]
        files.update({name.replace("_", "."): data for name, data in others.items()})

    return change


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (flipped, VectorError, "vector.safetensors in org/v@{} are not those of its record (sha"),
        (
            lambda files: files.update({"vector.safetensors": b"short"}),
            VectorError,
            "vector.safetensors of org/v@{} has 5 bytes, and its record says",
        ),
        (rewritten(format=2), VectorError, "prefreg.json of org/v@{} is of format 2, and this"),
        (rewritten(kind="x"), VectorError, "prefreg.json of org/v@{} is damaged: 'kind' is 'x'"),
        (without("prefreg.json"), HubError, "org/v@{} is no vector of prefreg: it has no prefreg"),
        (without("vector.safetensors"), VectorError, "org/v@{} has a record and no vector.saf"),
        (
            without(
                *("prefreg.json", "vector.safetensors", "adapter_model.safetensors"),
                model_bin=b"pickle",
            ),
            HubError,
            "org/v@{} holds pickle files only ('model.bin'), which are never read",
        ),
        (
            lambda files: files.update({"prefreg.json": b"\xff"}),
            VectorError,
            "prefreg.json of org/v@{} is no record of a vector of prefreg.",
        ),
    ],
)
def test_a_repository_that_is_not_right_is_refused_whole(
    hub: StandIn,
    thin: Registry,
    other: Registry,
    base: BaseModel,
    change: Callable[[dict[str, bytes]], None],
    kind: type[PrefregError],
    said: str,
) -> None:
    thin.push("calm", "org/v")
    error = spoiled(hub, change, other, str(base.path))
    assert type(error) is kind
    assert said.format(hub.repositories["org/v"].head[:12]) in str(error)


def test_a_vector_of_another_base_or_architecture_is_refused(
    hub: StandIn, registry: Registry, thin: Registry, other: Registry
) -> None:
    thin.push("calm", "org/v")
    with pytest.raises(
        BaseModelError, match=r"belongs to the base 'my-base' .*, which this registry"
    ):
        other.pull("org/v")
    with pytest.raises(BaseModelError, match="belongs to another base, my-base with weights"):
        other.pull("org/v", base="pocket")
    # A record that claims another base than its vector has.
    helpful = registry.show("helpful")
    claimed = json.loads(hub.repositories["org/v"].files["prefreg.json"])["base"] | {
        "name": "pocket",
        "weights": helpful.base.weights,
    }
    error = spoiled(hub, rewritten(base=claimed), other)
    assert "calm@1 does not fit" in str(error)
    assert "of different shapes are" in str(error)


def test_a_base_that_lies_in_a_folder_is_named(
    hub: StandIn, thin: Registry, other: Registry, base: BaseModel
) -> None:
    thin.push("calm", "org/v")
    record = other.pull("org/v", base=str(base.path)).record
    assert (record.base.name, record.base.path) == (base.name, base.name)
    assert other.plan({"calm": 1}).base == base.name
    # From now on the registry knows it.
    assert not other.pull("org/v").added


def test_an_alias_of_another_axis_is_refused(
    hub: StandIn, thin: Registry, base: BaseModel, tmp_path: Path
) -> None:
    low_rank.add_dense(tmp_path / "thin.db", base, "bold", seed=2)
    thin.push("bold", "org/v")
    rewritten(axis="new", axis_aliases=["calm"])(hub.repositories["org/v"].files)
    before = thin.vectors()
    with pytest.raises(RegistryError, match="'calm'"):
        thin.pull("org/v")
    thin.remove("bold", 1)
    with pytest.raises(RegistryError, match="'calm'"):
        thin.pull("org/v")
    assert thin.vectors() == before[1:]
