"""`sonic hub token`: the right of boxes to join."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonic import deadlines
from sonic.cli import options, output, running
from sonic.cli.submit import FIRST_ANSWER_S, connect

if TYPE_CHECKING:
    from sonic.v1 import admin_service_pb2, enrolment_service_pb2

app = typer.Typer(help="Make, list and end the tokens with which boxes join.", no_args_is_help=True)


@app.command()
@options.of(options.OPERATOR)
def create(
    region: Annotated[str, typer.Option(help="Where the boxes are.")],
    uses: Annotated[int, typer.Option(min=1, help="How many boxes may join with it.")] = 1,
    ttl: Annotated[str, typer.Option(help="For how long, as 24h or 30m; a month at most.")] = "24h",
    node: Annotated[str, typer.Option(help="Only this node, also when it has been enrolled before.")] = "",
    json: options.Json = False,
    **given: Any,
) -> None:
    """Make a token; it is printed now and never again. Put it into a file on the box, for its join_token_file."""
    settings = options.client_of(given)
    life = _life(ttl)

    async def ask() -> admin_service_pb2.CreateJoinTokenResponse:
        async with connect(settings, FIRST_ANSWER_S) as client:
            return await client.create_join_token(region, uses=uses, ttl=life, node_id=node)

    made = running.run(ask())
    output.print_json(output.plain(made)) if json else output.line(made.text)


@app.command("list")
@options.of(options.OPERATOR)
def list_tokens(json: options.Json = False, **given: Any) -> None:
    """List the tokens, without their secrets."""
    settings = options.client_of(given)

    async def ask() -> list[enrolment_service_pb2.JoinToken]:
        async with connect(settings, FIRST_ANSWER_S) as client:
            return await client.join_tokens()

    found = running.run(ask())
    if json:
        output.print_json([output.plain(token) for token in found])
        return
    rows = [(token.token_id, token.region, token.node_id, str(token.uses_left), _state(token)) for token in found]
    output.table(("TOKEN", "REGION", "NODE", "USES LEFT", "STATE"), rows)


@app.command()
@options.of(options.OPERATOR)
def revoke(token: Annotated[str, typer.Argument(metavar="TOKEN", help="The id of a token.")], **given: Any) -> None:
    """End a token; boxes that have joined with it stay."""
    settings = options.client_of(given)

    async def ask() -> None:
        async with connect(settings, FIRST_ANSWER_S) as client:
            await client.revoke_join_token(token)

    running.run(ask())
    output.note(f"token {token} is revoked")


def _life(text: str) -> timedelta:
    try:
        life = deadlines.parse(text)
    except (ValueError, OverflowError):
        life = datetime.now(UTC)
    if not isinstance(life, timedelta):
        raise typer.BadParameter(f"ttl is {text!r}; a time like 24h or 30m is wanted")
    return life


def _state(token: enrolment_service_pb2.JoinToken) -> str:
    if token.revoked:
        return "revoked"
    ends = token.expires_at.ToDatetime(tzinfo=UTC)
    if ends <= datetime.now(UTC):
        return "expired"
    return f"until {ends:%Y-%m-%d %H:%M} UTC" if token.uses_left else "used up"
