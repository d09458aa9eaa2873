"""A sweep's own Ray, the worker groups and the trials on it listen where nobody else can knock."""

import ipaddress
import sys
import time
from pathlib import Path

import psutil
import pytest
from sweeps import SweepRun, start_sweep

TWO_WORKERS = ("engine.num_workers=2", "engine.cpus_per_worker=0.5")


def listening(driver: psutil.Process, found: dict[tuple[str, int], str]) -> None:
    """Add every address and port on which a driver or what it started listens now, with who does."""
    for process in [driver, *driver.children(recursive=True)]:
        try:
            name = " ".join(process.cmdline())[-100:]
            for each in process.net_connections("inet"):
                if each.status == psutil.CONN_LISTEN:
                    found[each.laddr.ip, each.laddr.port] = name
        except psutil.Error:
            continue


def is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the sockets of other processes")
@pytest.mark.parametrize("arguments", [(), TWO_WORKERS], ids=["in_process", "pool"])
def test_no_process_of_a_sweep_listens_on_the_network(
    tmp_path: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What trained in this process before has told gloo where to listen.
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    found: dict[tuple[str, int], str] = {}
    overrides = ("tests/support/tiny_sweep.yaml", "tune.num_trials=1", *arguments)
    log = tmp_path / "log"
    with start_sweep(tmp_path / "s", *overrides, output=log) as driver:
        try:
            deadline = time.monotonic() + 560
            while driver.poll() is None:
                assert time.monotonic() < deadline, log.read_text()
                listening(psutil.Process(driver.pid), found)
                # More often, and looking alone keeps a small machine busy.
                time.sleep(1)
        finally:
            driver.kill()
    assert driver.returncode == 0, log.read_text()
    assert SweepRun(0, "", tmp_path / "s").runs()
    assert len(found) > 8, "Ray's processes were not seen"
    assert {where: who for where, who in found.items() if not is_loopback(where[0])} == {}
