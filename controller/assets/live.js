// Keeps a page true while it is open. One WebSocket to the public event stream says *that* something changed; the page is then
// fetched again and every element with data-live and an id takes over its new content. No state lives here: what is shown is
// always what the server rendered. Without this script the page still works, it just does not refresh itself.
const QUIET_MS = 3000; // refresh at least this often while visible: counters move without events
const SETTLE_MS = 700; // and at most this often: one refresh for a burst of events
const STALE_MS = 30000; // older than this and the page is greyed: never silently stale
const MAX_BACKOFF_MS = 10000;

const dot = document.getElementById("live");
let since = Number(document.body.dataset.seq || 0);
let backoff = 500;
let fresh = Date.now();
let pending = 0;
let busy = false;

function show(state, word) {
  if (!dot) return;
  dot.dataset.state = state;
  if (dot.textContent !== word) dot.textContent = word;
}

function swap(old, next) {
  if (old.innerHTML === next.innerHTML) return;
  // An open dialogue, a field being typed into or a selection is worth more than a fresh number.
  if (old.contains(document.activeElement) && document.activeElement.matches("input, select, textarea")) return;
  const open = new Set([...old.querySelectorAll("details[open][id]")].map((d) => d.id));
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const key = focused && (focused.id || focused.getAttribute("href"));
  const scrolled = [...old.querySelectorAll("[data-scroll]")].map((e) => e.scrollLeft);
  old.replaceChildren(...next.childNodes);
  for (const d of old.querySelectorAll("details[id]")) if (open.has(d.id)) d.open = true;
  old.querySelectorAll("[data-scroll]").forEach((e, i) => (e.scrollLeft = scrolled[i] || 0));
  if (key) {
    const again = [...old.querySelectorAll("a, button, summary, [id]")].find((e) => (e.id || e.getAttribute("href")) === key);
    if (again) again.focus({ preventScroll: true });
  }
}

async function refresh() {
  if (busy || document.hidden) return;
  busy = true;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
    if (answer.ok) {
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of document.querySelectorAll("[data-live][id]")) {
        const twin = next.getElementById(old.id);
        if (twin) swap(old, twin);
      }
      document.title = next.title;
      fresh = Date.now();
    }
  } catch {
    // The server is away; the dot says so and the next tick tries again.
  } finally {
    busy = false;
  }
}

function soon() {
  if (!pending) pending = setTimeout(() => ((pending = 0), refresh()), SETTLE_MS);
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/api/v1/stream?since=${since}`, "leeway.v1");
  socket.onopen = () => {
    backoff = 500;
    show("live", "Live");
    soon();
  };
  socket.onmessage = (message) => {
    const frame = JSON.parse(message.data);
    if (frame.seq) since = Math.max(since, frame.seq);
    if (frame.op === "gone") since = frame.oldest_seq;
    if (frame.op === "event" || frame.op === "gone" || frame.op === "lagged") soon();
  };
  socket.onclose = () => {
    show("wait", "Reconnecting");
    setTimeout(connect, backoff);
    backoff = Math.min(backoff * 2, MAX_BACKOFF_MS);
  };
}

setInterval(() => {
  const age = Date.now() - fresh;
  const stale = !document.hidden && age > STALE_MS;
  document.body.classList.toggle("stale", stale);
  if (stale) show("stale", `Stale ${Math.floor(age / 1000)} s`);
  else if (dot && dot.dataset.state === "stale") show("live", "Live");
  if (age > QUIET_MS) refresh();
}, 1000);

document.addEventListener("visibilitychange", () => document.hidden || refresh());
document.addEventListener("click", async (click) => {
  const button = click.target.closest("button[data-copy]");
  if (button) {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
    return;
  }
  // A click outside closes an open action form.
  for (const d of document.querySelectorAll("details.act[open]")) if (!d.contains(click.target)) d.open = false;
});
document.addEventListener("keydown", (key) => {
  if (key.key === "Escape") for (const d of document.querySelectorAll("details.act[open]")) d.open = false;
});

connect();
