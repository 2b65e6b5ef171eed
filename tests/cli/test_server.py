"""The static server, over a real socket."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgec.cli.server import Server, Site, parse_range, site

WEIGHTS = bytes(range(256)) * 40
WEIGHT_FILE = f"weights/{'ab' * 32}.bin"


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    demo, runtime, bundle = tmp_path / "demo", tmp_path / "runtime", tmp_path / "tiny.edgec"
    for folder in (demo / "assets", runtime, bundle / "weights"):
        folder.mkdir(parents=True)
    (demo / "index.html").write_text("<title>demo</title>")
    (demo / "assets" / "a b.svg").write_text("<svg/>")
    (demo / "assets" / "index.html").write_text("inner")
    (demo / ".secret").write_text("hidden")
    (runtime / "edgec.js").write_text("export {}")
    (runtime / "worker.mjs").write_text("export {}")
    (bundle / "module.simd128.wasm").write_bytes(b"\0asm")
    (bundle / WEIGHT_FILE).write_bytes(WEIGHTS)
    manifest = {
        "model": {"name": "tiny", "kind": "decoder", "architecture": "llama"},
        "files": {WEIGHT_FILE: {"bytes": len(WEIGHTS)}},
        "profile": "laptop-8gb",
        "task": None,
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "outside.txt").write_text("secret")
    (demo / "link.txt").symlink_to(tmp_path / "outside.txt")
    return {"demo": demo, "runtime": runtime, "bundle": bundle}


@contextmanager
def serving(content: Site) -> Iterator[http.client.HTTPConnection]:
    with Server(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
        try:
            yield connection
        finally:
            connection.close()
            server.shutdown()
            thread.join()


@pytest.fixture
def connection(folders: dict[str, Path]) -> Iterator[http.client.HTTPConnection]:
    content = site({"tiny.edgec": folders["bundle"]}, demo=folders["demo"], runtime=folders["runtime"], isolated=True)
    with serving(content) as open_connection:
        yield open_connection


def get(
    connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    return response, response.read()


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html?x=1", "text/html; charset=utf-8"),
        ("/assets/a%20b.svg", "image/svg+xml"),
        ("/assets/", "text/html; charset=utf-8"),
        ("/runtime/edgec.js", "text/javascript; charset=utf-8"),
        ("/runtime/worker.mjs", "text/javascript; charset=utf-8"),
        ("/bundles/tiny.edgec/module.simd128.wasm", "application/wasm"),
        ("/bundles/tiny.edgec/manifest.json", "application/json; charset=utf-8"),
        (f"/bundles/tiny.edgec/{WEIGHT_FILE}", "application/octet-stream"),
    ],
)
def test_types_and_isolation(connection: http.client.HTTPConnection, path: str, content_type: str) -> None:
    response, body = get(connection, path)
    assert response.status == 200 and body
    assert response.headers["Content-Type"] == content_type
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    head, nothing = get(connection, path, "HEAD")
    assert head.status == 200 and nothing == b""
    assert head.headers["Content-Length"] == str(len(body))


def test_listing(connection: http.client.HTTPConnection) -> None:
    _, body = get(connection, "/bundles.json")
    assert json.loads(body) == {
        "bundles": [
            {
                "name": "tiny",
                "url": "/bundles/tiny.edgec/",
                "kind": "decoder",
                "architecture": "llama",
                "bytes": len(WEIGHTS),
                "task": None,
                "profile": "laptop-8gb",
                "report": None,
            }
        ]
    }


def test_listing_names_the_report(folders: dict[str, Path]) -> None:
    manifest = json.loads((folders["bundle"] / "manifest.json").read_text())
    manifest["files"]["report.html"] = {"bytes": 5}
    (folders["bundle"] / "manifest.json").write_text(json.dumps(manifest))
    content = site({"a b.edgec": folders["bundle"]}, demo=folders["demo"], runtime=folders["runtime"], isolated=True)
    (row,) = json.loads(content.documents["/bundles.json"])["bundles"]
    assert row["report"] == "/bundles/a%20b.edgec/report.html"


def test_listing_has_the_bytes_of_each_depth(folders: dict[str, Path]) -> None:
    manifest = json.loads((folders["bundle"] / "manifest.json").read_text())
    manifest["files"] = {"a": {"bytes": 40}, "b": {"bytes": 5}, "c": {"bytes": 3}, "d": {"bytes": 2}}
    manifest["weights"] = [{"file": "b", "depths": [4]}, {"file": "c", "depths": [3]}, {"file": "d"}]
    manifest["depths"] = [{"bits": 3}]
    (folders["bundle"] / "manifest.json").write_text(json.dumps(manifest))
    content = site({"tiny": folders["bundle"]}, demo=folders["demo"], runtime=folders["runtime"], isolated=True)
    (row,) = json.loads(content.documents["/bundles.json"])["bundles"]
    assert row["depths"] == [{"bits": 4, "bytes": 47}, {"bits": 3, "bytes": 45}]


def test_page_and_workers_may_reach_this_server_only(connection: http.client.HTTPConnection) -> None:
    for path in ("/", "/runtime/worker.mjs"):
        response, _ = get(connection, path)
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "'wasm-unsafe-eval'" in policy
    response, _ = get(connection, "/bundles/tiny.edgec/manifest.json")
    assert response.headers["Content-Security-Policy"] is None


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/assets/..%2f..%2foutside.txt",
        "/..%5coutside.txt",
        "/bundles/tiny.edgec/../../outside.txt",
        "/bundles/tiny.edgec/%2e%2e/outside.txt",
        "//etc/passwd",
        "/%00",
        "/.secret",
        "/link.txt",
        "/bundles/other/manifest.json",
        "/bundles/tiny.edgec/weights/",
        "/%ff",
    ],
)
def test_nothing_outside_is_served(connection: http.client.HTTPConnection, path: str) -> None:
    response, body = get(connection, path)
    assert response.status == 404
    assert b"secret" not in body and b"hidden" not in body


def test_other_methods_are_refused(connection: http.client.HTTPConnection) -> None:
    response, _ = get(connection, "/", "POST")
    assert response.status == 501


def test_names_of_other_machines_are_refused(connection: http.client.HTTPConnection) -> None:
    response, _ = get(connection, "/", Host="evil.example:8080")
    assert response.status == 403
    response, _ = get(connection, "/", Host="localhost:1234")
    assert response.status == 200


def test_a_folder_without_a_slash_redirects(connection: http.client.HTTPConnection) -> None:
    response, _ = get(connection, "/assets")
    assert (response.status, response.headers["Location"]) == (301, "/assets/")


def test_ranges(connection: http.client.HTTPConnection) -> None:
    path = f"/bundles/tiny.edgec/{WEIGHT_FILE}"
    size = len(WEIGHTS)
    for header, first, last in [
        ("bytes=0-0", 0, 0),
        ("bytes=100-299", 100, 299),
        ("bytes=100-", 100, size - 1),
        ("bytes=-7", size - 7, size - 1),
        (f"bytes=5-{size * 2}", 5, size - 1),
        (f"bytes=-{size * 2}", 0, size - 1),
    ]:
        response, body = get(connection, path, Range=header)
        assert response.status == 206
        assert response.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
        assert body == WEIGHTS[first : last + 1]
    for header in ("bytes=0-1,4-5", "lines=1-2", "bytes=-", "bytes=9-3"):
        response, body = get(connection, path, Range=header)
        assert (response.status, body) == (200, WEIGHTS)
    for header in (f"bytes={size}-", "bytes=-0"):
        response, body = get(connection, path, Range=header)
        assert (response.status, body) == (416, b"")
        assert response.headers["Content-Range"] == f"bytes */{size}"
    response, body = get(connection, path, Range="bytes=0-3", If_Range='"another version"')
    assert (response.status, body) == (200, WEIGHTS)


def test_caching(connection: http.client.HTTPConnection) -> None:
    weights, _ = get(connection, f"/bundles/tiny.edgec/{WEIGHT_FILE}")
    assert "immutable" in weights.headers["Cache-Control"]
    page, _ = get(connection, "/")
    assert page.headers["Cache-Control"] == "no-cache"
    again, body = get(connection, "/", If_None_Match=page.headers["ETag"])
    assert (again.status, body) == (304, b"")


def test_without_isolation(folders: dict[str, Path]) -> None:
    content = site({}, demo=folders["demo"], runtime=folders["runtime"], isolated=False)
    with serving(content) as connection:
        response, _ = get(connection, "/")
        assert response.status == 200
        assert response.headers["Cross-Origin-Opener-Policy"] is None
        assert response.headers["Cross-Origin-Embedder-Policy"] is None


def test_a_server_open_to_others_accepts_any_name(folders: dict[str, Path]) -> None:
    content = site({}, demo=folders["demo"], runtime=folders["runtime"], isolated=True, any_host=True)
    with serving(content) as connection:
        response, _ = get(connection, "/", Host="tablet.lan:8080")
        assert response.status == 200


def test_a_client_that_hangs_up_does_no_harm(folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    (folders["demo"] / "big.bin").write_bytes(bytes(1 << 24))
    content = site({}, demo=folders["demo"], runtime=folders["runtime"], isolated=True)
    with serving(content) as connection:
        connection.request("GET", "/big.bin")
        connection.getresponse().read(10)
        connection.close()
        response, _ = get(connection, "/")
        assert response.status == 200
    assert capfd.readouterr().err == ""


def test_parse_range_of_an_empty_file() -> None:
    with pytest.raises(ValueError, match="range"):
        parse_range("bytes=0-", 0)
    with pytest.raises(ValueError, match="range"):
        parse_range("bytes=-1", 0)
