"""Every setting has one value, from where it should be, and says so; what is misspelt is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import AgentConfig
from hub.config import HubConfig
from sonic import config
from sonic.config import ClientConfig, LogConfig
from sonic.exceptions import BadSettings

KINDS = {"client": ClientConfig, "log": LogConfig, "hub": HubConfig, "agent": AgentConfig}
TEXT_KEYS = [
    ("client", "tenant"),
    ("client", "hub"),
    ("hub", "database_url"),
    ("agent", "region"),
    ("agent", "node_id"),
]
ORIGINS = ["flag", "environment", "file"]
NO_ENVIRONMENT: dict[str, str] = {}


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@given(
    key=st.sampled_from(TEXT_KEYS),
    values=st.fixed_dictionaries(
        {}, optional={origin: st.from_regex(r"[a-z]{1,9}", fullmatch=True) for origin in ORIGINS}
    ),
)
def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path_factory, key, values) -> None:
    table, name = key
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(f'[{table}]\n{name} = "{values["file"]}"\n' if "file" in values else "")
    environ = {config.variable_of(table, name): values["environment"]} if "environment" in values else {}
    flags = {table: {name: values.get("flag")}}
    found = config.load(path, environ, flags).resolve(table)[name]
    origin = next((origin for origin in ORIGINS if origin in values), "default")
    assert found.origin == origin
    assert found.value == values.get(origin, config.fields_of(table)[name].default)


@pytest.mark.parametrize("table", KINDS)
def test_every_field_of_a_table_is_a_key_with_its_own_default(table, tmp_path) -> None:
    resolved = config.load(written(tmp_path / "c.toml", ""), NO_ENVIRONMENT).resolve(table)
    plain = KINDS[table]()
    assert {name: setting.value for name, setting in resolved.items()} == {
        field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)
    }


def test_values_of_every_kind_come_from_file_and_environment_alike(tmp_path) -> None:
    text = """
        [hub]
        data_dir = "~/data"
        insecure = true
        lease_s = 60
        max_tries = 5
        [agent]
        worker_command = ["a", "b"]
    """
    settings = config.load(written(tmp_path / "c.toml", text), NO_ENVIRONMENT)
    built = settings.build(HubConfig)
    assert (built.data_dir, built.insecure, built.lease_s, built.max_tries) == (Path.home() / "data", True, 60.0, 5)
    assert settings.build(AgentConfig).worker_command == ("a", "b")
    environ = {"SONIC_HUB_DATA_DIR": "~/data", "SONIC_HUB_INSECURE": "yes", "SONIC_HUB_LEASE_S": "60"}
    environ |= {"SONIC_HUB_MAX_TRIES": "5", "SONIC_AGENT_WORKER_COMMAND": "a,b"}
    same = config.load(written(tmp_path / "e.toml", ""), environ)
    assert same.build(HubConfig) == built
    assert same.build(AgentConfig).worker_command == ("a", "b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[client]\ntennant = 'a'", "'tennant' in [client], which does not exist; did you mean 'tenant'?"),
        ("[clint]\ntenant = 'a'", "[clint], which does not exist; did you mean 'client'?"),
        ("tenant = 'a'", "[tenant], which does not exist"),
        ("[hub]\nlease = 3", "did you mean 'lease_s'?"),
        ("hub = 'host:1'", "hub is a table; write [hub] on a line of its own"),
        ("[hub]\nmax_tries = 'many'", "[hub] max_tries is 'many'; a whole number is wanted"),
        ("[hub]\ninsecure = 1", "insecure is 1; true or false is wanted"),
        ("[agent]\nslots = 0", "slots is 0"),
        ("[client", "cannot be read"),
        ("[log]\nlevel = 'loud'", "level is 'loud'; choose one of debug, info, warning, error"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_the_file_and_the_key(tmp_path, text, said) -> None:
    path = written(tmp_path / "c.toml", text)

    def build_all() -> None:
        settings = config.load(path, NO_ENVIRONMENT)
        for kind in KINDS.values():
            settings.build(kind)

    with pytest.raises(BadSettings) as refused:
        build_all()
    assert said in str(refused.value)
    assert str(path) in str(refused.value)


def test_what_is_wrong_in_the_environment_is_said_with_the_variable(tmp_path) -> None:
    environ = {"SONIC_HUB_LEASE_S": "long"}
    with pytest.raises(BadSettings, match="SONIC_HUB_LEASE_S is 'long'; a number is wanted"):
        config.load(written(tmp_path / "c.toml", ""), environ).build(HubConfig)
    with pytest.raises(BadSettings, match="SONIC_HUB_LISTEN"):
        config.load(tmp_path / "c.toml", {"SONIC_HUB_LISTEN": "nowhere"}).build(HubConfig)


def test_a_file_that_was_named_must_be_there_the_default_one_need_not(tmp_path) -> None:
    with pytest.raises(BadSettings, match="no configuration file"):
        config.load(tmp_path / "none.toml", NO_ENVIRONMENT)
    with pytest.raises(BadSettings, match="no configuration file"):
        config.load(None, {"SONIC_CONFIG": str(tmp_path / "none.toml")})


def test_secrets_are_masked(tmp_path) -> None:
    environ = {"SONIC_HUB_DATABASE_URL": "postgresql://sonic:hunter2@db/sonic"}
    shown = config.load(written(tmp_path / "c.toml", ""), environ).resolve("hub")["database_url"].shown
    assert "hunter2" not in shown
    assert shown.startswith("postgresql://sonic:")
    assert config.Setting("agent", "join_token", "hunter2", "file").shown == config.MASK
    query = config.Setting(
        "hub", "database_url", "postgresql://u:hunter2@db/x?sslmode=require&password=hunter3", "environment"
    )
    assert query.shown == f"postgresql://u:{config.MASK}@db/x?sslmode={config.MASK}&password={config.MASK}"


@pytest.mark.parametrize(
    ("option", "variable"), [("--database-url", "SONIC_HUB_DATABASE_URL"), ("--forward-url", "SONIC_FORWARD_URL")]
)
async def test_a_password_is_not_taken_from_the_command_line(sonic, option, variable) -> None:
    ended = await sonic("hub", option, "https://me:hunter2@mimir.example/push")
    assert ended.code == 2
    assert "hunter2" not in ended.err
    assert variable in ended.err


@pytest.mark.parametrize("url", ["postgresql://127.0.0.1:notaport/x", "postgresql://127.0.0.1:1/x?passwrd=1"])
async def test_a_database_that_cannot_be_named_so_is_said_by_the_setting(sonic, tmp_path, url) -> None:
    ended = await sonic("hub", "--insecure", "--data-dir", str(tmp_path), SONIC_HUB_DATABASE_URL=url)
    assert ended.code == 2
    assert ended.err.startswith("error: database_url ")


async def test_a_variable_that_means_nothing_is_said_with_the_nearest_one(sonic) -> None:
    ended = await sonic("config", "path", SONIC_TENNANT="acme", SONIC_MODELS="/models")
    assert ended.code == 0
    assert ended.err == "SONIC_TENNANT is set, which means nothing; did you mean 'SONIC_TENANT'?\n"


@pytest.mark.parametrize("json", [(), ("--json",)])
async def test_values_that_cannot_be_used_are_shown_and_told(sonic, json) -> None:
    ended = await sonic("config", "show", *json, SONIC_HUB="nowhere", SONIC_AGENT_SLOTS="0")
    assert ended.code == 2
    assert "nowhere" in ended.out
    assert "[client] hub is 'nowhere'; host:port is wanted" in ended.err
    assert "(from SONIC_HUB)\n" in ended.err
    assert "[agent] slots is 0" in ended.err


def test_the_setting_that_is_wrong_is_traced_and_not_one_that_the_advice_mentions(tmp_path) -> None:
    environ = {"SONIC_HUB_LISTEN": "127.0.0.1:0", "SONIC_HUB_HTTP_LISTEN": "10.0.0.1:8090"}
    with pytest.raises(BadSettings, match=r"http_listen is .*, or listen on 127.0.0.1 \(from SONIC_HUB_HTTP_LISTEN\)"):
        config.load(written(tmp_path / "c.toml", ""), environ).build(HubConfig)


async def test_the_command_shows_where_each_value_came_from(sonic, home) -> None:
    path = Path(home["XDG_CONFIG_HOME"]) / "sonic" / "config.toml"
    assert (await sonic("config", "path")).out.strip() == str(path)
    path.parent.mkdir()
    path.write_text('[client]\ntenant = "filed"\nhub = "filed:1"\n[hub]\nlease_s = 99\n')
    found = (await sonic("config", "show", "--json", "--health-url", "http://x/", SONIC_HUB="set:2")).data
    by_key = {entry["key"]: (entry["value"], entry["origin"], entry["source"]) for entry in found}
    assert by_key["client.tenant"] == ("filed", "file", str(path))
    assert by_key["client.hub"] == ("set:2", "environment", "SONIC_HUB")
    assert by_key["client.health_url"] == ("http://x/", "flag", "--health-url")
    assert by_key["hub.lease_s"] == (99.0, "file", str(path))
    assert by_key["agent.slots"] == (1, "default", "")
    assert "filed" in (await sonic("config", "show")).out
