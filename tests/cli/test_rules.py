"""`sonic hub rules` leaves in Mimir what the files say, for each tenant, in our namespaces only."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sonic.cli.app import app
from sonic.cli.exit_codes import ExitCode
from tests.monitoring.promtool import RULES
from tests.processes import free_port

from .conftest import Ended, Sonic
from .mimir import Mimir, Request

ONE = "groups: [{name: one, interval: 1m, rules: [{record: 'a:b', expr: sum(a)}]}]"
TWO = """
groups:
  - name: two
    rules:
      - {alert: Slow, expr: a > 1, for: 90m, labels: {severity: page, level: 1}, annotations: {summary: "It is slow"}}
  - name: three/fourths
    rules: [{record: "c:d", expr: "sum(c)\\n"}]
"""
FOREIGN = {"name": "theirs", "rules": [{"record": "x:y", "expr": "sum(x)"}]}
ROUTING = "route: {receiver: pager}\nreceivers: [{name: pager, webhook_configs: [{url: 'http://h/hook-4711'}]}]\n"


@pytest.fixture
async def mimir() -> AsyncIterator[Mimir]:
    async with Mimir().serving() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One file of the operator, one of tenants."""
    for kind, text in (("operator", TWO), ("tenant", ONE)):
        (tmp_path / "rules" / kind).mkdir(parents=True)
        (tmp_path / "rules" / kind / "own.yml").write_text(text)
    return tmp_path / "rules"


