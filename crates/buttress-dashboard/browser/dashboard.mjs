// Opens the dashboard of the example `outage` in a real Chromium, breaks a provider, and looks and
// types as an operator does: narrow and wide, light and dark, with the keyboard only.
//
//   node dashboard.mjs OUTAGE MODULES SCREENSHOTS [CHROMIUM]
//
// `OUTAGE` is the example's program, `MODULES` a folder with node_modules. Exits with 1 when
// something is not as it should be.

import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const [outage, modules, screenshots, chromiumPath = "/usr/bin/chromium"] = process.argv.slice(2);
const { chromium } = createRequire(join(resolve(modules), "package.json"))("playwright-core");
mkdirSync(screenshots, { recursive: true });

const TOKEN = "only-operators-know-this";
const EVIL = "<img src=x onerror=alert(1)> & \"embeddings\"";
let passed = 0;
let failed = 0;

function check(is, what) {
  if (is) passed += 1;
  else {
    failed += 1;
    console.log(`  NOT: ${what}`);
  }
}

// ---- the service

async function start(...args) {
  const child = spawn(outage, args, { stdio: ["ignore", "pipe", "inherit"] });
  const line = await new Promise((done, fail) => {
    let text = "";
    child.stdout.on("data", (data) => {
      text += data;
      if (text.includes("\n")) done(text.trim());
    });
    child.on("error", fail);
    child.on("exit", () => fail(new Error("the service ended")));
  });
  // Whatever ends this script ends the service too.
  const end = () => child.kill("SIGKILL");
  process.on("exit", end);
  const url = new URL(line);
  const stop = () => new Promise((done) => {
    child.on("exit", done);
    process.off("exit", end);
    end();
  });
  const fault = (state) => fetch(new URL(`/fault/${state}`, url), { method: "POST" });
  return { url, port: url.port, stop, fault };
}

// ---- what a person would see

const card = (page, name) => page.locator("#circuit-list > li").filter({
  has: page.locator("h3").filter({ hasText: name }),
});

const stateOf = (page, name) => card(page, name).locator(".state span").textContent();

async function shows(page, name, state, within = 10_000) {
  await page.waitForFunction(([name, state]) => [...document.querySelectorAll("#circuit-list > li")].some((card) =>
    card.querySelector("h3").textContent.includes(name) && card.querySelector(".state span").textContent === state),
  [name, state], { timeout: within, polling: 20 });
}

async function overflow(page) {
  return page.evaluate(() => {
    const wide = document.documentElement.clientWidth;
    const out = [...document.body.querySelectorAll("*")].filter((element) => {
      const box = element.getBoundingClientRect();
      return box.width > 1 && box.right > wide + 0.5 && !element.closest(".skip, .unseen");
    });
    return { scrolls: document.documentElement.scrollWidth > wide, out: out.slice(0, 3).map((element) => element.outerHTML.slice(0, 120)) };
  });
}

