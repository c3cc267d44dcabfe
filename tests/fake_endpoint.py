"""A real local HTTP server that speaks /v1/chat/completions and /v1/embeddings, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = "good"


@dataclass
class Endpoint:
    """answer: the text for a request's body. faults: what the next requests meet, in order of arrival; then good ones.

    A fault is (kind, value): status (code or (code, headers, body)), hang (seconds), cut, malformed, empty, no_choices,
    refusal (field), filtered, text (an answer of its own), length (cut by the limit), error_in_body, raw (a body).
    vector: that of a text, for embeddings; their faults are status, hang, cut, malformed, raw and error_in_body, and
    vectors, a function of the list of `data` that changes it.
    """

    answer: Callable[[dict[str, Any]], str]
    vector: Callable[[str], list[float]] | None = None
    faults: list[tuple[str, Any]] = field(default_factory=list)
    delay_s: float = 0.0
    usage: tuple[int, int] | None = (100, 50)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def count(self) -> int:
        return len(self.bodies)

    def arrived(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[str, Any]:
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            return self.faults.pop(0) if self.faults else (GOOD, None)

    def left(self) -> None:
        with self._lock:
            self._now -= 1


def reply(text: str, usage: tuple[int, int] | None, finish: str = "stop", refusal: str | None = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": refusal}
    whole: dict[str, Any] = {"id": "x", "object": "chat.completion", "created": 1, "model": "fake"}
    whole["choices"] = [{"index": 0, "message": message, "finish_reason": finish}]
    if usage:
        whole["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return whole


@contextmanager
def serving(endpoint: Endpoint):
    """Serve until the end of the block; `endpoint.url` is its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body) * (2 if cut else 1)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kind, value = endpoint.arrived(body, dict(self.headers))
            try:
                self.act(kind, value, body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client gave up
            finally:
                endpoint.left()

        def act(self, kind: str, value: Any, body: dict[str, Any]) -> None:
            time.sleep(endpoint.delay_s)
            if self.path == "/v1/embeddings" and endpoint.vector:
                data = [{"index": i, "embedding": endpoint.vector(text)} for i, text in enumerate(body["input"])]
                if kind == "vectors":
                    kind, data, value = GOOD, value(data), None
                usage = {"prompt_tokens": 100, "total_tokens": 100}
                good = json.dumps({"object": "list", "data": data, "model": "fake", "usage": usage}).encode()
            elif self.path == "/v1/chat/completions":
                good = json.dumps(reply(endpoint.answer(body), endpoint.usage)).encode()
            else:
                return self.send(404, b'{"error": {"message": "no such path"}}')
            if kind == "status":
                code, headers, text = value if isinstance(value, tuple) else (value, {}, "")
                default = {"error": {"message": f"status {code} on demand", "code": text or None}}
                return self.send(code, json.dumps(default).encode(), headers)
            if kind == "hang":
                time.sleep(value)
                return self.send(200, good)
            if kind == "cut":
                return self.send(200, good, cut=True)
            if kind == "raw":
                return self.send(200, value.encode())
            bodies = {
                GOOD: good,
                "malformed": good[: len(good) // 2],
                "no_choices": b'{"choices": []}',
                "error_in_body": b'{"error": {"message": "overloaded"}}',
                "empty": json.dumps(reply("", endpoint.usage)).encode(),
                "refusal": json.dumps(reply("", endpoint.usage, refusal="I cannot do that.")).encode(),
                "filtered": json.dumps(reply("", endpoint.usage, "content_filter")).encode(),
                "length": json.dumps(reply(value or "", endpoint.usage, "length")).encode(),
                "text": json.dumps(reply(value or "", endpoint.usage)).encode(),
            }
            return self.send(200, bodies[kind])

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
