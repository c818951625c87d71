// Asks the service as one types, and draws how its worlds voted.

const K = 10;
const PAUSE = 120; // milliseconds without a key, after which a query is asked
const NEAR = 10; // a bucket of a worse rank is one that its world does not believe in
const NAMED = 3; // others of a bucket, at most

// What scores are, by combiner, p being the probability of the class's bucket in a world;
// `level` puts them on the scale of p.
const SAME = { level: (score) => score, drawn: "the score" };
const GEOMETRIC = { level: Math.exp, drawn: "e to the score, the geometric mean of p" };
const COMBINERS = {
  log: { score: "the mean of log p", short: "geometric mean", ...GEOMETRIC },
  mean: { score: "the mean of p, less what chance gives", short: "mean, less chance", ...SAME },
  min: { score: "the least p", short: "least", ...SAME },
  median: { score: "the median of p", short: "median", ...SAME },
};
const EXAMPLES = { text: '"…"', indices: "[17, 4]", values: "[1, 0.5]", dense: "[0.1, …]" };
const P = "p is the probability of the class’s bucket in one world";

let about = null; // what /about said
let answers = []; // those on the page
let active = -1; // of them, where the arrow keys are
let opened = null; // id of the class that is explained
let query = "";
let worlds = null; // null: all
let combiner = null; // null: the ensemble's own
let settled = true; // whether the next query makes an entry of the history
let timer = 0; // 0: nothing waits for a pause
let running = 0; // requests

const $ = (id) => document.getElementById(id);
const copy = (id) => $(id).content.firstElementChild.cloneNode(true);
const touched = () => matchMedia("(pointer: coarse)").matches;
const titled = (one) => one.name ?? `class ${one.id}`;
const numbered = (number) => number.toLocaleString("en");
const plural = (number, one, more) => `${numbered(number)} ${number === 1 ? one : more}`;
const ordinals = new Intl.PluralRules("en", { type: "ordinal" });
const ordinal = (number) =>
  numbered(number) + { one: "st", two: "nd", few: "rd", other: "th" }[ordinals.select(number)];
const percent = (p) => (p > 0 && p < 5e-4 ? "<\u00a00.1" : (100 * p).toFixed(1)) + "\u00a0%";
const scored = (score, by) => score.toFixed(by === "log" ? 2 : 3).replace("-", "−");

/** Write text, never markup, into a node's part of that class. */
function part(node, kind, text) {
  const found = node.querySelector(`.${kind}`);
  if (text !== undefined) found.textContent = text;
  return found;
}

/** Return the end of an axis from 0: the next 1, 2 or 5 of its power of ten, at most 1. */
function axisEnd(most) {
  const power = 10 ** Math.floor(Math.log10(Math.max(most, 1e-6)));
  return Math.min(1, power * [1, 2, 5, 10].find((step) => power * step >= most * 0.999));
}

async function call(path, body, signal) {
  const headers = { "content-type": "application/json" };
  const token = sessionStorage.getItem("token");
  if (token !== null) headers.authorization = `Bearer ${token}`;
  const posted = body === null ? {} : { method: "POST", body: JSON.stringify(body) };
  const answer = await fetch(path, { ...posted, headers, signal }).catch(() => null);
  if (answer === null) return { status: 0, error: "No answer from the service." };
  const found = await answer.json().catch(() => null);
  if (answer.ok && found) return { found };
  const other = `Expected JSON of the service, found something else (status ${answer.status}).`;
  return { status: answer.status, error: found?.error ?? other };
}

/** Return what asks; only its newest question counts: the one before is aborted, or ignored. */
function newest() {
  let last = new AbortController();
  return async (path, body, use) => {
    last.abort();
    const mine = new AbortController();
    last = mine;
    if (path === null) return;
    busy(1);
    const { found, status, error } = await call(path, body, mine.signal);
    busy(-1);
    if (mine !== last) return;
    if (found) use(found);
    else fail(path, status, error);
  };
}

const [askAbout, askAnswers, askVotes] = [newest(), newest(), newest()];

function busy(more) {
  running += more;
  $("columns").setAttribute("aria-busy", String(running > 0 || timer !== 0));
}

function fail(path, status, error) {
  if (path === "explain") leave();
  if (status === 401) return admit(sessionStorage.getItem("token") !== null);
  complain(error);
  // It may have another ensemble by now, with fewer worlds.
  if (status === 400) tell();
}

function complain(words) {
  $("words").textContent = words;
  $("problem").hidden = words === "";
  $("columns").hidden = words !== "";
}

function admit(wrong) {
  complain("");
  for (const id of ["search", "columns"]) $(id).hidden = true;
  $("entrance").hidden = false;
  $("wrong").hidden = !wrong;
  $("token").focus();
}

