"""`sonic keys`: the API keys of tenants, operators and readers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonic import deadlines
from sonic.cli import options, output, running
from sonic.cli.submit import FIRST_ANSWER_S, connect

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from sonic.v1 import access_pb2

app = typer.Typer(help="For operators: make API keys, look at them, revoke them.", no_args_is_help=True)
ValidFor = Annotated[str | None, typer.Option("--valid-for", help="When the key ends: 12h, 90d. Never when not given.")]
_ROLES = ("tenant", "operator", "reader")


@app.command()
@options.of(options.OPERATOR)
def create(
    holder: Annotated[
        str, typer.Argument(metavar="HOLDER", help="The person or program that gets it, for the audit log.")
    ],
    role: Annotated[str, typer.Option(help="tenant, operator, or reader: sees what operators see, changes nothing.")],
    of_tenant: Annotated[str, typer.Option("--of-tenant", help="Whose key it is, for the role tenant.")] = "",
    valid_for: ValidFor = None,
    json: options.Json = False,
    **given: Any,
) -> None:
    """Print a new key, this one time."""
    if role not in _ROLES:
        raise typer.BadParameter(f"{role!r}; choose one of {', '.join(_ROLES)}", param_hint="--role")
    if role == "tenant" and not of_tenant:
        raise typer.BadParameter("is missing; say whose key it is to be", param_hint="--of-tenant")
    if role != "tenant" and of_tenant:
        raise typer.BadParameter(
            f"goes with --role tenant; a key of the role {role} is no tenant's", param_hint="--of-tenant"
        )
    settings, valid_s = options.client_of(given), seconds(valid_for, "--valid-for")

    async def ask() -> access_pb2.NewApiKey:
        from sonic.v1 import access_pb2

        number = access_pb2.Role.Value(f"ROLE_{role.upper()}")
        async with connect(settings, FIRST_ANSWER_S) as client:
            return await client.access.create_key(number, holder, of_tenant, valid_s)

    made = running.run(ask())
    output.print_json(output.plain(made)) if json else hand_over(made)


@app.command("list")
@options.of(options.OPERATOR)
def list_keys(json: options.Json = False, **given: Any) -> None:
    """List every key, without its secret, the newest first. When one was used last is noted once a minute."""
    settings = options.client_of(given)

    async def get() -> list[access_pb2.ApiKey]:
        async with connect(settings, FIRST_ANSWER_S) as client:
            return await client.access.keys()

    found = running.run(get())
    if json:
        output.print_json([output.plain(key) for key in found])
        return
    rows = [(key.key_id, _role(key), key.tenant, key.holder, clock(key.created_at), state(key)) for key in found]
    output.table(("KEY", "ROLE", "TENANT", "HOLDER", "MADE", "IS"), rows)


@app.command()
@options.of(options.OPERATOR)
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The id of a key, as `sonic keys list` shows it.")],
    json: options.Json = False,
    **given: Any,
) -> None:
    """End a key for good, and the calls that are under way with it."""
    settings = options.client_of(given)

    async def ask() -> access_pb2.ApiKey:
        async with connect(settings, FIRST_ANSWER_S) as client:
            return await client.access.revoke(key)

    found = running.run(ask())
    output.print_json(output.plain(found)) if json else output.line(f"{found.key_id} {state(found)}")


def hand_over(made: access_pb2.NewApiKey) -> None:
    """The key alone goes to stdout, so that it can go into a file."""
    output.note(
        f"key {made.key.key_id} of {made.key.holder}; it is shown this one time: keep it in a file of mode 0600"
    )
    output.line(made.secret_text)


def begins(key: access_pb2.ApiKey) -> str:
    return f"sonic_{key.key_id}_…"


def state(key: access_pb2.ApiKey) -> str:
    """Whether a key holds, until when, and when it was used last."""
    used = f", used {clock(key.last_used_at)}" if key.HasField("last_used_at") else ", never used"
    if key.HasField("revoked_at"):
        return f"revoked {clock(key.revoked_at)}"
    if not key.HasField("expires_at"):
        return f"live{used}"
    over = key.expires_at.ToDatetime(UTC) <= datetime.now(UTC)
    return f"{'expired' if over else 'live until'} {clock(key.expires_at)}{'' if over else used}"


def clock(when: Timestamp) -> str:
    return when.ToDatetime().strftime("%Y-%m-%d %H:%M UTC")


def seconds(text: str | None, option: str) -> float | None:
    """A duration as people write it; None stays None."""
    try:
        found = deadlines.parse(text) if text else None
    except (ValueError, OverflowError):
        found = datetime.now(UTC)
    if isinstance(found, datetime):
        raise typer.BadParameter(f"{text!r}; a duration such as 12h or 90d is wanted", param_hint=option)
    return found.total_seconds() if isinstance(found, timedelta) else None


def _role(key: access_pb2.ApiKey) -> str:
    from sonic.v1 import access_pb2

    return access_pb2.Role.Name(key.role).removeprefix("ROLE_").lower()
