// Keeps a page true while it is looked at: events from the server, times that run, a log that grows, a chart, keys.
// Every page is whole without it. Nothing here builds HTML from text: what the server says goes into text nodes.
"use strict";
(() => {
  const body = document.body;
  const state = document.querySelector(".live-state");
  const live = () => document.getElementById("live");
  const RETRY_MS = 5000;
  const LOG_MS = 1000;
  const LOG_CHARS = 400000;

  // --- events: the stream is open only while the page can be seen ---------------------------------------------
  let source = null;
  let retry = 0;
  let again = 0;
  let loggedOut = false;

  function show(name, words) {
    if (!state) return;
    state.dataset.state = name;
    state.querySelector("span").textContent = words;
    state.title = words;
  }

  function changed() {
    body.dispatchEvent(new CustomEvent("vp-changed"));
  }

  function open() {
    const address = body.dataset.events;
    if (!address || source || document.hidden || loggedOut) return;
    source = new EventSource(address);
    // What happened before the stream opened comes with no event: the page is asked for once, whatever it was.
    source.onopen = () => { show("live", "Live"); changed(); };
    source.onerror = () => {
      show("lost", "Not live, trying again");
      if (source && source.readyState === EventSource.CLOSED) {
        close();
        retry = setTimeout(open, RETRY_MS);
        changed(); // whose answer tells whether the session is over
      }
    };
    for (const type of body.dataset.eventTypes.split(" ")) {
      source.addEventListener(type, changed);
    }
  }

  function close() {
    clearTimeout(retry);
    if (source) source.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
      show("paused", "Paused");
    } else {
      open();
    }
  });
  // What cannot be had leaves the page as it is, instead of taking its place; it is asked for again.
  document.addEventListener("htmx:before:response", (event) => {
    const { status, raw } = event.detail.ctx.response;
    if (status === 200 && !raw.redirected) return;
    event.preventDefault();
    loggedOut ||= status === 401;
    failed();
  });
  document.addEventListener("htmx:error", failed);

  function failed() {
    clearTimeout(again);
    if (loggedOut) {
      close();
      show("lost", "Logged out: reload this page");
    } else {
      show("lost", "Not live, trying again");
      again = setTimeout(() => { if (!document.hidden) changed(); }, RETRY_MS);
    }
  }

  function succeeded() {
    clearTimeout(again);
    if (source?.readyState === EventSource.OPEN) show("live", "Live");
    refreshed();
  }

  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) open(); });

  // --- times that run ------------------------------------------------------------------------------------------
  function words(seconds) {
    if (seconds < 10) return `${Math.max(0, Math.floor(seconds))}s`;
    for (const [size, unit, below, small] of [[86400, "d", 3600, "h"], [3600, "h", 60, "m"], [60, "m", 1, "s"]]) {
      if (seconds >= size) {
        const rest = String(Math.floor((seconds % size) / below)).padStart(2, "0");
        return `${Math.floor(seconds / size)}${unit}${rest}${small}`;
      }
    }
    return `${Math.floor(seconds)}s`;
  }

  // The server's clock counts, not this machine's: the page says what time it was there when it was made.
  let ahead = 0;
  function setClock() {
    const made = live()?.dataset.now;
    if (made) ahead = Date.now() - Date.parse(made);
  }

  function tick() {
    if (document.hidden) return;
    for (const element of document.querySelectorAll("time[data-runs]")) {
      const seconds = (Date.now() - ahead - Date.parse(element.dateTime)) / 1000;
      element.textContent = words(Math.max(0, seconds)) + (element.dataset.runs === "ago" ? " ago" : "");
    }
  }

  function localTimes() {
    for (const element of document.querySelectorAll("time[data-local]:not([data-done])")) {
      const at = new Date(element.dateTime);
      if (!isNaN(at)) element.textContent = at.toLocaleString([], { dateStyle: "short", timeStyle: "medium" });
      element.title = element.dateTime;
      element.dataset.done = "";
    }
  }

  // --- the log --------------------------------------------------------------------------------------------------
  let reading = false;
  async function readLog() {
    const box = document.querySelector("[data-log]");
    if (!box || reading || document.hidden || box.dataset.over === "yes") return;
    reading = true;
    try {
      const mark = box.dataset.log.includes("?") ? "&" : "?";
      const answer = await fetch(`${box.dataset.log}${mark}offset=${box.dataset.offset}`, { credentials: "same-origin" });
      if (!answer.ok) return;
      const text = await answer.text();
      box.dataset.offset = answer.headers.get("X-Next-Offset") ?? box.dataset.offset;
      if (text) {
        const follow = document.querySelector("[data-follow]");
        box.append(document.createTextNode(text));
        if (box.textContent.length > LOG_CHARS) box.textContent = box.textContent.slice(-LOG_CHARS / 2);
        if (!follow || follow.checked) box.scrollTop = box.scrollHeight;
      } else if (!box.closest("[data-running]")) {
        box.dataset.over = "yes";
      }
    } catch { /* the stream's state says that the server is away */ } finally { reading = false; }
  }

  // --- the chart ------------------------------------------------------------------------------------------------
  let chart = null;
  function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

  function hour(seconds) {
    return new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  }

  function draw() {
    const box = document.querySelector("[data-series]");
    if (!box || !globalThis.uPlot) return;
    const series = JSON.parse(box.dataset.series);
    const some = (counts) => counts.map((count) => count || null); // a bar of no height is a line
    const data = [series.at, some(series.completed), some(series.failed), series.open];
    const place = box.querySelector(".chart");
    if (chart && chart.root.isConnected) { chart.setData(data); return; }
    place.textContent = "";
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
    const bars = globalThis.uPlot.paths.bars({ size: [0.7, 24] });
    chart = new globalThis.uPlot({
      width: place.clientWidth, height: 210, cursor: { y: false },
      scales: { y: { range: (_, low, high) => [0, Math.max(4, high)] }, open: { range: (_, low, high) => [0, Math.max(4, high)] } },
      axes: [{ ...axis, space: 70, values: (_, ticks) => ticks.map(hour) }, { ...axis, size: 40, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10000] },
             { ...axis, scale: "open", side: 1, size: 40, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10000, 50000] }],
      series: [{}, { label: "completed", paths: bars, fill: colour("--ok"), stroke: colour("--ok"), points: { show: false } },
               { label: "failed", paths: bars, fill: colour("--bad"), stroke: colour("--bad"), points: { show: false } },
               { label: "open", scale: "open", stroke: colour("--busy"), width: 2, points: { show: false } }],
    }, data, place);
  }

  addEventListener("resize", () => {
    const place = document.querySelector("[data-series] .chart");
    if (chart && place) chart.setSize({ width: place.clientWidth, height: 210 });
  });

  // --- theme, questions before what cannot be undone, keys --------------------------------------------------------
  document.querySelector("[data-theme-switch]")?.addEventListener("click", () => {
    const dark = document.documentElement.dataset.theme
      ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    document.cookie = `vp_theme=${dark ? "light" : "dark"}; path=/; max-age=31536000; samesite=strict`;
    drawAnew();
  });
  function drawAnew() {
    if (chart) { chart.destroy(); chart = null; draw(); }
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAnew);

  document.addEventListener("submit", (event) => {
    const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
    if (question && !confirm(question)) { event.preventDefault(); return; }
    // Pressed twice is sent once.
    if (event.target.method === "post") setTimeout(() => event.submitter?.setAttribute("disabled", ""));
  });

  const keys = document.getElementById("keys");
  let first = "";
  function go(name) {
    const link = document.querySelector(`[data-key="${name}"]`);
    if (link) link.click();
  }
  function step(by) {
    const rows = [...document.querySelectorAll("[data-row]")];
    if (!rows.length) return;
    const now = rows.findIndex((row) => "chosen" in row.dataset);
    const next = Math.min(rows.length - 1, Math.max(0, now + by));
    rows.forEach((row, index) => row.toggleAttribute("data-chosen", index === next));
    rows[next].scrollIntoView({ block: "nearest" });
    rows[next].querySelector("a")?.focus();
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, [contenteditable]")) return;
    const pressed = first + event.key;
    first = "";
    if (event.key === "g") first = "g ";
    else if (pressed === "?") keys?.showModal();
    else if (pressed === "j") step(1);
    else if (pressed === "k") step(-1);
    else if (pressed === "/") { const search = document.querySelector("[data-search]"); if (search) { event.preventDefault(); search.focus(); } }
    else if (["n", "g o", "g m", "g v", "g a"].includes(pressed)) go(pressed);
  });

  document.addEventListener("htmx:after:swap", succeeded);
  function refreshed() { setClock(); localTimes(); tick(); draw(); }

  refreshed();
  for (const box of document.querySelectorAll("[data-log]")) box.scrollTop = box.scrollHeight;
  setInterval(tick, 1000);
  setInterval(readLog, LOG_MS);
  if (state) state.hidden = false;
  open();
})();