@pytest.fixture
def hub_rules(mimir: Mimir, folder: Path, home: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Sonic:
    """The command in this process, which starts sooner; it stands in the folder above the rules."""
    monkeypatch.chdir(folder.parent)
    for name in set(os.environ) - set(home):
        monkeypatch.delenv(name)

    async def run(*arguments: object, **environment: str) -> Ended:
        words = ["hub", "rules", *map(str, arguments)]
        variables = home | {"SONIC_FORWARD_URL": mimir.url} | environment
        found = await asyncio.to_thread(CliRunner().invoke, app, words, env=variables)
        return Ended(found.exit_code, found.stdout, found.stderr)

    return run


def own(*arguments: object) -> tuple[object, ...]:
    return (*arguments, "--rules", "rules")


async def test_the_rules_that_come_along_are_pushed_whole_and_once(hub_rules: Sonic, mimir: Mimir) -> None:
    first = await hub_rules("push", "--tenant", "acme")
    assert first.code == 0, first.err
    for tenant, kind in (("operator", "operator"), ("acme", "tenant")):
        there = {f"sonic-{kind}-{path.stem}": yaml.safe_load(path.read_text()) for path in RULES.glob(f"{kind}/*.yml")}
        wanted = {name: sorted(group["name"] for group in file["groups"]) for name, file in there.items()}
        assert mimir.groups(tenant) == wanted
        for name, file in there.items():
            for group in file["groups"]:
                held = mimir.rules[tenant][name][group["name"]]["rules"]
                assert [rule["expr"] for rule in held] == [rule["expr"].strip() for rule in group["rules"]]
    pushed = len(mimir.writes)
    second = await hub_rules("push", "--tenant", "acme")
    assert (second.code, second.out, second.err) == (0, "", "nothing to do\n")
    assert len(mimir.writes) == pushed
    assert (await hub_rules("diff", "--tenant", "acme")).code == 0


@pytest.mark.parametrize("none_yet", [(200, "{}"), (404, "no rule groups found\n")])
async def test_every_tenant_gets_its_own(hub_rules: Sonic, mimir: Mimir, none_yet) -> None:
    mimir.none_yet = none_yet
    ended = await hub_rules(*own("push", "--tenant", "acme", "--tenant", "beta"))
    assert ended.out.splitlines() == [
        "operator: sonic-operator-own/three/fourths added",
        "operator: sonic-operator-own/two added",
        "acme: sonic-tenant-own/one added",
        "beta: sonic-tenant-own/one added",
    ]
    assert mimir.groups("operator") == {"sonic-operator-own": ["three/fourths", "two"]}
    assert mimir.groups("acme") == mimir.groups("beta") == {"sonic-tenant-own": ["one"]}
    assert {request.tenant for request in mimir.requests} == {"operator", "acme", "beta"}
    rule = mimir.rules["operator"]["sonic-operator-own"]["two"]["rules"][0]
    assert (rule["for"], rule["labels"]) == ("1h30m", {"level": "1", "severity": "page"})


async def test_an_operator_who_is_a_tenant_too_has_both(hub_rules: Sonic, mimir: Mimir) -> None:
    await hub_rules(*own("push", "--tenant", "only", "--forward-operator-tenant", "only"))
    assert mimir.groups("only").keys() == {"sonic-operator-own", "sonic-tenant-own"}


async def test_what_differs_is_pushed_and_nothing_else(hub_rules: Sonic, mimir: Mimir, folder: Path) -> None:
    mimir.rules["operator"]["theirs"]["theirs"] = mimir.rules["operator"]["sonic-theirs"]["theirs"] = FOREIGN
    mimir.rules["operator"]["sonic-operator-old"]["old"] = FOREIGN | {"name": "old"}
    await hub_rules(*own("push"))
    theirs = {"theirs": ["theirs"], "sonic-theirs": ["theirs"]}
    assert mimir.groups("operator") == {"sonic-operator-own": ["three/fourths", "two"]} | theirs

    mimir.requests.clear()
    (folder / "operator" / "own.yml").write_text(TWO.replace("a > 1", "a > 2").replace("three/fourths", "five"))
    ended = await hub_rules(*own("push", "--json"))
    space = "sonic-operator-own"
    assert ended.data == [
        {"tenant": "operator", "namespace": space, "name": "five", "change": "added"},
        {"tenant": "operator", "namespace": space, "name": "two", "change": "changed"},
        {"tenant": "operator", "namespace": space, "name": "three/fourths", "change": "removed"},
    ]
    assert [request.method for request in mimir.writes] == ["POST", "POST", "DELETE"]
    assert mimir.rules["operator"]["theirs"] == {"theirs": FOREIGN}
    assert mimir.rules["operator"][space]["two"]["rules"][0]["expr"] == "a > 2"


async def test_another_spelling_of_the_same_is_no_difference(hub_rules: Sonic, mimir: Mimir, folder: Path) -> None:
    await hub_rules(*own("push"))
    spelled = "# a comment\n" + TWO.replace("90m", "5400s").replace(
        "severity: page, level: 1", "level: '1', severity: page"
    )
    assert spelled.count("5400s") == spelled.count("level: '1'") == 1
    (folder / "operator" / "own.yml").write_text(spelled.replace("name: two", "name: two\n    interval: 0s"))
    assert (await hub_rules(*own("diff"))).out == ""
    assert (await hub_rules(*own("push"))).err == "nothing to do\n"


async def test_a_diff_shows_the_lines_and_changes_nothing(hub_rules: Sonic, mimir: Mimir, folder: Path) -> None:
    await hub_rules(*own("push"))
    (folder / "operator" / "own.yml").write_text(TWO.replace("a > 1", "a > 2"))
    pushed = len(mimir.writes)
    ended = await hub_rules(*own("diff", "--tenant", "acme"))
    assert ended.code == ExitCode.NOT_DONE
    lines = ended.out.splitlines()
    assert lines[:2] == [
        f"{sign} operator: sonic-operator-own/two ({w})" for sign, w in (("---", "in Mimir"), ("+++", "here"))
    ]
    assert [line for line in lines if line[0] in "+-"][2:4] == ["-  expr: a > 1", "+  expr: a > 2"]
    assert "+name: one" in lines
    found = (await hub_rules(*own("diff", "--tenant", "acme", "--json"))).data
    assert [(one["tenant"], one["change"]) for one in found] == [("operator", "changed"), ("acme", "added")]
    assert "\n".join(one["diff"] for one in found) == ended.out.strip()
    assert len(mimir.writes) == pushed


async def test_what_was_pushed_before_an_interruption_is_whole_and_a_rerun_does_the_rest(
    hub_rules: Sonic, mimir: Mimir, home: dict[str, str], tmp_path: Path
) -> None:
    mimir.writes_before_silence = 1
    command = [sys.executable, "-m", "sonic", "hub", "rules", "push", "--rules", "rules", "--tenant", "acme"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdout=pipe, stderr=pipe, env=home | {"SONIC_FORWARD_URL": mimir.url}, cwd=tmp_path
    )
    await asyncio.wait_for(mimir.silent.wait(), 60)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED
    assert out.decode() == "operator: sonic-operator-own/three/fourths added\n"
    assert b"the same command does the rest" in err
    assert b"Traceback" not in err
    assert mimir.groups("operator") == {"sonic-operator-own": ["three/fourths"]}

    mimir.writes_before_silence = 1000
    assert (await hub_rules(*own("push", "--tenant", "acme"))).out.count("added") == 2
    assert (await hub_rules(*own("diff", "--tenant", "acme"))).code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("groups: [\n", ["own.yml:2", "YAML"]),
        ("rules: []", ["a list called groups"]),
        ("groups: [{rules: []}]", ["group 1 has no name"]),
        ("groups: [{name: g, rules: [{expr: a}]}]", ["group 'g', rule 1", "record or alert"]),
        ("groups: [{name: g, rules: [{alert: A, record: a, expr: a}]}]", ["record or alert"]),
        ("groups: [{name: g, rules: [{record: a}]}]", ["has no expr"]),
        ("groups: [{name: g, rules: [{alert: A, expr: a, fro: 5m}]}]", ["'fro'", "keep_firing_for"]),
        ("groups: [{name: g, rules: [{alert: A, expr: a, for: soon}]}]", ["for is 'soon'", "5m"]),
        ("groups: [{name: g, rules: [{record: a, expr: a}]}, {name: g, rules: [{record: a, expr: a}]}]", ["twice"]),
    ],
)
async def test_a_bad_file_is_told_before_anything_is_asked(
    hub_rules: Sonic, mimir: Mimir, folder: Path, text, said
) -> None:
    (folder / "tenant" / "own.yml").write_text(text)
    ended = await hub_rules(*own("push", "--tenant", "acme"))
    assert ended.code == ExitCode.BAD_INPUT
    for words in ("tenant/own.yml", *said):
        assert words in ended.err
    assert not mimir.requests


