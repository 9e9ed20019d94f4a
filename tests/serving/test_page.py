"""The page in a browser: what it shows, what it asks for, and whom it serves."""

import json
import re
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import prefreg
import prefreg.cli.main
import prefreg.serving.server
from browser import Browser, browsing, find_chromium
from served import QUESTION, Served, serving

pytestmark = pytest.mark.slow
PAGE = prefreg.serving.server.PAGE
EVIL = "<img src=x onerror='window.hacked = 1'><script>window.hacked = 2</script>"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve pocket with a registry that the page may change, and with a note that is no text."""
    with serving(tmp_path_factory.mktemp("page")) as running:
        with sqlite3.connect(running.registry) as connection:
            connection.execute("UPDATE versions SET note = ?", [EVIL])
        connection.close()
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Start a browser, or say that the page is not tested."""
    program = find_chromium()
    if program is None:
        pytest.skip("THE PAGE WAS NOT TESTED: there is no Chromium (Debian: apt install chromium)")
    with browsing(program, tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: Served) -> Iterator[Browser]:
    """Open the page as on a first visit; nothing may go wrong in it, and no policy be broken."""
    browser.renew()
    browser.size(1400, 900)
    visit(browser, server.url)
    yield browser
    assert browser.errors == []
    assert browser.run("window.hacked ?? null") is None


def visit(browser: Browser, address: str) -> None:
    browser.open(address)
    browser.wait("document.querySelectorAll('.dial').length === 6")


def ask(page: Browser, text: str = QUESTION) -> list[str]:
    """Write a message and send it with the keyboard; return the answers once they are there."""
    page.run("document.getElementById('message').focus()")
    page.type(text)
    page.press("Enter")
    return answers(page)


def answers(page: Browser) -> list[str]:
    """Return the answers of the last turn when all have ended."""
    page.wait("document.querySelector('.answer') && !document.querySelector('.answer:not(.done)')")
    assert page.run("[...document.querySelectorAll('.answer .error:not([hidden])')].length") == 0
    found: list[str] = page.run(
        "[...[...document.querySelectorAll('.turn')].at(-1).querySelectorAll('.answer .text')]"
        ".map((each) => each.textContent)"
    )
    return found


def choose(page: Browser, name: str, value: str) -> None:
    page.run(
        f"(() => {{ const it = document.getElementById({json.dumps(name)});"
        f"it.value = {json.dumps(value)}; it.dispatchEvent(new Event('change')); }})()"
    )


def turn(page: Browser, axis: str, steps: int) -> None:
    """Turn a dial with the keys, each a twentieth."""
    page.run(f"document.getElementById('dial-{axis}-slider').focus()")
    for _ in range(abs(steps)):
        page.press("ArrowRight" if steps > 0 else "ArrowLeft")