function tell() {
  askAbout("about", null, (found) => {
    const first = about === null;
    about = found;
    served(found.ensemble);
    const [classes, buckets] = [numbered(found.classes), numbered(found.buckets)];
    const some = plural(found.worlds, "world", "worlds");
    $("facts").textContent = `${classes} classes in ${some} of ${buckets} buckets`;
    $("asks").textContent = `Search ${classes} classes`;
    $("method").textContent = `${some}, trained apart. Each threw the ${classes} classes into`
      + ` ${buckets} buckets in its own way, and says how likely each bucket is to hold the answer.`;
    const row = Object.entries(found.columns)
      .map(([name, kind]) => `${JSON.stringify(name)}: ${EXAMPLES[kind]}`).join(", ");
    $("example").textContent = `{"rows": [{${row}}], "k": ${K}}`;
    $("closed").hidden = !found.needs_token;
    if (found.needs_token) {
      // A click would send none.
      for (const link of document.querySelectorAll("footer a")) link.removeAttribute("href");
    }
    $("rows").hidden = found.texts;
    if (first) {
      complain("");
      $("search").hidden = $("columns").hidden = !found.texts;
    }
    if (!found.texts) return;
    $("combiner").replaceChildren(...found.combiners.map((name) => new Option(name, name)));
    const fewer = worlds !== null && worlds > found.worlds;
    if (fewer) worlds = null;
    if (first) read();
    else controls();
    if (first && found.needs_token && sessionStorage.getItem("token") === null) admit(false);
    else if (first || fewer) ask();
    if (first && $("entrance").hidden) $("query").focus();
  });
}

/** Show which ensemble answered; another one than before has taken over. */
function served(digest) {
  const shown = $("ensemble").textContent;
  if (shown !== "" && shown !== digest) $("swapped").hidden = false;
  $("ensemble").textContent = digest;
  $("digest").textContent = digest;
  if (about.ensemble === digest) return;
  // One question for each change, whatever the answer: replicas do not all take over at once.
  about.ensemble = digest;
  tell();
}

function controls() {
  const asked = worlds ?? about.worlds;
  $("worlds").max = about.worlds;
  $("worlds").value = asked;
  $("asked").textContent = `${asked} of ${about.worlds}`;
  $("combiner").value = combiner ?? about.combiner;
}

/** Take from the address what was asked: addresses can be sent, and gone back to. */
function read() {
  const held = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (/^\d{1,15}$/.test(held.get(name)) ? Number(held.get(name)) : null);
  query = held.get("q") ?? "";
  worlds = number("worlds");
  if (worlds < 1 || worlds >= about.worlds) worlds = null;
  combiner = about.combiners.includes(held.get("combiner")) ? held.get("combiner") : null;
  opened = number("class");
  settled = true;
  $("query").value = query;
  controls();
}

function hold(entry) {
  const asked = Object.entries({ q: query || null, worlds, combiner, class: opened });
  const held = new URLSearchParams(asked.filter(([, value]) => value !== null));
  const hash = held.size ? `#${held}` : "";
  if (hash === location.hash) return;
  const url = location.pathname + location.search + hash;
  try {
    history[entry ? "pushState" : "replaceState"](null, "", url);
  } catch {
    // Some browsers refuse more than a hundred in half a minute; a later one tells it all.
  }
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(ask, PAUSE);
  busy(0);
}

function ask() {
  clearTimeout(timer);
  timer = 0;
  complain("");
  const by = combiner ?? about.combiner;
  if (query.trim() === "") {
    askAnswers(null);
    opened = null;
    list([], by, "Answers come as you type.");
  } else {
    const body = { texts: [query], k: Math.min(K, about.most_k), worlds, combiner };
    askAnswers("predict", body, (found) => {
      const [best] = found.answers;
      list(best, by, best.length ? `The ${best.length} best` : "No answers.");
      served(found.ensemble);
    });
  }
  if (opened === null) leave();
  else explain();
  busy(0);
}

function list(found, by, said) {
  const held = answers[active]?.id;
  const { level, score, drawn } = COMBINERS[by];
  answers = found;
  active = answers.findIndex((one) => one.id === held);
  const nodes = answers.map((one, at) => {
    const node = copy("answer");
    node.id = `answer-${at}`;
    part(node, "rank", at + 1);
    part(node, "name", titled(one)).title = titled(one);
    part(node, "score", scored(one.score, by)).title = `score: ${score}; ${P}`;
    const share = level(one.score) / Math.max(level(answers[0].score), 1e-30);
    part(node, "fill").style.width = `${100 * Math.max(0, share)}%`;
    node.addEventListener("click", () => {
      active = at;
      open(true);
    });
    return node;
  });
  const meaning = `Score: ${score}; ${P}. Bar: ${drawn}, beside the best answer’s.`;
  $("answers").replaceChildren(...nodes);
  $("query").setAttribute("aria-expanded", String(nodes.length > 0));
  $("count").textContent = said;
  $("meaning").textContent = nodes.length ? meaning : "";
  mark();
}

function mark() {
  [...$("answers").children].forEach((node, at) => {
    node.setAttribute("aria-selected", String(at === active));
    node.classList.toggle("opened", answers[at].id === opened);
  });
  $("query").setAttribute("aria-activedescendant", active < 0 ? "" : `answer-${active}`);
}

