// The page of a served model: a client of the same API that everybody else uses.
"use strict";

const $ = (id) => document.getElementById(id);
const MINUS = "\u2212";
const STEP = 0.05;
const CONTRAST = 1; // nats at which a token is coloured as deeply as it gets
const STARTERS = ["What makes a good friend?", "How do I make a cup of tea?", "Tell me about yourself."];

/** A setting maps an axis to its coefficient, a version where one was chosen, and a phase such as [answer]. */
const state = {
  model: "", axes: [], presets: [], limits: { eta: 16, max_tokens: 2048 }, examples: STARTERS,
  a: {}, b: {}, beside: "", edited: "a", colour: "",
  root: { turns: [], at: 0 }, asking: null,
};

// Small things

function show(number, digits = 4) {
  const short = String(Number(Number(number).toPrecision(digits)));
  return short.replace("-", MINUS);
}

function signed(number, digits = 2) {
  return (number < 0 ? MINUS : "+") + Math.abs(number).toFixed(digits);
}

function clone(id) {
  return $(id).content.firstElementChild.cloneNode(true);
}

function make(tag, text = "", props = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, props);
}

function say(text) {
  $("status").textContent = text;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function later(work, wait) {
  let due;
  return () => { clearTimeout(due); due = setTimeout(work, wait); };
}

function keep(name, value, where = sessionStorage) {
  try { where.setItem(`prefreg.${name}`, value); } catch { /* full, or not allowed: nothing is kept */ }
}

function kept(name, where = sessionStorage) {
  try { return where.getItem(`prefreg.${name}`); } catch { return null; }
}

// The API

async function call(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  const key = kept("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const refused = await refusal(response);
  if (response.status !== 401) throw refused;
  await askForKey(refused.message);
  return call(path, { method, body, signal });
}

async function refusal(response) {
  let told = {};
  try { told = (await response.json()).error; } catch { /* no envelope */ }
  const said = told.message || `The server says ${response.status}.`;
  const wait = response.status === 429 && response.headers.get("Retry-After");
  return Object.assign(new Error(wait ? `${said} Try again in ${wait} s.` : said), { code: told.code });
}

async function get(path, options) {
  return (await call(path, options)).json();
}

let keyAsked = null;
function askForKey(why) {
  keyAsked ??= new Promise((given) => {
    $("key-why").textContent = why;
    $("key-text").value = "";
    $("key-form").onsubmit = (event) => {
      event.preventDefault();
      keep("key", $("key-text").value);
      $("key").close();
      keyAsked = null;
      given();
    };
    $("key").addEventListener("cancel", (event) => event.preventDefault());
    $("key").showModal();
  });
  return keyAsked;
}

/** Yield the bodies of a stream of events. */
async function* streamed(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Error("The connection broke off.");
    });
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const body = JSON.parse(line.slice(6));
      if (body.error) throw new Error(body.error.message);
      yield body;
    }
  }
}

// Settings

const named = (setting) => Object.entries(setting).map(([axis, { eta, version, phase }]) => [version ? `${axis}@${version}` : axis, eta, phase]);
const preferences = (setting) => Object.fromEntries(named(setting).map(([name, eta, phase]) => [name + phase, eta]));
const terms = (setting) => named(setting).map(([name, eta, phase]) => `${name}:${eta}${phase}`);

function brief(setting) {
  return named(setting).map(([name, eta, phase]) => `${name} ${show(eta)}${phase}`).join(" · ") || "base";
}

