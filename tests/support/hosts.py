"""Hosts of a Ray cluster on one machine, for root: network namespaces, each with an address and a disk of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from servers import BIN, ROOT, free_ports

BRIDGE = f"irt{os.getpid()}"
"""The switch that all hosts are plugged into; one for each process of tests."""


@dataclass(frozen=True)
class Host:
    """A machine of its own, as far as anybody on the network can tell; one CPU.

    Args:
        name: Of its network namespace, and of the bridge's end of its cable.
        address: On the bridge.
    """

    name: str
    address: str

    def cut_off_and_kill(self) -> None:
        """Nobody hears from it again: first its network goes, so that not even the end of a connection gets out."""
        _ip("link", "set", self.name, "down")
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
    with contextlib.ExitStack() as stack:
        # Ray's sockets need a short path, and Ray starts Python through an unquoted one.
        folder = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "environment").symlink_to(sys.prefix)
        hosts = _head(folder, environment, stack)
        for number in range(2, num_others + 2):
            hosts.others.append(_other(number, hosts, folder, environment, stack))
        for address in (hosts.head, *(host.address for host in hosts.others)):
            _wait_for(folder / f"{address}.log")
        yield hosts


def _head(folder: Path, environment: Mapping[str, str], stack: contextlib.ExitStack) -> Hosts:
    address, disk, (port, client) = f"10.213.{os.getpid() % 250}.1", folder / "disk", free_ports(2)
    driver = {"HOME": str(folder), "RAY_AUTH_MODE": "token", "RAY_ADDRESS": f"{address}:{port}"}
    subprocess.run(
        [str(BIN / "ray"), "get-auth-token", "--generate"], env=os.environ | driver, check=True, capture_output=True
    )
    disk.mkdir()
    _ip("link", "add", BRIDGE, "type", "bridge")
    stack.callback(_ip, "link", "del", BRIDGE)
    _ip("addr", "add", f"{address}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    options = ("--head", f"--port={port}", f"--ray-client-server-port={client}", f"--temp-dir={disk}")
    _start_ray((), (*options, "--include-dashboard=false"), address, folder, environment, stack)
    _wait_for(folder / f"{address}.log")
    return Hosts(address, disk, driver)


def _other(
    number: int, hosts: Hosts, folder: Path, environment: Mapping[str, str], stack: contextlib.ExitStack
) -> Host:
    # Interfaces have another name on every host.
    name, interface = f"{BRIDGE}-{number}", f"net{number}"
    host = Host(name, hosts.head.removesuffix("1") + str(number))
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "del", name)
    stack.callback(host.kill)
    _ip("link", "add", name, "type", "veth", "peer", "name", interface, "netns", name)
    _ip("link", "set", name, "master", BRIDGE, "up")
    _ip("-n", name, "addr", "add", f"{host.address}/24", "dev", interface)
    for each in ("lo", interface):
        _ip("-n", name, "link", "set", each, "up")
    own_disk = f'mount -t tmpfs tmpfs "{hosts.disk}" && exec "$@"'
    inside = ("ip", "netns", "exec", name, "sh", "-c", own_disk, "sh")
    _start_ray(inside, (f"--address={hosts.driver['RAY_ADDRESS']}",), host.address, folder, environment, stack)
    return host


def _start_ray(
    prefix: Sequence[str],
    options: Sequence[str],
    address: str,
    folder: Path,
    environment: Mapping[str, str],
    stack: contextlib.ExitStack,
) -> None:
    command = [
        *prefix, str(folder / "environment" / "bin" / "python"), "-m", "ray.scripts.scripts", "start", "--block",
        f"--node-ip-address={address}", "--min-worker-port=0", "--max-worker-port=0", "--num-cpus=1", "--num-gpus=0",
        "--object-store-memory=200000000", *options,
    ]  # fmt: skip
    env = os.environ | {
        "HOME": str(folder),
        "IRTUNE_HOME": os.environ.get("IRTUNE_HOME", str(Path("~/.cache/irtune").expanduser())),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        # By default the head waits for a silent node for up to a minute.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
    }
    with (folder / f"{address}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=env | environment, start_new_session=True, cwd=folder
        )
    stack.callback(_stop, process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all that it started."""
    if process.poll() is None:
        family = psutil.Process(process.pid)
        for each in (*family.children(recursive=True), family):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


def _wait_for(log: Path) -> None:
    deadline = time.monotonic() + 90
    while "Ray runtime started" not in log.read_text(errors="replace"):
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
        time.sleep(0.2)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