function show() {
  $("answers").children[active]?.scrollIntoView({ block: "nearest" });
}

/** Go to the next answer, or to the one before. */
function move(step) {
  if (!answers.length) return;
  active = (Math.max(active, step < 0 ? 0 : -1) + step + answers.length) % answers.length;
  // The picture goes with the arrow keys once it is there.
  if (opened === null) mark();
  else open(false);
  show();
}

function open(entry) {
  opened = answers[active].id;
  settled = true;
  hold(entry);
  mark();
  explain(entry);
}

function leave() {
  askVotes(null);
  opened = null;
  $("explanation").hidden = true;
  $("hint").hidden = false;
  mark();
}

function explain(look = false) {
  askVotes("explain", { text: query, class_id: opened, worlds, combiner }, (found) => {
    draw(found);
    served(found.ensemble);
    if (!look) return;
    if (touched()) $("query").blur();
    $("explanation").scrollIntoView({ block: "nearest" });
  });
}

/** Draw how each world voted on a class. */
function draw({ class: one, combiner: by, buckets, votes }) {
  const { level, score, drawn, short } = COMBINERS[by];
  const together = Math.max(0, level(one.score));
  const scale = axisEnd(Math.max(together, ...votes.map((vote) => vote.probability)));
  const within = (rank) => votes.filter((vote) => vote.rank <= rank).length;
  $("subject").textContent = titled(one);
  $("occasion").textContent = `for “${query.trim()}”`;
  const some = plural(votes.length, "world", "worlds");
  $("verdict").textContent = `Its bucket is first in ${within(1) || "none"} of ${some},`
    + ` among the first ten in ${within(NEAR) || "none"}.`;
  $("total").textContent = `Score ${scored(one.score, by)} (${short} ${percent(together)})`;
  $("most").textContent = `${Number((100 * scale).toPrecision(1))} %`;
  $("votes").replaceChildren(...votes.map((vote) => {
    const node = copy("vote");
    node.classList.add(vote.rank === 1 ? "first" : vote.rank > NEAR ? "far" : "near");
    part(node, "world", `world ${vote.world}`);
    part(node, "bucket", `bucket ${numbered(vote.bucket)}`);
    part(node, "fill").style.width = `${(100 * vote.probability) / scale}%`;
    part(node, "mark").style.left = `${(100 * together) / scale}%`;
    part(node, "probability", percent(vote.probability));
    part(node, "place", `${ordinal(vote.rank)} of ${numbered(buckets)}`);
    part(node, "sharing", `${plural(vote.sharing, "class", "classes")}:`);
    part(node, "own", titled(one));
    const others = vote.neighbours.slice(0, NAMED).map((other) => {
      const chip = copy("member");
      chip.textContent = chip.title = titled(other);
      return chip;
    });
    const more = vote.sharing - 1 - others.length;
    part(node, "members").append(...others, more > 0 ? `+ ${numbered(more)}` : "");
    return node;
  }));
  $("caption").textContent = `Combiner ${by}: the score is ${score}; ${P}. Bars: p, on one scale.`
    + ` Dashed line: ${drawn}.`;
  $("hint").hidden = true;
  $("explanation").hidden = false;
}

function shut() {
  leave();
  hold(true);
  if (touched()) show();
  else $("query").focus();
}

const on = (id, kind, act) => $(id).addEventListener(kind, act);
on("query", "input", () => {
  query = $("query").value;
  active = -1;
  mark();
  hold(settled);
  settled = false;
  soon();
});
on("query", "keydown", (event) => {
  // Those keys choose among signs then.
  if (event.isComposing) return;
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const chosen = event.key === "Enter" && active >= 0 && timer === 0;
  if (step === undefined && !chosen) return;
  event.preventDefault();
  if (chosen) open(true);
  else move(step);
});
on("search", "submit", (event) => {
  event.preventDefault();
  settled = true;
  ask();
  if (touched()) $("query").blur();
});
for (const id of ["worlds", "combiner"]) {
  on(id, "input", () => {
    worlds = $("worlds").value < about.worlds ? Number($("worlds").value) : null;
    combiner = $("combiner").value === about.combiner ? null : $("combiner").value;
    controls();
    hold(false);
    soon();
  });
}
// The box keeps the focus, hence the arrow keys, when an answer is clicked.
on("answers", "mousedown", (event) => event.preventDefault());
on("close", "click", shut);
on("again", "click", () => (about === null ? tell() : ask()));
on("entrance", "submit", (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  $("token").value = "";
  // No header can hold another.
  if (!/^[!-~]+$/.test(token)) return admit(true);
  sessionStorage.setItem("token", token);
  $("entrance").hidden = true;
  $("search").hidden = false;
  ask();
  $("query").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || opened === null) return;
  event.preventDefault();
  shut();
});
addEventListener("popstate", () => {
  if (!about?.texts) return;
  read();
  ask();
});

tell();
