// Does the peer keep both contracts? Starts two workers, connects the official client to each and publishes.
//
//   node check.mjs --redis URL --amqp URL [--first-port 18080] [-- WORKER ARGS...]
//
// Exits with 0 when every client got exactly what it was meant to get, in order.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import amqp from "amqplib";
import { io } from "socket.io-client";

const { values: settings, positionals: passedOn } = parseArgs({
  allowPositionals: true,
  options: {
    redis: { type: "string" },
    amqp: { type: "string" },
    "first-port": { type: "string", default: "18080" },
  },
});
const queue = `check.${process.pid}`;
const ports = [0, 1].map((nth) => Number(settings["first-port"]) + nth);

async function startWorker(port) {
  const brokers = ["--redis", settings.redis, "--amqp", settings.amqp, "--queue", queue];
  const args = ["worker.mjs", "--port", String(port), ...brokers, ...passedOn];
  const worker = spawn(process.execPath, args, { cwd: import.meta.dirname, stdio: ["ignore", "pipe", "inherit"] });
  worker.once("exit", (code) => assert.equal(code, 0, `the worker on ${port} ended`));
  const [line] = await once(createInterface(worker.stdout), "line");
  assert.equal(line, `ready ${port}`);
  return worker;
}

async function client(port, registration) {
  const socket = io(`http://127.0.0.1:${port}`, { transports: ["websocket"], forceNew: true });
  const got = [];
  socket.on("message", (message) => got.push(message));
  const answer = await socket.timeout(5000).emitWithAck("register", registration);
  assert.deepEqual(answer, { ok: true, socketId: registration.socketId, groups: [registration.groupFlag].flat() });
  return { got, close: () => socket.close() };
}

// one after another: RabbitMQ fails when two connections create one quorum queue at the same time
const workers = [];
for (const port of ports) workers.push(await startWorker(port));
const clients = [];
for (let nth = 0; nth < 4; nth++) {
  const groupFlag = nth < 2 ? ["all", "low"] : ["all", "high"];
  clients.push(await client(ports[nth % 2], { socketId: `user-${nth}`, groupFlag }));
}

const connection = await amqp.connect(settings.amqp);
const channel = await connection.createConfirmChannel();
const publish = (body) => channel.sendToQueue(queue, Buffer.from(JSON.stringify(body)), { persistent: true });
const BURST = 500;
publish({ socketSessionId: "user-1", data: "plain" });
publish({ socketGroupFlag: "high", isVolatile: false, data: '{"json":"in a string"}', more: 7 });
channel.sendToQueue(queue, Buffer.from("no JSON"));
publish({ socketSessionId: ["user-0", "user-3"], socketGroupFlag: "low", isVolatile: false, data: [1] });
for (let n = 0; n < BURST; n++) publish({ socketGroupFlag: "all", isVolatile: n % 2 === 0, data: n });
publish({ socketGroupFlag: "*", isVolatile: false, data: "end" });
await channel.waitForConfirms();

const [one, two, three] = ["plain", { json: "in a string" }, [1]];
const firsts = [[three], [one, three], [two], [two, three]];
const due = firsts.map((own) => [...own, ...Array(BURST).keys(), "end"]);
const all = () => clients.every(({ got }, nth) => got.length >= due[nth].length);
const patience = async (ticks, done) => {
  for (let tick = 0; tick < ticks && !(await done()); tick++) await new Promise((later) => setTimeout(later, 50));
};
await patience(200, all);

// two workers drain one queue: between them the order is nobody's, so what came is compared as sets
const sorted = (list) => list.map((data) => JSON.stringify(data)).sort();
clients.forEach(({ got }, nth) => {
  assert.deepEqual(sorted(got.map(({ data }) => data)), sorted(due[nth]), `client ${nth}`);
});
assert.equal(clients[3].got.find(({ more }) => more)?.more, 7);
await patience(100, async () => (await channel.checkQueue(queue)).messageCount === 0);

clients.forEach(({ close }) => close());
for (const worker of workers) {
  worker.kill("SIGTERM");
  await once(worker, "exit");
}
assert.equal((await channel.checkQueue(queue)).messageCount, 0, "something was not acknowledged");
await channel.deleteQueue(queue);
await connection.close();
console.log(`node-peer: ${BURST + 4} messages reached ${clients.length} clients as they should`);
