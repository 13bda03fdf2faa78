"""The Hugging Face hub without the hub: its cache on disk, and a server that answers with its errors."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants


def use_cache(folder: Path, monkeypatch: pytest.MonkeyPatch, *, offline: bool = True) -> Path:
    """Let the hub's library read this cache, by default without a network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def add_commit(cache: Path, repo: str, commit: str, tokenizer: Path, *, subfolder: str = ".",
               refs: tuple[str, ...] = ()) -> None:
    """A snapshot of a repository with the files of a tokenizer in a folder; branches and tags that are this commit."""
    home = cache / f"models--{repo.replace('/', '--')}"
    shutil.copytree(tokenizer, home / "snapshots" / commit / subfolder, dirs_exist_ok=True)
    for ref in refs:
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / ref).write_text(commit)


@contextmanager
def answering(status: int, code: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """A server in the hub's place that answers every request with an error; yields the tokens that it was sent."""
    tokens = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            tokens.append(self.headers.get("authorization"))
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        yield tokens
    finally:
        server.shutdown()
        server.server_close()
