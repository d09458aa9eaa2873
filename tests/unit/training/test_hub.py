"""Models of the hub, which is played by this machine."""

import http.server
import socket
import threading
import time

import pytest
from huggingface_hub import constants as hub
from saying import refused, says

from irtune.config.schema import ModelConfig
from irtune.training import pretrained
from irtune.training.errors import ModelError
from irtune.training.pretrained import materialize


def mistake(name):
    with pytest.raises(ModelError) as caught:
        materialize(ModelConfig(name=name))
    return str(caught.value)


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


ALTERNATIVES = "use a local folder, a .gguf file, or one of smollm2-135m, tiny-random"


def in_cache(cache):
    """The empty folder in the hub's cache of a model called some/model."""
    model = cache / "models--some--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    snapshot = model / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    return snapshot


class Answering:
    """A web server that gives the same answer to everything; its address."""

    def __init__(self, status, headers):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()


def test_a_hub_that_refuses(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        start = time.monotonic()
        message = mistake("nobody/nothing")
    assert time.monotonic() - start < 10
    assert says(message, "model.name: 'nobody/nothing' … not in … cache", "cannot be reached")
    assert message.endswith(ALTERNATIVES)


def test_a_hub_that_never_answers(monkeypatch):
    monkeypatch.setattr(pretrained, "HUB_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        message = mistake("nobody/nothing")
        took_s = time.monotonic() - start
        silent.setblocking(False)
        silent.accept()
        # It is asked once, so that the real limit of 5 s is what a user waits.
        with pytest.raises(BlockingIOError):
            silent.accept()
    assert 0.5 <= took_s < 5
    assert "the hub cannot be reached" in message
    assert message.endswith(ALTERNATIVES)


def test_offline_mode(monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    assert mistake("nobody/nothing").endswith(ALTERNATIVES)


def test_a_name_that_the_hub_does_not_know(monkeypatch):
    with Answering(404, {"X-Error-Code": "RepoNotFound"}) as endpoint:
        monkeypatch.setattr(hub, "ENDPOINT", endpoint)
        assert says(mistake("nobody/nothing"), "model.name: … 'nobody/nothing'", ALTERNATIVES)


def test_a_revision_that_the_hub_does_not_know(monkeypatch):
    with Answering(404, {"X-Error-Code": "RevisionNotFound"}) as endpoint:
        monkeypatch.setattr(hub, "ENDPOINT", endpoint)
        with refused(ModelError, "model.revision: … 'v9' … 'some/model'"):
            materialize(ModelConfig(name="some/model", revision="v9"))


@pytest.mark.parametrize("name", ["no such model", "a/b/c", "tiny_random?", "./nowhere"])
def test_what_is_no_hub_name(name):
    assert says(mistake(name), f"model.name: {name!r} … neither a folder nor a hub name", ALTERNATIVES)


def test_a_model_of_the_cache_needs_no_hub(empty_hub_cache, tiny, monkeypatch):
    snapshot = in_cache(empty_hub_cache)
    for file in tiny.iterdir():
        (snapshot / file.name).symlink_to(file)
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    assert materialize(ModelConfig(name="some/model")).samefile(snapshot)


def test_a_model_of_which_the_cache_has_no_weights_is_not_taken_from_there(empty_hub_cache, monkeypatch):
    (in_cache(empty_hub_cache) / "config.json").write_text("{}")
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    assert says(mistake("some/model"), "'some/model' … not in … cache", "cannot be reached")
