"""`sonic hub rules`: recording rules, alert rules and Alertmanager's configuration, loaded into Mimir."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonic import config, exceptions
from sonic.cli import options, output, running
from sonic.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from hub.rules.changes import Change

app = typer.Typer(help="Load rules and Alertmanager's configuration into Mimir.", no_args_is_help=True)
Tenants = Annotated[
    list[str] | None, typer.Option("--tenant", help="A tenant that gets the rules of tenants; may be repeated.")
]
Rules = Annotated[
    Path | None,
    typer.Option(
        "--rules", help="A folder with operator/*.yml and tenant/*.yml; the rules that come along when not given."
    ),
]
Routings = Annotated[
    list[str] | None,
    typer.Option(
        "--alertmanager",
        metavar="[TENANT=]FILE",
        help="Replace Alertmanager's configuration of a tenant, the operator's if none is named; may be repeated.",
    ),
]
_STOPPED = "stopped; what was pushed is whole, and the same command does the rest"


@app.command()
@options.of(options.RECEIVER)
def push(
    tenant: Tenants = None,
    rules: Rules = None,
    alertmanager: Routings = None,
    json: options.Json = False,
    **given: Any,
) -> None:
    """Give the operator's tenant, and those named, the rules that they lack, and take away those of ours that are gone.

    Only namespaces that begin with sonic-operator- or sonic-tenant- are touched.
    """
    done = running.run(_changes(tenant, rules, alertmanager, given, carry_out=True, quiet=json), _STOPPED)
    if json:
        output.print_json([_plain(change) for change in done])
    elif not done:
        output.note("nothing to do")


@app.command()
@options.of(options.RECEIVER)
def diff(
    tenant: Tenants = None,
    rules: Rules = None,
    alertmanager: Routings = None,
    json: options.Json = False,
    **given: Any,
) -> None:
    """Show what push would change; the exit code is 1 when there is something."""
    found = running.run(_changes(tenant, rules, alertmanager, given, carry_out=False))
    if json:
        output.print_json([_plain(change) | {"diff": change.diff} for change in found])
    else:
        for change in found:
            output.line(change.diff)
    if found:
        raise typer.Exit(ExitCode.NOT_DONE)


async def _changes(
    tenants: list[str] | None,
    rules: Path | None,
    alertmanager: list[str] | None,
    given: dict[str, Any],
    *,
    carry_out: bool,
    quiet: bool = True,
) -> list[Change]:
    changes = running.need("hub.rules.changes", "hub")
    groups, mimir = running.need("hub.rules.groups", "hub"), running.need("hub.rules.mimir", "hub")
    forward = config.of_options(given).build(config.kind_of("forward"))
    routings = _routings(alertmanager or [], forward.operator_tenant)
    wanted = changes.wanted(rules or groups.shipped(), forward, tenants or [], routings)
    try:
        async with mimir.open_mimir(forward) as opened:
            found: list[Change] = await changes.between(opened, wanted)
            if carry_out:
                async for change in changes.carried_out(opened, found):
                    if not quiet:
                        output.line(f"{change.tenant}: {change.what} {change.kind}")
            return found
    except running.need("hub.config", "hub").InvalidConfig as error:
        raise exceptions.BadSettings(f"[forward] {error}") from error


def _routings(alertmanager: list[str], operator: str) -> dict[str, Any]:
    read = running.need("hub.rules.alertmanager", "hub").read
    problem = running.need("hub.core.tenants", "hub").tenant_problem
    found: dict[str, Any] = {}
    for text in alertmanager:
        tenant, equals, file = text.partition("=")
        if not equals or problem(tenant):  # a path with = in it
            tenant, file = operator, text
        if tenant in found:
            raise exceptions.BadSettings(
                f"--alertmanager is given twice for {tenant!r}; a tenant has one configuration"
            )
        found[tenant] = read(Path(file))
    return found


def _plain(change: Change) -> dict[str, str]:
    return {"tenant": change.tenant, "namespace": change.namespace, "name": change.name, "change": change.kind}
