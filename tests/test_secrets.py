"""Nothing that is secret is in an argument, in a log at its most talkative, in `config show`, or in what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.agent.conftest import DOUBLE
from tests.folders import bytes_below
from tests.processes import free_port, process, wait_until_ready

SONIC = [str(Path(sys.executable).parent / "sonic")]
pytestmark = pytest.mark.integration


@dataclass
class Setting:
    """A hub that asks for credentials, all that is secret about it, and what was seen of it."""

    folder: Path
    address: str
    agents_address: str
    secrets: dict[str, str] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)
    pids: list[int] = field(default_factory=list)

    def secret(self, name: str, value: str) -> Path:
        """A file with a secret."""
        path = self.folder / f"{name}.secret"
        path.write_text(f"{value}\n")
        path.chmod(0o600)
        self.secrets[name] = value
        return path

    def run(self, *arguments: str, **environment: str) -> str:
        """A `sonic` command; its arguments are seen by everybody on the machine while it runs."""
        command = [*SONIC, *arguments]
        hub = {"SONIC_HUB": self.address, "SONIC_CA_FILE": str(self.folder / "hub/authority/authority.pem")}
        told = os.environ | hub | {"SONIC_LOG_LEVEL": "debug", "SONIC_PATIENCE_S": "1"} | environment
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=told, text=True)
        lines: set[str] = set()
        while child.poll() is None:
            lines |= {_arguments(child.pid), *(_arguments(pid) for pid in self.pids)}
            time.sleep(0.01)
        output = child.communicate()[0]
        self.seen[f"{' '.join(arguments)} #{len(self.seen)}"] = output
        self.seen.setdefault("arguments", "")
        self.seen["arguments"] += "\n".join(lines)
        return output


def _arguments(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Setting]:
    address, agents, http = (f"127.0.0.1:{free_port()}" for _ in range(3))
    made = Setting(tmp_path, address, agents)
    settings = f"""