/** Read terms such as helpful@2:-0.5; what is no term of an axis here is returned beside them. */
function readTerms(texts) {
  const setting = {}, strange = [];
  for (const text of texts) {
    const found = /^([a-z][a-z0-9_-]*)(?:@([A-Za-z0-9._-]+))?:([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(\[(?:answer|\d+:)\])?$/.exec(text);
    const axis = found && state.axes.find((each) => each.name === found[1] || each.aliases.includes(found[1]));
    const eta = found ? Number(found[3]) : NaN;
    if (!axis || !Number.isFinite(eta) || Math.abs(eta) > state.limits.eta) { strange.push(text); continue; }
    const version = axis.versions.find((each) => [String(each.version), ...each.aliases].includes(found[2] || String(axis.version)));
    if (!version) { strange.push(text); continue; }
    if (eta) setting[axis.name] = { eta, version: version.version === axis.version ? null : String(version.version), phase: found[4] || "" };
  }
  return { setting, strange };
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const strange = [];
  const side = (text) => {
    const found = readTerms(text.split(",").filter(Boolean));
    strange.push(...found.strange);
    return found.setting;
  };
  if (!given.has("set")) return false;
  state.edited = "a";
  state.a = side(given.get("set"));
  const beside = given.get("beside");
  state.beside = beside === null ? "" : beside === "base" ? "base" : "other";
  state.b = state.beside === "other" ? side(beside) : {};
  tellStrange(strange);
  return true;
}

function tellStrange(strange) {
  if (strange.length) notice(`Left out, as it is no dial here: ${strange.join(", ")}`);
}

/** Begin with what the server was started with: presets and aliases as the versions that they mean. */
async function readStanding() {
  const told = await get("/v1/setting", { method: "POST", body: { model: state.model } });
  const { setting, strange } = readTerms(told.terms);
  state.a = setting;
  tellStrange(strange);
}

function writeAddress() {
  const set = terms(state.a).join(",");
  const beside = { "": "", base: "&beside=base", other: `&beside=${terms(state.b).join(",")}` }[state.beside];
  history.replaceState(null, "", `#set=${set}${beside}`);
}

/** The setting of a side: the left one, or what stands beside it. */
function settingOf(side) {
  return side === "a" ? state.a : state.beside === "other" ? state.b : {};
}

// Dials

const dials = [];

function makeDial(axis) {
  const view = clone("dial-template");
  const part = (name) => view.querySelector(`.${name}`);
  const [number, slider, version] = ["number", "slider", "version"].map(part);
  const measured = axis.range;
  const far = measured ? Math.max(Math.abs(measured.low), Math.abs(measured.high)) : 1.6;
  const most = Math.min(state.limits.eta, Math.max(1, Math.ceil(far * 1.25 * 2) / 2));
  const place = (eta) => (Math.max(-most, Math.min(most, eta)) + most) / (2 * most);
  const lay = (name, from, to = from) => {
    part(name).style.setProperty("--from", Math.min(place(from), place(to)));
    part(name).style.setProperty("--long", Math.abs(place(to) - place(from)));
  };
  const id = `dial-${axis.name}`;
  part("axis").textContent = axis.name;
  part("axis").htmlFor = `${id}-number`;
  part("summary").textContent = axis.summary || "";
  Object.assign(number, { id: `${id}-number`, min: -state.limits.eta, max: state.limits.eta });
  Object.assign(slider, { id: `${id}-slider`, min: -most, max: most, step: STEP });
  slider.setAttribute("aria-label", `${axis.name}, slider`);
  lay("origin", 0);
  part("band").hidden = !measured;
  if (measured) lay("band", measured.low, measured.high);
  const unit = axis.calibration;
  for (const [name, eta] of [["plus", unit?.positive], ["minus", unit?.negative]]) {
    part(name).hidden = eta === null || eta === undefined;
    if (eta) lay(name, eta);
  }
  const told = [];
  if (measured) told.push(`Measured from ${show(measured.low)} to ${show(measured.high)}.`);
  if (unit) told.push(`One calibrated unit (${unit.goal}) is ${[unit.positive, unit.negative].filter((each) => each !== null).map((each) => show(each)).join(" or ")}.`);
  part("measured").textContent = told.join(" ");
  part("measured").id = `${id}-measured`;
  view.title = told.join("\n");
  for (const input of [number, slider]) input.setAttribute("aria-describedby", `${id}-measured ${id}-beyond`);
  part("beyond").id = `${id}-beyond`;
  version.hidden = axis.versions.length < 2;
  version.setAttribute("aria-label", `Version of ${axis.name}`);
  version.append(...axis.versions.map((each) => make("option", `@${each.version}`, { value: each.version })));

  const change = (eta) => {
    const setting = state.edited === "a" ? state.a : state.b;
    const phase = setting[axis.name]?.phase ?? "";
    if (eta) setting[axis.name] = { eta, version: Number(version.value) === axis.version ? null : version.value, phase };
    else delete setting[axis.name];
    changed();
  };
  slider.addEventListener("input", () => change(Number(Number(slider.value).toFixed(4))));
  slider.addEventListener("dblclick", () => change(0));
  number.addEventListener("input", () => {
    const eta = number.valueAsNumber;
    const wrong = number.value !== "" && !(Math.abs(eta) <= state.limits.eta);
    number.setAttribute("aria-invalid", wrong);
    if (!wrong) change(eta || 0);
  });
  number.addEventListener("blur", () => dial.sync());
  version.addEventListener("change", () => change(number.valueAsNumber || 0));

  const dial = {
    view,
    sync() {
      const { eta = 0, version: chosen = null } = (state.edited === "a" ? state.a : state.b)[axis.name] || {};
      if (document.activeElement !== number || Number(number.value) !== eta) number.value = eta;
      slider.value = eta;
      version.value = chosen ?? axis.version;
      const beyond = measured && !chosen && (eta < measured.low || eta > measured.high);
      const why = beyond && measured[eta > 0 ? "above" : "below"];
      slider.setAttribute("aria-valuetext", show(eta) + (beyond ? ", outside the measured range" : ""));
      part("beyond").hidden = !beyond;
      part("beyond").textContent = beyond
        ? `Outside its measured range of ${show(measured.low)} to ${show(measured.high)}${why ? `: ${why}` : ""}.` : "";
      view.classList.toggle("turned", eta !== 0);
      lay("fill", 0, eta);
    },
  };
  return dial;
}

function changed() {
  writeAddress();
  drawSetting();
}

function drawSetting() {
  const editsB = state.beside === "other" && state.edited === "b";
  if (!editsB) state.edited = "a";
  $("beside").value = state.beside;
  $("which").hidden = state.beside !== "other";
  for (const radio of document.getElementsByName("which")) {
    radio.checked = radio.value === state.edited;
    $(`which-${radio.value}`).textContent = brief(settingOf(radio.value));
  }
  document.querySelector(".sheet").classList.toggle("of-b", editsB);
  for (const dial of dials) dial.sync();
  const edited = settingOf(state.edited);
  $("zero").disabled = $("save").querySelector("button").disabled = !Object.keys(edited).length;
  $("brief").textContent = state.beside ? `${brief(state.a)}  |  ${brief(settingOf("b"))}` : brief(state.a);
  drawPresets();
  tellSetting();
}

/** Ask the server what the setting is called; a later change wins over an earlier answer. */
let tellingOf = 0;
const tellSetting = later(async () => {
  const turn = ++tellingOf;
  let told;
  try {
    told = await get("/v1/setting", { method: "POST", body: { model: state.model, preferences: preferences(settingOf(state.edited)) } });
  } catch (error) {
    told = { formula: "", command: null, model: null, warnings: [error.message] };
  }
  if (turn !== tellingOf) return;
  $("formula").textContent = told.formula && `θ = ${told.formula}`;
  $("command").textContent = told.command || "";
  $("name").textContent = told.command ? told.model : "";
  $("hint").hidden = !told.command;
  const spoken = new Set(dials.flatMap(({ view }) => view.querySelector(".beyond").hidden ? [] : [view.querySelector(".axis").textContent]));
  $("warnings").replaceChildren(...told.warnings
    .filter((text) => ![...spoken].some((axis) => text.startsWith(`${axis}@`)))
    .map((text) => make("li", text)));
}, 160);

// Presets

async function loadPresets() {
  try {
    state.presets = (await get("/v1/presets")).data;
  } catch (error) {
    $("preset-said").textContent = error.message;
  }
  drawPresets();
}

function drawPresets() {
  const now = terms(settingOf(state.edited)).sort().join(" ");
  $("presets").replaceChildren(...state.presets.map((preset) => {
    const { setting, strange } = readTerms(preset.terms);
    const item = make("li");
    const use = make("button", preset.name, { type: "button", title: preset.terms.join(" "), disabled: strange.length > 0 });
    if (strange.length) use.title += " (there is no such dial on this base)";
    const on = !strange.length && terms(setting).sort().join(" ") === now;
    use.setAttribute("aria-pressed", on);
    item.classList.toggle("on", on);
    use.addEventListener("click", () => {
      state[state.edited] = setting;
      changed();
    });
    const drop = make("button", "×", { type: "button", className: "drop", title: `Remove ${preset.name}` });
    drop.setAttribute("aria-label", `Remove the preset ${preset.name}`);
    drop.addEventListener("click", () => dropPreset(preset));
    item.append(use, drop);
    return item;
  }));
}

async function savePreset(event) {
  event.preventDefault();
  const name = $("preset-name").value.trim();
  if (!name) { $("preset-name").focus(); return; }
  try {
    await call(`/v1/presets/${encodeURIComponent(name)}`, { method: "PUT", body: { terms: terms(settingOf(state.edited)) } });
    $("preset-name").value = "";
    $("preset-said").textContent = `Saved. It is a term of every command: prefreg generate ${name}`;
  } catch (error) {
    $("preset-said").textContent = error.message;
  }
  await loadPresets();
}

async function dropPreset(preset) {
  try {
    await call(`/v1/presets/${encodeURIComponent(preset.name)}`, { method: "DELETE" });
    $("preset-said").textContent = `Removed ${preset.name}: ${preset.terms.join(" ")}`;
  } catch (error) {
    $("preset-said").textContent = error.message;
  }
  await loadPresets();
}

// The conversation: a tree of turns, each with an answer a side; a retry or a branch is a sibling.

function path() {
  const found = [];
  for (let node = state.root; node.turns.length; node = node.turns[node.at]) found.push(node.turns[node.at]);
  return found;
}

/** What a side has heard and said, with a turn; where it has no answer, the other side's. */
function historyOf(turn, side, skipped = 0) {
  const before = [];
  for (let node = turn.alone ? state.root : turn.parent; node.parent; node = node.parent) {
    const answer = [node.answers[side], node.answers[side === "a" ? "b" : "a"]].find((each) => each?.text && each.done);
    if (answer) before.unshift({ role: "user", content: node.text }, { role: "assistant", content: answer.text });
  }
  return [...before.slice(2 * skipped), { role: "user", content: turn.text }];
}

function addTurn(parent, text) {
  const turn = { text, alone: $("alone").checked, answers: {}, turns: [], at: 0, parent };
  parent.turns.push(turn);
  parent.at = parent.turns.length - 1;
  return turn;
}

async function ask(parent, text) {
  if (state.asking || !text.trim()) return;
  const turn = addTurn(parent, text);
  const stop = new AbortController();
  state.asking = stop;
  const drawn = {
    temperature: $("temperature").valueAsNumber || 0,
    max_tokens: Math.max(1, $("most").valueAsNumber || 256),
  };
  // One seed for both sides: what differs is the setting's doing.
  drawn.seed = $("seed").value === "" ? Math.floor(Math.random() * 2 ** 31) : $("seed").valueAsNumber;
  for (const side of state.beside ? ["a", "b"] : ["a"]) {
    turn.answers[side] = { text: "", setting: structuredClone(settingOf(side)), done: false, owed: {} };
  }
  drawTurns({ toEnd: true });
  drawAsking();
  say("Answering.");
  await Promise.all(Object.keys(turn.answers).map((side) => answer(turn, side, drawn, stop.signal)));
  state.asking = null;
  drawAsking();
  keepTalk();
  say(Object.values(turn.answers).map((each) => `${brief(each.setting)}: ${each.error || each.text}`).join(" "));
}

async function answer(turn, side, drawn, signal) {
  const it = turn.answers[side];
  const began = performance.now();
  try {
    const response = await callWithRoom(it, (skipped) => ({
      method: "POST", signal,
      body: {
        model: state.model, messages: historyOf(turn, side, skipped), preferences: preferences(it.setting),
        stream: true, stream_options: { include_usage: true }, ...drawn,
      },
    }));
    for await (const body of streamed(response)) {
      const choice = body.choices[0];
      if (body.usage) it.tokens = body.usage.completion_tokens;
      if (choice?.finish_reason) it.finish = choice.finish_reason;
      if (choice?.delta?.content) {
        it.text += choice.delta.content;
        followed(() => it.view.querySelector(".text").append(choice.delta.content));
      }
    }
  } catch (error) {
    if (error.name === "AbortError") it.finish = "stopped";
    else it.error = error.message;
  }
  it.seconds = (performance.now() - began) / 1000;
  it.done = true;
  followed(() => drawAnswer(it));
  paint(turn, side);
}

/** Ask, leaving out what was said first until the rest has room in the model's context. */
async function callWithRoom(it, request) {
  for (it.skipped = 0; ; it.skipped += 1) {
    const asked = request(it.skipped);
    try {
      return await call("/v1/chat/completions", asked);
    } catch (error) {
      if (error.code !== "context_length_exceeded" || asked.body.messages.length === 1) throw error;
    }
  }
}

/** Change the conversation, and stay at its end if that was to be seen. */
function followed(change) {
  const box = $("turns");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
  change();
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function drawAsking() {
  const busy = Boolean(state.asking);
  $("turns").setAttribute("aria-busy", busy);
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  $("send").disabled = !$("message").value.trim();
  for (const button of document.querySelectorAll(".acts button, #fresh")) button.disabled = busy;
}

function drawTurns({ toEnd = false } = {}) {
  const turns = path();
  $("turns").replaceChildren(...(turns.length ? turns.map(viewTurn) : [viewEmpty()]));
  if (toEnd) $("turns").scrollTop = $("turns").scrollHeight;
  drawAsking();
}

function viewEmpty() {
  const view = make("div", "", { className: "empty" });
  const list = make("ul");
  for (const text of state.examples) {
    const item = make("li");
    item.append(make("button", text, { type: "button", onclick: () => ask(state.root, text) }));
    list.append(item);
  }
  const lead = state.axes.length ? "Turn a dial, ask, and see what changes." : "This base has no vectors yet.";
  const hint = state.axes.length
    ? "Every answer is made with the dials as they stand. Set one beside the base to see both at once."
    : "Train one with prefreg add-axis, then load this page again. Until then the base answers.";
  view.append(make("p", lead, { className: "lead" }), make("p", hint, { className: "hint" }), list);
  return view;
}

function viewTurn(turn) {
  const view = clone("turn-template");
  const part = (name) => view.querySelector(`.${name}`);
  part("text").textContent = turn.text;
  const siblings = turn.parent.turns;
  const place = siblings.indexOf(turn);
  part("branches").hidden = siblings.length < 2;
  part("at").textContent = `${place + 1} / ${siblings.length}`;
  for (const [name, by] of [["before", -1], ["after", 1]]) {
    part(name).onclick = () => {
      turn.parent.at = (place + by + siblings.length) % siblings.length;
      drawTurns();
      keepTalk();
    };
  }
  part("retry").title = "Ask this again, with the dials as they stand now; this answer is kept";
  part("retry").onclick = () => ask(turn.parent, turn.text);
  part("branch").title = "Write this message anew; the conversation goes on from there, and this one is kept";
  part("branch").onclick = () => rewrite(turn, part("text"));
  part("answers").classList.toggle("two", "b" in turn.answers);
  for (const [side, it] of Object.entries(turn.answers)) {
    it.view ??= viewAnswer(it, side);
    drawAnswer(it);
    part("answers").append(it.view);
    paint(turn, side);
  }
  return view;
}

/** Turn a message into a field; what is written there is asked as a branch. */
function rewrite(turn, heading) {
  const form = make("form", "", { className: "ask" });
  const field = make("textarea", turn.text, { rows: 1 });
  field.setAttribute("aria-label", "The message, written anew");
  field.value = turn.text;
  const cancel = make("button", "Cancel", { type: "button", onclick: () => drawTurns() });
  form.append(field, make("button", "Ask"), cancel);
  form.onsubmit = (event) => {
    event.preventDefault();
    ask(turn.parent, field.value);
  };
  field.onkeydown = (event) => {
    if (sends(event)) form.requestSubmit();
    else if (event.key === "Escape") { event.stopPropagation(); drawTurns(); }
  };
  heading.closest(".asked").replaceWith(form);
  field.focus();
  field.select();
}

function viewAnswer(it, side) {
  const view = clone("answer-template");
  view.classList.add(side);
  view.classList.toggle("plain", !Object.keys(it.setting).length);
  view.querySelector("h3").append(make("span", brief(it.setting)));
  view.querySelector(".copy").onclick = (event) => copy(it.text, event.target);
  return view;
}

function drawAnswer(it) {
  const part = (name) => it.view.querySelector(`.${name}`);
  it.view.classList.toggle("running", !it.done);
  it.view.classList.toggle("done", it.done);
  it.view.classList.toggle("failed", Boolean(it.error));
  part("text").textContent = it.text;
  part("error").hidden = !it.error;
  part("error").textContent = it.error || "";
  const told = [];
  if (it.tokens) told.push(`${it.tokens} tokens`);
  if (it.done && it.seconds) told.push(`${it.seconds.toFixed(1)} s`);
  if (it.skipped) told.push(`without the first ${it.skipped === 1 ? "turn" : `${it.skipped} turns`}, for which there is no room`);
  if (it.finish === "length") told.push("cut at the most tokens");
  if (it.finish === "stopped") told.push("stopped");
  part("made").textContent = told.join(" · ");
}

/** Colour the tokens of an answer by what each owes to the axis that was chosen. */
async function paint(turn, side) {
  const it = turn.answers[side];
  const axis = state.colour;
  const box = it.view.querySelector(".owed");
  box.textContent = "";
  if (!axis || !it.done || !it.text || it.error) {
    if (it.done) it.view.querySelector(".text").textContent = it.text;
    return;
  }
  try {
    it.owed[axis] ??= get("/v1/owed", {
      method: "POST", body: { axis, messages: historyOf(turn, side, it.skipped), answer: it.text },
    });
    const found = await it.owed[axis];
    if (axis !== state.colour) return;
    it.view.querySelector(".text").replaceChildren(...tokenViews(found.tokens, it.text));
    const sum = found.tokens.reduce((total, each) => total + each.owed, 0);
    box.textContent = `owes ${axis} ${signed(sum)} nats`;
  } catch (error) {
    delete it.owed[axis];
    if (axis === state.colour) box.textContent = error.message;
  }
}

function tokenViews(tokens, answer) {
  const reader = new TextDecoder();
  const views = [];
  let owed = 0;
  for (const token of tokens) {
    owed += token.owed;
    // A character may take several tokens, which are shown as one.
    let text = reader.decode(new Uint8Array(token.bytes), { stream: true });
    // Some tokenizers begin every word with a space, which the text does not.
    if (!views.length && !answer.startsWith(" ")) text = text.trimStart();
    if (!text) continue;
    const word = text.trimStart();
    if (word !== text) views.push(text.slice(0, text.length - word.length));
    if (!word) continue;
    const view = make("span", word, { title: `${signed(owed)} nats`, className: owed < 0 ? "away" : "" });
    view.style.setProperty("--deep", (0.55 * Math.min(1, Math.abs(owed) / CONTRAST)).toFixed(3));
    views.push(view);
    owed = 0;
  }
  return views;
}

function keepTalk() {
  const bare = (node) => ({
    text: node.text, alone: node.alone, at: node.at, turns: node.turns.map(bare),
    answers: node.answers && Object.fromEntries(Object.entries(node.answers).map(([side, it]) => [side, { ...it, view: undefined, owed: {} }])),
  });
  keep("talk", JSON.stringify({ model: state.model, root: bare(state.root) }));
}

function restoreTalk() {
  try {
    const found = JSON.parse(kept("talk"));
    if (found?.model !== state.model) return;
    const join = (node, parent) => {
      node.parent = parent;
      for (const each of node.turns) join(each, node);
    };
    join(found.root, undefined);
    state.root = found.root;
  } catch { /* kept by another version: begin anew */ }
}

// Vectors

let cardsMade = false;
async function drawVectors() {
  if (cardsMade) return;
  cardsMade = true;
  $("cards").replaceChildren(...state.axes.map(viewCard));
  if (!state.axes.length) $("cards").append(make("p", "This base has no vectors yet.", { className: "hint" }));
  try {
    drawMatrix(await get("/v1/cosines"));
  } catch (error) {
    cardsMade = false;
    $("cosines").hidden = false;
    $("matrix").replaceChildren(make("caption", error.message));
  }
}

function viewCard(axis) {
  const card = clone("card-template");
  const version = card.querySelector(".version");
  version.hidden = axis.versions.length < 2;
  version.setAttribute("aria-label", `Version of ${axis.name}`);
  version.append(...axis.versions.map((each) => make("option", `@${each.version}`, { value: each.version })));
  version.value = axis.version;
  version.onchange = () => fillCard(card, axis, version.value);
  card.querySelector(".summary").textContent = axis.summary || "";
  fillCard(card, axis, axis.version);
  return card;
}

async function fillCard(card, axis, number) {
  const part = (name) => card.querySelector(name);
  part("h2").textContent = `${axis.name}@${number}`;
  part(".picture").hidden = part(".error").hidden = true;
  part(".picture").open = false;
  try {
    const name = `/v1/axes/${encodeURIComponent(`${axis.name}@${number}`)}`;
    const found = await get(name);
    const version = found.versions.find((each) => each.version === found.shown) || {};
    part("dl").replaceChildren(...facts(found, version).flatMap(([term, text]) => term
      ? [make("dt", term), make("dd", text)] : [make("dd", text, { className: "long" })]));
    part(".picture").hidden = !found.has_curves;
    part("img").removeAttribute("src");
    part("img").alt = `How the poles of ${axis.name}@${number} were trained: loss, margins and answers against the step`;
    part(".picture").ontoggle = () => drawCurves(card, name);
  } catch (error) {
    part(".error").textContent = error.message;
    part(".error").hidden = false;
  }
}

/** Fetch the picture once it is asked for: drawing it takes the server seconds. */
async function drawCurves(card, name) {
  const image = card.querySelector("img");
  if (!card.querySelector(".picture").open || image.src) return;
  try {
    const picture = await call(`${name}/curves.png`);
    image.src = await dataUrl(await picture.blob());
  } catch (error) {
    card.querySelector(".error").textContent = error.message;
    card.querySelector(".error").hidden = false;
  }
}

function facts(found, version) {
  const { positive: plus, negative: minus } = found.poles;
  const both = (tell) => [plus, minus].filter(Boolean).map(tell).join(" / ");
  const list = [];
  const has = (name) => [plus, minus].some((each) => typeof each?.[name] === "number");
  if (has("accuracy")) list.push(["Accuracy of + / −", both((each) => `${(100 * each.accuracy).toFixed(1)} %`)]);
  if (has("mean_margin")) list.push(["Margin, nats", both((each) => signed(each.mean_margin))]);
  const { norm, cosine_poles: cosine } = found.geometry;
  if (typeof cosine === "number") list.push(["Cosine of the poles", show(cosine, 3)]);
  if (typeof norm === "number") list.push(["Length of φ", show(norm, 3)]);
  list.push(["Kind", version.kind || found.kind]);
  if (found.range) list.push(["Range", `${show(found.range.low)} to ${show(found.range.high)}`]);
  const unit = found.calibration;
  if (unit) list.push(["One unit", [unit.positive, unit.negative].filter((each) => each !== null).map((each) => show(each, 3)).join(" / ")]);
  if (version.aliases?.length) list.push(["Called", version.aliases.join(", ")]);
  if (version.tags?.length) list.push(["Tags", version.tags.join(", ")]);
  if (version.created) list.push(["Made", new Date(version.created).toLocaleDateString(undefined, { dateStyle: "medium" })]);
  if (version.note) list.push(["", version.note]);
  return list;
}

function dataUrl(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(blob);
  });
}

function drawMatrix({ versions, cosines }) {
  $("cosines").hidden = versions.length < 2;
  const heads = versions.map((name) => make("th", name, { scope: "col" }));
  const head = make("thead"), row = make("tr");
  row.append(make("td", "", { className: "same" }), ...heads);
  row.firstChild.className = "";
  head.append(row);
  const body = make("tbody");
  versions.forEach((name, at) => {
    const line = make("tr");
    line.append(make("th", name, { scope: "row" }), ...cosines[at].map((cosine, to) => {
      if (at === to) return make("td", "1", { className: "same" });
      const cell = make("td", cosine === null ? "–" : signed(cosine), { className: cosine < 0 ? "away" : "" });
      cell.style.setProperty("--deep", Math.min(0.6, Math.abs(cosine || 0)).toFixed(3));
      return cell;
    }));
    body.append(line);
  });
  $("matrix").replaceChildren(head, body);
}

// What is pressed and typed

function sends(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing;
}

async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    say("Copied.");
  } catch {
    // Not allowed, as without https: mark the text, so that it can be copied by hand.
    const code = button.parentElement.querySelector("code, .text") || button;
    getSelection().selectAllChildren(code);
    button.textContent = "Marked";
  }
  setTimeout(() => { button.textContent = before; }, 1600);
}

