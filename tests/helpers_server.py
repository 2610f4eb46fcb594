"""A file server on loopback that misbehaves on purpose, for the tests of downloading.

    with FlakyServer(body, "cut") as server:
        download(folder, url=server.url, ...)

Each entry of MODES describes what the server does; `server.requests` keeps the Range and If-Range
of every request.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import threading
import time

MODES = {
    "ok": "Range, ETag and Content-Length as they should be",
    "no_range": "every answer is the whole file",
    "cut": "closes after `cut_at` bytes of every answer",
    "cut_no_range": "closes after `cut_at` bytes, and every answer starts at byte 0",
    "no_length": "`cut_at` bytes and a clean close, and no Content-Length: only the md5 can tell",
    "wrong": "one byte differs",
    "wrong_then_ok": "one byte of the first answer differs, which is cut too",
    "changed": "the file becomes another after the first answer, which is cut",
    "ignores_if_range": "as `changed`, but the rest of the new version is sent as the old one's",
    "weak_tag": "as `cut`, with a weak ETag, which If-Range may not use, and no Last-Modified",
    "html": "a sign-in page, with status 200",
    "html_as_tar": "a sign-in page that calls itself application/x-tar",
    "once_500": "500 to the first request",
    "403": "that status, always",
    "404": "that status, always",
    "416": "that status, always",
    "500": "that status, always",
    "stall": "sends `cut_at` bytes of the first answer, then nothing",
    "loop": "redirects to itself",
    "to_file": "redirects to file:///etc/hostname",
    "to_ftp": "redirects to ftp:",
    "redirect": "redirects once to the right place",
    "slow": "sends in small pieces, 4 ms apart",
}


class FlakyServer:
    """Serve `body` under /`name` on 127.0.0.1, in one of MODES."""

    def __init__(
        self,
        body: bytes,
        mode: str = "ok",
        *,
        name: str = "Task99_Toy.tar",
        cut_at: int | None = None,
    ):
        assert mode in MODES, mode
        self.body, self.mode, self.name = body, mode, name
        self.cut_at = cut_at or len(body) // 3
        self.requests: list[tuple[str | None, str | None]] = []
        self.closing = threading.Event()

    def __enter__(self) -> FlakyServer:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                server.requests.append((self.headers.get("Range"), self.headers.get("If-Range")))
                self.close_connection = True
                with contextlib.suppress(OSError):  # the client has gone
                    server.answer(self, len(server.requests) == 1)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/{self.name}"
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()

    def answer(self, handler: http.server.BaseHTTPRequestHandler, is_first: bool) -> None:
        mode = self.mode
        if mode.isdecimal() or (mode == "once_500" and is_first):
            return self.send(handler, int(mode) if mode.isdecimal() else 500, b"no\n", {})
        if mode.startswith("html"):
            kind = "text/html" if mode == "html" else "application/x-tar"
            return self.send(
                handler, 200, b"\n<html><body>Please sign in</body></html>", {"Content-Type": kind}
            )
        target = {
            "loop": self.url,
            "to_file": "file:///etc/hostname",
            "to_ftp": "ftp://127.0.0.1/x",
            "redirect": self.url + "?again",
        }.get(mode)
        if target and not handler.path.endswith("?again"):
            return self.send(handler, 302, b"", {"Location": target})
        return self.send_file(handler, is_first)

    def send_file(self, handler: http.server.BaseHTTPRequestHandler, is_first: bool) -> None:
        mode, body = self.mode, self.body
        if mode == "wrong" or (mode == "wrong_then_ok" and is_first):
            body = bytes([body[0] ^ 1]) + body[1:]
        if mode in ("changed", "ignores_if_range") and not is_first:
            body = body[::-1]
        tag = '"' + hashlib.md5(self.body if mode == "wrong_then_ok" else body).hexdigest() + '"'
        tag = "W/" + tag if mode == "weak_tag" else tag
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        condition = handler.headers.get("If-Range", tag)
        start = (
            int(asked[1])
            if asked and "no_range" not in mode and (condition == tag or "ignores" in mode)
            else 0
        )
        if start >= len(body):
            return self.send(handler, 416, b"", {"Content-Range": f"bytes */{len(body)}"})
        rest = body[start:]
        headers = {"ETag": tag, "Content-Length": str(len(rest))}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        if mode == "no_length":
            del headers["Content-Length"]
        is_cut = (
            "cut" in mode
            or mode in ("no_length", "weak_tag")
            or (is_first and mode in ("wrong_then_ok", "changed", "ignores_if_range", "stall"))
        )
        self.send(handler, 206 if start else 200, rest[: self.cut_at] if is_cut else rest, headers)
        if mode == "stall" and is_first:
            self.closing.wait(60)

    def send(
        self,
        handler: http.server.BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        headers: dict,
    ) -> None:
        handler.send_response(status)
        if "ETag" not in headers:
            headers = {"Content-Length": str(len(content)), **headers}
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.end_headers()
        step = 2048 if self.mode == "slow" else len(content) or 1
        for start in range(0, len(content), step):
            handler.wfile.write(content[start : start + step])
            handler.wfile.flush()
            if self.mode == "slow":
                time.sleep(0.004)