async def test_what_only_mimir_can_judge_is_told_in_its_words(hub_rules: Sonic, mimir: Mimir, folder: Path) -> None:
    (folder / "tenant" / "own.yml").write_text(ONE.replace("sum(a)", "sum(a"))
    ended = await hub_rules(*own("push", "--tenant", "acme"))
    assert ended.code == ExitCode.BAD_INPUT
    for words in ("group 'one' of sonic-tenant-own", "'acme'", "parse error", "1:6"):
        assert words in ended.err
    assert mimir.groups("operator")
    assert not mimir.groups("acme")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tenant", "a:b"), "'a:b'"),
        (("--tenant", "a|b"), "'a|b'"),
        (("--tenant", ".."), "reserved"),
        (("--forward-url", "http://127.0.0.1:9090/api/v1/write"), "rule_files"),
        (("--forward-url", ""), "[forward] url is empty"),
        (("--tenant", "acme", "--forward-tenant-header", ""), "name only the operator's"),
        (("--alertmanager", "acme=alertmanager.yml"), "no --tenant names"),
        (("--alertmanager", "alertmanager.yml", "--alertmanager", "operator=alertmanager.yml"), "twice"),
        (("--forward-ca-file", "alertmanager.yml"), "ca_file"),
    ],
)
async def test_what_cannot_be_meant_is_refused(hub_rules: Sonic, mimir: Mimir, tmp_path: Path, arguments, said) -> None:
    (tmp_path / "alertmanager.yml").write_text(ROUTING)
    ended = await hub_rules(*own("push", *arguments))
    assert (ended.code, ended.out) == (ExitCode.USAGE, "")
    assert said in ended.err
    assert not mimir.requests


async def test_a_folder_without_rules_takes_none_away(hub_rules: Sonic, mimir: Mimir, tmp_path: Path) -> None:
    ended = await hub_rules("push", "--rules", tmp_path / "home")
    assert ended.code == ExitCode.BAD_INPUT
    assert "neither operator/*.yml nor tenant/*.yml" in ended.err
    assert not mimir.requests


async def test_a_file_with_another_ending_is_not_passed_over(hub_rules: Sonic, mimir: Mimir, folder: Path) -> None:
    (folder / "operator" / "own.yml").rename(folder / "operator" / "own.yaml")
    ended = await hub_rules(*own("push"))
    assert ended.code == ExitCode.BAD_INPUT
    assert "call it own.yml" in ended.err
    assert not mimir.requests


async def test_options_in_front_of_the_command_are_not_passed_over(sonic: Sonic, mimir: Mimir, folder: Path) -> None:
    ended = await sonic("hub", "--forward-url", mimir.url, "rules", "push", "--rules", folder)
    assert ended.code == ExitCode.USAGE
    assert "behind" in ended.err


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ((401, "no org id"), ExitCode.REFUSED, "no org id"),
        ((403, "not yours"), ExitCode.REFUSED, "credentials"),
        ((404, "404 page not found"), ExitCode.USAGE, "no Mimir"),
        ((302, ""), ExitCode.USAGE, "no Mimir"),
        ((200, "<html>a: b: c</html>"), ExitCode.USAGE, "is it a Mimir?"),
        ((200, "a: b"), ExitCode.USAGE, "something else than rules"),
        ((429, "too many"), ExitCode.REFUSED, "later"),
        ((503, "the ruler is starting"), ExitCode.UNREACHABLE, "the ruler is starting"),
    ],
)
async def test_every_answer_has_its_words_and_its_code(hub_rules: Sonic, mimir: Mimir, answer, code, said) -> None:
    mimir.answer_with = answer
    if answer[1] == "a: b":
        mimir.answer_with = (200, "sonic-operator-own: b")
    ended = await hub_rules(*own("push"))
    assert (ended.code, ended.out) == (code, "")
    assert said in ended.err


