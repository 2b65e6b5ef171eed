"""A Hugging Face hub of a few files, on the loopback interface."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_PART = 11 << 20  # the client writes pieces of 10 MiB


class Hub:
    """Serves the folders below `root` (`org/name`); keeps what was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.cut: set[str] = set()  # files whose next transfer breaks off after the first bytes
        self.url = ""

    def downloaded(self) -> set[str]:
        return {match[1] for line in self.requests if (match := re.match(r"GET .*/resolve/\w+/(.+)", line))}


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    hub = Hub(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            api = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/revision/\w+|/tree/\w+)?", path)
            file = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/\w+/(.+)", path)
            if api and (hub.root / api[1]).is_dir():
                self._json(self._listing(api[1], tree="/tree/" in path))
            elif file and (hub.root / file[1] / file[2]).is_file():
                self._file(hub.root / file[1] / file[2], file[2], body=body)
            else:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

        def _listing(self, repository: str, *, tree: bool) -> object:
            folder = hub.root / repository
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            names = [path.relative_to(folder).as_posix() for path in files]
            if not tree:
                return {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            return [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": _digest(path)}
                for name, path in zip(names, files, strict=True)
            ]

        def _file(self, path: Path, name: str, *, body: bool) -> None:
            data = path.read_bytes()
            headers = {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            wanted = self.headers.get("Range")
            start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
            if wanted:
                hub.ranges.append(f"{name} {wanted}")
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            cut = body and name in hub.cut
            self._send(206 if wanted else 200, data[start:], headers, body=body, stop_after=_PART if cut else None)
            if cut:
                hub.cut.discard(name)

        def _json(self, content: object) -> None:
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _send(
            self, status: int, data: bytes, headers: dict[str, str], *, body: bool = True, stop_after: int | None = None
        ) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body and self.command == "GET":
                self.wfile.write(data[:stop_after])
            if stop_after is not None:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
