
"use strict";
(() => {
  // Where the page is mounted, with and without a slash at the end.
  const base = location.pathname.replace(/\/*$/, "/");
  const MINUTE = 60 * 1000;
  const RECENT = MINUTE;
  const SVG = "http://www.w3.org/2000/svg";
  const $ = (id) => document.getElementById(id);

  const STATES = {
    closed: "Closed",
    open: "Open",
    half_open: "Half-open",
    forced_open: "Forced open",
    disabled: "Disabled",
    metrics_only: "Metrics only",
  };
  // How high a state stands in a timeline, so that it is told by more than its colour.
  const HEIGHTS = { closed: 6, half_open: 16, open: 28, forced_open: 28, disabled: 3, metrics_only: 3 };
  const SEVERITY = { open: 0, forced_open: 1, half_open: 2, disabled: 3, metrics_only: 3, closed: 5 };
  const REASONS = {
    consecutive_failures: "failures in a row",
    failure_rate: "too many calls failed",
    slow_call_rate: "too many calls were slow",
    rate_limited: "the service asked to wait",
    open_time_over: "its open time was over",
    probes_succeeded: "its probes succeeded",
    probe_failed: "a probe failed",
    lease_over: "its probes did not end in time",
    manual: "by hand",
  };
  const FATES = {
    reached_caller: ["hit", "i-open", "Reached the caller"],
    retried: ["saved", "i-closed", "Made good by a retry"],
    fell_back: ["saved", "i-closed", "Made good by a fallback"],
    went_without: ["other", "i-half_open", "The swarm went on without it"],
    absorbed: ["other", "i-half_open", "Taken for no failure further out"],
    abandoned: ["other", "i-disabled", "The caller did not wait"],
    unknown: ["other", "i-disabled", "What became of it is not known"],
  };
  const PLACES = {
    circuit_breaker_call: "circuit breaker",
    timeout_protected_call: "timeout",
    retry_attempt: "attempt",
    retry_execution: "retry",
    fallback_chain: "fallback chain",
    fallback_attempt: "fallback attempt",
    fault_tolerant_agent_invoke: "agent",
    swarm_agent: "swarm agent",
    swarm_with_degradation: "swarm",
    llm_call: "language model",
  };
  const LEVELS = ["full", "degraded", "minimal"];

  const all = { circuits: new Map(), timelines: new Map(), rows: new Map(), failures: new Map() };
  const shown = { circuits: new Map(), rows: new Map(), failures: new Map() };
  let meta = { started: 0, more: 0, under_way: 0 };
  let offset = 0;
  let heard = 0;
  let lostAt = 0;
  let token = null;

  // ---- small things

  // The time of the service. It stands still while nothing is heard: nobody knows what goes on.
  const now = () => (lostAt ? heard : Date.now()) + offset;
  const words = (text) => String(text).replaceAll("_", " ");
  const count = (n) => Number(n).toLocaleString("en");
  const times = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
  const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
  const clock = (at) => new Date(at).toLocaleTimeString("en", { hour12: false });

  function span(millis) {
    const s = Math.max(0, Math.round(millis / 1000));
    if (s < 60) return `${s} s`;
    const m = Math.floor(s / 60);
    if (m < 60) return `${m} min ${s % 60} s`;
    const h = Math.floor(m / 60);
    return h < 48 ? `${h} h ${m % 60} min` : `${Math.floor(h / 24)} d ${h % 24} h`;
  }

  // How far back timelines go, in minutes: 15, and less where less is known.
  const reach = () => (now() - meta.started < 5 * MINUTE ? 5 : 15);

  const ago = (at) => (now() - at < 1500 ? "just now" : `${span(now() - at)} ago`);

  function make(name, className, text) {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function draw(name, attributes) {
    const element = document.createElementNS(SVG, name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    return element;
  }

  function icon(id) {
    const svg = draw("svg", { class: "icon", "aria-hidden": "true", focusable: "false" });
    svg.append(draw("use", { href: `#${id}` }));
    return svg;
  }

  // What is as it should be is not touched: readers of the screen would hear it again.
  function put(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function dress(element, className) {
    if (element.getAttribute("class") !== className) element.setAttribute("class", className);
  }

  function hide(element, hidden) {
    if (element.hidden !== hidden) element.hidden = hidden;
  }

  // Keeps one link in a place and changes it where it stands, since it may have the focus.
  function putLink(place, trace, what) {
    const name = trace ? (trace.url ? "A" : "SPAN") : undefined;
    if (place.firstChild?.nodeName !== name) {
      place.replaceChildren();
      if (!name) return;
      const element = make(name, "trace");
      element.append("Trace ", make("code"));
      if (trace.url) {
        element.target = "_blank";
        element.rel = "noopener noreferrer";
        element.append(icon("i-out"));
      }
      place.append(element);
    }
    const element = place.firstChild;
    if (!element || element.dataset.trace === trace.id) return;
    element.dataset.trace = trace.id;
    const short = trace.id.slice(0, 8);
    put(element.querySelector("code"), trace.url ? `${short}\u2026` : trace.id);
    if (trace.url) {
      element.href = trace.url;
      element.setAttribute("aria-label", `Trace ${short} of ${what}, in a new tab`);
    }
  }

  // Brings elements into an order without taking the focus from one that moves.
  function arrange(list, elements) {
    const focused = document.activeElement;
    elements.forEach((element, place) => {
      if (list.children[place] !== element) list.insertBefore(element, list.children[place] || null);
    });
    while (list.children.length > elements.length) list.lastChild.remove();
    if (focused && focused !== document.activeElement && list.contains(focused)) {
      focused.focus({ preventScroll: true });
    }
  }

  // ---- what a circuit says

  function doing(circuit) {
    switch (circuit.state) {
      case "open": {
        if (circuit.until === undefined) return "rejects every call";
        const left = circuit.until - now();
        return left > 0 ? `rejects calls, probes in ${span(left + 500)}` : "about to probe";
      }
      case "half_open":
        return circuit.successes
          ? `lets probes through, ${times(circuit.successes, "success", "successes")} so far`
          : "lets probes through";
      case "forced_open":
        return "rejects every call until it is reset";
      case "disabled":
        return "lets every call through and counts none";
      case "metrics_only":
        return "lets every call through and only counts";
      default:
        return circuit.consecutive_failures
          ? `${times(circuit.consecutive_failures, "failure")} in a row so far`
          : "lets calls through";
    }
  }

  function reasonOf(change) {
    return REASONS[change.reason] || words(change.reason);
  }

  // The changes since it was last closed: the first of them says since when and why it is not well.
  function trouble(id) {
    const changes = all.timelines.get(id)?.changes || [];
    let first = changes.length;
    while (first > 0 && changes[first - 1].to !== "closed") first -= 1;
    return changes.slice(first);
  }

  const traceOf = (changes) => changes.find((change) => change.trace)?.trace;

  // ---- cards of circuits

  function newCard(id) {
    const card = make("li", "card");
    card.id = `circuit-${id}`;
    const top = make("div", "top");
    const name = make("h3");
    name.tabIndex = -1;
    const state = make("p", "state");
    const sign = icon("i-closed");
    const word = make("span");
    state.append(sign, word);
    top.append(name, state);
    const what = make("p", "detail");
    const why = make("p", "detail");
    const whyText = make("span");
    const whyLink = make("span");
    why.append(whyText, whyLink);
    const figure = make("figure", "timeline");
    const svg = draw("svg", { viewBox: "0 0 900 28", preserveAspectRatio: "none", role: "img" });
    figure.append(svg);
    const numbers = make("dl", "numbers");
    const number = (label) => {
      const pair = make("div");
      const value = make("dd");
      pair.append(make("dt", "", label), value);
      numbers.append(pair);
      return value;
    };
    const row = number("failures in a row");
    const failed = number("failed");
    const of = failed.previousSibling;
    const slow = number("slow");
    const rejected = number("rejected");
    const rest = make("p", "detail");
    const actions = make("div", "actions");
    if ($("control")) {
      for (const [action, label] of [["force-open", "Force open"], ["reset", "Reset"], ["disable", "Disable"]]) {
        const button = make("button", "", label);
        button.type = "button";
        button.dataset.action = action;
        button.addEventListener("click", () => ask(id, action));
        actions.append(button);
      }
    }
    card.append(top, what, why, figure, numbers, rest, actions);
    return { card, name, state, sign, word, what, why, whyText, whyLink, svg, row, failed, of, slow, rejected, rest, actions };
  }

  function paintCard(id, circuit, entry) {
    dress(entry.card, `card is-${circuit.state}`);
    put(entry.name, circuit.name);
    dress(entry.state, `state ${circuit.state}`);
    entry.sign.firstChild.setAttribute("href", `#i-${circuit.state}`);
    put(entry.word, STATES[circuit.state] || words(circuit.state));
    const isCalm = circuit.state === "closed";
    const text = doing(circuit);
    put(entry.what, text[0].toUpperCase() + text.slice(1));
    hide(entry.what, isCalm);
    const changes = trouble(id);
    const last = all.timelines.get(id)?.changes.at(-1);
    const [first] = changes;
    const texts = [];
    if (!last) texts.push(`No change since ${clock(meta.started)}.`);
    else if (!first) texts.push(`Closed for ${span(now() - last.at)}, since ${clock(last.at)}: ${reasonOf(last)}.`);
    else {
      texts.push(`Not closed for ${span(now() - first.at)}, since ${clock(first.at)}: ${reasonOf(first)}.`);
      if (changes.length > 1) texts.push(`Last change ${ago(last.at)}: ${reasonOf(last)}.`);
    }
    put(entry.whyText, `${texts.join(" ")} `);
    putLink(entry.whyLink, traceOf(changes), circuit.name);
    put(entry.row, count(circuit.consecutive_failures));
    put(entry.failed, percent(circuit.failure_rate));
    put(entry.of, `of ${times(circuit.calls, "call")} failed`);
    put(entry.slow, percent(circuit.slow_rate));
    put(entry.rejected, count(circuit.not_permitted));
    // A circuit without a rate has no window.
    hide(entry.failed.parentNode, !circuit.calls);
    hide(entry.slow.parentNode, !circuit.slow_rate);
    const rest = [
      circuit.late && times(circuit.late, "late answer"),
      circuit.cancelled && times(circuit.cancelled, "cancelled call"),
      circuit.ignored && `${times(circuit.ignored, "failure")} not counted`,
    ].filter(Boolean);
    put(entry.rest, rest.length ? `Also ${rest.join(", ")}.` : "");
    hide(entry.rest, !rest.length);
    hide(entry.actions, token === null);
    for (const button of entry.actions.children) {
      const label = `${button.textContent} ${circuit.name}`;
      if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
    }
  }

  function periods(id, circuit, from, to) {
    const changes = all.timelines.get(id)?.changes || [];
    const marks = changes.map((change) => [change.at, change.to]);
    marks.unshift([meta.started, changes.length ? changes[0].from : circuit.state]);
    return marks
      .map(([at, state], i) => ({ state, from: Math.max(at, from), to: Math.min(i + 1 < marks.length ? marks[i + 1][0] : to, to) }))
      .filter((period) => period.to > period.from);
  }

  function paintTimeline(id, circuit, entry) {
    const to = now();
    const from = to - reach() * MINUTE;
    const scale = 900 / (to - from);
    const parts = [];
    let openTime = 0;
    let openings = 0;
    for (const period of periods(id, circuit, from, to)) {
      const height = HEIGHTS[period.state] || 6;
      const width = Math.max((period.to - period.from) * scale, 8);
      parts.push(draw("rect", {
        class: `seg-${period.state}`,
        x: Math.min((period.from - from) * scale, 900 - width).toFixed(1),
        width: width.toFixed(1),
        y: 28 - height,
        height,
      }));
      if (period.state === "open" || period.state === "forced_open") {
        openTime += period.to - period.from;
        openings += 1;
      }
    }
    for (const x of [300, 600]) parts.push(draw("line", { class: "grid-line", x1: x, x2: x, y1: 0, y2: 28 }));
    entry.svg.replaceChildren(...parts);
    const label = openings
      ? `The last ${reach()} minutes: open ${openings === 1 ? "once" : `${openings} times`}, for ${span(openTime)} in all.`
      : `The last ${reach()} minutes: never open.`;
    if (entry.svg.getAttribute("aria-label") !== label) entry.svg.setAttribute("aria-label", label);
  }

  function paintCircuits(redraw) {
    for (const [id, entry] of shown.circuits) {
      if (!all.circuits.has(id)) {
        entry.card.remove();
        shown.circuits.delete(id);
      }
    }
    const sorted = [...all.circuits].sort(([, a], [, b]) =>
      SEVERITY[a.state] - SEVERITY[b.state] || a.name.localeCompare(b.name));
    const cards = sorted.map(([id, circuit]) => {
      const isNew = !shown.circuits.has(id);
      if (isNew) shown.circuits.set(id, newCard(id));
      const entry = shown.circuits.get(id);
      paintCard(id, circuit, entry);
      if (isNew || redraw) paintTimeline(id, circuit, entry);
      return entry.card;
    });
    arrange($("circuit-list"), cards);
    hide($("circuits-none"), cards.length > 0);
    const more = meta.more ? `${count(meta.more)} more are closed or fail less. ` : "";
    put($("circuits-note"), cards.length ? `${more}Timelines: the last ${reach()} minutes, up to now.` : "");
  }

  // ---- failures

  function newFailure() {
    const item = make("li", "failure");
    const top = make("div", "top");
    const kind = make("span", "kind");
    const times = make("span", "count");
    const where = make("span", "where");
    const fate = make("span", "fate");
    const sign = icon("i-open");
    const fateWord = make("span");
    fate.append(sign, fateWord);
    top.append(kind, times, where, fate);
    const error = make("p", "error");
    const detail = make("p", "detail");
    const when = make("span");
    const trace = make("span");
    detail.append(when, trace);
    item.append(top, error, detail);
    return { item, kind, times, where, fate, sign, fateWord, error, when, trace };
  }

  function paintFailure(failure, entry) {
    const [className, sign, text] = FATES[failure.fate] || ["other", "i-disabled", words(failure.fate)];
    put(entry.kind, words(failure.kind)[0].toUpperCase() + words(failure.kind).slice(1));
    put(entry.times, failure.count > 1 ? `\u00d7 ${count(failure.count)}` : "");
    hide(entry.times, failure.count === 1);
    const where = [failure.agent, failure.circuit && failure.circuit !== failure.agent ? `circuit ${failure.circuit}` : "",
      PLACES[failure.place] || words(failure.place)];
    put(entry.where, where.filter(Boolean).join(" \u00b7 "));
    dress(entry.fate, `fate ${className}`);
    entry.sign.firstChild.setAttribute("href", `#${sign}`);
    put(entry.fateWord, text);
    put(entry.error, failure.error || "");
    hide(entry.error, !failure.error);
    const first = failure.count > 1 ? `, the first at ${clock(failure.first)}` : "";
    put(entry.when, `${clock(failure.last)}, ${ago(failure.last)}${first}`);
    putLink(entry.trace, failure.trace, words(failure.kind));
  }

  function paintFailures() {
    // What reached callers comes first, then what is new; what goes on stays in its place.
    const rank = (failure) => (failure.fate === "reached_caller" ? 0 : 1);
    const sorted = [...all.failures].sort(([a, one], [b, other]) =>
      rank(one) - rank(other) || other.first - one.first || b - a);
    for (const id of shown.failures.keys()) if (!all.failures.has(id)) shown.failures.delete(id);
    const items = sorted.map(([id, failure]) => {
      if (!shown.failures.has(id)) shown.failures.set(id, newFailure());
      const entry = shown.failures.get(id);
      paintFailure(failure, entry);
      return entry.item;
    });
    arrange($("failure-list"), items);
    hide($("failures-none"), items.length > 0);
    put($("failures-note"), items.length ? "alike ones in one line, those that reached callers first" : "");
  }

  // ---- what was made good

  const KINDS = [["retry", "Retries"], ["fallback", "Fallbacks"], ["swarm", "Swarms"]];

  function newRow() {
    const item = make("li", "row");
    const top = make("div", "top");
    const name = make("h4");
    const sum = make("p");
    top.append(name, sum);
    const bars = draw("svg", { class: "bars", viewBox: "0 0 150 24", preserveAspectRatio: "none", role: "img" });
    const last = make("p", "detail");
    const total = make("p", "detail");
    item.append(top, bars, last, total);
    return { item, name, sum, bars, last, total };
  }

  // The minutes as they are now, the newest last.
  function recent(row) {
    const passed = Math.min(Math.max(Math.floor(now() / MINUTE) - row.minute, 0), 15);
    return [...row.minutes.slice(passed), ...Array.from({ length: passed }, () => ({ fine: 0, rescued: 0, failed: 0 }))];
  }

  function sumOf(row) {
    const sum = { fine: 0, rescued: 0, failed: 0 };
    for (const minute of recent(row)) for (const key in sum) sum[key] += minute[key];
    return sum;
  }

  const RESCUED = {
    retry: "made good by a retry",
    fallback: "answered by a fallback",
    swarm: "degraded",
  };

  function tellRow(row, { fine, rescued, failed }) {
    const calls = fine + rescued + failed;
    if (!calls) return "no calls";
    const parts = [rescued && `${count(rescued)} ${RESCUED[row.kind]}`, failed && `${count(failed)} failed`].filter(Boolean);
    return parts.length ? `${parts.join(", ")} of ${count(calls)}` : `all ${count(calls)} well at once`;
  }

  function tellLast(row) {
    const last = row.last;
    if (!last) return "";
    const when = `${clock(last.at)}, ${ago(last.at)}`;
    if (row.kind === "swarm") {
      const level = last.is_rescued ? LEVELS[last.level] || `level ${last.level}` : "failed, too many required agents are missing";
      const rate = last.success_rate === undefined ? "" : `, ${percent(last.success_rate)} answered`;
      const without = last.failed_agents?.length ? `, without ${last.failed_agents.join(", ")}` : "";
      return `Last ${level}${rate}${without}: ${when}`;
    }
    if (row.kind === "fallback") {
      return last.is_rescued ? `Last answered by fallback ${last.level}: ${when}` : `Last failed with every agent: ${when}`;
    }
    return last.is_rescued
      ? `Last made good on attempt ${last.attempts}: ${when}`
      : `Last given up after ${times(last.attempts ?? 0, "attempt")}${last.stop && last.stop !== "attempts" ? ` (${words(last.stop)})` : ""}: ${when}`;
  }

  function tellTotal(row) {
    const { fine, rescued, failed } = row.totals;
    const calls = fine + rescued + failed;
    const attempts = row.kind === "retry" && calls ? `, ${(row.attempts / calls).toFixed(2)} attempts a call` : "";
    return `Since ${clock(meta.started)}: ${times(calls, "call")}, ${count(rescued)} ${RESCUED[row.kind]}, ${count(failed)} failed${attempts}`;
  }

  function paintRow(row, entry) {
    put(entry.name, row.name);
    const sum = sumOf(row);
    const text = tellRow(row, sum);
    put(entry.sum, text);
    put(entry.last, tellLast(row));
    hide(entry.last, !row.last);
    put(entry.total, tellTotal(row));
    // Before that it says what stands above.
    hide(entry.total, now() - meta.started < 15 * MINUTE);
    const minutes = recent(row);
    const most = Math.max(1, ...minutes.map((minute) => minute.fine + minute.rescued + minute.failed));
    const key = JSON.stringify(minutes);
    if (entry.key !== key) {
      entry.key = key;
      const parts = [];
      minutes.forEach((minute, place) => {
        let y = 23;
        for (const part of ["failed", "rescued", "fine"]) {
          if (!minute[part]) continue;
          const height = Math.max((minute[part] / most) * 22, part === "fine" ? 0.8 : 2.5);
          y -= height;
          parts.push(draw("rect", { class: `bar-${part}`, x: place * 10 + 1, width: 8, y: Math.max(y, 0).toFixed(2), height: height.toFixed(2) }));
        }
      });
      parts.push(draw("line", { class: "base-line", x1: 0, x2: 150, y1: 23.5, y2: 23.5 }));
      entry.bars.replaceChildren(...parts);
    }
    const label = `Each of the last 15 minutes: ${text}.`;
    if (entry.bars.getAttribute("aria-label") !== label) entry.bars.setAttribute("aria-label", label);
  }

  function paintRows() {
    for (const id of shown.rows.keys()) if (!all.rows.has(id)) shown.rows.delete(id);
    const groups = [];
    for (const [kind, title] of KINDS) {
      const rows = [...all.rows].filter(([, row]) => row.kind === kind).sort(([, a], [, b]) => a.name.localeCompare(b.name));
      if (!rows.length) continue;
      let group = $(`rows-${kind}`);
      if (!group) {
        group = make("div", "group");
        group.id = `rows-${kind}`;
        group.append(make("h3", "", title), make("ul", "rows"));
      }
      arrange(group.lastChild, rows.map(([id, row]) => {
        if (!shown.rows.has(id)) shown.rows.set(id, newRow());
        const entry = shown.rows.get(id);
        paintRow(row, entry);
        return entry.item;
      }));
      groups.push(group);
    }
    arrange($("row-list"), groups);
    hide($("rows-none"), groups.length > 0);
  }

  // ---- the verdict

  const MOST_TROUBLES = 8;
  const troubleLines = new Map();

  // The failures that reached callers within the last minute, by who failed, the newest first.
  function reaching() {
    const names = new Map();
    const recent = [...all.failures.values()].filter((failure) =>
      failure.fate === "reached_caller" && now() - failure.last < RECENT);
    for (const failure of recent.sort((a, b) => b.last - a.last)) {
      const name = failure.agent || failure.circuit || PLACES[failure.place] || words(failure.place);
      if (!names.has(name)) names.set(name, []);
      names.get(name).push(failure);
    }
    return names;
  }

  function troubles() {
    const list = [];
    for (const [id, circuit] of all.circuits) {
      if (circuit.state === "closed") continue;
      const changes = trouble(id);
      list.push({
        key: `circuit ${id}`,
        rank: SEVERITY[circuit.state],
        sign: `i-${circuit.state}`,
        tone: circuit.state,
        name: circuit.name,
        to: id,
        text: `${STATES[circuit.state].toLowerCase()}, ${doing(circuit)}${changes.length ? `; not closed for ${span(now() - changes[0].at)}` : ""}`,
        trace: traceOf(changes),
      });
    }
    for (const [name, failures] of reaching()) {
      const kinds = [...new Set(failures.map((failure) => words(failure.kind)))].join(", ");
      const sum = failures.reduce((sum, failure) => sum + failure.count, 0);
      const first = Math.min(...failures.map((failure) => failure.first));
      list.push({
        key: `failure ${name}`,
        rank: 1.5,
        sign: "i-warn",
        tone: "open",
        name,
        text: `callers get failures: ${kinds} (${count(sum)} since ${clock(first)})`,
        trace: failures[0].trace,
      });
    }
    for (const [id, row] of all.rows) {
      if (row.kind !== "swarm" || !row.last || now() - row.last.at > RECENT) continue;
      list.push({
        key: `row ${id}`,
        rank: row.last.is_rescued ? 4 : 1.6,
        sign: "i-half_open",
        tone: "half_open",
        name: row.name,
        text: row.last.is_rescued
          ? `${LEVELS[row.last.level] || "degraded"}, ${percent(row.last.success_rate || 0)} of its agents answered`
          : "fails, too many required agents are missing",
      });
    }
    return list.sort((a, b) => a.rank - b.rank || a.name.localeCompare(b.name));
  }

  function newTrouble(trouble) {
    const line = make("li");
    const sign = icon(trouble.sign);
    const name = make(trouble.to === undefined ? "span" : "a", "name");
    if (trouble.to !== undefined) {
      name.href = `#circuit-${trouble.to}`;
      name.addEventListener("click", (event) => {
        event.preventDefault();
        const entry = shown.circuits.get(trouble.to);
        entry?.card.scrollIntoView({ block: "nearest" });
        entry?.name.focus({ preventScroll: true });
      });
    }
    const text = make("span");
    const trace = make("span");
    const content = make("p");
    content.append(name, " ", text, " ", trace);
    line.append(sign, content);
    return { line, sign, name, text, trace };
  }

  function paintVerdict() {
    const circuits = [...all.circuits.values()];
    const list = troubles();
    const inState = (...states) => circuits.filter((circuit) => states.includes(circuit.state)).length;
    const open = inState("open", "forced_open");
    const probing = inState("half_open");
    const unguarded = inState("disabled", "metrics_only");
    const failing = list.some((trouble) => trouble.key.startsWith("failure"));
    const rescuing = [...all.failures.values()].filter((failure) =>
      ["retried", "fell_back", "went_without"].includes(failure.fate) && now() - failure.last < RECENT);
    const degraded = list.some((trouble) => trouble.key.startsWith("row"));
    const of = (n) => (circuits.length === 1 ? "The circuit" : `${count(n)} of ${times(circuits.length, "circuit")}`);
    let tone = "good";
    let sign = "i-closed";
    let title = "All is well";
    if (open) {
      [tone, sign] = ["bad", "i-open"];
      title = `${of(open)} ${open === 1 ? "is" : "are"} open`;
    } else if (failing) {
      [tone, sign, title] = ["bad", "i-warn", "Calls are failing"];
    } else if (probing) {
      [tone, sign] = ["warn", "i-half_open"];
      title = `${of(probing)} ${probing === 1 ? "is" : "are"} being probed`;
    } else if (degraded) {
      [tone, sign, title] = ["warn", "i-half_open", "Answers are degraded"];
    } else if (unguarded) {
      [tone, sign] = ["warn", "i-disabled"];
      title = `${of(unguarded)} ${unguarded === 1 ? "guards" : "guard"} nothing`;
    }
    const lines = [];
    if (!list.length) {
      const last = Math.max(0, ...[...all.failures.values()].filter((failure) => failure.fate === "reached_caller").map((failure) => failure.last));
      const closed = circuits.length === 1 ? "The circuit is closed." : circuits.length ? `All ${count(circuits.length)} circuits are closed.` : "No circuit is watched.";
      lines.push(closed, last ? `The last failure reached a caller ${ago(last)}.` : "No failure has reached a caller.");
    }
    if (rescuing.length) lines.push("Within the last minute failures were made good before callers saw them.");
    if (meta.under_way) lines.push(`${times(meta.under_way, "call")} ${meta.under_way === 1 ? "is" : "are"} being retried or handed on right now.`);
    if (lostAt) {
      lines.unshift(`Last known at ${clock(now())}: ${title.toLowerCase()}. Trying again.`);
      [tone, sign, title] = ["lost", "i-warn", "Connection lost"];
    }
    dress($("verdict"), `verdict ${tone}`);
    $("verdict-icon").setAttribute("href", `#${sign}`);
    put($("verdict-title"), title);
    put($("verdict-text"), lines.join(" "));

    const kept = list.slice(0, MOST_TROUBLES);
    const keys = new Set(kept.map((trouble) => trouble.key));
    for (const key of troubleLines.keys()) if (key !== "more" && !keys.has(key)) troubleLines.delete(key);
    const elements = kept.map((trouble) => {
      if (!troubleLines.has(trouble.key)) troubleLines.set(trouble.key, newTrouble(trouble));
      const entry = troubleLines.get(trouble.key);
      dress(entry.sign, `icon ${trouble.tone}`);
      entry.sign.firstChild.setAttribute("href", `#${trouble.sign}`);
      put(entry.name, trouble.name);
      put(entry.text, trouble.text);
      putLink(entry.trace, trouble.trace, trouble.name);
      return entry.line;
    });
    if (list.length > kept.length) {
      if (!troubleLines.has("more")) troubleLines.set("more", { line: make("li", "note") });
      const { line } = troubleLines.get("more");
      put(line, `and ${count(list.length - kept.length)} more`);
      elements.push(line);
    }
    arrange($("troubles"), elements);
    const head = document.querySelector("h1").textContent;
    const mark = lostAt ? "lost" : open ? `${count(open)} open` : failing ? "failing" : tone === "warn" ? "recovering" : "well";
    const docTitle = `${mark} \u00b7 ${head}`;
    if (document.title !== docTitle) document.title = docTitle;
  }

  // ---- what is said aloud

  let unsaid = [];
  let saying = 0;

  function say(text) {
    unsaid.push(text);
    if (!saying) {
      saying = setTimeout(() => {
        const more = unsaid.length - 5;
        $("said").textContent = unsaid.slice(0, 5).join(" ") + (more > 0 ? ` And ${more} more changes.` : "");
        unsaid = [];
        saying = 0;
      }, 300);
    }
  }

  // ---- control

  const ASKED = {
    "force-open": ["Force open", "Every call will be rejected until somebody resets the circuit."],
    reset: ["Reset", "The circuit will close and forget its counts. Calls go through at once."],
    disable: ["Disable", "Every call will go through and none will be counted until somebody resets the circuit."],
  };
  const NOTE = $("control-note")?.textContent;
  let asked = null;

  function note(text, isWrong) {
    const element = $("control-note");
    dress(element, isWrong ? "note wrong" : "note");
    element.textContent = text;
  }

  function setToken(value) {
    token = value;
    for (const id of ["token-label", "token", "unlock-button"]) hide($(id), token !== null);
    hide($("lock-button"), token === null);
  }

  function lock(text, isWrong) {
    setToken(null);
    note(text, isWrong);
    paint(false);
  }

  async function send(method, path, bearer) {
    try {
      const answer = await fetch(base + path, {
        method,
        headers: { Authorization: `Bearer ${bearer}` },
        cache: "no-store",
        redirect: "error",
      });
      return answer.status;
    } catch {
      return 0;
    }
  }

  function ask(id, action) {
    const circuit = all.circuits.get(id);
    if (!circuit) return;
    const [label, text] = ASKED[action];
    asked = { id, action, name: circuit.name, label };
    put($("confirm-title"), `${label} ${circuit.name}?`);
    put($("confirm-text"), text);
    put($("confirm-yes"), label);
    $("confirm").showModal();
  }

  async function act() {
    const { id, action, name, label } = asked;
    $("confirm").close();
    const status = await send("POST", `control/${id}/${action}`, token);
    if (status === 200) note(`Done: ${label.toLowerCase()} ${name}, at ${clock(now())}.`);
    else if (status === 401) lock("The token is wrong. Nothing was done.", true);
    else if (status === 404) note(`${name} is gone. Nothing was done.`, true);
    else note(`Not done: ${status ? `the service answered ${status}` : "the service cannot be reached"}.`, true);
  }

  if ($("control")) {
    $("unlock").addEventListener("submit", async (event) => {
      event.preventDefault();
      const offered = $("token").value.trim();
      if (!/^[\x21-\x7e]+$/.test(offered)) {
        note(offered ? "A token has no spaces and no special signs." : "Enter the token first.", true);
        $("token").focus();
        return;
      }
      const status = await send("GET", "control", offered);
      if (status === 204) {
        $("token").value = "";
        setToken(offered);
        note("Unlocked: circuits have buttons now.");
        paint(false);
        $("lock-button").focus();
      } else {
        note(status === 401 ? "The token is wrong." : "The service cannot be reached.", true);
        $("token").select();
      }
    });
    $("lock-button").addEventListener("click", () => {
      lock(NOTE);
      $("token").focus();
    });
    $("confirm-no").addEventListener("click", () => $("confirm").close());
    $("confirm-yes").addEventListener("click", act);
  }

  // ---- following the service

  function paint(redraw) {
    if (!heard) return;
    steadily(() => {
      paintVerdict();
      paintCircuits(redraw);
      paintFailures();
      paintRows();
      put($("since"), `watched since ${clock(meta.started)}`);
    });
  }

  // What has the focus stays where it is seen, whatever comes or goes above it.
  function steadily(change) {
    const focused = document.activeElement;
    const before = focused !== document.body && focused?.getBoundingClientRect();
    change();
    if (!before || before.bottom < 0 || before.top > innerHeight || focused !== document.activeElement) return;
    const moved = focused.getBoundingClientRect().top - before.top;
    if (moved) scrollBy({ top: moved, behavior: "instant" });
  }

  function take(update, isWhole) {
    offset = update.now - Date.now();
    heard = Date.now();
    meta = update;
    for (const name in all) {
      const part = update[name];
      if (isWhole) all[name].clear();
      if (part.ids) {
        const ids = new Set(part.ids);
        for (const id of all[name].keys()) if (!ids.has(id)) all[name].delete(id);
      }
      for (const item of part.items) {
        const before = name === "circuits" && !isWhole ? all.circuits.get(item.id) : undefined;
        if (before && before.state !== item.state) say(`${item.name}: ${STATES[item.state].toLowerCase()}.`);
        all[name].set(item.id, item);
      }
    }
    paint(update.timelines.items.length > 0 || isWhole);
  }

  // The service says something every ten seconds, though it be nothing.
  const SILENCE = 25 * 1000;
  let source = null;
  let again = 0;

  function linked(isLinked) {
    if (isLinked && lostAt) say("Connected again.");
    if (!isLinked && !lostAt) {
      lostAt = Date.now();
      say("The connection is lost. What is shown is old.");
    }
    if (isLinked) lostAt = 0;
    document.body.classList.toggle("stale", !isLinked);
    paintLink();
    paint(false);
  }

  function paintLink() {
    if (lostAt) {
      dress($("link"), "link lost");
      put($("link-text"), heard ? `Connection lost: this is from ${clock(heard + offset)}, ${span(Date.now() - heard)} ago` : "No connection");
    } else if (heard) {
      dress($("link"), "link");
      put($("link-text"), "Live");
    }
  }

  function follow() {
    source?.close();
    source = new EventSource(`${base}events`);
    const hear = (isWhole) => (event) => {
      take(JSON.parse(event.data), isWhole);
      linked(true);
    };
    source.addEventListener("snapshot", hear(true));
    source.addEventListener("update", hear(false));
    source.addEventListener("open", () => heard && linked(true));
    source.addEventListener("error", () => {
      linked(false);
      // A browser gives up on an answer that is no stream, such as one of a proxy.
      if (source.readyState === EventSource.CLOSED && !again) {
        again = setTimeout(() => {
          again = 0;
          follow();
        }, 3000);
      }
    });
  }

  setInterval(() => {
    // A connection may be gone without a word, as when a computer slept.
    if (heard && !lostAt && Date.now() - heard > SILENCE) {
      linked(false);
      follow();
    }
    paintLink();
    paint(false);
  }, 1000);
  setInterval(() => paint(true), 10000);
  follow();
})();
