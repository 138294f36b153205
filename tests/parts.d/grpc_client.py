"""A gRPC client of another language: grpc_client.py PORT FOLDER, with the client's SVID and the bundle in FOLDER.

Reads one command a line, answers each with one line of JSON. All calls go on one channel, so on one connection.
"""
import json
import sys
import threading

import grpc

port, folder = sys.argv[1], sys.argv[2]


def read(name):
    with open(f"{folder}/{name}", "rb") as file:
        return file.read()


credentials = grpc.ssl_channel_credentials(read("bundle.pem"), read("client.key"), read("client.pem"))
channel = grpc.secure_channel(f"localhost:{port}", credentials, options=[("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1)])
streams = {}


def say(**answer):
    print(json.dumps(answer), flush=True)


def outcome(call):
    """Waits for a call that returns one message, and tells all of it."""
    try:
        response, done = call()
        return {
            "response": response.decode(),
            "code": done.code().name,
            "initial": {key: str(value) for key, value in done.initial_metadata()},
            "trailing": {key: str(value) for key, value in done.trailing_metadata()},
        }
    except grpc.RpcError as error:
        return {
            "code": error.code().name,
            "details": error.details(),
            "trailing": {key: str(value) for key, value in error.trailing_metadata() or ()},
        }


class Stream:
    """A server stream that is read on a thread of its own."""

    def __init__(self, method, argument, wait=False):
        self.call = channel.unary_stream(method)(argument.encode())
        self.read = 0
        self.first = threading.Event()
        self.over = threading.Event()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        try:
            for _ in self.call:
                self.read += 1
                if self.read >= 3:
                    self.first.set()
        except grpc.RpcError:
            pass
        self.first.set()
        self.over.set()

    def told(self):
        over = self.over.is_set()
        return {"read": self.read, "over": over, "code": self.call.code().name if over else None, "details": self.call.details() if over else None}


for line in sys.stdin:
    command, *rest = line.split()
    if command == "unary":
        method, argument = rest[0], (rest[1] if len(rest) > 1 else "")
        timeout = float(rest[2]) if len(rest) > 2 else 20
        stub = channel.unary_unary(method)
        say(**outcome(lambda: stub.with_call(argument.encode(), timeout=timeout, metadata=(("x-asked", "yes"),))))
    elif command == "counting":
        call = channel.unary_stream("/test.Echo/Counting")(rest[0].encode(), timeout=20)
        say(read=[int(message) for message in call], code=call.code().name)
    elif command == "adding":
        stub = channel.stream_unary("/test.Echo/Adding")
        say(**outcome(lambda: stub.with_call(iter(part.encode() for part in rest), timeout=20)))
    elif command == "echoing":
        # Each is sent only when the one before came back: both directions are open at once.
        turn, said = threading.Semaphore(1), []

        def ask():
            for part in rest:
                turn.acquire()
                yield part.encode()

        call = channel.stream_stream("/test.Echo/Echoing")(ask(), timeout=20)
        for message in call:
            said.append(message.decode())
            turn.release()
        say(read=said, code=call.code().name)
    elif command == "open":
        name, method = rest
        streams[name] = Stream(method, name)
        streams[name].first.wait(20)
        say(**streams[name].told())
    elif command == "wait":
        streams[rest[0]].over.wait(20)
        say(**streams[rest[0]].told())
    elif command == "more":
        stream = streams[rest[0]]
        before = stream.read
        while stream.read < before + 20 and not stream.over.wait(0.02):
            pass
        say(**stream.told())