async def test_a_mimir_that_is_not_there(hub_rules: Sonic) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    ended = await hub_rules(*own("diff"), SONIC_FORWARD_URL=f"{address}/api/v1/push")
    assert ended.code == ExitCode.UNREACHABLE
    assert f"Mimir at {address} did not answer" in ended.err


async def test_credentials_are_those_of_forwarding_and_are_never_shown(
    hub_rules: Sonic, mimir: Mimir, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    mimir.authorization = "Basic " + base64.b64encode(b"me:s3cret").decode()
    basic = ("--forward-username", "me", "--forward-password-file", "secret")
    assert (await hub_rules(*own("push", *basic))).code == 0
    mimir.authorization = "Bearer s3cret"
    assert (await hub_rules(*own("diff"), SONIC_FORWARD_BEARER_TOKEN_FILE="secret")).code == 0
    refused = await hub_rules(*own("push", *basic), SONIC_DEBUG="0")
    assert refused.code == ExitCode.REFUSED
    assert "s3cret" not in refused.err + refused.out


async def test_alertmanager_is_left_alone_until_it_is_named(hub_rules: Sonic, mimir: Mimir, tmp_path: Path) -> None:
    mimir.routings["operator"] = theirs = {"alertmanager_config": "route: {receiver: theirs}", "template_files": {}}
    await hub_rules(*own("push", "--tenant", "acme"))
    assert mimir.routings == {"operator": theirs}
    (tmp_path / "am.yml").write_text("# ours\n" + ROUTING + "templates: ['*.tmpl']\n")
    (tmp_path / "mail.tmpl").write_text('{{ define "subject" }}x{{ end }}')
    push = own("push", "--tenant", "acme", "--alertmanager", "am.yml")
    ended = await hub_rules(*push)
    assert ended.out == "operator: Alertmanager's configuration changed\n"
    assert mimir.routings["operator"]["alertmanager_config"] == (tmp_path / "am.yml").read_text()
    assert mimir.routings["operator"]["template_files"] == {"mail.tmpl": '{{ define "subject" }}x{{ end }}'}
    assert "acme" not in mimir.routings
    assert (await hub_rules(*push)).err == "nothing to do\n"
    (tmp_path / "am.yml").write_text(ROUTING + "templates: ['*.tmpl']  # the same\n")
    assert (await hub_rules(*push)).err == "nothing to do\n"
    await hub_rules(*own("push", "--tenant", "acme", "--alertmanager", "acme=am.yml"))
    assert mimir.routings.keys() == {"operator", "acme"}
    assert Request("POST", "/api/v1/alerts", "acme") in mimir.writes


async def test_a_diff_of_alertmanager_keeps_its_secrets(hub_rules: Sonic, mimir: Mimir, tmp_path: Path) -> None:
    (tmp_path / "am.yml").write_text(ROUTING)
    push, diff = (own(name, "--alertmanager", "am.yml") for name in ("push", "diff"))
    await hub_rules(*push)
    (tmp_path / "am.yml").write_text(ROUTING.replace("hook-4711", "hook-4712"))
    ended = await hub_rules(*diff)
    assert (ended.code, ended.out) == (ExitCode.NOT_DONE, "operator: Alertmanager's configuration: secrets differ\n")
    (tmp_path / "am.yml").write_text(ROUTING.replace("hook-4711", "hook-4712").replace("pager", "chat"))
    ended = await hub_rules(*diff)
    assert "-  receiver: pager" in ended.out
    assert "+  receiver: chat" in ended.out
    assert "hook-" not in ended.out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ROUTING.replace("receiver: pager", "receiver: nobody"), 'undefined receiver "nobody"'),
        ("receivers: []", "it has no route"),
        (ROUTING + "templates: [none.tmpl]", "'none.tmpl'"),
        (ROUTING + "templates: [/etc/t/*.tmpl]", "put it beside am.yml"),
        (None, "No such file"),
    ],
)
async def test_a_bad_configuration_of_alertmanager_is_told(
    hub_rules: Sonic, mimir: Mimir, tmp_path: Path, text, said
) -> None:
    if text:
        (tmp_path / "am.yml").write_text(text)
    ended = await hub_rules(*own("push", "--alertmanager", "am.yml"))
    assert ended.code == ExitCode.BAD_INPUT
    assert said in ended.err
    assert not mimir.routings
