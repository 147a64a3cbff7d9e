"""A stand-in for the Hugging Face hub: a data set or a model in a folder, read and written by huggingface_hub."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def hub(folder: Path, name: str, kind: str = "datasets") -> Iterator[tuple[str, list[str]]]:
    """Serve `folder` as the data set or model `name` (ORG/NAME); yields the endpoint and the requests, as they come.

    kind: "datasets" or "models". What is pushed is written into `folder`.
    """
    asked: list[str] = []
    files = f"/datasets/{name}" if kind == "datasets" else f"/{name}"

    def facts(path: Path) -> dict:
        relative = path.relative_to(folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": relative}
        digest = hashlib.sha1(path.read_bytes()).hexdigest()
        return {"type": "file", "oid": digest, "size": path.stat().st_size, "path": relative}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self, code: int, data: bytes, **headers: str) -> None:
            self.send_response(code)
            for key, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def json(self, value: object, code: int = 200) -> None:
            self.answer(code, json.dumps(value).encode(), Content_Type="application/json")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(f"POST {self.path}")
            path = urlsplit(self.path).path
            if path == "/api/repos/create":
                asked.append(body.decode())
                return self.json({"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": "1"})
            if path == "/api/validate-yaml":
                return self.json({"errors": [], "warnings": []})
            if "/preupload/" in path:  # all of them by value, none in a store of its own
                wanted = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                          for file in json.loads(body)["files"]]  # fmt: skip
                return self.json({"files": wanted})
            if "/commit/" in path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        target = folder / line["value"]["path"]
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(base64.b64decode(line["value"]["content"]))
                address = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
                return self.json({"commitUrl": address, "commitOid": COMMIT})
            if "/paths-info/" in self.path:
                content = self.headers.get("Content-Type", "")
                paths = json.loads(body)["paths"] if "json" in content else parse_qs(body.decode()).get("paths", [])
                paths = [paths] if isinstance(paths, str) else paths
                return self.json([facts(folder / path) for path in paths if (folder / path).exists()])
            self.json({"error": "not here"}, 404)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
            api = f"/api/{kind}/{name}"
            if path.startswith(f"{api}/tree/"):
                below = path.removeprefix(f"{api}/tree/").partition("/")[2]
                root = folder / below
                recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
                if not root.is_dir():
                    return self.json({"error": "not found"}, 404)
                return self.json([facts(each) for each in sorted(root.rglob("*") if recursive else root.iterdir())])
            revision = path.removeprefix(f"{api}/revision/")
            if path.startswith(f"{api}/revision/") and revision not in ("main", COMMIT):
                return self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
            if path == api or path.startswith(f"{api}/revision/"):
                there = [{"rfilename": each.relative_to(folder).as_posix()} for each in sorted(folder.rglob("*"))
                         if each.is_file()]  # fmt: skip
                return self.json({"id": name, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0,
                                  "siblings": there, "gated": False})  # fmt: skip
            if path.startswith(f"{files}/resolve/"):
                file = folder / path.removeprefix(f"{files}/resolve/").partition("/")[2]
                if not file.is_file():
                    return self.json({"error": "not found"}, 404)
                data = file.read_bytes()
                marks = {
                    "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
                    "X_Repo_Commit": COMMIT,
                    "Accept_Ranges": "bytes",
                }
                wanted = self.headers.get("Range", "")
                if wanted.startswith("bytes="):
                    first, _, last = wanted.removeprefix("bytes=").partition("-")
                    start, stop = int(first), int(last or len(data) - 1) + 1
                    part = data[start:stop]
                    span = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
                    return self.answer(206, part, Content_Range=span, **marks)
                return self.answer(200, data, **marks)
            self.json({"error": "not here"}, 404)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
