"""A small static file server for bundles and the demo page.

    /                      the demo page
    /runtime/...           the built JavaScript runtime
    /bundles.json          {"bundles": [{"name", "url", "kind", "architecture", "bytes", "task", "profile", "report"}]},
                           where codes are nested also "depths": [{"bits", "bytes"}], the finest first
    /bundles/NAME/...      the bundles given

Only GET and HEAD, only files inside these folders, links out of them refused. A page from another
site cannot read through it: the Host header must name this machine (DNS rebinding).
"""

from __future__ import annotations

import email.utils
import json
import os
import re
import socket
import sys
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

from edgec.bundle.manifest import FINEST

# Written out because the operating system's table differs from machine to machine.
MIME_TYPES = {
    ".bin": "application/octet-stream",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".map": "application/json; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
_CONTENT_ADDRESSED = re.compile(r"/weights/[0-9a-f]{64}\.bin$")
# The page has the same policy as a meta element, but that does not bind its workers: their own headers do.
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; "
    "style-src 'self'; img-src 'self' blob:; media-src blob:; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_LOCAL_HOSTS = {"localhost", "127.0.0.1", "[::1]"}
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Site:
    """What is served: `mounts` maps URL prefixes (ending in "/") to folders, `documents` paths to bytes."""

    mounts: Mapping[str, Path]
    documents: Mapping[str, bytes] = field(default_factory=dict)
    isolated: bool = True
    hosts: frozenset[str] = frozenset(_LOCAL_HOSTS)  # accepted Host names; empty: any

    def find(self, path: str) -> Path | None:
        """The file behind a decoded URL path, or None."""
        if "\0" in path or "\\" in path:
            return None
        for prefix in sorted(self.mounts, key=len, reverse=True):
            if path.startswith(prefix):
                root = self.mounts[prefix].resolve()
                relative = path[len(prefix) :]
                if any(part in (".", "..") or part.startswith(".") for part in relative.split("/")):
                    return None
                file = (root / relative).resolve()
                if file.is_dir():
                    file = file / "index.html"
                return file if file.is_relative_to(root) and file.is_file() else None
        return None


def site(bundles: Mapping[str, Path], *, demo: Path, runtime: Path, isolated: bool, any_host: bool = False) -> Site:
    """The site that `edgec serve` shows. `bundles` maps the name in the URL to the folder."""
    mounts = {"/": demo, "/runtime/": runtime}
    mounts |= {f"/bundles/{name}/": folder for name, folder in bundles.items()}
    listing = {"bundles": [_describe(name, folder) for name, folder in bundles.items()]}
    return Site(
        mounts=mounts,
        documents={"/bundles.json": json.dumps(listing, indent=2).encode()},
        isolated=isolated,
        hosts=frozenset() if any_host else frozenset(_LOCAL_HOSTS),
    )


def _describe(name: str, folder: Path) -> dict[str, Any]:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    model = manifest["model"]
    row = {
        "name": model["name"],
        "url": f"/bundles/{urllib.parse.quote(name)}/",
        "kind": model["kind"],
        "architecture": model["architecture"],
        "bytes": sum(entry["bytes"] for entry in manifest["files"].values()),
        "task": (manifest.get("task") or {}).get("type"),
        "profile": manifest["profile"],
        "report": f"/bundles/{urllib.parse.quote(name)}/report.html" if "report.html" in manifest["files"] else None,
    }
    if "depths" in manifest:
        coarser = (depth["bits"] for depth in manifest["depths"])
        row["depths"] = [_describe_depth(manifest, bits) for bits in (FINEST, *coarser)]
    return row


def _describe_depth(manifest: dict[str, Any], bits: int) -> dict[str, int]:
    unused = {weight["file"] for weight in manifest["weights"] if bits not in weight.get("depths", (bits,))}
    return {"bits": bits, "bytes": sum(info["bytes"] for name, info in manifest["files"].items() if name not in unused)}


class Server(ThreadingHTTPServer):
    """Listens at once; `serve_forever()` answers."""

    daemon_threads = True
    allow_reuse_address = os.name == "posix"

    def __init__(self, site: Site, host: str = "127.0.0.1", port: int = 0) -> None:
        self.site = site
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)

    @property
    def url(self) -> str:
        host, port = self.server_address[0], self.server_address[1]
        shown = "localhost" if host in ("127.0.0.1", "::1", "0.0.0.0", "::") else host
        return f"http://{shown!s}:{port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up in mid-download is no error of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "edgec"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet: the page itself shows what fails."""

    def _answer(self, *, body: bool) -> None:
        host = self.headers.get("Host", "").lower().rpartition(":")[0] or self.headers.get("Host", "").lower()
        if self.server.site.hosts and host not in self.server.site.hosts:
            return self._refuse(HTTPStatus.FORBIDDEN, "this server answers only to names of this machine", body)
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path, errors="replace")
        document = self.server.site.documents.get(path)
        if document is not None:
            return self._send_bytes(document, MIME_TYPES[".json"], body)
        file = self.server.site.find(path)
        if file is None:
            return self._refuse(HTTPStatus.NOT_FOUND, "no such file", body)
        if file.name == "index.html" and not path.endswith(("/", "/index.html")):
            self.send_response(HTTPStatus.MOVED_PERMANENTLY)
            self.send_header("Location", urllib.parse.quote(path) + "/")
            return self._end_headers(0)
        with file.open("rb") as stream:
            self._send_file(stream, file, path, body)

    def _send_file(self, stream: BinaryIO, file: Path, path: str, body: bool) -> None:
        status = os.fstat(stream.fileno())
        size = status.st_size
        etag = f'"{status.st_mtime_ns:x}-{size:x}"'
        if etag in self.headers.get("If-None-Match", ""):
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self.send_header("ETag", etag)
            return self._end_headers(None)
        wanted = self.headers.get("Range")
        if wanted is not None and self.headers.get("If-Range", etag) != etag:
            wanted = None
        first, last = 0, size - 1
        if wanted is not None:
            try:
                span = parse_range(wanted, size)
            except ValueError:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{size}")
                return self._end_headers(0)
            if span is None:
                wanted = None
            else:
                first, last = span
        self.send_response(HTTPStatus.OK if wanted is None else HTTPStatus.PARTIAL_CONTENT)
        if wanted is not None:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Type", MIME_TYPES.get(file.suffix.lower(), "application/octet-stream"))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", etag)
        self.send_header("Last-Modified", email.utils.formatdate(status.st_mtime, usegmt=True))
        immutable = _CONTENT_ADDRESSED.search(path) is not None
        self.send_header("Cache-Control", "public, max-age=31536000, immutable" if immutable else "no-cache")
        if not path.startswith("/bundles/"):  # a bundle's report has its styles inside
            self.send_header("Content-Security-Policy", _POLICY)
        self._end_headers(last - first + 1)
        if not body:
            return
        stream.seek(first)
        left = last - first + 1
        while left > 0:
            chunk = stream.read(min(_CHUNK, left))
            if not chunk:
                self.close_connection = True  # the file became shorter: the client must notice
                return
            self.wfile.write(chunk)
            left -= len(chunk)

    def _send_bytes(self, content: bytes, mime_type: str, body: bool) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", mime_type)
        self.send_header("Cache-Control", "no-cache")
        self._end_headers(len(content))
        if body:
            self.wfile.write(content)

    def _refuse(self, status: HTTPStatus, reason: str, body: bool) -> None:
        content = (reason + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", MIME_TYPES[".txt"])
        self._end_headers(len(content))
        if body:
            self.wfile.write(content)

    def _end_headers(self, length: int | None) -> None:
        if length is not None:
            self.send_header("Content-Length", str(length))
        if self.server.site.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a `Range` header; None when it asks for something else than one byte range.

    Raises `ValueError` when the range lies outside the file.
    """
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", header)
    if match is None or match.groups() == ("", ""):
        return None
    start, end = match.groups()
    if not start:
        length = int(end)
        if length == 0 or size == 0:
            raise ValueError("empty range")
        return max(0, size - length), size - 1
    first, last = int(start), min(int(end), size - 1) if end else size - 1
    if end and int(end) < int(start):
        return None
    if first >= size:
        raise ValueError("range behind the end")
    return first, last
