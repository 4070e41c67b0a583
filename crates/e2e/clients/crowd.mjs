// A crowd of official Socket.IO clients for scripts/try-compose: COUNT over each transport, all in one group. It prints
// when all have registered, and each time that all have got the next of the messages 1, 2, 3 …; it ends with an error
// when one of them gets a number twice, leaves one out, or is told of a gap or of another claim to its socketId.
//
//   node crowd.mjs URL COUNT GROUP
import { io } from "socket.io-client";

const [url, count, group] = [process.argv[2], Number(process.argv[3]), process.argv[4]];
const ways = { websocket: ["websocket"], polling: ["polling"], upgraded: ["polling", "websocket"] };
const crowd = [];
const all = (what, wanted) => crowd.every((client) => client[what] === wanted);

function fail(client, what) {
  console.error(`${client.name} ${what}`);
  process.exit(1);
}

function join(name, transports) {
  const client = { name, registered: false, got: 0 };
  crowd.push(client);
  const socket = io(url, { forceNew: true, transports, reconnectionDelay: 100, reconnectionDelayMax: 500 });
  socket.on("connect", async () => {
    if (socket.recovered) return void console.log(`${name} recovered`);
    const answer = await socket.timeout(10_000).emitWithAck("register", { socketId: name, groupFlag: group });
    if (!answer.ok) fail(client, `could not register: ${answer.error.message}`);
    client.registered = true;
    if (all("registered", true)) console.log(`${crowd.length} registered`);
  });
  socket.on("message", ({ data }) => {
    if (data !== client.got + 1) fail(client, `got ${data} after ${client.got}`);
    client.got = data;
    if (all("got", data)) console.log(`all got ${data}`);
  });
  socket.on("disconnect", (reason) => console.log(`${name} disconnected: ${reason}`));
  for (const event of ["superseded", "gap"]) socket.on(event, (detail) => fail(client, `${event} ${JSON.stringify(detail)}`));
}

for (const [way, transports] of Object.entries(ways)) {
  for (let i = 1; i <= count; i++) join(`${group}-${way}-${i}`, transports);
}
