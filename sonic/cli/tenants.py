"""`sonic tenants`: who may have videos made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonic.cli import keys, options, output, running
from sonic.cli.submit import FIRST_ANSWER_S, connect

if TYPE_CHECKING:
    from sonic.v1 import access_pb2
    from sonic.v1 import access_service_pb2 as pb

app = typer.Typer(help="For operators: let tenants in, and keep them out.", no_args_is_help=True)
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="The name of a tenant; also its tenant in Mimir.")]


@app.command()
@options.of(options.OPERATOR)
def create(tenant: Tenant, valid_for: keys.ValidFor = None, json: options.Json = False, **given: Any) -> None:
    """Make a tenant and print its first key, this one time."""
    settings, valid_s = options.client_of(given), keys.seconds(valid_for, "--valid-for")

    async def ask() -> pb.CreateTenantResponse:
        async with connect(settings, FIRST_ANSWER_S) as client:
            return await client.access.create_tenant(tenant, valid_s)

    made = running.run(ask())
    output.print_json(output.plain(made)) if json else keys.hand_over(made.key)


@app.command("list")
@options.of(options.OPERATOR)
def list_tenants(json: options.Json = False, **given: Any) -> None:
    """List every tenant and its keys, without their secrets."""
    settings = options.client_of(given)

    async def get() -> list[access_pb2.Tenant]:
        async with connect(settings, FIRST_ANSWER_S) as client:
            return await client.access.tenants()

    found = running.run(get())
    if json:
        output.print_json([output.plain(tenant) for tenant in found])
        return
    rows = []
    for tenant in found:
        shown = [(keys.begins(key), keys.state(key)) for key in tenant.keys] or [("", "there is none")]
        rows += [(tenant.tenant, _state(tenant), *key) for key in shown]
    output.table(("TENANT", "STATE", "KEY", "KEY IS"), rows)


@app.command()
@options.of(options.OPERATOR)
def rotate(
    tenant: Tenant,
    overlap: Annotated[str, typer.Option(help="How long all its other keys go on: 2h, 7d; 0s ends them.")] = "1d",
    valid_for: keys.ValidFor = None,
    json: options.Json = False,
    **given: Any,
) -> None:
    """Print a new key of a tenant, this one time; all its others, however they were made, end after the overlap."""
    settings, valid_s = options.client_of(given), keys.seconds(valid_for, "--valid-for")
    overlap_s = keys.seconds(overlap, "--overlap") or 0.0

    async def ask() -> pb.RotateKeysResponse:
        async with connect(settings, FIRST_ANSWER_S) as client:
            return await client.access.rotate(tenant, overlap_s, valid_s)

    made = running.run(ask())
    output.print_json(output.plain(made)) if json else keys.hand_over(made.key)


@app.command()
@options.of(options.OPERATOR)
def suspend(tenant: Tenant, json: options.Json = False, **given: Any) -> None:
    """Refuse every call of a tenant from now on, also those under way; its jobs go on."""
    _call("suspend", tenant, json, given)


@app.command()
@options.of(options.OPERATOR)
def resume(tenant: Tenant, json: options.Json = False, **given: Any) -> None:
    """Take a suspension back."""
    _call("resume", tenant, json, given)


def _call(method: str, tenant: str, json: bool, given: dict[str, Any]) -> None:
    settings = options.client_of(given)

    async def ask() -> access_pb2.Tenant:
        async with connect(settings, FIRST_ANSWER_S) as client:
            answer: access_pb2.Tenant = await getattr(client.access, method)(tenant)
            return answer

    found = running.run(ask())
    output.print_json(output.plain(found)) if json else output.line(f"{found.tenant} {_state(found)}")


def _state(tenant: access_pb2.Tenant) -> str:
    return f"suspended {keys.clock(tenant.suspended_at)}" if tenant.HasField("suspended_at") else "active"
