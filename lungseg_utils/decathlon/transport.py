"""Ask a server for a file, over http and https only; read it, and break off cleanly."""

import http.client
import urllib.error
import urllib.request
from typing import IO
from urllib.parse import urlsplit

CHUNK = 1 << 18  # bytes


class TransferError(Exception):
    """The transfer broke off in a way that another try may fix."""


def open_url(url: str, headers: dict[str, str], timeout_s: float) -> http.client.HTTPResponse:
    """Send a request; no file:, ftp: or data: address is opened, not even by redirect."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        _HttpOnly,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s)


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        request: urllib.request.Request,
        answer: IO[bytes],
        code: int,
        message: str,
        headers: http.client.HTTPMessage,
        address: str,
    ) -> urllib.request.Request | None:
        old, new = urlsplit(request.full_url).scheme, urlsplit(address).scheme
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            raise urllib.error.HTTPError(
                address, code, "redirect to an unsafe address", headers, answer
            )
        return super().redirect_request(request, answer, code, message, headers, address)


def read_chunk(answer: http.client.HTTPResponse) -> bytes:
    """Return what has come, up to `CHUNK` bytes, so that a cut loses nothing; none at the end."""
    try:
        return answer.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise TransferError(
            f"the connection broke off ({error or type(error).__name__})"
        ) from error
