"""What is taken out of texts, addresses and settings before they are written, and what stays."""

import logging
import os
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from irtune.cli import main
from irtune.cli.terminal import NO_TELEMETRY, PublicConsole, log_no_secrets
from irtune.config.load import ConfigError, build, load, without_login
from irtune.config.sweep_schema import SweepConfig
from irtune.redaction import public_address, raised_publicly, redact, redacted

SPACE = {"training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-3}}


@pytest.mark.parametrize(
    ("address", "public", "in_a_text"),
    [
        ("http://host:5000", "http://host:5000", "http://host:5000"),
        ("https://me:se/cret@host/path", "https://host/path", "https://***@host/path"),
        ("https://me:p@ss@host:1/path?x=1", "https://host:1/path?x=1", "https://***@host:1/path?x=1"),
        ("https://me:p?a#b@host", "https://host", "https://***@host"),
        ("https://sometoken@host", "https://host", "https://***@host"),
        ("https://***@host", "https://host", "https://***@host"),
        ("https://h/?token=abc&x=1#access_token=d", "https://h/?x=1", "https://h/?token=***&x=1#access_token=***"),
        ("https://h/p?api_key=a&key=b&sig=c", "https://h/p", "https://h/p?api_key=***&key=***&sig=***"),
        ("https://h/p?X-Amz-Signature=a&n=2", "https://h/p?n=2", "https://h/p?X-Amz-Signature=***&n=2"),
        ("postgresql://u:p@db/x?password=a&sslmode=on", "postgresql://db/x?sslmode=on", "postgresql://***@db/x?password=***&sslmode=on"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("hf://datasets/o/n@main/f.csv", "hf://datasets/o/n@main/f.csv", "hf://datasets/o/n@main/f.csv"),
        ("http://[::1]:5000/x", "http://[::1]:5000/x", "http://[::1]:5000/x"),
    ],
)  # fmt: skip
def test_an_address_without_login_and_in_a_text(address: str, public: str, in_a_text: str) -> None:
    assert public_address(address) == public
    assert redact(f"no answer from {address} now") == f"no answer from {in_a_text} now"
    assert public_address(public) == public


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("failed: http://a:b@h and http://c:d@i", "failed: http://***@h and http://***@i"),
        ("MLFLOW_TRACKING_TOKEN=abc def", "MLFLOW_TRACKING_TOKEN=*** def"),
        ("{'token': 'abc', 'x': 1}", "{'token': '***', 'x': 1}"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
        ("--api-key abc --password=b x", "--api-key *** --password=*** x"),
        ("no access with hf_abcdefghijklmnopqrst.", "no access with ***."),
        ("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\nx", "***\nx"),
        ("login(password='hunter2')", "login(password='***')"),
        ("max_tokens=7 pad token: <pad>, tokens_per_s=5", "max_tokens=7 pad token: <pad>, tokens_per_s=5"),
        ("lora.key=3 key=4 the basic understanding", "lora.key=3 key=4 the basic understanding"),
    ],
)
def test_secrets_in_texts(text: str, safe: str) -> None:
    assert redact(text) == safe


def test_what_the_environment_holds_is_known_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    monkeypatch.setenv("DB_TOKEN", "short")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "neither here")
    assert redact("correct horse, short, neither here") == "***, short, neither here"


def test_settings_by_their_key() -> None:
    tree = {"deepspeed": {"comet": {"api_key": "a"}, "hf_token": 12, "max_tokens": 5}, "uris": ["https://a:b@c/d"]}
    assert redacted(tree) == {
        "deepspeed": {"comet": {"api_key": "***"}, "hf_token": "***", "max_tokens": 5},
        "uris": ["https://c/d"],
    }
    # Labels may be called anything.
    assert redacted(2.5, "training.class_weights.secret") == 2.5
    assert redacted(True, "train.token") is True


def test_the_login_leaves_the_configuration_and_nothing_else_does() -> None:
    tree = {"name": "s", "space": SPACE, "tracking": {"uri": "https://me:planted@host", "experiment": "e"}}
    config = build(SweepConfig, tree, "test")
    public = without_login(config)
    assert public.tracking.uri == "https://host"
    assert public == config.model_copy(update={"tracking": public.tracking})
    assert without_login(public) is public


def test_a_login_is_not_searched_over() -> None:
    choices = ["https://me:planted@host/a.csv", "b.csv"]
    with pytest.raises(ConfigError, match=r"space\.data\.path\.choices: .*login or token") as raised:
        load(SweepConfig, None, {"space": {"data.path": {"type": "categorical", "choices": choices}}})
    assert "planted" not in str(raised.value)


def test_what_a_trial_raises_is_fit_to_be_written() -> None:
    harmless = ValueError("k: must be above 0")
    assert raised_publicly(harmless) is harmless
    try:
        try:
            raise OSError("no answer from https://me:planted@host")
        except OSError as error:
            raise ValueError("no data") from error
    except ValueError as error:
        public = raised_publicly(error)
    assert "planted" not in str(public)
    assert "https://***@host" in str(public)
    assert str(public).strip().endswith("ValueError: no data")


def test_terminal_and_log_show_no_secrets(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "_logRecordFactory", logging.LogRecord)
    log_no_secrets()
    PublicConsole().print("see https://me:planted@host", markup=False)
    try:
        raise OSError("https://me:planted@host")
    except OSError:
        logging.getLogger("any").warning("no answer from %s", "https://me:planted@host", exc_info=True)
    shown = capsys.readouterr().out + caplog.text
    assert shown.count("https://***@host") >= 3
    assert "planted" not in shown


def test_neither_a_mistake_nor_a_bug_shows_a_login(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error: Exception = ValueError("no answer from https://me:planted@host")

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("irtune.cli.to_run.load", fail)
    assert main(["sweep", "any.yaml"]) == 2
    assert capsys.readouterr().err == "error: no answer from https://***@host\n"
    error = KeyError("https://me:planted@host")
    with pytest.raises(RuntimeError) as raised:
        main(["sweep", "any.yaml"])
    assert "planted" not in "".join(traceback.format_exception(raised.value))


class _Fleeting(dict[str, str]):
    """Variables of which another thread deletes one as soon as somebody has their names."""

    def __iter__(self) -> Iterator[str]:
        names = list(super().keys())
        self.pop("MLFLOW_HTTP_REQUEST_TIMEOUT", None)
        return iter(names)

    def items(self) -> Any:
        return ((name, self[name]) for name in self)


def test_a_variable_may_go_while_secrets_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = _Fleeting({"MLFLOW_HTTP_REQUEST_TIMEOUT": "4", "MY_TOKEN": "plantedsecret"})
    monkeypatch.setattr("irtune.redaction.os.environ", variables)
    assert redact("with plantedsecret") == "with ***"


def test_no_library_reports_on_its_use_unless_told_to(monkeypatch):
    for name in NO_TELEMETRY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    assert main(["methods", "lisa"]) == 0
    assert {name: os.environ[name] for name in NO_TELEMETRY} == NO_TELEMETRY | {"RAY_USAGE_STATS_ENABLED": "1"}
