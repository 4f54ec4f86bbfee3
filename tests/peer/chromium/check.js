// Open pages in Chromium and print, for each look of each page, what is wrong with it, as JSON.
// usage: node check.js CHROMIUM PAGES.json    PAGES.json: [{"url", "looks": [{"width", "scheme", "media", "axe", "picture", "part", "zoom"}]}]
"use strict";
const fs = require("fs");
const puppeteer = require("puppeteer-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

async function look(browser, url, wanted) {
  const page = await browser.newPage();
  const said = [];
  const requests = [];
  page.on("console", (message) => said.push(message.text()));
  page.on("pageerror", (error) => said.push(String(error)));
  page.on("request", (request) => requests.push(request.url()));
  page.on("dialog", (dialog) => {
    said.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  await page.setViewport({ width: wanted.width, height: 900 });
  // Both at once: page.emulateMediaType() would undo page.emulateMediaFeatures().
  const session = await page.createCDPSession();
  await session.send("Emulation.setEmulatedMedia", {
    media: wanted.media, features: [{ name: "prefers-color-scheme", value: wanted.scheme }],
  });
  await page.goto(url);
  if (wanted.picture) {
    const clip = wanted.part && await page.evaluate((selector) => {
      const boxes = [...document.querySelectorAll(selector)].map((each) => each.getBoundingClientRect());
      const [left, top] = ["left", "top"].map((side) => Math.min(...boxes.map((box) => box[side])));
      const [right, bottom] = ["right", "bottom"].map((side) => Math.max(...boxes.map((box) => box[side])));
      return { x: left - 8, y: top - 8, width: right - left + 16, height: bottom - top + 16 };
    }, wanted.part);
    await page.screenshot(clip
      ? { path: wanted.picture, clip, captureBeyondViewport: true }
      : { path: wanted.picture, fullPage: true });
  }
  const found = {
    url, ...wanted, said, requests,
    width_found: await page.evaluate(() => document.documentElement.scrollWidth),
    elements: await page.evaluate(() => document.querySelectorAll("*").length),
    scripts: await page.evaluate(() => document.querySelectorAll("script, iframe, object, embed, img").length),
    ground: await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor),
    violations: [],
  };
  if (wanted.zoom) {
    found.zoom = await zoomed(page);
  }
  if (wanted.axe) {
    // The policy of the page forbids scripts, so axe is put in by the debugger's protocol.
    await page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })");
    await page.evaluate(axe);
    const results = await page.evaluate("axe.run(document, {resultTypes: ['violations']})");
    found.violations = results.violations.map((each) => ({
      id: each.id, help: each.help, nodes: each.nodes.slice(0, 3).map((node) => node.html.slice(0, 200)),
    }));
  }
  await page.close();
  return found;
}

// Zoom the timeline by keyboard and mouse, scroll it, and follow the link of the last finding with a moment.
async function zoomed(page) {
  const seen = () => page.evaluate(() => {
    const scroll = document.querySelector(".timeline .scroll");
    return {
      checked: document.querySelector(".timeline > input:checked").id,
      times: scroll.scrollWidth / scroll.clientWidth,
      left: scroll.scrollLeft,
    };
  });
  const found = { whole: await seen() };
  await page.focus("#zoom-1");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  found.by_keys = await seen();
  await page.focus(".timeline .scroll");
  await page.keyboard.press("ArrowRight");
  await page.waitForFunction(() => document.querySelector(".timeline .scroll").scrollLeft > 0);
  found.scrolled = await seen();
  await page.click("label[for=zoom-4]");
  found.by_mouse = await seen();
  await page.click("label[for=zoom-16]");
  const links = await page.$$("a.number");
  await links[links.length - 1].click();
  found.moment = await page.evaluate(() => {
    const scroll = document.querySelector(".timeline .scroll").getBoundingClientRect();
    const box = document.querySelector(".moment-label:target").getBoundingClientRect();
    return { x: (box.left + box.right) / 2, left: scroll.left, right: scroll.right, top: box.top, height: innerHeight };
  });
  return found;
}

async function main([chromium, list]) {
  const browser = await puppeteer.launch({
    executablePath: chromium, headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"],
  });
  try {
    const found = [];
    for (const { url, looks } of JSON.parse(fs.readFileSync(list, "utf8"))) {
      for (const wanted of looks) {
        found.push(await look(browser, url, wanted));
      }
    }
    process.stdout.write(JSON.stringify(found));
  } finally {
    await browser.close();
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
