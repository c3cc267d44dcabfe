"""A teacher for the mini world: a local OpenAI-compatible server that answers from the scene files.

It identifies a scene by the image in the request, and writes the true chain of description of the scene.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson

from sicog.mini.text import cod_caption
from sicog.mini.truth import read_truth
from sicog.stages.provenance import digest_bytes, digest_file

PATH = "/v1/chat/completions"


@contextmanager
def teacher_server(data: Path, split: str = "warmup_captions") -> Iterator[str]:
    """Serve the teacher of a mini data folder on a free port of this machine; yields its base URL."""
    captions = {digest_file(data / t.image): cod_caption(t.scene) for t in read_truth(data, split).values()}

    class Handler(_Handler):
        known = captions

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256  # waiting connections: as many as a client may open at once

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    known: Mapping[str, str] = {}

    def log_message(self, *arguments: object) -> None:
        """Do not log requests."""

    def do_POST(self) -> None:
        """Answer one chat request."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != PATH:
            return self._send(404, {"error": {"message": f"only {PATH} is served"}})
        try:
            caption = self.known[digest_bytes(_image(orjson.loads(body)))]
        except (KeyError, IndexError, TypeError, StopIteration, ValueError, binascii.Error):
            return self._send(400, {"error": {"message": "the request shows no image of this split"}})
        message = {"role": "assistant", "content": caption}
        usage = {"prompt_tokens": len(body) // 4, "completion_tokens": len(caption) // 4}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return self._send(200, {"object": "chat.completion", "choices": choices, "usage": usage})

    def _send(self, status: int, value: Mapping[str, Any]) -> None:
        body = orjson.dumps(value)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _image(request: Mapping[str, Any]) -> bytes:
    """Return the bytes of the first image of the user's message."""
    parts = next(m for m in request["messages"] if m["role"] == "user")["content"]
    url = next(p for p in parts if p["type"] == "image_url")["image_url"]["url"]
    return base64.b64decode(url.partition(",")[2], validate=True)
