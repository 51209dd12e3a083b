"""What the agent reads from its box, and what it says of settings."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agent import memory
from agent.config import AgentConfig, InvalidConfig
from agent.probes import hardware
from agent.probes.hardware import Hardware
from sonic.v1 import nodes_pb2


class Fragile:
    name = "fragile"

    def __init__(self) -> None:
        self.broken = False

    def inventory(self) -> list[nodes_pb2.GpuInfo]:
        return [nodes_pb2.GpuInfo(uuid="gpu-0")]

    def measure(self) -> list[nodes_pb2.GpuHealth]:
        if self.broken:
            raise RuntimeError("the driver is gone")
        return [nodes_pb2.GpuHealth(uuid="gpu-0", utilization_percent=42)]


def test_a_probe_that_fails_is_left_out_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    probe = Fragile()
    box = Hardware(tmp_path, [probe])
    assert box.measure().gpus[0].utilization_percent == 42
    probe.broken = True
    for _ in range(3):
        health = box.measure()
        assert not health.gpus
        assert health.disk_free_bytes > 0
        assert health.memory_available_bytes > 0
    assert [record.message for record in caplog.records] == ["probe failed"]
    probe.broken = False
    assert len(box.measure().gpus) == 1


class Hanging(Fragile):
    """Its driver does not return until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.let_go = threading.Event()

    def measure(self) -> list[nodes_pb2.GpuHealth]:
        self.calls += 1
        self.let_go.wait()
        return super().measure()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "ANSWERS_WITHIN_S", 0.05)
    monkeypatch.setattr(hardware, "FOUND_WITHIN_S", 0.05)


def test_a_probe_that_hangs_is_left_out_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, impatient: None
):
    probe = Hanging()
    box = Hardware(tmp_path, [probe])
    for _ in range(3):
        health = box.measure()
        assert not health.gpus
        assert health.memory_available_bytes > 0
        assert box.works == {"host": True, "fragile": False}
    assert [record.message for record in caplog.records] == ["probe failed"]
    assert probe.calls == 1  # no second one is begun while it hangs
    probe.let_go.set()
    while not box.measure().gpus:
        pass
    assert box.works == {"host": True, "fragile": True}


def test_a_driver_that_hangs_at_the_start_does_not_keep_the_agent_from_starting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, impatient: None
):
    for probe in ("AmdProbe", "IntelProbe", "JetsonProbe"):
        monkeypatch.setattr(hardware, probe, Fragile)
    let_go = threading.Event()
    monkeypatch.setattr(hardware.NvmlProbe, "__init__", lambda _self: let_go.wait())
    assert [probe.name for probe in hardware.detect()] == ["fragile"] * 3
    assert [(record.message, record.probe) for record in caplog.records] == [("probe failed", "nvml")]
    let_go.set()


def test_the_processors_load_is_a_percentage(tmp_path: Path):
    box = Hardware(tmp_path, [])
    assert 0 <= box.measure().cpu_percent <= 100


def cgroup(root: Path, membership: str, file: str, text: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text(text)


def test_memory_kills_are_counted_under_cgroup2(tmp_path: Path):
    events = "sys/fs/cgroup/system.slice/sonic.service/memory.events"
    cgroup(tmp_path, "0::/system.slice/sonic.service\n", events, "low 0\noom 3\noom_kill 2\n")
    assert memory.oom_kills(tmp_path) == 2


def test_memory_kills_are_counted_under_cgroup1(tmp_path: Path):
    control = "sys/fs/cgroup/memory/sonic/memory.oom_control"
    cgroup(tmp_path, "5:cpu,cpuacct:/\n4:memory:/sonic\n", control, "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n")
    assert memory.oom_kills(tmp_path) == 7


def test_memory_kills_are_counted_by_the_machine_alone_where_there_is_no_cgroup(tmp_path: Path):
    assert memory.oom_kills(tmp_path) == 0
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 1\noom_kill 5\n")
    assert memory.oom_kills(tmp_path) == 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"node_id": "a b"}, "node_id is 'a b'; use 1 to 63 letters"),
        ({"region": ""}, "region is ''"),
        ({"hub": "hub.example"}, "hub is 'hub.example'; host:port is wanted"),
        ({"hub": "127.0.0.1:0"}, "hub is '127.0.0.1:0'; host:port is wanted"),
        ({"hub": "hub.example:50052", "insecure": True}, "hub is 'hub.example:50052', which is not this machine alone"),
        ({"http_listen": "0.0.0.0:8091", "insecure": True}, "leave --insecure out"),
        ({"slots": 0}, "slots is 0; a value above 0 is wanted"),
        ({"drain_timeout_s": -1.0}, "drain_timeout_s is -1.0; a value of 0 or more is wanted"),
        ({"worker_command": ()}, "worker_command is empty"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_way_out(settings: dict[str, object], words: str):
    with pytest.raises(InvalidConfig, match=words.replace("(", r"\(")):
        AgentConfig(**settings)  # type: ignore[arg-type]


def test_an_agent_that_is_told_nothing_finds_the_port_of_its_hub_on_this_machine():
    assert AgentConfig().hub_target == "127.0.0.1:50052"
    assert AgentConfig(insecure=True).hub_target == "127.0.0.1:50051"
    assert AgentConfig(hub="hub.example:1").hub_target == "hub.example:1"
