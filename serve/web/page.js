"use strict";
const SHOWN = 10, STATS_EVERY_MS = 3000;
const byId = id => document.getElementById(id);
const form = byId("form"), error = byId("error"), lives = byId("lives");

// Ids are 64-bit: they travel as text on this page, because a number of JavaScript would round them.
const parse = text => JSON.parse(text
  .replace(/("(?:author|live|user)_id":\s*)(-?\d+)/g, '$1"$2"')
  .replace(/("sample_\w+_ids":\s*\[)([^\]]*)/g, (_, key, ids) => key + ids.replace(/-?\d+/g, '"$&"')));

class Refused extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

const request = async (path, options = {}) => {
  const token = form.token.value.trim();
  const headers = {...(options.body && {"content-type": "application/json"}), ...(token && {authorization: "Bearer " + token})};
  let answer;
  try { answer = await fetch(path, {...options, headers}); } catch { throw new Refused(0, "Nobody answers. Is the endpoint up?"); }
  if (!answer.ok) throw new Refused(answer.status, explained(answer.status, await answer.text()));
  return answer;
};
const ask = async (path, options) => parse(await (await request(path, options)).text());

const explained = (status, text) => {
  if (status === 401) return "This endpoint asks for a token. Put it in below Token.";
  if (status === 403) return "This token may not do that.";
  let detail = text.slice(0, 500);
  try {
    detail = JSON.parse(text).detail ?? detail;
    if (Array.isArray(detail)) detail = detail.map(item => `${item.loc.slice(1).join(" ")}: ${item.msg}`).join("\n");
  } catch { /* not JSON: what came is shown as it is */ }
  return (status === 503 ? "The endpoint cannot answer now, try again: " : "") + detail;
};

const element = (tag, text, className) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
};
const words = name => name.replaceAll("_", " ");
const ago = seconds => {
  if (seconds === null || seconds === undefined) return "not known";
  for (const [size, unit] of [[86400, "day"], [3600, "h"], [60, "min"]])
    if (seconds >= 2 * size) return `${Math.round(seconds / size)} ${unit}${unit === "day" ? "s" : ""} ago`;
  return `${Math.round(seconds)} s ago`;
};

const tell = caught => {
  error.textContent = caught instanceof Refused ? caught.message : String(caught);
  error.hidden = false;
  byId("result").hidden = true;
  lives.replaceChildren();
  if (caught.status === 401) { byId("access").open = true; form.token.focus(); }
};

const fact = (name, value, className) => {
  const box = element("div", undefined, className);
  box.append(element("dt", name), element("dd", value));
  return box;
};
let bank = null, stats = null;
const showFacts = () => {
  const facts = byId("facts");
  facts.replaceChildren();
  if (bank) {
    facts.append(fact("Bank", bank.bank_version + (bank.bank_delta ? `, delta ${bank.bank_delta}` : "")));
    facts.append(fact("Bank published", ago(bank.age_s)));
    if (bank.bank_until_age_s !== null) facts.append(fact("Bank knows until", ago(bank.bank_until_age_s)));
    facts.append(fact("Model", bank.model_version));
    facts.append(fact("Authors", `${bank.rows - 1}, ${bank.authors_with_anchor} with an anchor`));
  }
  if (stats) {
    const {seconds, requests_per_s: rate, p99_ms: p99} = stats.minute;
    facts.append(fact(`Last ${Math.round(seconds)} s, this replica`, `${rate} requests/s` + (p99 === null ? "" : `, p99 ${p99} ms`)));
    facts.append(fact("Online store", stats.store_age_s === null ? "no events yet, or none used" : `newest event ${ago(stats.store_age_s)}`));
  }
  if (bank?.last_failure) facts.append(fact("Not in use", bank.last_failure, "bad"));
};

const refresh = async () => {
  if (document.hidden) return;
  try { [bank, stats] = await Promise.all([ask("bank"), ask("stats")]); showFacts(); }
  catch (caught) { if (bank) { bank = {...bank, last_failure: caught.message}; showFacts(); } else tell(caught); }
};

let users = [], turn = 0;
const begin = async () => {
  await refresh();
  if (!bank) return;
  error.hidden = true;
  users = bank.sample_user_ids;
  showPast();
  byId("users").replaceChildren(...users.map(id => Object.assign(element("option"), {value: id})));
  form.user.value ||= users[0] ?? "1";
  form.candidates.value ||= bank.sample_author_ids.join(" ");
};

const user = () => (form.user.value.match(/-?\d+/) || ["0"])[0];
const DAY_MS = 86400000;
// The published clicks may be of a simulated platform, or of last month: then the page asks as of their end.
const showPast = () => {
  const days = Object.keys(bank.made_from).map(key => key.match(/^impressions\/(\d{4}-\d\d-\d\d)$/)?.[1]).filter(Boolean).sort();
  const day = days.at(-1);
  byId("past").hidden = !day || Date.now() - Date.parse(day) < 3 * DAY_MS;
  byId("day").textContent = day ?? "";
};
const moment = () => byId("past").hidden || !form.past.checked || form.from.value === "air" ? ""
  : `,"context":{"ts_ms":${Date.parse(byId("day").textContent) + DAY_MS}}`;
const body = () => {
  if (form.from.value === "air") return `{"user_id":${user()}}`;
  return `{"user_id":${user()}${moment()},"candidates":[${form.candidates.value.match(/-?\d+/g) || []}]}`;
};

