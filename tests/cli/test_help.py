"""Help comes from the tables, completion is there, and the parts that are heavy wait until they are needed."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sonic import config, logs
from sonic.cli import output
from sonic.cli.app import app
from sonic.cli.exit_codes import ExitCode
from sonic.parameters import SPECS

WIDE = {"COLUMNS": "200", "TERMINAL_WIDTH": "200", "_TYPER_FORCE_DISABLE_TERMINAL": "1"}


def helped(*arguments: str) -> str:
    found = subprocess.run(
        [sys.executable, "-m", "sonic", *arguments, "--help"], capture_output=True, text=True, env=WIDE, check=True
    )
    return found.stdout


@pytest.mark.parametrize("command", ["submit", "render", "batch"])
def test_every_parameter_is_an_option_with_its_range(command) -> None:
    text = helped(command)
    for spec in SPECS:
        assert f"--{spec.name.replace('_', '-')}" in text
    assert "24 to 30 recommended" in text


@pytest.mark.parametrize("table", ["hub", "agent"])
def test_every_setting_is_an_option_with_its_variable(table) -> None:
    text = helped(table)
    for name in config.fields_of(table):
        assert config.flag_of(name) in text
        assert config.variable_of(table, name) in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_generated(shell) -> None:
    found = CliRunner().invoke(app, ["--show-completion", shell], prog_name="sonic")
    words = subprocess.run(
        [sys.executable, "-m", "sonic"],
        env=WIDE | {"_SONIC_COMPLETE": "complete_bash", "COMP_WORDS": "sonic jobs ", "COMP_CWORD": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "sonic" in found.output
    assert {"list", "show", "cancel", "watch", "fetch"} <= set(words.stdout.split())


def test_help_loads_neither_grpc_nor_numpy() -> None:
    code = "import sys, sonic.cli.app; print({'grpc', 'numpy', 'aiohttp', 'onnxruntime'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_a_service_does_not_keep_what_reads_options_in_memory() -> None:
    code = (
        "import sys, agent.service, sonic.cli.serving; print({'typer', 'rich', 'pydantic', 'hub'} & sys.modules.keys())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_the_version_is_that_of_the_package() -> None:
    found = CliRunner().invoke(app, ["--version"])
    assert found.exit_code == 0
    assert found.output.count(".") == 2


def test_every_exit_code_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for code in ExitCode:
        assert f"| {code.value} |" in text


def test_a_fault_of_the_program_is_a_sentence_and_exit_code_70(monkeypatch) -> None:
    monkeypatch.setattr(config, "load", lambda *_, **__: 1 / 0)
    found = CliRunner().invoke(app, ["config", "show"])
    assert found.exit_code == ExitCode.INTERNAL
    assert "SONIC_DEBUG=1" in found.stderr
    assert "Traceback" not in found.stderr
    monkeypatch.setenv("SONIC_DEBUG", "1")
    assert "ZeroDivisionError" in CliRunner().invoke(app, ["config", "show"]).stderr


def test_a_missing_extra_is_said_with_the_way_to_get_it() -> None:
    code = "import sys; sys.modules['aiohttp'] = None; from sonic.cli import serving; serving.main()"
    found = subprocess.run([sys.executable, "-c", code, "hub", "{}"], capture_output=True, text=True, check=False)
    assert found.returncode == ExitCode.NOT_INSTALLED
    assert "pip install 'sonic-fleet[hub]'" in found.stderr


def test_json_logs_carry_what_was_passed_and_the_exception() -> None:
    record = logging.LogRecord("hub", logging.INFO, __file__, 1, "job %s", ("j1",), None)
    record.node_id = "n1"
    record.level = "mine"
    line = json.loads(logs.JsonLines().format(record))
    assert (line["level"], line["logger"], line["message"], line["node_id"]) == ("info", "hub", "job j1", "n1")
    try:
        raise ValueError("why")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert "ValueError: why" in json.loads(logs.JsonLines().format(record))["exception"]
    assert "node_id=n1" in logs.TextLines().format(record)
    forged = logging.LogRecord("hub", logging.INFO, __file__, 1, "told %s", ("a\n05:00:00 info hub: b\x1b]0;c",), None)
    assert logs.TextLines().format(forged).endswith("told a\\x0a05:00:00 info hub: b\\x1b]0;c")


def test_what_nodes_and_tenants_say_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.note("no\x1b]0;a\x07 face\nat all")
    output.fields([("state", "failed"), ("why", "a\nstate  done\x1b[31m")])
    output.table(["node"], [["n1\x1b[31m"]])
    told = capsys.readouterr()
    assert told.err == "no\ufffd]0;a\ufffd face\nat all\n"
    assert told.out.splitlines()[:3] == ["state  failed", "why    a", "       state  done\ufffd[31m"]
    assert "\x1b" not in told.out


def test_names_and_values_are_not_capitalised_in_help() -> None:
    text = helped("hub") + helped("agent") + helped("submit")
    assert "gRPC over TLS, for callers" in text
    assert "file:// or s3://" in text
    assert "How lines look: auto, json or text" in text
    for wrong in ("GRPC", "File://", "Auto,", "Debug,", "Host:port"):
        assert wrong not in text


def test_every_command_that_prints_data_takes_json() -> None:
    groups = {"jobs": ["list", "show", "cancel", "watch", "fetch"], "nodes": ["list", "show", "drain", "resume"]}
    groups |= {"tenants": ["create", "list", "rotate", "suspend", "resume"], "keys": ["create", "list", "revoke"]}
    groups |= {"models": ["list", "fetch", "verify", "path"], "config": ["show", "path"]}
    commands = [(group, name) for group, names in groups.items() for name in names]
    commands += [("hub", "rules", "push"), ("hub", "rules", "diff")]
    for command in (*commands, ("submit",), ("batch",), ("render",), ("demo",), ("doctor",)):
        assert "--json" in CliRunner().invoke(app, [*command, "--help"], env=WIDE).output, command
