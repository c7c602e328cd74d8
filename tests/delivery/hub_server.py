"""A server that speaks the part of the Hugging Face Hub's API that its own client uses for runs.

Repositories are kept in memory. Large files go by Git LFS and come by a redirect, as on the Hub.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LARGE = (".keras", ".bin", ".npz")  # which the Hub keeps by LFS
WRITES, READS = "hf_writes", "hf_reads"  # tokens
_REPO = r"(?P<repo>[^/]+/[^/]+?)"


@dataclass
class Repository:
    """A repository: its files now, and at each commit."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    head: str = ""

    def commit(self, content: dict[str, bytes]) -> str:
        self.head = hashlib.sha1(f"{len(self.commits)} {sorted(content)}".encode()).hexdigest()
        self.commits[self.head] = content
        return self.head

    @property
    def content(self) -> dict[str, bytes]:
        return self.commits[self.head]


class Hub(ThreadingHTTPServer):
    """The server.

    Attributes:
        repositories: by name.
        blobs: of LFS, by SHA-256.
        requests: what was asked for, as method and path.
        answers: what to do instead, by a part of the path: a function of the handler.
        damage: what to send instead of a file's bytes, by its name.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.answers: dict[str, Callable[[_Handler], None]] = {}
        self.damage: dict[str, bytes] = {}
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, name: str, *, private: bool = False, **content: bytes) -> Repository:
        """A repository, with the file that the Hub puts into a new one."""
        made = self.repositories[name] = Repository(private)
        made.commit({".gitattributes": b"*.bin filter=lfs\n", **content})
        return made

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {path}")
        for part, answer in self.server.answers.items():
            if part in path:
                answer(self)
                return
        for pattern, method, route in _ROUTES:
            if (found := re.fullmatch(pattern, path)) and self.command in method:
                route(self, **found.groupdict())
                return
        self.refuse(404, "no such route")

    do_GET = do_HEAD = do_POST = do_PUT = _any  # noqa: N815  (names that the library calls)

    def send(self, code: int, content: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer(self, values: object) -> None:
        self.send(200, json.dumps(values).encode(), Content_Type="application/json")

    def refuse(self, status: int, message: str, code: str = "") -> None:
        headers = {"X_Error_Message": message, **({"X_Error_Code": code} if code else {})}
        self.send(status, json.dumps({"error": message}).encode(), **headers)

    @property
    def token(self) -> str:
        return str(self.headers.get("Authorization", "")).removeprefix("Bearer ")

    def may_write(self) -> bool:
        if self.token == WRITES:
            return True
        if self.token == READS:
            self.refuse(403, "You have read access but not the required permissions")
        else:
            self.refuse(401, "Invalid username or password.")
        return False

    def opened(self, repo: str) -> Repository | None:
        found = self.server.repositories.get(repo)
        if found is None or (found.private and self.token not in (WRITES, READS)):
            code = 404 if self.token in (WRITES, READS) else 401
            self.refuse(code, "Repository not found", "RepoNotFound")
            return None
        return found

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if not self.may_write():
            return
        if name in self.server.repositories:
            message = "You already created this model repo"
            values = {"error": message, "url": f"{self.server.url}/{name}"}
            self.send(409, json.dumps(values).encode(), X_Error_Message=message)
            return
        self.server.add(name, private=asked.get("visibility") == "private")
        self.answer({"url": f"{self.server.url}/{name}"})

    def validate_yaml(self) -> None:
        content = json.loads(self.body)["content"]
        block = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            metadata = yaml.safe_load(block[1]) if block else {}
            assert isinstance(metadata["model-index"][0]["results"], list)
        except (yaml.YAMLError, KeyError, AssertionError) as error:
            self.send(400, json.dumps({"errors": [{"message": str(error)}]}).encode())
            return
        self.answer({"errors": [], "warnings": []})

    def info(self, repo: str, revision: str = "") -> None:
        found = self.opened(repo)
        if found is None:
            return
        commit = found.head if revision in ("", "main") else revision
        siblings = []
        for name, content in found.commits[commit].items():
            sibling: dict[str, Any] = {"rfilename": name, "size": len(content)}
            sibling["blobId"] = git_sha1(content)
            if name.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(sibling)
        self.answer({"id": repo, "sha": commit, "private": found.private, "siblings": siblings})

    def preupload(self, repo: str, **_: str) -> None:
        found = self.opened(repo)
        if found is None or not self.may_write():
            return
        files = []
        for each in json.loads(self.body)["files"]:
            name = each["path"]
            is_large = name.endswith(LARGE)
            before = found.content.get(name)
            oid = None
            if before is not None:
                oid = hashlib.sha256(before).hexdigest() if is_large else git_sha1(before)
            mode = "lfs" if is_large else "regular"
            files.append({"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer({"files": files})

    def batch(self, repo: str) -> None:
        if self.opened(repo) is None or not self.may_write():
            return
        objects = []
        for each in json.loads(self.body)["objects"]:
            actions = {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}}
            has = each["oid"] in self.server.blobs
            objects.append(each | ({} if has else {"actions": actions}))
        self.answer({"transfer": "basic", "objects": objects})

    def put_blob(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.blobs[oid] = self.body
        self.send(200, b"")

    def commit(self, repo: str, **_: str) -> None:
        found = self.opened(repo)
        if found is None or not self.may_write():
            return
        content = dict(found.content)
        for line in self.body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header" and value.get("parentCommit", found.head) != found.head:
                self.refuse(412, "A commit has happened since. Please refresh and try again.")
                return
            if key == "file":
                content[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                content[value["path"]] = self.server.blobs[value["oid"]]
            elif key == "deletedFile":
                del content[value["path"]]
        oid = found.commit(content)
        self.answer({"commitOid": oid, "commitUrl": f"{self.server.url}/{repo}/commit/{oid}"})

    def resolve(self, repo: str, revision: str, path: str) -> None:
        found = self.opened(repo)
        if found is None:
            return
        content = found.commits[found.head if revision == "main" else revision].get(path)
        if content is None:
            self.refuse(404, "Entry not found", "EntryNotFound")
            return
        headers = {"X_Repo_Commit": revision}
        if path.endswith(LARGE):
            sha256 = hashlib.sha256(content).hexdigest()
            headers |= {"X_Linked_Etag": f'"{sha256}"', "X_Linked_Size": str(len(content))}
            place = self.server.url.replace("127.0.0.1", "localhost")  # another host, as there
            self.send(302, b"", Location=f"{place}/cdn/{sha256}/{path}", **headers)
            return
        content = self.server.damage.get(path, content)
        self.send(200, content, ETag=f'"{git_sha1(content)}"', **headers)

    def cdn(self, oid: str, path: str) -> None:
        self.send(200, self.server.damage.get(path, self.server.blobs.get(oid, b"")))


_ROUTES = (
    (r"/api/repos/create", ("POST",), _Handler.create),
    (r"/api/validate-yaml", ("POST",), _Handler.validate_yaml),
    (rf"/api/models/{_REPO}", ("GET",), _Handler.info),
    (rf"/api/models/{_REPO}/revision/(?P<revision>[^/]+)", ("GET",), _Handler.info),
    (rf"/api/models/{_REPO}/preupload/(?P<revision>[^/]+)", ("POST",), _Handler.preupload),
    (rf"/api/models/{_REPO}/commit/(?P<revision>[^/]+)", ("POST",), _Handler.commit),
    (rf"/{_REPO}\.git/info/lfs/objects/batch", ("POST",), _Handler.batch),
    (r"/lfs/(?P<oid>[0-9a-f]+)", ("PUT",), _Handler.put_blob),
    (r"/cdn/(?P<oid>[0-9a-f]+)/(?P<path>.+)", ("GET", "HEAD"), _Handler.cdn),
    (
        rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
        ("GET", "HEAD"),
        _Handler.resolve,
    ),
)


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
