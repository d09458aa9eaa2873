"""Which network interface the workers of a trial talk over."""

import os
import socket
from collections import namedtuple

import psutil
import pytest
import ray

from irtune.config.schema import EngineConfig
from irtune.tuning.network import interface_of, torch_config, use_interface_of_ray

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


def test_every_worker_looks_for_it_before_the_process_group_is_made():
    calls = []

    class Workers:
        def execute(self, function):
            calls.append(function)
            raise InterruptedError

    config = torch_config(EngineConfig(process_group_timeout_s=90))
    assert (config.backend, config.timeout_s) == ("gloo", 90)
    with pytest.raises(InterruptedError):
        config.backend_cls().on_start(Workers(), config)
    assert calls == [use_interface_of_ray]
    assert torch_config(EngineConfig(gpus_per_worker=1)).backend == "nccl"