function choose(tab) {
  for (const each of document.querySelectorAll("[role=tab]")) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", chosen);
    each.tabIndex = chosen ? 0 : -1;
    $(each.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (tab.id === "tab-vectors") drawVectors();
}

function wire() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.forEach((tab, at) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      const to = tabs[(at + by + tabs.length) % tabs.length];
      choose(to);
      to.focus();
    });
  });
  const themes = ["light", "dark"];
  const drawTheme = () => {
    const dark = (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    $("theme").textContent = dark ? "Light" : "Dark";
    $("theme").setAttribute("aria-label", `Use ${dark ? "light" : "dark"} colours`);
    return themes[dark ? 0 : 1];
  };
  const chosen = kept("theme", localStorage);
  if (themes.includes(chosen)) document.documentElement.dataset.theme = chosen;
  drawTheme();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawTheme);
  $("theme").onclick = () => {
    document.documentElement.dataset.theme = drawTheme();
    keep("theme", document.documentElement.dataset.theme, localStorage);
    drawTheme();
  };

  const wide = matchMedia("(min-width: 900px)");
  const fit = () => { $("side").open = wide.matches; };
  fit();
  wide.addEventListener("change", fit);
  document.addEventListener("click", (event) => {
    if (!wide.matches && !$("side").contains(event.target) && event.target.isConnected) $("side").open = false;
  });

  $("zero").onclick = () => { state[state.edited] = {}; changed(); };
  $("save").onsubmit = savePreset;
  $("beside").onchange = () => { state.beside = $("beside").value; changed(); };
  for (const radio of document.getElementsByName("which")) {
    radio.onchange = () => { state.edited = radio.value; drawSetting(); };
  }
  $("colour").onchange = () => {
    state.colour = $("colour").value;
    $("scale").hidden = !state.colour;
    for (const turn of path()) for (const side of Object.keys(turn.answers)) paint(turn, side);
  };
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.onclick = () => copy($(button.dataset.copy).textContent, button);
  }
  $("fresh").onclick = () => { state.root = { turns: [], at: 0 }; keepTalk(); drawTurns(); $("message").focus(); };
  $("message").oninput = drawAsking;
  $("message").onkeydown = (event) => {
    if (!sends(event)) return;
    event.preventDefault();
    $("ask").requestSubmit();
  };
  $("ask").onsubmit = (event) => {
    event.preventDefault();
    const text = $("message").value;
    if (state.asking || !text.trim()) return;
    $("message").value = "";
    ask(path().at(-1) || state.root, text);
  };
  $("stop").onclick = () => state.asking?.abort();
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") state.asking?.abort();
  });
  addEventListener("hashchange", () => { if (readAddress()) drawSetting(); });
}

async function start() {
  wire();
  try {
    const found = await get("/v1/axes");
    Object.assign(state, { model: found.model, axes: found.data, limits: found.limits });
    if (found.examples?.length) {
      state.examples = found.examples;
      $("alone").checked = true; // a closed world is asked question by question
    }
    $("most").max = found.limits.max_tokens;
    $("most").value = Math.min(256, found.limits.max_tokens, Math.floor((found.limits.context || 1e9) / 2));
    $("model").textContent = found.model;
    document.title = `${found.model} · prefreg`;
    if (!readAddress()) await readStanding(); // before there is a dial that could be turned meanwhile
    dials.push(...state.axes.map(makeDial));
    $("dials").replaceChildren(...dials.map((dial) => dial.view));
    const units = new Set(state.axes.flatMap((each) => each.calibration ? [each.calibration.goal] : []));
    $("legend").hidden = !state.axes.some((each) => each.range || each.calibration);
    if (units.size === 1) $("unit").textContent = `one unit: ${[...units][0]}`;
    $("colour").append(...state.axes.map((each) => make("option", each.name, { value: each.name })));
    restoreTalk();
    drawTurns({ toEnd: true });
    changed();
    loadPresets();
  } catch (error) {
    notice(error.message);
  }
}

start();
