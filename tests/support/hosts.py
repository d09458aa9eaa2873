"""Hosts of a Ray cluster on one machine, for root: network namespaces, each with an address and a disk of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from servers import BIN, ROOT, free_ports


@dataclass(frozen=True)
class Host:
    """A machine of its own, as far as anybody on the network can tell; one CPU.

    Args:
        name: Of its network namespace.
        address: On the bridge that joins all hosts.
        link: The bridge's end of its cable.
    """

    name: str
    address: str
    link: str

    def cut_off_and_kill(self) -> None:
        """Nobody hears from it again: first its network goes, so that not even the end of a connection gets out."""
        _ip("link", "set", self.link, "down")
        self.kill()

    def kill(self) -> None:
        """Kill all of its processes."""
        while pids := _ip("netns", "pids", self.name).split():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.1)


@dataclass(frozen=True)
class Hosts:
    """A Ray cluster with a head on this machine, and other hosts beside it.

    Args:
        head: The address of the head, which has one CPU too.
        disk: A folder of which every host has one of its own.
        driver: The environment of a driver, which runs on the head.
        others: The other hosts.
    """

    head: str
    disk: Path
    driver: Mapping[str, str]
    others: list[Host] = field(default_factory=list)


@contextlib.contextmanager
def cluster_of_hosts(num_others: int, **environment: str) -> Iterator[Hosts]:
    """Start a cluster with token authentication; afterwards nothing is left of it.

    Args:
        num_others: Hosts beside the head.
        environment: Further variables that Ray's processes see on all hosts.
    """
    # Ray's sockets need a short path, and Ray starts Python through an unquoted one.
    folder = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
    (folder / "environment").symlink_to(sys.prefix)
    disk = folder / "disk"
    disk.mkdir()
    tag, subnet = f"irt{os.getpid()}", f"10.213.{os.getpid() % 250}"
    driver = {"HOME": str(folder), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    env = (
        os.environ
        | driver
        | environment
        | {
            "IRTUNE_HOME": os.environ.get("IRTUNE_HOME", str(Path("~/.cache/irtune").expanduser())),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}",
            # By default the head waits for a silent node for up to a minute.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
        }
    )
    env.pop("RAY_ADDRESS", None)
    subprocess.run([str(BIN / "ray"), "get-auth-token", "--generate"], env=env, check=True, capture_output=True)
    (port, client) = free_ports(2)
    hosts = Hosts(f"{subnet}.1", disk, driver | {"RAY_ADDRESS": f"{subnet}.1:{port}"})
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _bridge(tag, hosts.head, stack)
        head = (
            "--head",
            f"--port={port}",
            f"--ray-client-server-port={client}",
            f"--temp-dir={disk}",
            "--include-dashboard=false",
        )
        started = [_start_ray([], head, hosts.head, folder, env, stack)]
        _wait_for(started, folder)
        for number in range(2, num_others + 2):
            host = Host(f"{tag}-{number}", f"{subnet}.{number}", f"{tag}-{number}")
            _plug_in(host, tag, stack)
            hosts.others.append(host)
            own_disk = f'mount -t tmpfs tmpfs "{disk}" && exec "$@"'
            inside = ["ip", "netns", "exec", host.name, "sh", "-c", own_disk, "sh"]
            started.append(_start_ray(inside, (f"--address={hosts.head}:{port}",), host.address, folder, env, stack))
        _wait_for(started, folder)
        yield hosts


def _bridge(name: str, address: str, stack: contextlib.ExitStack) -> None:
    _ip("link", "add", name, "type", "bridge")
    stack.callback(_ip, "link", "del", name)
    _ip("addr", "add", f"{address}/24", "dev", name)
    _ip("link", "set", name, "up")


def _plug_in(host: Host, bridge: str, stack: contextlib.ExitStack) -> None:
    _ip("netns", "add", host.name)
    stack.callback(_ip, "netns", "del", host.name)
    stack.callback(host.kill)
    # Interfaces are named differently on every host.
    inside = f"net{host.address.rpartition('.')[2]}"
    _ip("link", "add", host.link, "type", "veth", "peer", "name", inside, "netns", host.name)
    _ip("link", "set", host.link, "master", bridge, "up")
    _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", inside)
    for interface in ("lo", inside):
        _ip("-n", host.name, "link", "set", interface, "up")


def _start_ray(
    prefix: list[str],
    options: tuple[str, ...],
    address: str,
    folder: Path,
    env: Mapping[str, str],
    stack: contextlib.ExitStack,
) -> tuple["subprocess.Popen[bytes]", Path]:
    log = folder / f"{address}.log"
    command = [
        *prefix, str(folder / "environment" / "bin" / "python"), "-m", "ray.scripts.scripts", "start", "--block",
        f"--node-ip-address={address}", "--min-worker-port=0", "--max-worker-port=0", "--num-cpus=1", "--num-gpus=0",
        "--object-store-memory=200000000", *options,
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=env, start_new_session=True, cwd=folder
        )
    stack.callback(_stop, process)
    return process, log


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all that it started."""
    if process.poll() is None:
        family = psutil.Process(process.pid)
        for each in (*family.children(recursive=True), family):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


def _wait_for(started: "list[tuple[subprocess.Popen[bytes], Path]]", folder: Path) -> None:
    deadline = time.monotonic() + 90
    for process, log in started:
        while "Ray runtime started" not in log.read_text(errors="replace"):
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
