"""Steps take what the device takes, whatever the host waits for in between."""

import pytest

from irtune.training.clock import StepClock
from irtune.training.device_peak import mfu, peak_by_name


class Device:
    """A GPU of which every step takes a second; the host gives it one every tenth of a second."""

    def __init__(self):
        self.now = self.done_at = 0.0

    def give(self, seconds):
        self.now += 0.1
        self.done_at = max(self.now, self.done_at) + seconds

    def mark(self):
        return FakeMark(self, max(self.now, self.done_at))


class FakeMark:
    """An event of the fake device."""

    def __init__(self, device, at):
        self.device, self.at = device, at

    def is_past(self):
        return self.device.now >= self.at

    def wait(self):
        self.device.now = max(self.device.now, self.at)

    def seconds_since(self, earlier):
        assert self.is_past(), "an event has no time before it is past"
        return self.at - earlier.at


@pytest.mark.parametrize("log_every", [1, 3, 10])
def test_the_time_of_steps_does_not_depend_on_how_often_the_host_waits(log_every):
    device = Device()
    clock, found = StepClock(device.mark), []
    for step in range(10):
        clock.start()
        device.give(1.0)
        clock.stop()
        if (step + 1) % log_every == 0:
            found += clock.finished(wait=True)
            # An evaluation, which is no step's.
            device.give(5.0)
        else:
            before = device.now
            found += clock.finished(wait=False)
            assert device.now == before
    found += clock.finished(wait=True)
    # Where the device has nothing to do, a step begins when the host gives it.
    assert found == pytest.approx([1.0] * 10, abs=0.11)
    assert clock.finished(wait=True) == []


def test_steps_are_told_once_the_device_has_ended_them():
    device = Device()
    clock = StepClock(device.mark)
    for _ in range(3):
        clock.start()
        device.give(1.0)
        clock.stop()
    assert clock.finished(wait=False) == []
    device.now = 2.5
    assert len(clock.finished(wait=False)) == 2
    assert len(clock.finished(wait=True)) == 1


def test_peaks_are_known_by_the_driver_s_names():
    assert peak_by_name("NVIDIA H100 80GB HBM3", "bf16") == 989.4e12
    assert peak_by_name("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak_by_name("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert peak_by_name("NVIDIA A10G", "fp16") == 70e12
    assert peak_by_name("NVIDIA A10", "fp16") == 125e12
    assert peak_by_name("Tesla V100-SXM2-16GB", "fp16") == 125e12
    assert peak_by_name("Tesla V100-SXM2-16GB", "bf16") is None
    assert peak_by_name("NVIDIA GeForce RTX 9999", "bf16") is None
    assert peak_by_name("NVIDIA L400", "bf16") is None


def test_utilisation_is_told_where_the_peak_is_known():
    assert mfu("cost/mfu", flops=3e12, seconds=2.0, peak=6e12) == {"cost/mfu": 0.25}
    assert mfu("cost/mfu", flops=3e12, seconds=2.0, peak=None) == {}