[log]
level = "debug"
format = "json"
[hub]
listen = "{address}"
agent_listen = "{agents}"
http_listen = "{http}"
data_dir = "{tmp_path / "hub"}"
metrics_token_file = "{made.secret("metrics-token", "metrics-token-8f7a6b5c4d3e2f1a")}"
[forward]
url = "http://127.0.0.1:{free_port()}/api/v1/push"
oauth2_token_url = "http://127.0.0.1:{free_port()}/token"
oauth2_client_id = "hub"
oauth2_client_secret_file = "{made.secret("client-secret", "client-secret-1a2b3c4d5e6f7081")}"
interval_s = 0.5
"""
    (tmp_path / "config.toml").write_text(settings)
    with process([*SONIC, "hub", "--config", str(tmp_path / "config.toml")], tmp_path / "hub.log") as hub:
        wait_until_ready(f"http://{http}/healthz", hub)
        made.pids.append(hub.pid)
        made.secrets["operator's key"] = (tmp_path / "hub/operator.key").read_text().strip()
        made.secrets["authority's key"] = _body((tmp_path / "hub/authority/authority.key").read_text())
        yield made


def _body(pem: str) -> str:
    return pem.splitlines()[1]


def test_nothing_secret_is_told(secure: Setting) -> None:
    operator = str(secure.folder / "hub/operator.key")
    joined(secure, operator)
    shown = secure.run("tenants", "create", "acme", "--api-key-file", operator)
    shown += secure.run("keys", "create", "ci", "--role", "tenant", "--of-tenant", "acme", "--api-key-file", operator)
    keys = [word for word in shown.split() if word.startswith("sonic_") and len(word) > 40]
    assert keys, shown
    for number, key in enumerate(keys):
        secure.secret(f"tenants-key-{number}", key)
    secure.seen = {  # a new key is shown once, to whom it was made for
        name: text for name, text in secure.seen.items() if not name.startswith(("tenants create", "keys create"))
    }
    assert "cannot" not in secure.run("jobs", "list", "--json", SONIC_API_KEY=keys[0])
    wrong = secure.secret("wrong-key", f"{Path(operator).read_text().strip()[:-6]}wrong1")
    secure.run("jobs", "list", "--api-key-file", str(wrong))
    secure.run("nodes", "list", "--token-file", str(secure.secret("token", "eyJhbGciOiJub25lIiwia2lkIjoiayJ9.e30.sig")))
    secure.run("jobs", "show", "x" * 32, "--api-key-file", operator)
    secure.secrets["database password"] = "dbpassword-77aa66bb"
    database = f"postgresql+psycopg://hub:{secure.secrets['database password']}@127.0.0.1:1/hub"
    shown = secure.run(
        "config", "show", "--config", str(secure.folder / "config.toml"), SONIC_HUB_DATABASE_URL=database
    )
    assert "127.0.0.1:1/hub" in shown
    time.sleep(1.5)  # the hub tries to forward, and is told nothing
    secure.seen["the hub's log"] = (secure.folder / "hub.log").read_text()
    secure.seen["the audit log"] = (secure.folder / "hub/audit.log").read_text()
    secure.seen["the box's log"] = (secure.folder / "box.log").read_text()
    told = [
        f"{name} in {where}: {text[max(text.find(secret) - 80, 0) :][:200]}"
        for where, text in secure.seen.items()
        for name, secret in secure.secrets.items()
        if secret in text
    ]
    assert not told, "\n".join(told)
    assert "acme" in secure.seen["the audit log"]
    assert "node.enrol" in secure.seen["the audit log"]
    assert "session opened" in secure.seen["the box's log"]
    for path, kept in bytes_below(secure.folder / "hub").items():  # what a backup of the hub holds opens nothing
        if path.name not in ("operator.key", "authority.key"):
            assert not [name for name, secret in secure.secrets.items() if secret.encode() in kept], path


def joined(secure: Setting, operator: str) -> None:
    """A box enrols, runs its agent and ends; others try with tokens that are not good."""
    made = secure.run("hub", "token", "create", "--region", "eu", "--uses", "2", "--api-key-file", operator)
    del secure.seen[next(name for name in secure.seen if name.startswith("hub token create"))]  # shown this one time
    line = next(word for word in made.split() if word.startswith("sonic-join-1."))
    token = secure.secret("join-token", line)
    secure.secrets["join token's secret"] = line.rpartition(".")[2]
    wrong = secure.secret("wrong-join-token", f"{line[:-6]}000000")
    no_token = secure.secret("no-join-token", f"{line}-and-something-else")
    box = [
        "--enrol-at",
        secure.address,
        "--region",
        "eu",
        "--node-id",
        "box-1",
        "--data-dir",
        str(secure.folder / "box"),
    ]
    for file in (wrong, no_token):
        assert "join" in secure.run("agent", "enrol", *box, "--join-token-file", str(file))
    start = [*SONIC, "agent", *box, "--hub", secure.agents_address, "--join-token-file", str(token)]
    start += ["--http-listen", "127.0.0.1:0", "--log-level", "debug"]
    start += [part for word in DOUBLE for part in ("--worker-command", word)]
    with process(start, secure.folder / "box.log") as agent:
        secure.pids.append(agent.pid)
        until = time.monotonic() + 60
        while "READY" not in secure.run("nodes", "list", "--api-key-file", operator).upper():
            assert time.monotonic() < until, (secure.folder / "box.log").read_text()
        secure.run("hub", "token", "list", "--json", "--api-key-file", operator)
        secure.run("config", "show", SONIC_AGENT_JOIN_TOKEN_FILE=str(token))
        assert agent.stop() == 0
    secure.pids.remove(agent.pid)
    identity = secure.folder / "box/identity/identity.pem"
    secure.secrets["the box's key"] = _body(identity.read_text())
    for path in (identity, identity.parent):
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_is_secret_is_readable_by_its_owner_alone(secure: Setting) -> None:
    for name in ("operator.key", "authority/authority.key", "audit.log"):
        path = secure.folder / "hub" / name
        assert path.stat().st_mode & 0o077 == 0, path
    assert (secure.folder / "hub").stat().st_mode & 0o077 == 0
