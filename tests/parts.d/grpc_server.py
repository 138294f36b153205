"""A gRPC server of another language, for the gate to stand in front of. No protobuf: messages are bytes.

Prints its port, serves until stdin ends, and prints a line for each call it saw the end of.
"""
import sys
import threading
import time
from concurrent import futures

import grpc


def say(*words):
    print(*words, flush=True)


def unary(request, context):
    return b"echo " + request


def described(request, context):
    sent = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-initial", "1"), ("x-bytes-bin", b"\x00\xff")))
    context.set_trailing_metadata((("x-trailing", "2"),))
    return "|".join([sent.get("x-asked", ""), sent.get("x-spiffe-id", ""), str(context.time_remaining() is not None)]).encode()


def failing(request, context):
    context.set_trailing_metadata((("x-why", "test"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")


def sleeping(request, context):
    while context.is_active():
        time.sleep(0.05)
    say("sleeping over")
    return b""


def counting(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def adding(requests, context):
    return b"%d" % sum(int(request) for request in requests)


def echoing(requests, context):
    for request in requests:
        yield b"echo " + request


def ticking(request, context):
    context.add_callback(lambda: say("ticking over", request.decode()))
    number = 0
    while context.is_active():
        yield b"%d" % number
        number += 1
        time.sleep(0.01)


def large(request, context):
    """Messages of which one takes long to be read by a client with a small window."""
    context.add_callback(lambda: say("large over"))
    while context.is_active():
        yield b"x" * (4 * 1024 * 1024)


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Described": grpc.unary_unary_rpc_method_handler(described),
    "Failing": grpc.unary_unary_rpc_method_handler(failing),
    "Sleeping": grpc.unary_unary_rpc_method_handler(sleeping),
    "Counting": grpc.unary_stream_rpc_method_handler(counting),
    "Adding": grpc.stream_unary_rpc_method_handler(adding),
    "Echoing": grpc.stream_stream_rpc_method_handler(echoing),
    "Ticking": grpc.unary_stream_rpc_method_handler(ticking),
    "Large": grpc.unary_stream_rpc_method_handler(large),
}


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", HANDLERS),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    say(port)
    sys.stdin.read()
    server.stop(None)


main()
