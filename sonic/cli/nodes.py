"""`sonic nodes`: what the fleet's operator looks at and does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonic.cli import decisions, options, output, running
from sonic.cli.submit import FIRST_ANSWER_S, connect

if TYPE_CHECKING:
    from sonic.v1 import admin_service_pb2, nodes_pb2

app = typer.Typer(help="Look at nodes, stop giving them work, give it again.", no_args_is_help=True)
NodeId = Annotated[str, typer.Argument(metavar="NODE", help="The id of a node.")]


@app.command("list")
@options.of(options.OPERATOR)
def list_nodes(
    region: Annotated[str, typer.Option(help="Only nodes of this region.")] = "",
    json: options.Json = False,
    **given: Any,
) -> None:
    """List every node ever seen, those that are offline included."""
    settings = options.client_of(given)

    async def get() -> list[nodes_pb2.Node]:
        async with connect(settings, FIRST_ANSWER_S) as client:
            return await client.nodes(region)

    nodes = running.run(get())
    if json:
        output.print_json([output.plain(node) for node in nodes])
        return
    rows = [(node.node_id, node.region, _state(node), _slots(node), _gpus(node), node.agent_version) for node in nodes]
    output.table(("NODE", "REGION", "STATE", "SLOTS", "GPUS", "AGENT"), rows)


@app.command()
@options.of(options.OPERATOR)
def show(node: NodeId, json: options.Json = False, **given: Any) -> None:
    """Show one node: its slots, GPUs and health."""
    _call("node", node, json, given)


@app.command()
@options.of(options.OPERATOR)
def explain(node: NodeId, json: options.Json = False, **given: Any) -> None:
    """Tell why a node gets the work that it gets: its health number by number, and what was decided about it."""
    settings = options.client_of(given)

    async def ask() -> admin_service_pb2.ExplainNodeResponse:
        async with connect(settings, FIRST_ANSWER_S) as client:
            return await client.explain_node(node)

    found = running.run(ask())
    if json:
        output.print_json(output.plain(found))
        return
    output.fields([("node", found.node.node_id), ("region", found.node.region), ("state", _state(found.node))])
    if found.node.HasField("standing"):
        standing = found.node.standing
        output.line(f"trusted with {standing.score:.0%} of its speed")
        for factor in standing.factors:
            output.line(f"  {factor.name} {factor.value:.4g} {factor.unit}: {factor.reason} (x {factor.share:.2f})")
    for decision in found.decisions:
        output.line(decisions.told(decision))


@app.command()
@options.of(options.OPERATOR)
def drain(node: NodeId, json: options.Json = False, **given: Any) -> None:
    """Give a node nothing new; what it has is finished. The wish outlives restarts."""
    _call("drain", node, json, given)


@app.command()
@options.of(options.OPERATOR)
def resume(node: NodeId, json: options.Json = False, **given: Any) -> None:
    """Take a drain back."""
    _call("resume", node, json, given)


@app.command()
@options.of(options.OPERATOR)
def revoke(
    node: NodeId,
    undo: Annotated[bool, typer.Option("--undo", help="Give the right back.")] = False,
    **given: Any,
) -> None:
    """Take a node's right to be one: its session ends at once, and it cannot come back by itself."""
    settings = options.client_of(given)

    async def ask() -> None:
        async with connect(settings, FIRST_ANSWER_S) as client:
            await client.revoke_node(node, undo=undo)

    running.run(ask())
    output.note(f"node {node} {'may be one again' if undo else 'is revoked'}")


def _call(method: str, node_id: str, json: bool, given: dict[str, Any]) -> None:
    settings = options.client_of(given)

    async def ask() -> nodes_pb2.Node:
        async with connect(settings, FIRST_ANSWER_S) as client:
            answer: nodes_pb2.Node = await getattr(client, method)(node_id)
            return answer

    found = running.run(ask())
    output.print_json(output.plain(found)) if json else _print(found)


def _print(node: nodes_pb2.Node) -> None:
    from sonic.v1 import nodes_pb2

    output.fields(
        [
            ("node", node.node_id),
            ("region", node.region),
            ("state", _state(node)),
            ("agent", node.agent_version),
            ("heard", node.last_heard_at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S UTC")),
            ("health", _health(node.health) if node.HasField("health") else ""),
            ("game days", "allowed" if node.plays_faults else ""),
        ]
    )
    for gpu in node.gpus:
        output.line(f"gpu {gpu.name}, {gpu.memory_bytes / 2**30:.1f} GiB, driver {gpu.driver_version}, {gpu.uuid}")
    for slot in node.slots:
        state = nodes_pb2.SlotState.Name(slot.state).removeprefix("SLOT_STATE_").lower()
        engines = ", ".join(f"{engine.engine} {engine.model_version}" for engine in slot.engines)
        said = [engines, f"job {slot.attempt.job_id}" if slot.attempt.job_id else "", slot.detail]
        output.line(f"slot {slot.index} {state}: {'; '.join(part for part in said if part)}")


def _state(node: nodes_pb2.Node) -> str:
    from sonic.v1 import nodes_pb2

    if node.revoked:
        return "revoked"
    state = nodes_pb2.NodeState.Name(node.state).removeprefix("NODE_STATE_").lower()
    said = [node.state_reason, f"plays {_faults(node)}" if node.faults else ""]
    return f"{state} ({'; '.join(part for part in said if part)})" if any(said) else state


def _faults(node: nodes_pb2.Node) -> str:
    from sonic.v1 import nodes_pb2

    names = [nodes_pb2.GameDayFault.Name(one.fault).removeprefix("GAME_DAY_FAULT_").lower() for one in node.faults]
    left = [output.seconds(one.seconds) for one in node.faults]
    return ", ".join(f"{name} for {seconds} more" for name, seconds in zip(names, left, strict=True))


def _health(health: nodes_pb2.NodeHealth) -> str:
    gib = 1 << 30
    memory, disk = health.memory_available_bytes / gib, health.disk_free_bytes / gib
    gpus = "".join(f", GPU {g.utilization_percent:.0f} % {g.temperature_celsius:.0f} °C" for g in health.gpus)
    return f"CPU {health.cpu_percent:.0f} %, {memory:.1f} GiB of memory free, {disk:.1f} GiB of disk free{gpus}"


def _slots(node: nodes_pb2.Node) -> str:
    from sonic.v1 import nodes_pb2

    busy = sum(slot.state == nodes_pb2.SLOT_STATE_BUSY for slot in node.slots)
    broken = [f"; {slot.index}: {slot.detail}" for slot in node.slots if slot.state == nodes_pb2.SLOT_STATE_BACKOFF]
    return f"{busy}/{len(node.slots)} busy{''.join(broken)}" if node.slots else ""


def _gpus(node: nodes_pb2.Node) -> str:
    return ", ".join(gpu.name for gpu in node.gpus)
