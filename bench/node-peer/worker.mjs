// One worker of the Node peer: socket.io 4 with its Redis adapter, fed by an amqplib consumer. The system that Herald
// replaces, rebuilt at its best settings, to be compared with. It shares nothing with Herald but the two contracts.
//
//   node --max-semi-space-size=64 worker.mjs --port 8080 --redis redis://127.0.0.1 --amqp amqp://127.0.0.1 ...
//
// Prints one line `ready PORT` when it is connected, consumes and listens; SIGTERM ends it in order. What each setting
// brings is in README.md beside this file.
import http from "node:http";
import { parseArgs } from "node:util";
import { createAdapter, createShardedAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { consume } from "./consumer.mjs";
import { corkWrites } from "./cork.mjs";

const { values: settings } = parseArgs({
  options: {
    port: { type: "string", default: "8080" },
    redis: { type: "string", default: "redis://127.0.0.1:6379" },
    amqp: { type: "string", default: "amqp://127.0.0.1:5672" },
    queue: { type: "string", default: "herald.messages" },
    "queue-type": { type: "string", default: "quorum" },
    prefetch: { type: "string", default: "200" },
    adapter: { type: "string", default: "classic" }, // or sharded
    volatile: { type: "string", default: "send" }, // or drop: what Socket.IO calls volatile
    cork: { type: "boolean", default: false }, // not an ordinary setting: see cork.mjs
  },
});

const die = (error) => {
  console.error(`node-peer on port ${settings.port}: ${error?.stack ?? error}`);
  process.exit(1);
};
process.on("unhandledRejection", die);

// a timeout of its own for each command costs an AbortSignal each: a tenth of a unicast
const publisher = createClient({ url: settings.redis, commandOptions: { timeout: undefined } });
const subscriber = publisher.duplicate();
for (const client of [publisher, subscriber]) client.on("error", die);
await Promise.all([publisher.connect(), subscriber.connect()]);

// The adapter forgets the promise of its publish: this keeps the latest, whose answer means that Redis took all before.
let published = Promise.resolve();
for (const command of ["publish", "sPublish"]) {
  const send = publisher[command].bind(publisher);
  publisher[command] = (...args) => (published = send(...args));
}

const server = http.createServer();
const io = new Server(server, {
  transports: ["websocket"],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
  adapter: (settings.adapter === "sharded" ? createShardedAdapter : createAdapter)(publisher, subscriber),
});

// The upgrade's request is some kilobytes a client that nobody reads again.
io.engine.on("connection", (raw) => {
  raw.request = null;
  if (settings.cork) corkWrites(raw.transport);
});

const asList = (value) => (value === undefined ? [] : Array.isArray(value) ? value : [value]);
const userRoom = (socketId) => `u:${socketId}`;
const groupRoom = (group) => `g:${group}`;

io.on("connection", (socket) => {
  socket.on("register", ({ socketId, groupFlag } = {}, answer) => {
    if (socketId !== undefined && socketId !== socket.data.socketId) {
      if (socket.data.socketId !== undefined) socket.leave(userRoom(socket.data.socketId));
      socket.data.socketId = socketId;
      socket.join(userRoom(socketId));
    }
    socket.join(asList(groupFlag).map(groupRoom));
    const groups = [...socket.rooms].filter((room) => room.startsWith("g:")).map((room) => room.slice(2));
    if (typeof answer === "function") answer({ ok: true, socketId: socket.data.socketId, groups });
  });
  socket.on("leave", ({ groupFlag } = {}) => asList(groupFlag).forEach((group) => socket.leave(groupRoom(group))));
});

const decoded = (data) => {
  if (typeof data !== "string") return data;
  try {
    return JSON.parse(data);
  } catch {
    return data; // a string that holds no JSON stays a string
  }
};

// One body of the queue to its rooms. Answers when Redis has it; throws when it is no message.
function deliver(content) {
  const message = JSON.parse(content.toString());
  message.data = decoded(message.data);
  const groups = asList(message.socketGroupFlag);
  const rooms = asList(message.socketSessionId).map(userRoom).concat(groups.map(groupRoom));
  if (rooms.length === 0) throw new Error("no target");
  let to = groups.includes("*") ? io : io.to(rooms);
  if (settings.volatile === "drop" && message.isVolatile !== false) to = to.volatile;
  to.emit("message", message);
  return published;
}

const consumer = await consume(settings, deliver, die);
const place = { port: Number(settings.port), host: "127.0.0.1", backlog: 4096 };
await new Promise((listening) => server.listen(place, listening));
console.log(`ready ${settings.port}`);

process.on("SIGTERM", async () => {
  await consumer.stop();
  process.exit(0);
});