const showLive = (item, place, best) => {
  const live = byId("live").content.cloneNode(true).firstElementChild;
  live.querySelector(".place").textContent = `${place}.`;
  live.querySelector(".author").textContent = `Author ${item.author_id}`;
  const own = (ranking.lives?.lives ?? []).filter(each => each.author_id === item.author_id);
  const ended = own.length > 0 && own.every(each => !each.on_air);
  const flags = [!item.known && "not in the bank: scored as any new author", ...own.map(each => "live " + each.live_id),
    ended && "has ended"];
  live.querySelector(".flags").textContent = flags.filter(Boolean).join(", ");
  live.classList.toggle("ended", ended);
  const scores = live.querySelector(".scores");
  for (const [name, value] of Object.entries(item)) {
    if (typeof value !== "number") continue;
    const number = element("dd", value.toFixed(4));
    number.style.setProperty("--share", name === "score" ? value / best : Math.min(1, value));
    const box = element("div");
    box.append(element("dt", words(name)), number);
    scores.append(box);
  }
  live.querySelector(".alike").addEventListener("click", event => showAlike(event.target, item.author_id));
  lives.append(live);
  showCard(live, item.author_id);
  return live;
};

const quietly = async asked => {
  try { return await asked; } catch (caught) { if (caught.status !== 404) throw caught; return null; }
};

const showCard = async (live, author) => {
  const card = await quietly(ask(`authors/${author}/card`)).catch(tell);
  const anchor = live.querySelector(".anchor");
  if (!card) { anchor.append(element("dd", "No card is published of this author.")); return; }
  const most = Math.max(...card.fields.flatMap(([, list]) => list.map(word => word.importance ?? 0)), 1e-9);
  for (const [field, list] of card.fields) {
    const text = element("dd");
    for (const {word, importance} of list) {
      const span = element("span", word, "word");
      span.style.setProperty("--read", (importance ?? 0) / most);
      if (importance !== null) span.title = `${(100 * importance).toFixed(1)} % of what is read`;
      text.append(span, " ");
    }
    anchor.append(element("dt", words(field)), text);
  }
  anchor.append(element("dt", "written"), element("dd", card.day));
  for (let number = 0; number < card.frames; number++) {
    const picture = await request(`authors/${author}/frames/${number}`).catch(() => null);
    if (!picture) continue;
    const image = Object.assign(element("img"), {alt: `Frame ${number + 1} of author ${author}`});
    image.src = URL.createObjectURL(await picture.blob());
    image.addEventListener("load", () => URL.revokeObjectURL(image.src), {once: true});
    live.querySelector(".frames").append(image);
  }
};

const showAlike = async (button, author) => {
  const list = button.nextElementSibling, opens = button.getAttribute("aria-expanded") === "false";
  button.setAttribute("aria-expanded", String(opens));
  list.hidden = !opens;
  if (!opens || list.childElementCount) return;
  try {
    const {similar} = await ask(`authors/${author}/similar?k=5`);
    list.replaceChildren(...similar.map(other => element("li", `author ${other.author_id}, cosine ${other.cosine.toFixed(2)}`)));
  } catch (caught) { list.replaceChildren(element("li", caught.message)); }
};

const showWhy = async shown => {
  const asked = `{"user_id":${user()}${moment()},"candidates":[${[...shown.keys()]}]}`;
  const answer = await quietly(ask("explain", {method: "POST", body: asked}));
  for (const {author_id: author, nearest} of answer?.reasons ?? []) {
    const why = nearest.map(near => `author ${near.author_id} (${near.cosine.toFixed(2)})`).join(", ");
    shown.get(author).querySelector(".why").textContent = why ? `Nearest in this user's history: ${why}` : "";
  }
};

const sources = {store: "from the online store", published: "published", request: "of the request", none: ""};
let ranking = null, upTo = 0;
const showMore = async () => {
  const part = ranking.candidates.slice(upTo, upTo + SHOWN), best = ranking.candidates[0]?.score || 1;
  const shown = new Map(part.map((item, at) => [item.author_id, showLive(item, upTo + at + 1, best)]));
  upTo += part.length;
  byId("more").hidden = upTo >= ranking.candidates.length;
  await showWhy(shown);
};

form.addEventListener("submit", async event => {
  event.preventDefault();
  const button = form.querySelector(".main");
  button.disabled = true;
  error.hidden = true;
  try {
    sessionStorage.setItem("token", form.token.value);
    ranking = await ask("rank", {method: "POST", body: body()});
    lives.replaceChildren();
    upTo = 0;
    byId("result").hidden = false;
    byId("note").textContent = `${ranking.user_known ? "Known" : "Unknown"} user, ${ranking.history_used} history items` +
      (ranking.history_used ? ` (${sources[ranking.history_source]})` : "") +
      (ranking.store_age_s === null ? "" : `, last event ${ago(ranking.store_age_s)}`) +
      `, ${ranking.candidates.length} candidates` + (ranking.degraded ? ". Degraded: something could not be had in time" : "");
    await showMore();
    await refresh();
  } catch (caught) { tell(caught); } finally { button.disabled = false; }
});
byId("more").addEventListener("click", () => showMore().catch(tell));
byId("another").addEventListener("click", () => {
  turn = (turn + 1) % Math.max(users.length, 1);
  form.user.value = users[turn] ?? form.user.value;
  form.requestSubmit();
});
form.candidates.addEventListener("focus", () => { byId("ids").checked = true; });
form.token.addEventListener("change", begin);
form.token.value = sessionStorage.getItem("token") ?? "";
begin().catch(tell);
setInterval(refresh, STATS_EVERY_MS);
