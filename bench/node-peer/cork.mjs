// What no setting of Socket.IO offers: all that engine.io has for a connection at once leaves in one write.
//
// engine.io hands a backlog of n packets to `ws` one by one, and each is a system call. Corking the TCP socket for the
// length of that call makes them one. It reaches into private fields, so it is off unless it is asked for (`--cork`):
// it tells how much of the difference is coalescing alone.
export function corkWrites(transport) {
  const send = transport.send;
  transport.send = (packets) => {
    const tcp = transport.socket._socket;
    if (packets.length === 1 || !tcp) return send.call(transport, packets);
    tcp.cork();
    send.call(transport, packets);
    tcp.uncork();
  };
}
