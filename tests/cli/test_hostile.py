"""Broken, hostile and careless input: one short message, the right exit code, never a bug.

The dice are seeded, so that what fails once fails again.
"""

import json
import os
import random
import re
import shlex
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefreg.axes.row_sources import read_preference_file
from prefreg.axes.yaml_axes import axis_from_yaml
from prefreg.checkpoints.safetensors_file import read_header
from prefreg.config import starter_registry
from prefreg.errors import PrefregError
from prefreg.vectors.peft_adapters import AdapterConfig

UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
SCREEN = 4000

BITS = [
    *("helpful", "harmless", "verbose", "@", ":", "1", "0.5", "-", "+", "e", "stable", "1e400"),
    *("nan", "inf", "٣", "²", "½", "\u202e", "\x1b[31m", "\n", "\r", "\t", " ", "0x10", "1_000"),
    *("9" * 30, "1" * 5000, "é", "😀", "\ud800", "=", ",", "%", "{", "}", "'", '"', "\\", "../"),
    *("/", "~", "None", "true", "--", "-1", ".5", "5.", "1e-999", "a" * 300, "A", "_", "."),
]
NUMBERS = ["9" * 19, "9" * 400, "1" * 4301, "-1", "-" + "9" * 40, "0", str(2**63), str(2**64)]
NUMBERS += ["1e3", "0x7f", "nan", "inf", "-inf", "1e400", "1e-320", "²"]
PATHS = ["a" * 300, "a/" * 3000, "~nosuchuser/x", "\udcff", "/dev/zero", "/dev/full", ".", "/"]
PATHS += ["", "\n", "\x1b[31mred", "registry.db/x", "file:///etc/passwd", "sqlite://", "://"]
PATHS += ["postgresql://u:SECRET@h:port/db", "oracle://u:SECRET@h", "foo://u:SECRET@[::1/db"]
JUNK: list[Any] = [
    *(None, True, 0, -1, 2**70, 10**400, 1.5, float("nan"), float("inf"), "", "x", "nan", "1e999"),
    *("\x1b[31m", "\ud800", [], [[]], {}, {"a": 1}, ["helpful"], "../../etc/passwd", "a" * 5000),
    *("²", "9" * 5000, {"name": "pocket"}, {"kind": "x"}, [{"layers": "9999999-", "eta": 1}]),
    *([{"modules": "[", "eta": 0}], "(a+)+$", "(", {"(a+)+$": 10**400}, [{"file": "/dev/zero"}]),
    *([{"file": "rows.jsonl", "weight": 10**400}], {"density": None}, "stochastic", "adapter"),
]
BROKEN = [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"a":' * 5000, b"\xff\xfe", b"1" * 5000]


def check(result: Any, case: object) -> None:
    assert result.code in (0, 1, 2, 3), (case, result)
    shown = result.out + result.err
    assert not UNSHOWN.search(shown), (case, shown)
    assert "SECRET" not in shown, (case, shown)
    if result.code in (1, 2):
        assert result.err.strip(), case
        assert len(result.err) <= SCREEN, (case, result.err)


def refused_or_read(read: Callable[[], object], case: object) -> None:
    """Read something; what is wrong with it is an error of ours."""
    try:
        read()
    except PrefregError as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(case) from error
    else:
        return
    assert 0 < len(said) <= SCREEN, case
    assert not UNSHOWN.search(said), case


def write_json(path: Path, value: object) -> None:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    path.write_bytes(text)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    starter = starter_registry()
    assert starter is not None
    return Path(shutil.copyfile(starter, tmp_path_factory.mktemp("hostile") / "registry.db"))


def words(dice: random.Random, most: int = 6) -> str:
    return "".join(dice.choice(BITS) for _ in range(dice.randint(0, most)))


def test_terms_and_references(run, registry: Path) -> None:
    dice = random.Random(0)
    for _ in range(50):
        term = dice.choice([words(dice), f"helpful{words(dice, 2)}:{words(dice, 2)}"])
        command = dice.choice(
            [
                *(["compose", "--plan", "--", term], ["show", "--", term], ["rm", "--", term]),
                *(["alias", "--", term, words(dice, 3)], ["tag", "--", term, words(dice, 3)]),
                *(["search", "--metric", term], ["search", "--", term], ["diff", term, term]),
                *(["rename", "--", term, words(dice, 2)], ["sweep", f"helpful={words(dice)}"]),
                *(
                    ["gate", "helpful:1", "--require", term],
                    ["show", "helpful", "--at", term],
                ),
            ]
        )
        check(run("--registry", registry, *command), command)


def test_a_note_without_end_is_listed_shortened(run, registry: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(registry, tmp_path / "notes.db"))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE versions SET note = ?", ["n" * 1_000_000])
    for command in (["vectors"], ["search", "helpful"], ["show", "helpful"]):
        found = run("--registry", path, *command)
        assert found.code == 0, (command, found.err)
        assert "[… " in found.out, command
        assert len(found.out) < 150_000, command
    assert '"' + "n" * 1_000_000 + '"' in run("--registry", path, "show", "helpful", "--json").out


@pytest.mark.parametrize("number", NUMBERS, ids=map(str, range(len(NUMBERS))))
def test_numbers_out_of_measure(run, registry: Path, number: str) -> None:
    for command in (
        ["compose", f"helpful:{number}", "--plan"],
        ["show", f"helpful@{number}"],
        ["compose", "helpful:1", "--seed", number, "--rounding", "stochastic", "--plan"],
        ["compose", "helpful:1", "--max-shard-size", number, "--plan"],
        ["compose", "helpful:1", "--method", "dare", "--set", f"seed={number}", "--plan"],
        ["sweep", f"helpful=-1e308:1e308:{number}", "-o", "out"],
        ["generate", "helpful:x", "-p", "hi", "--temperature", number, "--seed", number],
        ["gate", "helpful:1", "--require", f"x>={number}", "--prompts", "0"],
        ["search", "--metric", f"norm>{number}"],
    ):
        check(run("--registry", registry, *command), command)


@pytest.mark.parametrize("path", PATHS, ids=map(str, range(len(PATHS))))
def test_paths(run, registry: Path, path: str) -> None:
    for command in (
        ["--registry", path, "vectors"],
        ["--registry", registry, "compose", "--recipe", path, "--plan"],
        ["--registry", registry, "compose", "helpful:1", "--base", path, "--plan"],
        ["--registry", registry, "backup", path],
        ["check-axis", path],
    ):
        check(run(*command), command)


def recipes(dice: random.Random) -> Iterable[Any]:
    for _ in range(40):
        term: dict[str, Any] = {"axis": "helpful", "eta": 1.0, "version": 1}
        recipe: dict[str, Any] = {"schema": 1, "base": {"name": "pocket"}, "terms": [term]}
        for _ in range(dice.randint(1, 2)):
            part = dice.choice([recipe, term, term, recipe["base"]])
            if isinstance(part, dict):
                names = [*part, "method", "options", "dtype", "rounding", "as", "rules", "sha256"]
                part[dice.choice(names)] = dice.choice(JUNK)
        yield recipe


def test_terms_and_rules_in_thousands(run, registry: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    recipe = {"schema": 1, "base": {"name": "pocket"}}
    many = [{"axis": f"a{number}", "eta": 1} for number in range(10_000)]
    rule = {"modules": "*a*b*c*d*e*f*x", "eta": 1}
    write_json(file, recipe | {"terms": many})
    result = run("--registry", registry, "compose", "--recipe", file, "--plan")
    assert (result.code, "at most 1000 terms" in result.err) == (2, True)
    write_json(file, recipe | {"terms": [{"axis": "helpful", "eta": 1, "rules": [rule] * 5000}]})
    assert run("--registry", registry, "compose", "--recipe", file, "--plan").code == 0


def test_recipes(run, registry: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    dice = random.Random(0)
    endless = {"axis": "helpful", "eta": 1, "rules": [{"modules": "*", "eta": "nan"}]}
    ruled = {"schema": 1, "base": {"name": "pocket"}, "terms": [endless]}
    for recipe in [
        ruled,
        *recipes(dice),
        *BROKEN,
        b"schema: !!int x",
        b"&a [*a]",
        b"a: 2020-13-45",
    ]:
        write_json(file, recipe)
        check(run("--registry", registry, "compose", "--recipe", file, "--plan"), recipe)


def test_yaml_axes(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    dice = random.Random(0)
    names = ["name", "summary", "aliases", "licence", "sources", "columns", "where", "rule", "x"]
    for _ in range(80):
        axis: dict[str, Any] = {"name": "tone", "summary": "Tone."}
        axis["sources"] = [{"file": "rows.jsonl"}]
        for _ in range(dice.randint(1, 3)):
            axis[dice.choice([*names, "min_gap"])] = dice.choice(JUNK)
        text = yaml.safe_dump(axis).encode("utf-8", "surrogatepass")
        (tmp_path / "t.yaml").write_bytes(dice.choice([text] * 9 + BROKEN))
        refused_or_read(lambda: axis_from_yaml(tmp_path / "t.yaml"), axis)


def test_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    dice = random.Random(0)
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    values = [*JUNK, "text", said, said[:1], [said], [{"role": 1}], said * 2, '"\ud800']
    names = ["prompt", "chosen", "rejected", "group", "tools", "chat_template_kwargs"]
    for _ in range(200):
        row = {name: dice.choice(["hi", *values]) for name in names if dice.random() < 0.7}
        row |= {"chosen": dice.choice(["a", said]), "rejected": dice.choice(["b", said[1:]])}
        row[dice.choice(names)] = dice.choice(values)
        line = dice.choice([json.dumps(row).encode()] * 9 + BROKEN)
        file.write_bytes(line + b"\n" + line)
        refused_or_read(lambda: list(read_preference_file(file)), line[:300])


def headers(dice: random.Random) -> Iterable[bytes]:
    names = ["w", "\x1b[31m", "", "\ud800", "__metadata__", "a" * 10_000, "../x", "w\nw", "\u202e"]
    numbers = [0, 1, 4, 64, -1, 2**62, 2**63, 10**400, 1.0, "4", None, True, float("nan")]
    for _ in range(200):
        header = {
            dice.choice(names): {
                "dtype": dice.choice(["F32", "F32", "BF16", "F4", "X", "", None, []]),
                "shape": [dice.choice(numbers) for _ in range(dice.randint(0, 3))],
                "data_offsets": dice.choice([[0, 4], [0, 0], [dice.choice(numbers)] * 2, None]),
            }
            for _ in range(dice.randint(0, 3))
        }
        raw = dice.choice([json.dumps(header).encode()] * 9 + BROKEN)
        length = dice.choice([len(raw)] * 9 + [0, len(raw) + 1, 2**31, 2**64 - 1])
        yield struct.pack("<Q", length) + raw + bytes(dice.choice([0, 4, 4, 64]))
    many = {"w": {"dtype": "F32", "shape": [2**62] * 200_000, "data_offsets": [0, 4]}}
    raw = json.dumps(many).encode()
    yield struct.pack("<Q", len(raw)) + raw + bytes(4)


def test_safetensors_headers(tmp_path: Path) -> None:
    file = tmp_path / "v.safetensors"
    for content in headers(random.Random(0)):
        file.write_bytes(content)
        refused_or_read(lambda: read_header(file), content[:300])


def test_adapter_configurations(tmp_path: Path) -> None:
    dice = random.Random(0)
    names = ["peft_type", "r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern"]
    names += ["use_rslora", "bias", "modules_to_save", "exclude_modules", "use_dora", "unknown"]

    def read() -> None:
        config = AdapterConfig.read(tmp_path)
        config.scaling_of("model.layers.0.self_attn.q_proj")

    for _ in range(200):
        config: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
        config["target_modules"] = ["q_proj"]
        for _ in range(dice.randint(1, 2)):
            config[dice.choice(names)] = dice.choice(JUNK)
        write_json(tmp_path / "adapter_config.json", dice.choice([config] * 9 + BROKEN))
        refused_or_read(read, config)


STREAMS = [
    (["vectors", "--registry", "{}"], ">&-", 0),
    (["show", "helpful", "--registry", "{}"], "<&- >&- 2>&-", 0),
    (["show", "helpful", "--registry", "{}"], "> /dev/full", 1),
    (["vectors", "--json", "--registry", "{}"], "> /dev/full 2>&1", 1),
    (["show", "nope", "--registry", "{}"], "2> /dev/full", 1),
]


@pytest.mark.parametrize(("command", "streams", "code"), STREAMS)
def test_streams_that_are_closed_or_full(
    registry: Path, command: list[str], streams: str, code: int
) -> None:
    done = shell([each.format(registry) for each in command], streams)
    assert done.returncode == code, done
    assert "bug" not in done.stderr
    assert not done.stderr or "No space left on device" in done.stderr


@pytest.mark.parametrize("command", [["backup", "b.db"], ["show", "helpful", "--plot", "p.png"]])
def test_files_that_may_not_grow(registry: Path, tmp_path: Path, command: list[str]) -> None:
    before = f"ulimit -f 4; cd {shlex.quote(str(tmp_path))}"
    done = shell(["--registry", str(registry), *command], before=before)
    assert done.returncode == 1, done
    assert "cannot be written" in done.stderr
    assert not list(tmp_path.iterdir())


def shell(
    command: list[str], streams: str = "", before: str = "true"
) -> subprocess.CompletedProcess[str]:
    """Run the command line from a shell, with streams and limits of its own."""
    line = shlex.join([sys.executable, "-m", "prefreg", *command])
    return subprocess.run(
        ["bash", "-c", f"{before}; {line} {streams}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
