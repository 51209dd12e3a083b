"""Settings from a TOML file, the environment and flags, in rising precedence, and where each value came from.

Each table of the file is a frozen dataclass: its fields are the keys, their annotations the types, their defaults the
defaults. A key is also an environment variable, SONIC_<KEY> for [client] and SONIC_<TABLE>_<KEY> for the others.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import logging
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import platformdirs

from sonic import texts
from sonic.addresses import addresses, host_of, is_address, is_loopback
from sonic.exceptions import BadSettings

T = TypeVar("T")
PATH_VARIABLE = "SONIC_CONFIG"
_MORE_VARIABLES = {
    *(
        "SONIC_API_KEY",
        PATH_VARIABLE,
        "SONIC_DEBUG",
        "SONIC_MODELS",
        "SONIC_MODELS_FROM",
        "SONIC_MODEL_STORE",
        "SONIC_MODEL_VERSION",
    ),
    *("SONIC_ACCEPT_LICENCE", "SONIC_ENCODER", "SONIC_ENGINE_OPTIONS", "SONIC_PROVIDERS"),
}
_LONGEST_PATH = 4096
_log = logging.getLogger(__name__)
MASK = "••••••"
_PASSWORD_IN_URL = re.compile(r"(://[^:/@]*):[^@/]+@")
_SECRET_NAME = re.compile(r"(token|secret|password|api_key)$")
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True)
class ClientConfig:
    """How the command finds its hub, and as whom it speaks."""

    hub: str = "127.0.0.1:50051"  # where the hub is, host:port; several hubs separated by commas
    tenant: str = ""  # whose the jobs are; a tenant's credential says it, an insecure hub takes default
    patience_s: float = 60.0  # how long a call that makes no progress is tried again
    health_url: str = "http://127.0.0.1:8090/healthz"  # of the hub; `sonic doctor` reads its clock there
    insecure: bool = False  # no TLS and no credentials, for a hub on this machine that was started so
    ca_file: Path | None = None  # the certificate of the hub's authority; this user's own hub's, or the system's
    api_key_file: Path | None = None  # a file with an API key; SONIC_API_KEY holds the key itself
    token_file: Path | None = None  # a file with an access token, read anew for each call

    def __post_init__(self) -> None:
        if not all(map(is_address, addresses(self.hub))):
            raise ValueError(f"hub is {self.hub!r}; host:port is wanted, for example 127.0.0.1:50051")
        if self.insecure and not all(is_loopback(host_of(address)) for address in addresses(self.hub)):
            raise ValueError(
                f"hub is {self.hub!r}, on another machine, and insecure is for this machine alone; leave --insecure "
                "out and set ca_file to the authority.pem of the hub"
            )
        if not (self.tenant.isascii() and self.tenant.isprintable()):  # no call could carry it to the hub, who judges
            raise ValueError(f"tenant is {self.tenant!r}; use letters, digits and !-_.*'() only")
        if self.api_key_file and self.token_file:
            raise ValueError(f"token_file is {str(self.token_file)!r}, beside api_key_file; use one of the two")
        if not 0 <= self.patience_s < float("inf"):
            raise ValueError(f"patience_s is {self.patience_s:g}; a number of seconds of 0 or more is wanted")


@dataclass(frozen=True)
class LogConfig:
    """How the hub and the agent log."""

    format: Literal["auto", "json", "text"] = "auto"  # how lines look: auto, json or text; auto is text on a terminal
    level: str = "info"  # the least that is told: debug, info, warning or error

    def __post_init__(self) -> None:
        for name, known in (("format", ("auto", "json", "text")), ("level", ("debug", "info", "warning", "error"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")


_TABLES = {
    "client": "sonic.config:ClientConfig",
    "log": "sonic.config:LogConfig",
    "hub": "hub.config:HubConfig",
    "forward": "hub.forward.config:ForwardConfig",
    "agent": "agent.config:AgentConfig",
}

PREFIXED = ("forward", "log")  # tables whose options begin with their name


@dataclass(frozen=True)
class Setting:
    """One value and where it came from."""

    table: str
    name: str
    value: Any
    origin: str  # default, file, environment or flag
    source: str = ""  # the file, the variable or the flag

    @property
    def shown(self) -> Any:
        """The value as a person may see it: secrets are masked, also inside URLs."""
        if _SECRET_NAME.search(self.name) and self.value:
            return MASK
        if isinstance(self.value, str):
            masked = _PASSWORD_IN_URL.sub(rf"\1:{MASK}@", self.value)
            return re.sub(r"([?&][^=&#]*)=[^&#]+", rf"\1={MASK}", masked) if "://" in masked else masked
        return str(self.value) if isinstance(self.value, Path) else self.value


class Settings:
    """What was given, read once; each table is resolved when it is asked for."""

    def __init__(
        self,
        path: Path,
        tables: Mapping[str, Mapping[str, Any]],
        environ: Mapping[str, str],
        flags: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.path = path
        self._tables = tables
        self._environ = environ
        self._flags = flags

    def resolve(self, table: str) -> dict[str, Setting]:
        """Every setting of a table. Raises BadSettings."""
        return {name: self._setting(table, field) for name, field in fields_of(table).items()}

    def build(self, kind: type[T]) -> T:
        """The configuration object of a table. Raises BadSettings."""
        table = next(name for name, place in _TABLES.items() if place.endswith(f":{kind.__name__}"))
        resolved = self.resolve(table)
        given = {name: setting.value for name, setting in resolved.items() if setting.origin != "default"}
        try:
            return kind(**given)
        except ValueError as error:
            named = {
                found.start(): setting.source
                for setting in resolved.values()
                if setting.origin != "default" and (found := re.search(rf"\b{setting.name}\b", str(error)))
            }
            where = f" (from {named[min(named)]})" if named else ""
            raise BadSettings(f"[{table}] {error}{where}") from error

    def _setting(self, table: str, field: Field) -> Setting:
        variable = variable_of(table, field.name)
        flag = self._flags.get(table, {}).get(field.name)
        if flag not in (None, []):
            return Setting(table, field.name, field.kind(flag), "flag", flag_of(field.name))
        if variable in self._environ:
            value = _from_text(field, self._environ[variable], variable)
            return Setting(table, field.name, value, "environment", variable)
        if field.name in self._tables.get(table, {}):
            value = _from_toml(field, self._tables[table][field.name], f"{self.path}: [{table}] {field.name}")
            return Setting(table, field.name, value, "file", str(self.path))
        return Setting(table, field.name, field.default, "default")


@dataclass(frozen=True)
class Field:
    """One key of a table."""

    name: str
    kind: type  # str, int, float, bool, Path or tuple (of str)
    default: Any
    help: str = ""


def fields_of(table: str) -> dict[str, Field]:
    """The keys of a table, read from its dataclass."""
    kind = kind_of(table)
    hints = typing.get_type_hints(kind)
    # The comment behind a field is what its reader in the code sees; whoever asks for help sees the same words.
    comments = dict(re.findall(r"^    (\w+): .*  # (.+)$", inspect.getsource(inspect.getmodule(kind)), re.MULTILINE))  # type: ignore[arg-type]
    return {
        field.name: Field(field.name, _plain(hints[field.name]), _default(field), comments.get(field.name, ""))
        for field in dataclasses.fields(kind)
        if field.init
    }


def kind_of(table: str) -> Any:
    """The dataclass behind a table."""
    module, _, name = _TABLES[table].partition(":")
    return getattr(importlib.import_module(module), name)


def tables() -> tuple[str, ...]:
    return tuple(_TABLES)


def default_path() -> Path:
    return platformdirs.user_config_path("sonic") / "config.toml"


def load(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """Read the file at `path`, else the one that SONIC_CONFIG names, else the default one if it is there.

    `flags` are values by table and key; None is one that was not given.
    Raises BadSettings: a file that was named and is missing, broken TOML, a table or key that does not exist.
    """
    environ = os.environ if environ is None else environ
    named = path or (Path(environ[PATH_VARIABLE]) if environ.get(PATH_VARIABLE) else None)
    where = named or default_path()
    try:
        content = texts.toml(where.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named:
            raise BadSettings(f"there is no configuration file {where}") from None
        content = {}
    except OSError as error:
        raise BadSettings(f"the configuration file {where} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadSettings(f"the configuration file {where} cannot be read: {error}") from error
    _check_names(where, content)
    _warn_of_variables(environ)
    return Settings(where, content, environ, flags or {})


def of_options(given: Mapping[str, Any], table: str = "client") -> Settings:
    """The file that `--config` names, the environment, and the options of one table and of those with a prefix.

    Raises BadSettings.
    """
    flags = {
        other: {name.removeprefix(f"{other}_"): value for name, value in given.items() if name.startswith(f"{other}_")}
        for other in PREFIXED
    }
    for other, values in ({table: given} | flags).items():
        for name, value in values.items():
            if isinstance(value, str) and _PASSWORD_IN_URL.search(value) and name in fields_of(other):
                raise BadSettings(
                    f"{name} is given as an option and holds a password, which everybody on this machine can see among "
                    f"the processes; set it in the environment, {variable_of(other, name)}, or in the file of settings"
                )
    named = given.get("config")
    return load(Path(named) if named else None, flags={table: given} | flags)


def variable_of(table: str, name: str) -> str:
    """The environment variable of a key."""
    return f"SONIC_{name}".upper() if table == "client" else f"SONIC_{table}_{name}".upper()


def flag_of(name: str) -> str:
    """The command-line flag of a key."""
    return "--" + name.replace("_", "-")


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """What to say of a name that does not exist."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names)}"


