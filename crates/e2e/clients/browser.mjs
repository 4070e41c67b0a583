// Steers Chromium for the tests, by the line protocol of socketio.mjs; a "client" is a page.
//
//   {"id": 1, "client": "p", "do": "open", "url": "http://..."}
//   {"id": 2, "client": "p", "do": "fill" | "click" | "text" | "wait_text", "selector": "...", "value": "..."}
//   {"id": 3, "client": "p", "do": "eval", "script": "..."}        its value is the reply; promises are awaited
//   {"id": 4, "client": "p", "do": "offline", "value": true}       closes its WebSockets too
//   {"id": 5, "client": "p", "do": "load_socketio"}                the official client's browser build, as `io`
//
// A page tells events by `window.tell(event, fields)`; what it prints and what fails in it come as events too.
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const CHROMIUM = process.env.HERALD_TEST_CHROMIUM ?? "/usr/bin/chromium";
const QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
  "--disable-background-networking", "--disable-sync"];
const SOCKETIO = fileURLToPath(new URL("node_modules/socket.io-client/dist/socket.io.js", import.meta.url));

const pages = new Map();
const write = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const browser = await chromium.launch({ executablePath: CHROMIUM, args: QUIET });

async function open(client, url) {
  const context = await browser.newContext();
  const page = await context.newPage();
  pages.set(client, { context, page });
  page.setDefaultTimeout(10_000);
  await page.exposeFunction("tell", (event, fields) => write({ client, event, ...fields }));
  page.on("console", (line) => write({ client, event: "console", text: line.text() }));
  page.on("pageerror", (error) => write({ client, event: "pageerror", error: error.message }));
  const response = await page.goto(url);
  return { status: response.status(), title: await page.title() };
}

async function obey({ client, ...command }) {
  if (command.do === "open") return open(client, command.url);
  const { page, context } = pages.get(client);
  const at = () => page.locator(command.selector).first();
  switch (command.do) {
    case "fill": return at().fill(command.value);
    case "click": return at().click();
    case "text": return at().innerText();
    case "wait_text": return at().filter({ hasText: command.value }).waitFor();
    case "eval": return page.evaluate(command.script);
    case "offline": return context.setOffline(command.value);
    case "reload": return void (await page.reload());
    case "load_socketio": return void (await page.addScriptTag({ path: SOCKETIO }));
    default: throw new Error(`unknown command ${command.do}`);
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  obey(command).then(
    (ok) => write({ reply: command.id, ok: ok ?? null }),
    (error) => write({ reply: command.id, error: String(error) }),
  );
}
await browser.close();
process.exit(0);
