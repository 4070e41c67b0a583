// Steers official Socket.IO clients for the tests, one JSON object a line: commands on stdin, replies and events on
// stdout. It decides nothing: what to expect is the test's.
//
//   {"id": 1, "client": "a", "do": "connect", "url": "http://...", "options": {...}, "register": {...}}
//   {"id": 2, "client": "a", "do": "ask" | "emit", "name": "register", "args": [...]}
//   {"id": 3, "client": "a", "do": "cut" | "disconnect" | "reconnect" | "state" | "send_raw"}
//
//   {"reply": 2, "ok": ...} or {"reply": 2, "error": "..."}
//   {"client": "a", "event": "message", "message": {...}, "cursor": "..."}
//
// With `register`, that is emitted after each connect that recovered nothing, as an application does it.
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const sockets = new Map();
const write = (line) => process.stdout.write(JSON.stringify(line) + "\n");

function connect(client, { url, options, register }) {
  const tell = (event, fields) => write({ client, event, ...fields });
  const socket = io(url, { forceNew: true, ...options });
  sockets.set(client, socket);

  socket.on("connect", async () => {
    const transport = socket.io.engine.transport.name;
    tell("connect", { sid: socket.id, recovered: socket.recovered, transport });
    if (register && !socket.recovered) {
      try {
        tell("registered", { answer: await socket.timeout(5000).emitWithAck("register", register) });
      } catch (error) {
        tell("register_failed", { error: String(error) });
      }
    }
  });
  socket.on("message", (message, ...rest) => tell("message", { message, cursor: rest[0], rest: rest.length }));
  for (const event of ["superseded", "gap"]) socket.on(event, (detail) => tell(event, { detail }));
  socket.on("disconnect", (reason, details) => {
    const { message, description, context } = details ?? {};
    tell("disconnect", { reason, details: [message, String(description?.message ?? description), context?.status, context?.responseText] });
  });
  socket.on("connect_error", (error) => tell("connect_error", { error: error.message, data: error.data }));
  socket.io.on("reconnect_attempt", (attempt) => tell("reconnect_attempt", { attempt, offset: socket._lastOffset }));
  socket.io.on("ping", () => tell("ping", {}));
  const watch = () => {
    socket.io.engine.on("upgrade", (transport) => tell("upgrade", { transport: transport.name }));
    socket.io.engine.on("upgradeError", (error) => tell("upgrade_error", { error: error.message }));
  };
  socket.io.on("open", watch);
}

// the network goes, as the client sees it: no close frame, no close packet
function cut(socket) {
  const transport = socket.io.engine.transport;
  const wire = transport.ws?._socket;
  if (wire) wire.destroy();
  else transport.onError("cut by the test");
}

async function obey({ client, ...command }) {
  if (command.do === "connect") return connect(client, command);
  const socket = sockets.get(client);
  if (!socket) throw new Error(`no client ${client}`);
  switch (command.do) {
    case "ask": return socket.timeout(5000).emitWithAck(command.name, ...command.args);
    case "emit": return void socket.emit(command.name, ...command.args);
    case "cut": return cut(socket);
    case "disconnect": return void socket.disconnect();
    case "reconnect": return void socket.connect();
    case "send_raw": return void socket.io.engine.write(command.text);
    case "state": return { connected: socket.connected, sid: socket.id, transport: socket.io.engine?.transport.name };
    default: throw new Error(`unknown command ${command.do}`);
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  // not awaited: one client's answer must not hold back the others' commands
  obey(command).then(
    (ok) => write({ reply: command.id, ok: ok ?? null }),
    (error) => write({ reply: command.id, error: String(error) }),
  );
}
process.exit(0);
