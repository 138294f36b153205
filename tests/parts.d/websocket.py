"""Both ends of a WebSocket as Python's `websockets` speaks it.

    websocket.py serve                         prints its port, then one JSON line for each connection that ended
    websocket.py talk PORT CERTIFICATE KEY     every kind of message through the gate; fails by an exception
    websocket.py wait PORT CERTIFICATE KEY     prints "open", then how it was closed
"""

import asyncio
import json
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

LARGE = bytes(range(256)) * 12_000  # 3 MB: many reads, and one frame


async def answer(socket):
    path = socket.request.path
    try:
        if path == "/fragments":
            await socket.send(parts())
        elif path == "/close":
            await socket.close(4001, "enough")
        async for message in socket:
            await socket.send(message)
    except ConnectionClosed:
        pass
    # Every line tells of one connection, by what its close handshake said.
    print(json.dumps({"path": path, "code": socket.close_code, "reason": socket.close_reason}), flush=True)


async def parts():
    for part in ["one ", "two ", "three"]:
        yield part


async def server():
    async with serve(answer, "127.0.0.1", 0, subprotocols=["v2"], max_size=None, ping_interval=None) as running:
        print(running.sockets[0].getsockname()[1], flush=True)
        await running.serve_forever()


def gate(path, port, certificate, key, **more):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    uri = f"wss://127.0.0.1:{port}{path}"
    return connect(uri, ssl=context, max_size=None, ping_interval=None, proxy=None, subprotocols=["v1", "v2"], **more)


async def talk(*where):
    for compression in ["deflate", None]:
        async with gate("/echo", *where, compression=compression) as socket:
            assert socket.subprotocol == "v2", socket.subprotocol
            deflated = [extension.name for extension in socket.protocol.extensions]
            assert deflated == (["permessage-deflate"] if compression else []), deflated
            for message in ["hello", "", "ä" * 70_000, b"\x00" * 126, LARGE]:
                await socket.send(message)
                assert await socket.recv() == message, "an echo is what was sent"
            await socket.send(parts())
            assert await socket.recv() == "one two three"
            pong = await socket.ping(b"there?")
            await asyncio.wait_for(pong, 10)
            await asyncio.gather(*(socket.send(f"{number}") for number in range(1000)))
            assert [await socket.recv() for _ in range(1000)] == [f"{number}" for number in range(1000)]
            await socket.close(4000, "bye")
            assert (socket.close_code, socket.close_reason) == (4000, "bye"), socket.close_code
    async with gate("/fragments", *where) as socket:
        assert [part async for part in socket.recv_streaming() if part] == ["one ", "two ", "three"], "fragments stay fragments"
    async with gate("/close", *where) as socket:
        try:
            await socket.recv()
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "enough"), closed
        else:
            raise AssertionError("the server closes")


async def wait(*where):
    async with gate("/echo", *where) as socket:
        await socket.send("hello")
        await socket.recv()
        print("open", flush=True)
        try:
            await socket.recv()
        except ConnectionClosed as closed:
            print(json.dumps({"code": closed.rcvd and closed.rcvd.code, "reason": closed.rcvd and closed.rcvd.reason}), flush=True)


if __name__ == "__main__":
    try:
        asyncio.run({"serve": server, "talk": talk, "wait": wait}[sys.argv[1]](*sys.argv[2:]))
    except InvalidStatus as refused:
        sys.exit(f"refused: {refused.response.body}")