def _check_names(path: Path, content: Mapping[str, Any]) -> None:
    for table, entries in content.items():
        if table not in _TABLES:
            raise BadSettings(f"{path} has [{table}], which does not exist; {nearest(table, _TABLES)}")
        if not isinstance(entries, dict):
            raise BadSettings(f"{path}: {table} is a table; write [{table}] on a line of its own")
        known = fields_of(table)
        for name in entries:
            if name not in known:
                raise BadSettings(f"{path} has {name!r} in [{table}], which does not exist; {nearest(name, known)}")


def _warn_of_variables(environ: Mapping[str, str]) -> None:
    known = {variable_of(table, name) for table in _TABLES for name in fields_of(table)} | _MORE_VARIABLES
    for name in environ:
        if name.startswith("SONIC_") and name not in known:
            _log.warning("%s is set, which means nothing; %s", name, nearest(name, sorted(known)))


def _plain(hint: Any) -> type:
    """The type behind an annotation: without `| None`, without what is inside a tuple."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        return str
    plain: type = typing.get_origin(hint) or hint
    return plain


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "" if field.default is dataclasses.MISSING else field.default


def _from_text(field: Field, text: str, source: str) -> Any:
    try:
        if field.kind is bool:
            return _TRUTH[text.strip().lower()]
        if field.kind is tuple:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        return _path(text) if field.kind is Path else field.kind(text)
    except (ValueError, KeyError, RuntimeError):  # of a home that nobody has
        raise BadSettings(f"{source} is {text!r}; {_wanted(field)} is wanted") from None


def _from_toml(field: Field, value: Any, source: str) -> Any:
    if field.kind is Path and isinstance(value, str):
        try:
            return _path(value)
        except (ValueError, RuntimeError):
            raise BadSettings(f"{source} is {value!r}; {_wanted(field)} is wanted") from None
    if field.kind is tuple and isinstance(value, list) and all(isinstance(part, str) for part in value):
        return tuple(value)
    if field.kind is float and type(value) is int:
        return float(value)
    if type(value) is not field.kind:
        raise BadSettings(f"{source} is {value!r}; {_wanted(field)} is wanted")
    return value


def _path(text: str) -> Path:
    """Raises ValueError for what no file can be called."""
    path = Path(text).expanduser()
    if "\0" in text or len(os.fsencode(text)) >= _LONGEST_PATH or any(len(os.fsencode(p)) > 255 for p in path.parts):
        raise ValueError(text)
    return path


def _wanted(field: Field) -> str:
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        tuple: "a list of names",
        Path: "a path",
    }.get(field.kind, "a text")
