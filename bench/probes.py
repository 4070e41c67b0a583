"""What a broker or a service says of itself, asked once a second: cheap questions over open connections.

Command-line tools of the brokers cost a second of processor time a call, which is why they are not used here.
"""

import socket
import struct
import urllib.parse
import urllib.request

FRAME_METHOD, FRAME_END = 1, 0xCE
TIMEOUT_SECONDS = 10


class QueueDepth:
    """How many messages wait in a queue: a passive `queue.declare` over AMQP 0-9-1, and nothing else of it."""

    def __init__(self, url, queue):
        at = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((at.hostname, at.port or 5672), TIMEOUT_SECONDS)
        self.queue = queue
        user, password = (urllib.parse.unquote(part or "guest") for part in (at.username, at.password))
        vhost = urllib.parse.unquote(at.path[1:]) or "/"
        self.socket.sendall(b"AMQP\0\0\x09\x01")
        self._expect(10, 10)  # start
        login = f"\0{user}\0{password}".encode()
        self._send(0, 10, 11, table() + short("PLAIN") + struct.pack(">I", len(login)) + login + short("en_US"))
        channels, frame_max, _ = struct.unpack(">HIH", self._expect(10, 30))  # tune
        self._send(0, 10, 31, struct.pack(">HIH", channels, frame_max, 0))  # no heartbeats
        self._send(0, 10, 40, short(vhost) + short("") + b"\0")
        self._expect(10, 41)
        self._send(1, 20, 10, short(""))
        self._expect(20, 11)

    def ask(self):
        self._send(1, 50, 10, struct.pack(">H", 0) + short(self.queue) + b"\x01" + table())
        answer = self._expect(50, 11)
        return struct.unpack_from(">I", answer, 1 + answer[0])[0]

    def _send(self, channel, class_id, method_id, arguments):
        payload = struct.pack(">HH", class_id, method_id) + arguments
        self.socket.sendall(struct.pack(">BHI", FRAME_METHOD, channel, len(payload)) + payload + bytes([FRAME_END]))

    def _expect(self, class_id, method_id):
        while True:
            kind, _, length = struct.unpack(">BHI", self._read(7))
            payload = self._read(length + 1)[:-1]
            if kind != FRAME_METHOD:
                continue
            got = struct.unpack_from(">HH", payload)
            if got != (class_id, method_id):
                raise ConnectionError(f"RabbitMQ answered with method {got}: {payload[4:].decode(errors='replace')}")
            return payload[4:]

    def _read(self, length):
        return read_exactly(self.socket, length)


class Redis:
    """What Redis says of its memory."""

    def __init__(self, url):
        at = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((at.hostname, at.port or 6379), TIMEOUT_SECONDS)

    def buffers(self):
        """Bytes in output buffers: of all clients, and of the one with the most."""
        held = [int(field[5:]) for field in self._ask("CLIENT LIST").split() if field.startswith("omem=")]
        return sum(held), max(held, default=0)

    def used_mib(self):
        said = dict(line.split(":", 1) for line in self._ask("INFO memory").splitlines() if ":" in line)
        return int(said["used_memory"]) / 2**20

    def _ask(self, command):
        self.socket.sendall(command.encode() + b"\r\n")
        length = b""
        while not length.endswith(b"\r\n"):
            length += read_exactly(self.socket, 1)
        return read_exactly(self.socket, int(length[1:]) + 2).decode()


def metrics(port):
    """A service's metrics without their labels: the sum of each name's series."""
    sums = {}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_SECONDS) as answer:
        for line in answer.read().decode().splitlines():
            if line and not line.startswith("#"):
                series, value = line.rsplit(" ", 1)
                name = series.split("{")[0]
                sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def short(text):
    return bytes([len(text)]) + text.encode()


def table():
    return struct.pack(">I", 0)


def read_exactly(connection, length):
    got = bytearray()
    while len(got) < length:
        part = connection.recv(length - len(got))
        if not part:
            raise ConnectionError("closed by the other side")
        got += part
    return bytes(got)
