"""Checks, before the first trial, that all nodes share a sweep's storage."""

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from irtune.config.load import ConfigError
from irtune.workers.cluster import Node
from irtune.workers.error_text import last_line

_TOKEN = "token"


def check_shared_storage(folder: Path, nodes: Sequence[Node], timeout_s: float = 60.0) -> None:
    """Check that every node reads what this process writes to a folder, and this process what they write.

    Args:
        folder: The sweep's folder.
        nodes: Those that take part in trials.
        timeout_s: How long they may take to answer.

    Raises:
        ConfigError: With each node that does not share the folder or does not answer, and what to do.
    """
    token = secrets.token_hex(16)
    shared = folder / f"storage_check_{token}"
    shared.mkdir(parents=True)
    try:
        (shared / _TOKEN).write_text(token)
        answers = [_ask(node, shared) for node in nodes]
        _, late = ray.wait(answers, num_returns=len(answers), timeout=timeout_s)
        problems = [
            f"did not answer within {timeout_s:g} s; look at `ray status`, or take the node out of the cluster"
            if answer in late
            else _problem(shared / node.id, answer, token)
            for node, answer in zip(nodes, answers, strict=True)
        ]
    finally:
        shutil.rmtree(shared, ignore_errors=True)
    mistakes = [
        f"storage: node {node.address} {problem}" for node, problem in zip(nodes, problems, strict=True) if problem
    ]
    if mistakes:
        raise ConfigError("cluster", mistakes)


def _ask(node: Node, shared: Path) -> "ray.ObjectRef[str | None]":
    there = NodeAffinitySchedulingStrategy(node.id, soft=False)
    # Without a claim on the node's CPUs it cannot have to wait for them.
    return ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_answer).remote(shared, node.id)


def _answer(shared: Path, node_id: str) -> str | None:
    """Copy the token, on the node; returns the error that prevented it."""
    try:
        (shared / node_id).write_text((shared / _TOKEN).read_text())
    except OSError as error:
        return str(error)
    return None


def _problem(written: Path, answer: "ray.ObjectRef[str | None]", token: str) -> str | None:
    """The fault of a node that answered, as the rest of a sentence about it; None if there is none."""
    try:
        obstacle = ray.get(answer)
    except ray.exceptions.RayError as error:
        return f"cannot run irtune: {last_line(str(error))}"
    if obstacle is None and written.is_file() and written.read_text() == token:
        return None
    return (
        f"does not share {written.parents[1]} ({obstacle or 'what it wrote does not appear here'}); mount it there at "
        "the same path, or set storage= to a folder that all nodes share"
    )
