"""Which network interface the workers of a trial talk over."""

import os
import socket
import subprocess
import sys
from collections import namedtuple

import psutil
import pytest
import ray

from irtune.config.engine_schema import EngineConfig
from irtune.training.distributed import interface_of
from irtune.workers.network import join_group, listen_for_workers, torch_config, use_interface_of_ray

NET_IF_ADDRS = psutil.net_if_addrs
Address = namedtuple("Address", "family address")
V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with several interfaces, on which Ray uses 10.1.0.7."""
    interfaces = {
        "lo": [Address(V4, "127.0.0.1"), Address(V6, "::1")],
        "docker0": [Address(V4, "172.17.0.1")],
        "ens5": [Address(V4, "10.1.0.7"), Address(V6, "fe80::2%ens5")],
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.1.0.7")
    # Set and gone again, so that what the test sets goes too.
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("address", "interface"),
    [("10.1.0.7", "ens5"), ("127.0.0.1", "lo"), ("fe80::2", "ens5"), ("10.1.0.70", None)],
)
def test_the_interface_is_the_one_with_the_address(address, interface):
    assert interface_of(address) == interface


def test_workers_use_the_interface_that_ray_uses():
    use_interface_of_ray()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ens5"
    assert os.environ["NCCL_SOCKET_IFNAME"] == "=ens5"


def test_what_the_environment_says_stays(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "docker0")
    use_interface_of_ray()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "docker0"
    assert os.environ["NCCL_SOCKET_IFNAME"] == "=ens5"


def test_an_address_that_no_interface_has_changes_nothing(monkeypatch):
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "203.0.113.9")
    use_interface_of_ray()
    assert "GLOO_SOCKET_IFNAME" not in os.environ


class Workers:
    """Two workers, that note what they are told to do."""

    def __init__(self):
        self.calls = []

    def execute(self, function, *arguments):
        self.calls.append((function, *arguments))

    def execute_single(self, rank, function):
        self.calls.append((rank, function))
        return "10.1.0.7", 4711


def test_workers_know_the_interface_before_rank_0_listens_and_all_join():
    config, workers = torch_config(EngineConfig(process_group_timeout_s=90)), Workers()
    config.backend_cls().on_start(workers, config)
    assert workers.calls == [
        (use_interface_of_ray,),
        (0, listen_for_workers),
        (join_group, "gloo", "10.1.0.7", 4711, 90),
    ]
    assert torch_config(EngineConfig(gpus_per_worker=1)).backend == "nccl"


def test_rank_0_listens_on_the_address_of_ray_alone(monkeypatch):
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    address, port = listen_for_workers()
    mine = [each.laddr for each in psutil.Process().net_connections("inet") if each.status == psutil.CONN_LISTEN]
    assert address == "127.0.0.1"
    assert [each.ip for each in mine if each.port == port] == ["127.0.0.1"]


def test_a_group_of_one_listens_on_loopback_alone():
    code = """
import psutil
from irtune.config.engine_schema import EngineConfig
from irtune.training.distributed import ensure_process_group
ensure_process_group(EngineConfig())
import os
print(os.environ["GLOO_SOCKET_IFNAME"])
print({each.laddr.ip for each in psutil.Process().net_connections("inet") if each.status == "LISTEN"})
print(os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"], os.environ["TORCH_NCCL_ENABLE_MONITORING"])
"""
    hidden = {name: value for name, value in os.environ.items() if not name.startswith("TORCH_NCCL")}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=hidden)
    # A collective that hangs ends its process, also where a slot of the driver's trains alone.
    assert ran.stdout.splitlines() == [interface_of_loopback(), "{'127.0.0.1'}", "1 1"]


def interface_of_loopback():
    return next(name for name, each in NET_IF_ADDRS().items() if any(one.address == "127.0.0.1" for one in each))


def test_two_workers_meet_and_listen_on_that_address_alone(monkeypatch):
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    code = """
import os, socket, sys
import psutil, torch, torch.distributed as dist
from irtune.training.distributed import interface_of, make_process_group
os.environ["GLOO_SOCKET_IFNAME"] = interface_of("127.0.0.1")
listener = socket.socket(fileno=int(sys.argv[2])) if os.environ["RANK"] == "0" else None
make_process_group("gloo", "127.0.0.1", int(sys.argv[1]), 30, listener)
total = torch.ones(1)
dist.all_reduce(total)
print(total.item(), {each.laddr.ip for each in psutil.Process().net_connections("inet") if each.status == "LISTEN"})
dist.barrier()
dist.destroy_process_group()
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, number = listener.getsockname()[1], listener.fileno()
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(port), str(number)],
                env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2"},
                pass_fds=[number] if rank == 0 else [],
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        assert [worker.communicate(timeout=60)[0] for worker in workers] == ["2.0 {'127.0.0.1'}\n"] * 2