def test_a_dial_changes_the_answer_and_the_command_makes_it_again(
    page: Browser, server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choose(page, "beside", "base")
    turn(page, "verbosity", 24)
    turned, plain = ask(page)
    assert turned != plain
    assert page.wait("document.getElementById('formula').textContent").endswith("1.2·verbosity@1")
    page.click("[data-copy=command]")
    command = shlex.split(page.wait("navigator.clipboard.readText()"))
    assert command[:3] == ["prefreg", "compose", "verbosity@1:1.2"]

    assert prefreg.cli.main.run([*command[1:], "-o", str(tmp_path / "made")]) == 0
    capsys.readouterr()
    for base, answer in ((str(tmp_path / "made"), turned), ("pocket", plain)):
        assert prefreg.cli.main.run(["generate", "--base", base, "-p", QUESTION]) == 0
        assert capsys.readouterr().out.strip() == answer
    name = page.run("document.getElementById('name').textContent")
    body = {"model": name, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    made = server.post("/v1/chat/completions", body).json()
    assert made["choices"][0]["message"]["content"] == turned


def test_after_a_reload_setting_and_conversation_are_there(page: Browser) -> None:
    choose(page, "beside", "other")
    turn(page, "harmless", 10)
    page.click("#which label + label")
    turn(page, "helpful", -3)
    before = ask(page)
    assert page.run("location.hash") == "#set=harmless:0.5&beside=helpful:-0.15"
    page.reload()
    page.wait("document.querySelectorAll('.dial').length === 6")
    assert answers(page) == before
    assert page.run("document.getElementById('beside').value") == "other"
    assert page.run("document.getElementById('dial-harmless-number').value") == "0.5"
    page.click("#which label + label")
    assert page.run("document.getElementById('dial-helpful-slider').value") == "-0.15"
    heads = page.run("[...document.querySelectorAll('.answer h3')].map((each) => each.textContent)")
    assert heads == ["harmless 0.5", "helpful −0.15"]
    page.run("location.hash = '#set=verbose@1:1[answer]&beside=helpful:-.15'")
    assert page.wait("document.getElementById('dial-verbosity-number').value === '1'")
    ask(page, "Where does Tom live?")
    heads = page.run("[...document.querySelectorAll('.answer h3')].map((each) => each.textContent)")
    assert heads[2:] == ["verbosity 1[answer]", "helpful −0.15"]


def test_a_number_beyond_the_range_is_taken_and_told(page: Browser) -> None:
    field = "document.getElementById('dial-verbosity-number')"
    page.run(f"{field}.focus(), {field}.select()")
    page.type("3.25")
    dial = f"{field}.closest('.dial')"
    assert "Outside its measured range of −1.625 to 1.5" in page.run(f"{dial}.innerText")
    spoken = page.run("document.getElementById('dial-verbosity-slider').ariaValueText")
    assert spoken == "3.25, outside the measured range"
    page.run(f"{field}.select()")
    page.type("99")
    assert page.run(f"{field}.getAttribute('aria-invalid')") == "true"
    assert page.run("location.hash") == "#set=verbosity:3.25"
    page.click("#zero")
    assert page.run(f"{field}.value") == "0"
    assert page.run("location.hash") == "#set="


def test_presets_are_kept_in_the_registry(page: Browser, server: Served) -> None:
    turn(page, "politeness", 8)
    for name, said in (("helpful", "'helpful' is an axis"), ("Calm<b>", "no name of a preset")):
        page.run("document.getElementById('preset-name').focus()")
        page.type(name)
        page.press("Enter")
        page.wait(f"document.getElementById('preset-said').textContent.includes({said!r})")
        page.run("document.getElementById('preset-name').value = ''")
    page.errors.clear()  # the browser notes what the server refuses
    page.type("kind")
    page.press("Enter")
    page.wait("document.querySelector('.presets .on')?.textContent.startsWith('kind')")
    registry = prefreg.open(server.registry)
    assert [str(term) for term in registry.preset("kind").terms] == ["politeness:0.4"]
    registry.save_preset("brief", {"verbosity": -1})
    visit(page, server.url)
    page.wait("document.querySelectorAll('.presets li').length === 2")
    page.click(".presets li button")  # by name, so the brief one
    assert page.run("location.hash") == "#set=verbosity:-1"
    page.click(".presets .drop")
    page.wait("document.querySelectorAll('.presets li').length === 1")
    assert [each.name for each in registry.presets()] == ["kind"]
    registry.remove_preset("kind")


def test_a_message_is_asked_again_and_anew_on_branches(page: Browser) -> None:
    first = ask(page)
    ask(page, "Where does Tom live?")
    turn(page, "verbosity", 30)
    page.click(".retry")
    again = answers(page)
    assert again != first
    assert page.run("document.querySelectorAll('.turn').length") == 1
    page.click(".before")
    assert page.run("document.querySelectorAll('.turn').length") == 2
    page.click(".turn:last-child .branch")
    page.run("document.activeElement.select()")
    page.type("What is Tom's pet?")
    page.press("Enter")
    answers(page)
    texts = page.run("[...document.querySelectorAll('.turn .text')].map((e) => e.textContent)")
    assert texts[0] == QUESTION
    assert texts[2] == "What is Tom's pet?"
    places = page.run("[...document.querySelectorAll('.at')].map((each) => each.textContent)")
    assert places == ["1 / 2", "2 / 2"]


def test_tokens_are_coloured_by_what_they_owe_to_an_axis(page: Browser, server: Served) -> None:
    (answer,) = ask(page)
    choose(page, "colour", "verbosity")
    page.wait("document.querySelector('.owed').textContent")
    assert page.run("document.querySelector('.answer .text').textContent") == answer
    body = {
        "axis": "verbosity",
        "messages": [{"role": "user", "content": QUESTION}],
        "answer": answer,
    }
    told = server.post("/v1/owed", body).json()["tokens"]
    away = page.run(
        "[...document.querySelectorAll('.text span')].map((e) => e.className === 'away')"
    )
    assert away == [each["owed"] < 0 for each in told]
    total = sum(each["owed"] for each in told)
    assert f"{abs(total):.2f} nats" in page.run("document.querySelector('.owed').textContent")
    choose(page, "colour", "")
    assert page.run("document.querySelectorAll('.text span').length") == 0


def test_the_vectors_are_shown_with_figures_cosines_and_pictures(page: Browser) -> None:
    page.run("document.getElementById('tab-talk').focus()")
    page.press("ArrowRight")
    assert page.run("document.activeElement.id") == "tab-vectors"
    page.wait("document.querySelectorAll('#matrix tbody tr').length === 6")
    page.wait("[...document.querySelectorAll('.card')].every((e) => e.querySelector('dd'))")
    matrix = page.run("document.querySelector('#matrix tbody').innerText")
    assert matrix.startswith("directness@1\t1\t−0.07")
    page.click(".picture:not([hidden]) summary")
    page.wait("document.querySelector('.picture[open] img').naturalWidth > 100")
    card = page.run("document.querySelector('.card').innerText")
    assert "Accuracy of + / −" in card
    assert EVIL in card  # the note, as it was written


def test_nothing_that_names_and_texts_hold_is_obeyed(page: Browser, server: Served) -> None:
    ask(page, EVIL)
    assert page.run("document.querySelector('.turn h2').textContent") == EVIL
    page.run(
        "(() => { const kept = JSON.parse(sessionStorage['prefreg.talk']);"
        f"kept.root.turns[0].answers.a.text = {json.dumps(EVIL)};"
        "sessionStorage['prefreg.talk'] = JSON.stringify(kept); })()"
    )
    visit(page, f"{server.url}/#set=<img src=x onerror=alert(1)>:1,constructor:1&beside={EVIL}")
    assert page.run("document.querySelector('.answer .text').textContent") == EVIL
    assert "<img" in page.wait("document.getElementById('notice').textContent")
    assert page.run("document.querySelectorAll('img[src=x], script:not([src])').length") == 0
    # Even what gets into the page is not run, nor may it fetch from elsewhere.
    page.run(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(EVIL)})")
    page.run("fetch('http://localhost:1/').catch(() => 0)")
    page.wait("true")
    refused = [each for each in page.errors if "Content Security Policy" in each]
    assert len(refused) >= 2
    page.errors.clear()


def test_everything_has_a_name_and_the_keyboard_reaches_it(page: Browser) -> None:
    choose(page, "beside", "other")
    turn(page, "helpful", 5)
    ask(page)
    page.wait("document.getElementById('command').textContent")
    roles = {"button", "textbox", "slider", "spinbutton", "combobox", "tab", "radio"}
    controls = [each for each in page.accessibles() if each["role"] in roles]
    assert {each["role"] for each in controls} == roles
    assert [each for each in controls if not each["name"].strip()] == []
    sliders = [each for each in controls if each["role"] == "slider"]
    assert sliders[0]["name"] == "directness, slider"
    assert "Measured from −1 to 1.25." in sliders[0]["description"]
    assert page.run("document.documentElement.lang") == "en"

    page.run("document.activeElement.blur(), document.querySelector('.skip').focus()")
    reached = []
    for _ in range(60):
        reached.append(page.run("document.activeElement.id || document.activeElement.className"))
        page.press("Tab")
    wanted = [
        *("skip", "tab-talk", "theme", "dial-directness-number", "dial-verbosity-slider"),
        *("preset-name", "command", "temperature", "beside", "colour", "turns", "message"),
    ]
    assert [name for name in dict.fromkeys(reached) if name in wanted] == wanted


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_every_width_and_can_be_read(page: Browser, dark: bool) -> None:
    page.run("location.hash = '#set=verbosity:3&beside=base'")
    ask(page, "a-very-long-word-" * 12)
    for width in (400, 600, 900, 1600):
        page.size(width, 800, dark=dark)
        for tab in ("vectors", "talk"):
            page.run(f"document.getElementById('tab-{tab}').click()")
            assert page.run("document.documentElement.scrollWidth <= innerWidth"), (width, tab)
    page.size(400, 800, dark=dark)
    page.click("summary")
    page.wait("document.getElementById('side').open")
    page.click("#dial-harmless-number")
    page.run("document.getElementById('message').click()")
    assert page.run("document.getElementById('side').open") is False
    for name in ("ink", "soft", "a", "b", "warn", "bad"):
        for ground in ("paper", "card", "field"):
            assert contrast(page, name, ground) >= 4.5, (name, ground)


def contrast(page: Browser, first: str, second: str) -> float:
    """Return the contrast of two of the page's colours, as WCAG defines it."""
    lights = []
    for name in (first, second):
        shown = page.run(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}')")
        parts = [int(part, 16) / 255 for part in re.findall("..", shown.strip().lstrip("#"))]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        lights.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_an_answer_is_stopped(page: Browser, server: Served) -> None:
    page.run("document.getElementById('message').focus()")
    page.type(QUESTION)
    # Pressed in the same breath, so that no answer is quick enough to have ended.
    it = "document.getElementById"
    page.run(f"{it}('ask').requestSubmit(), {it}('stop').click()")
    page.wait("document.querySelector('.answer.done')?.className")
    assert "stopped" in page.run("document.querySelector('.made').textContent")
    assert page.run("document.getElementById('send').hidden") is False


def test_a_server_with_a_key_is_asked_with_it(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    browser.renew()
    with serving(tmp_path_factory.mktemp("key"), api_key="open sesame") as running:
        browser.open(running.url)
        browser.wait("document.getElementById('key').open")
        for key, why in (
            ("wrong", "An API key is needed."),
            ("open sesame", "The API key is wrong."),
        ):
            browser.wait(f"document.getElementById('key-why').textContent === '{why}'")
            browser.run("document.getElementById('key-text').focus()")
            browser.type(key)
            browser.press("Enter")
        browser.wait("document.querySelectorAll('.dial').length === 6")
        assert ask(browser)


def test_the_page_is_small_and_needs_nothing_from_elsewhere() -> None:
    files = sorted(PAGE.iterdir())
    assert [file.name for file in files] == ["index.html", "page.css", "page.js"]
    assert sum(file.stat().st_size for file in files) < 100_000
    html, css, script = (file.read_text("utf-8") for file in files)
    for text in (html, css, script):
        assert set(re.findall(r"https?://[^\s'\"<>]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", html)
    assert not re.search(r"@import|url\(", css)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|document\.write|import", script
    )


def test_a_page_without_dials_says_how_to_get_one(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.renew()
    with serving(tmp_path) as running:
        with sqlite3.connect(running.registry) as connection:
            connection.execute("DELETE FROM versions")
        connection.close()
        browser.open(running.url)
        lead = browser.wait("document.querySelector('.lead')?.textContent")
        assert lead == "This base has no vectors yet."
        assert ask(browser)


def test_a_first_look_is_at_a_chat_model_where_it_has_dials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent.parent / "tools")
    from play import choose_base

    assert choose_base({"pocket", "another"}) == choose_base([]) == "pocket"
    chat = prefreg.api.bundled_bases()["smollm2"]
    expected = "pocket" if chat.problem() else "smollm2"
    assert choose_base({"pocket", "smollm2"}) == expected


def test_a_server_that_is_gone_is_told(browser: Browser, tmp_path: Path) -> None:
    browser.renew()
    with serving(tmp_path) as running:
        visit(browser, running.url)
    browser.run("document.getElementById('message').focus()")
    browser.type(QUESTION)
    browser.press("Enter")
    said: Any = browser.wait("document.querySelector('.answer .error:not([hidden])')?.textContent")
    assert said == "The server does not answer. Is it still running?"
