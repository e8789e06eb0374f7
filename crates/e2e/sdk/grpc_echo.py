"""A gRPC service and a caller of it, both with the stock `grpcio`; messages are bytes, so that no code has to be made.

`serve PORT` serves; `call ADDRESS KEY SLUG [CA]` calls every kind of method through Towline and prints what it saw as JSON. With a
file of certificates it calls by TLS.
"""

import json
import sys
import threading
import time
from concurrent import futures

import grpc

# Seconds at which the service saw a call end before it was answered. Both programs run on one machine, and its clock is theirs.
ended = []


def unary(request, context):
    kept = [value for key, value in context.invocation_metadata() if key == "x-kept"]
    context.send_initial_metadata([("x-initial", ",".join(kept))])
    context.set_trailing_metadata([("x-sum", "42"), ("x-raw-bin", b"\x00\xff")])
    return request


def server_stream(request, context):
    for number in range(5):
        yield request + str(number).encode()


def client_stream(requests, context):
    return b"+".join(requests)


def bidi(requests, context):
    for request in requests:
        yield request.upper()


def fail(request, context):
    context.set_trailing_metadata([("x-sum", "43")])
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not 100 %: ü")


def wait(request, context):
    over = threading.Event()
    context.add_callback(lambda: (ended.append(time.monotonic()), over.set()))
    yield b"begun"
    over.wait(60)


def silent(request, context):
    over = threading.Event()
    context.add_callback(lambda: (ended.append(time.monotonic()), over.set()))
    over.wait(60)
    return b""


def last_end(request, context):
    return json.dumps(ended).encode()


def check(request, context):
    """`grpc.health.v1.Health/Check`: SERVING."""
    return b"\x08\x01"


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(32))
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Wait": grpc.unary_stream_rpc_method_handler(wait),
        "Silent": grpc.unary_unary_rpc_method_handler(silent),
        "LastEnd": grpc.unary_unary_rpc_method_handler(last_end),
    }
    health = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server.add_generic_rpc_handlers([
        grpc.method_handlers_generic_handler("demo.Echo", methods),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
    ])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def error_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return {"code": error.code().name, "details": error.details(), "trailers": texts(error.trailing_metadata())}
    raise AssertionError("the call did not fail")


def texts(metadata):
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def channel_to(address, authority):
    if authority is None:
        return grpc.insecure_channel(address)
    with open(authority, "rb") as file:
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(file.read()))


def call(address, key, slug, authority=None):
    channel = channel_to(address, authority)

    def metadata(slug=slug, key=key):
        return [("authorization", f"Bearer {key}"), ("x-towline-service", slug), ("x-kept", "a"), ("x-kept", "b")]

    seen = {}
    path = "/demo.Echo/"
    message, done = channel.unary_unary(path + "Unary").with_call(b"hello", metadata=metadata(), timeout=20)
    raw = dict(done.trailing_metadata())["x-raw-bin"]
    seen["unary"] = [message.decode(), texts(done.initial_metadata())["x-initial"], texts(done.trailing_metadata()).get("x-sum"), list(raw)]
    large = bytes(3 << 20)
    seen["large"] = channel.unary_unary(path + "Unary")(large, metadata=metadata(), timeout=20) == large
    stream = channel.unary_stream(path + "ServerStream")(b"n", metadata=metadata(), timeout=20)
    seen["server_stream"] = [message.decode() for message in stream]
    parts = channel.stream_unary(path + "ClientStream")(iter([b"a", b"b", b"c"]), metadata=metadata(), timeout=20)
    seen["client_stream"] = parts.decode()

    # Each message goes only after the answer to the one before it.
    turns, answered = threading.Semaphore(1), []

    def ask():
        for text in (b"x", b"y", b"z"):
            turns.acquire()
            yield text

    for message in channel.stream_stream(path + "Bidi")(ask(), metadata=metadata(), timeout=20):
        answered.append(message.decode())
        turns.release()
    seen["bidi"] = answered

    seen["fail"] = error_of(lambda: channel.unary_unary(path + "Fail")(b"", metadata=metadata(), timeout=20))
    seen["no_method"] = error_of(lambda: channel.unary_unary(path + "None")(b"", metadata=metadata(), timeout=20))
    jello = metadata(slug="jello")
    seen["unknown_service"] = error_of(lambda: channel.unary_unary(path + "Unary")(b"", metadata=jello, timeout=20))
    mistyped = metadata(key="sk-mistyped")
    seen["wrong_key"] = error_of(lambda: channel.unary_unary(path + "Unary")(b"", metadata=mistyped, timeout=20))

    def ends():
        return json.loads(channel.unary_unary(path + "LastEnd")(b"", metadata=metadata(), timeout=20))

    def told_after(began, count):
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if len(ends()) > count:
                return ends()[count] - began
            time.sleep(0.01)
        raise AssertionError("the service was not told")

    seen["cancel"] = []
    for _ in range(5):
        count = len(ends())
        stream = channel.unary_stream(path + "Wait")(b"", metadata=metadata())
        assert next(stream) == b"begun"
        began = time.monotonic()
        stream.cancel()
        seen["cancel"].append(told_after(began, count))
    count = len(ends())
    waiting = channel.unary_unary(path + "Silent").future(b"", metadata=metadata())
    time.sleep(0.3)
    began = time.monotonic()
    waiting.cancel()
    seen["cancel"].append(told_after(began, count))
    late = error_of(lambda: channel.unary_unary(path + "Silent")(b"", metadata=metadata(), timeout=0.5))
    seen["deadline"] = late["code"]
    print(json.dumps(seen))


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](*sys.argv[2:])
