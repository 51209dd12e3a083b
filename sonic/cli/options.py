"""Options that several commands share, made from the tables that define them: nothing is typed twice."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from sonic import config, deadlines, files
from sonic.parameters import ENGINE_DEFAULTS, SPECS, Spec

F = TypeVar("F", bound=Callable[..., Any])
Group = tuple[inspect.Parameter, ...]
_REGION_RULES = {
    "prefer": "Rather in this region, if that costs little time.",
    "require": "In this region and nowhere else.",
    "avoid": "In this region only if nowhere else could ever run it.",
}
_RECEIVER = (  # settings of [forward] that say where Mimir is, and as whom to speak to it
    *("url", "tenant_header", "operator_tenant", "timeout_s", "username", "password_file", "bearer_token_file"),
    *("oauth2_token_url", "oauth2_client_id", "oauth2_client_secret_file", "oauth2_scopes"),
    *("ca_file", "cert_file", "key_file"),
)


def _video_name(path: Path | None) -> Path | None:
    if path and (problem := files.name_problem(str(path))):
        raise typer.BadParameter(problem)
    return path


def out(help: str) -> Any:
    """The option that says where a video goes."""
    return typer.Option("-o", "--out", help=help, callback=_video_name)


Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout; docs/cli.md lists its keys.")]


def of(*groups: Group) -> Callable[[F], F]:
    """Give a command the options of `groups` in the place of its `**given`."""

    def decorate(command: F) -> F:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        shared = [parameter for group in groups for parameter in group]
        named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared)]
        command.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in named} | {"return": None}
        return command

    return decorate


def client_of(given: dict[str, Any]) -> config.ClientConfig:
    """Which hub, and as whom."""
    return config.of_options(given).build(config.ClientConfig)


def parameters_of(given: dict[str, Any]) -> dict[str, Any]:
    """The render parameters among the options, those only that were given."""
    return {spec.name: given[spec.name] for spec in SPECS if given.get(spec.name) is not None}


def job_of(given: dict[str, Any]) -> dict[str, Any]:
    """What the options say of a job: parameters, engine, version, priority, regions; those only that were given."""
    chosen = {name: given[name] for name in ("engine", "model_version", "priority") if given.get(name) is not None}
    regions = {f"{rule}_regions": tuple(named) for rule in _REGION_RULES if (named := given.get(f"{rule}_region"))}
    return chosen | regions | parameters_of(given)


def _deadline(text: str) -> timedelta | datetime:
    try:
        return deadlines.parse(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r}; {deadlines.WANTED} is wanted") from None


def _parameter(name: str, kind: Any, flags: Iterable[str], default: Any = None, **more: Any) -> inspect.Parameter:
    annotation: Any = Annotated[kind | None if default is None else kind, typer.Option(*flags, **more)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _table(table: str) -> Group:
    return tuple(_setting(table, field) for field in config.fields_of(table).values())


def _setting(table: str, field: config.Field) -> inspect.Parameter:
    name = f"{table}_{field.name}" if table in config.PREFIXED else field.name
    flag = config.flag_of(name)
    return _parameter(
        name,
        list[str] if field.kind is tuple else field.kind,
        [f"{flag}/--no-{flag[2:]}" if field.kind is bool else flag],
        help=_setting_help(table, field),
        rich_help_panel=f"Settings of the {table}",
        show_default=False,
    )


def _setting_help(table: str, field: config.Field) -> str:
    default = str(field.default).lower() if field.kind is bool else field.default
    default = " ".join(default) if field.kind is tuple else default
    said = [
        f"{_sentence(field.help)}." if field.help else "",
        "" if default in ("", None, ()) else f"Default: {default}.",
        f"Also {config.variable_of(table, field.name)}.",
    ]
    return " ".join(part for part in said if part)


def _sentence(text: str) -> str:
    """Begun with a capital letter, unless its first word is a name or a value."""
    return text[:1].upper() + text[1:] if re.match(r"[a-z]+( |$)", text) else text


def _render_parameter(spec: Spec) -> inspect.Parameter:
    def read(text: str) -> Any:
        try:
            return spec.kind(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r}; {spec.wanted} is wanted") from None

    flag = config.flag_of(spec.name)
    how = {} if spec.kind is bool else {"parser": read, "metavar": f"<{spec.kind.__name__}>"}
    return _parameter(
        spec.name,
        spec.kind,
        [f"{flag}/--no-{flag[2:]}" if spec.kind is bool else flag],
        help=f"{spec.help} {parameter_range(spec)}".strip(),
        rich_help_panel="Render parameters",
        show_default=False,
        **how,
    )


def parameter_range(spec: Spec) -> str:
    """Default, hard and recommended range of a parameter, in words."""
    said = []
    if spec.default is not None:
        own = [f"{engine}: {of[spec.name]:g}" for engine, of in ENGINE_DEFAULTS.items() if spec.name in of]
        said.append(" ".join([f"Default: {str(spec.default).lower()}", *(f"({one})" for one in own)]) + ".")
    if spec.kind is not bool:
        said.append(f"{spec.range}.")
    if spec.recommended:
        said.append(f"{spec.recommended[0]:g} to {spec.recommended[1]:g} recommended.")
    return " ".join(said)


_LINE = ("insecure", "ca_file", "api_key_file", "token_file")  # of [client], that say how the hub is spoken to
CONFIG: Group = (_parameter("config", Path, ["--config"], help="Configuration file. Also SONIC_CONFIG."),)
CLIENT: Group = (*(p for p in _table("client") if p.name in ("hub", "tenant", *_LINE)), *CONFIG)
OPERATOR: Group = (*(p for p in _table("client") if p.name in ("hub", *_LINE)), *CONFIG)
CHECKS: Group = (*_table("client"), *CONFIG)
RECEIVER: Group = (*(p for p in _table("forward") if p.name.removeprefix("forward_") in _RECEIVER), *CONFIG)
PARAMETERS: Group = tuple(_render_parameter(spec) for spec in SPECS)
JOB: Group = (
    _parameter("engine", str, ["--engine"], help="Which engine renders; warp when not given."),
    _parameter(
        "model_version", str, ["--model-version"], help="Which version of the engine's model; any when not given."
    ),
    _parameter("priority", int, ["--priority"], help="-10 to 10; each step is worth a minute of waiting. Default: 0."),
    *(
        _parameter(f"{rule}_region", list[str], [f"--{rule}-region"], metavar="REGION", help=f"{said} May be repeated.")
        for rule, said in _REGION_RULES.items()
    ),
    _parameter(
        "deadline",
        str,
        ["--deadline"],
        parser=_deadline,
        metavar="WHEN",
        help=f"A job that cannot end by then fails without using a GPU: {deadlines.WANTED}.",
    ),
)


def service(*tables: str) -> Group:
    """Every setting of the hub or of the agent, and how it logs."""
    return (*(setting for table in (*tables, "log") for setting in _table(table)), *CONFIG)