/** Returns the contrast of texts and signs with what is behind them, as WCAG computes it. */
async function contrasts(page, selectors) {
  return page.evaluate((selectors) => {
    const channel = (value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    };
    const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = (color) => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
      return canvas.getImageData(0, 0, 1, 1).data;
    };
    const behind = (element) => {
      for (let one = element; one; one = one.parentElement) {
        const color = rgba(getComputedStyle(one).backgroundColor);
        if (color[3] === 255) return color;
      }
      return rgba("Canvas");
    };
    const found = [];
    for (const [selector, property] of selectors) {
      for (const element of document.querySelectorAll(selector)) {
        if (!element.checkVisibility()) continue;
        const back = property === "borderTopColor" ? behind(element.parentElement) : behind(element);
        const [a, b] = [luminance(rgba(getComputedStyle(element)[property])), luminance(back)];
        found.push([selector, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
      }
    }
    return found;
  }, selectors);
}

const TEXTS = [
  "h1", "h2", ".note", ".link", ".state", ".card .detail", ".numbers dt", ".numbers dd", ".kind", ".where", ".fate",
  ".error", ".row .top p", ".row .detail", ".trace", ".trace code", "button", "label", ".name", ".troubles span", ".empty",
  "#confirm p", "#confirm button",
].map((selector) => [selector, "color"]);
const SIGNS = [[".state .icon", "fill"], [".verdict > .icon", "fill"], [".timeline rect.seg-open", "fill"], ["input", "borderTopColor"],
  ["button", "borderTopColor"]];

async function checkLooks(page, where) {
  const { scrolls, out } = await overflow(page);
  check(!scrolls && !out.length, `${where}: nothing is wider than the page: ${out.join(" ")}`);
  for (const [selectors, least] of [[TEXTS, 4.5], [SIGNS, 3]]) {
    const found = await contrasts(page, selectors);
    const weak = new Set(found.filter(([, is]) => is < least).map(([what, is]) => `${what} ${is.toFixed(2)}`));
    check(found.length > 0 && !weak.size, `${where}: contrast of at least ${least}: ${[...weak].join(", ")}`);
  }
  const nameless = await page.evaluate(() => [...document.querySelectorAll("button, a, input")].filter((element) =>
    element.checkVisibility() && !(element.getAttribute("aria-label") || element.labels?.length || element.textContent.trim())).length);
  check(nameless === 0, `${where}: ${nameless} controls have no name`);
}

// ---- what a person would do

const focused = (page) => page.evaluate(() => {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  const box = element.getBoundingClientRect();
  return {
    id: element.id,
    name: element.getAttribute("aria-label") || element.textContent.trim(),
    isSeen: element !== document.body && element.matches(":focus-visible") && style.outlineStyle !== "none"
      && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0,
    at: `${element.nodeName}, ${style.outlineWidth} ${style.outlineStyle}, ${[box.left, box.top, box.right, box.bottom].map(Math.round)}`,
  };
});

/** Presses Tab until something has the focus; each stop on the way must be seen. */
async function tabTo(page, where, is, key = "Tab") {
  for (let stops = 0; stops < 150; stops += 1) {
    await page.keyboard.press(key);
    const at = await focused(page);
    if (!at.isSeen) check(false, `${where}: the focus on "${at.name.slice(0, 40) || at.id}" is seen (${at.at})`);
    if (is(at)) return at;
  }
  throw new Error(`${where}: the keyboard does not reach it`);
}

const says = (page, text) => page.waitForFunction((text) =>
  document.getElementById("control-note").textContent.includes(text), text, { timeout: 5_000 });

async function operate(page, where, shot) {
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("Home");
  const first = await tabTo(page, where, () => true);
  check(first.name === "Skip to the circuits", `${where}: the first stop is the skip link, not "${first.name}"`);
  check(await page.locator(".actions button:visible").count() === 0, `${where}: no buttons while it is locked`);

  await tabTo(page, where, (at) => at.id === "token");
  await page.keyboard.type("a-token-that-is-wrong");
  await page.keyboard.press("Enter");
  await says(page, "The token is wrong");
  await page.keyboard.type(TOKEN);
  await page.keyboard.press("Enter");
  await says(page, "Unlocked");
  check((await focused(page)).id === "lock-button", `${where}: the focus goes on where the button was`);

  // Escape leaves everything as it is.
  const force = (at) => at.name.startsWith("Force open") && at.name.includes("embeddings");
  await tabTo(page, where, force);
  await page.keyboard.press("Enter");
  await page.locator("#confirm").waitFor({ state: "visible" });
  check((await focused(page)).id === "confirm-no", `${where}: the question begins at the harmless answer`);
  check((await page.locator("#confirm-title").textContent()) === `Force open ${EVIL}?`, `${where}: the question names the circuit`);
  await checkLooks(page, `${where}, asking`);
  await page.screenshot({ path: shot("asking") });
  await page.keyboard.press("Escape");
  await page.locator("#confirm").waitFor({ state: "hidden" });
  check(force(await focused(page)), `${where}: after the question the focus is back`);
  check(await stateOf(page, "embeddings") === "Closed", `${where}: nothing is done without a yes`);

  await page.keyboard.press("Enter");
  await tabTo(page, where, (at) => at.id === "confirm-yes");
  await page.keyboard.press("Enter");
  await shows(page, "embeddings", "Forced open");
  await says(page, "Done: force open");
  // Its card has moved up to what matters, and the focus with it.
  check(force(await focused(page)), `${where}: the focus stays on the button of a card that moves`);
  await page.screenshot({ path: shot("forced"), fullPage: true });
  await checkLooks(page, `${where}, forced`);

  await tabTo(page, where, (at) => at.name.startsWith("Reset") && at.name.includes("embeddings"));
  await page.keyboard.press("Enter");
  await tabTo(page, where, (at) => at.id === "confirm-yes");
  await page.keyboard.press("Enter");
  await shows(page, "embeddings", "Closed");

  await tabTo(page, where, (at) => at.id === "lock-button", "Shift+Tab");
  await page.keyboard.press("Enter");
  await says(page, "Locked");
  check(await page.locator(".actions button:visible").count() === 0, `${where}: no buttons when it is locked again`);
}

/** Opens the page and notes whatever goes wrong in it. */
async function open(browser, service, options) {
  const page = await browser.newPage(options);
  const wrong = [];
  page.on("console", (message) => {
    // Chromium itself tells of the wrong token.
    const isExpected = message.text().includes("401") && message.location().url.endsWith("/control");
    if (["error", "warning"].includes(message.type()) && !isExpected) wrong.push(message.text());
  });
  page.on("pageerror", (error) => wrong.push(error.message));
  page.on("dialog", (dialog) => {
    wrong.push(`a dialog says ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.origin !== service.url.origin && url.protocol !== "data:") wrong.push(`asks ${url}`);
  });
  await page.addInitScript(() => {
    window.said = [];
    addEventListener("DOMContentLoaded", () => new MutationObserver(() =>
      window.said.push(document.getElementById("said").textContent)).observe(document.getElementById("said"), { childList: true }));
  });
  const answer = await page.goto(service.url.href);
  check(answer.headers()["content-security-policy"]?.includes("default-src 'none'"), "the page has its policy");
  await page.waitForFunction(() => document.getElementById("link-text").textContent === "Live");
  return { page, wrong };
}

async function outageAt(browser, width, height, colorScheme) {
  const where = `${width} px, ${colorScheme}`;
  const shot = (name) => join(screenshots, `${width}-${colorScheme}-${name}.png`);
  const service = await start("0");
  const { page, wrong } = await open(browser, service, { viewport: { width, height }, colorScheme });
  try {
    await shows(page, "gpt-large", "Closed");
    await page.locator("#row-list li").first().waitFor();
    check(await page.locator("img").count() === 0, `${where}: a name is text`);
    check((await card(page, "embeddings").locator("h3").textContent()) === EVIL, `${where}: a name is shown as it is`);
    await checkLooks(page, `${where}, calm`);
    await page.screenshot({ path: shot("calm"), fullPage: true });

    await service.fault("on");
    const broken = Date.now();
    await shows(page, "gpt-large", "Open", 2_000)
      .then(() => console.log(`  ${where}: shown open ${Date.now() - broken} ms after the fault`))
      .catch(() => check(false, `${where}: a circuit that opens is shown within two seconds`));
    await page.waitForFunction(() => window.said.some((text) => text.includes("gpt-large: open.")), undefined, { timeout: 5_000 })
      .catch(() => check(false, `${where}: readers of the screen hear of it`));
    const trace = card(page, "gpt-large").locator("a.trace");
    await trace.waitFor({ timeout: 5_000 });
    const href = await trace.getAttribute("href");
    check(/^https:\/\/langfuse\.example\/project\/research\/traces\/[0-9a-f]{32}$/.test(href), `${where}: its trace is linked: ${href}`);
    check((await page.locator("#verdict-title").textContent()).includes("open"), `${where}: the verdict says so`);
    check((await page.title()).includes("open"), `${where}: the title says so`);
    await page.locator(".fate.hit").first().waitFor();
    await page.locator(".fate.saved").first().waitFor();
    await checkLooks(page, `${where}, fault`);
    await page.screenshot({ path: shot("fault"), fullPage: true });
    writeFileSync(join(screenshots, `${width}-${colorScheme}-fault.aria.txt`), await page.locator("body").ariaSnapshot());

    await operate(page, where, shot);

    // A link to the newest trace of failures that go on: it changes under the finger and keeps the focus.
    const newest = page.locator("#failure-list .failure", { hasText: "Circuit open" }).locator("a.trace").first();
    await newest.focus();
    const before = await newest.getAttribute("href");
    await page.waitForFunction((before) => document.activeElement.href !== before, before, { timeout: 5_000 });
    check(await newest.evaluate((link) => link === document.activeElement), `${where}: a link that changes keeps the focus`);

    await service.fault("off");
    await shows(page, "planner", "Closed", 60_000);
    await page.screenshot({ path: shot("over"), fullPage: true });
    check(!wrong.length, `${where}: no errors in the page: ${wrong.join(" | ")}`);
  } finally {
    await page.close();
    await service.stop();
  }
}

async function lostAndFound(browser) {
  const service = await start("0");
  const { page, wrong } = await open(browser, service, { viewport: { width: 1400, height: 900 }, reducedMotion: "reduce" });
  let second;
  try {
    await shows(page, "gpt-large", "Closed");
    const moves = await page.evaluate(() => [...document.querySelectorAll("*")].filter((element) => {
      const style = getComputedStyle(element);
      return parseFloat(style.transitionDuration) > 0 || style.animationName !== "none";
    }).length);
    check(moves === 0, "nothing moves for who does not want it");
    check(!wrong.length, `no errors in the page: ${wrong.join(" | ")}`);
    await service.stop();
    await page.waitForFunction(() => document.getElementById("link-text").textContent.startsWith("Connection lost"));
    check((await page.locator("#verdict-title").textContent()) === "Connection lost", "what is old is not called well");
    await checkLooks(page, "connection lost");
    await page.screenshot({ path: join(screenshots, "1400-light-lost.png") });
    second = await start(service.port);
    await page.waitForFunction(() => document.getElementById("link-text").textContent === "Live", undefined, { timeout: 20_000 });
    await shows(page, "gpt-large", "Closed");
  } finally {
    await page.close();
    await second?.stop();
  }
}

async function readOnly(browser) {
  const service = await start("0", "read-only");
  const { page, wrong } = await open(browser, service, { viewport: { width: 400, height: 800 } });
  try {
    await shows(page, "gpt-large", "Closed");
    check(await page.locator("button, input, form").count() === 0, "a page that may only be read has no buttons");
    check((await fetch(`${service.url}/control`)).status === 404, "nor the routes behind them");
    check(!wrong.length, `no errors in the page: ${wrong.join(" | ")}`);
  } finally {
    await page.close();
    await service.stop();
  }
}

const browser = await chromium.launch({
  executablePath: chromiumPath,
  args: process.getuid?.() === 0 ? ["--no-sandbox"] : [],
});
console.log(`Chromium ${browser.version()}`);
const runs = [["read-only", () => readOnly(browser)], ["connection", () => lostAndFound(browser)]];
for (const [width, height] of [[400, 860], [1400, 900]]) {
  for (const scheme of ["light", "dark"]) {
    runs.push([`${width} px, ${scheme}`, () => outageAt(browser, width, height, scheme)]);
  }
}
for (const [name, run] of runs) {
  console.log(name);
  try {
    await run();
  } catch (error) {
    check(false, `${name}: ${error.message.split("\n")[0]}`);
  }
}
await browser.close();
console.log(`${passed} checks passed, ${failed} failed; screenshots in ${screenshots}`);
process.exit(failed ? 1 : 0);
