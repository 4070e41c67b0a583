"""Steers python-socketio clients for the tests: the line protocol of socketio.mjs, as far as this client can do it.

It knows no connection-state recovery, so `recovered` is always false, and it has no `send_raw`.
"""

import json
import sys
import threading

import socketio

clients = {}
writing = threading.Lock()


def write(line):
    with writing:
        print(json.dumps(line), flush=True)


def connect(name, url, options, register=None):
    options = dict(options)
    auth = options.pop("auth", None)
    transports = options.pop("transports", None)
    client = socketio.Client(
        reconnection=options.pop("reconnection", True),
        reconnection_delay=options.pop("reconnectionDelay", 1000) / 1000,
        reconnection_delay_max=options.pop("reconnectionDelayMax", 5000) / 1000,
        randomization_factor=0,
    )
    clients[name] = client

    def tell(event, **fields):
        write({"client": name, "event": event, **fields})

    def on_connect():
        tell("connect", sid=client.get_sid(), recovered=False, transport=client.transport())
        if register:
            try:
                tell("registered", answer=client.call("register", register, timeout=5))
            except Exception as error:
                tell("register_failed", error=repr(error))

    def on_message(message, *rest):
        tell("message", message=message, cursor=rest[0] if rest else None, rest=len(rest))

    client.on("connect", on_connect)
    client.on("message", on_message)
    client.on("superseded", lambda detail=None: tell("superseded", detail=detail))
    client.on("gap", lambda detail=None: tell("gap", detail=detail))
    client.on("disconnect", lambda reason=None: tell("disconnect", reason=reason))
    client.on("connect_error", lambda data=None: tell("connect_error", error=str(data), data=data))
    # the event `connect` comes by itself; `wait` would only block this command
    client.connect(url, auth=auth, transports=transports, wait=False)


def obey(command):
    name, do = command["client"], command["do"]
    if do == "connect":
        return connect(name, command["url"], command.get("options", {}), command.get("register"))
    client = clients[name]
    if do == "ask":
        return client.call(command["name"], tuple(command["args"]), timeout=5)
    if do == "emit":
        return client.emit(command["name"], tuple(command["args"]))
    if do == "cut":
        return client.eio.ws.sock.close()
    if do == "disconnect":
        return client.disconnect()
    if do == "state":
        return {"connected": client.connected, "sid": client.get_sid(), "transport": client.transport()}
    raise ValueError(f"unknown command {do}")


def answer(command):
    try:
        write({"reply": command["id"], "ok": obey(command)})
    except Exception as error:
        write({"reply": command["id"], "error": repr(error)})


for line in sys.stdin:
    # a thread each: one client's answer must not hold back the others' commands
    threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
