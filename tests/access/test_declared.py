"""Every RPC and every HTTP route says who may call it; what does not is denied, and what is said holds."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import sonic.v1
from hub.core.roles import Role
from hub.server import access, http
from hub.server.access import Rule, Whom
from hub.service import Hub, serving
from sonic.http_access import HttpAccess
from sonic.listener import Bearer
from sonic.v1 import access_pb2
from tests.calls import answered
from tests.hub.conftest import config

from .conftest import KeyHolder, channel_to

ROOT = Path(__file__).resolve().parents[2]
CODE = grpc.StatusCode
DECLARED = [(f"/{service}/{name}", rule) for service, of in access.RPCS.items() for name, rule in of.items()]


def services() -> Iterator[ServiceDescriptor]:
    for module in pkgutil.iter_modules(sonic.v1.__path__):
        if module.name.endswith("_pb2"):
            yield from importlib.import_module(f"sonic.v1.{module.name}").DESCRIPTOR.services_by_name.values()


def test_every_call_of_the_contract_is_declared_and_nothing_else() -> None:
    contract = {service.full_name: {method.name for method in service.methods} for service in services()}
    ours = {name: set(methods) for name, methods in access.RPCS.items() if name.startswith("sonic.")}
    assert ours == contract


async def served(channel: grpc.aio.Channel, metadata: Any) -> dict[str, dict[str, tuple[bool, bool]]]:
    """What a running hub serves, as its reflection tells: by service and method, which sides stream."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def ask(**about: Any) -> Any:
        question = reflection_pb2.ServerReflectionRequest(**about)
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([question]), metadata=metadata)]
        return answers[0]

    found = {}
    for service in (await ask(list_services="")).list_services_response.service:
        files = (await ask(file_containing_symbol=service.name)).file_descriptor_response.file_descriptor_proto
        described = [FileDescriptorProto.FromString(data) for data in files]
        found[service.name] = {
            method.name: (method.client_streaming, method.server_streaming)
            for file in described
            for one in file.service
            if f"{file.package}.{one.name}" == service.name
            for method in one.method
        }
    return found


async def test_every_call_that_a_hub_serves_is_declared(operator: KeyHolder) -> None:
    found = await served(operator.channel, operator.metadata)
    assert set(found) == set(access.RPCS)
    for name, methods in found.items():
        assert set(methods) == set(access.RPCS[name]), name


async def outcome(channel: grpc.aio.Channel, path: str, streams: tuple[bool, bool], metadata: Any) -> grpc.StatusCode:
    """How a call with an empty request ends."""
    kind = f"{'stream' if streams[0] else 'unary'}_{'stream' if streams[1] else 'unary'}"
    method = getattr(channel, kind)(path, request_serializer=bytes, response_deserializer=bytes)

    async def end() -> None:
        call = method(iter([b""]) if streams[0] else b"", metadata=metadata, timeout=10)
        if not streams[1]:
            await call
        else:
            await anext(aiter(call), None)
            call.cancel()

    try:
        await answered(end)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return CODE.OK


async def test_roles_may_do_what_is_declared_and_nothing_else(operator: KeyHolder, acme: KeyHolder) -> None:
    reader = KeyHolder(operator.channel, (await operator.create_key(access_pb2.ROLE_READER, "wall")).secret_text)
    streams = await served(operator.channel, operator.metadata)
    named = (("sonic-tenant", "acme"),)
    callers = {
        Role.OPERATOR: operator.metadata + named,
        Role.READER: reader.metadata + named,
        Role.TENANT: acme.metadata,
    }
    for path, rule in DECLARED:
        _, service, name = path.split("/")
        for role, metadata in {**callers, None: ()}.items():
            code = await outcome(operator.channel, path, streams[service][name], metadata)
            assert _as_declared(rule, role, code), (path, role, code)


def _as_declared(rule: Rule, role: Role | None, code: grpc.StatusCode) -> bool:
    if rule.whom is Whom.AGENT:
        return code is CODE.UNIMPLEMENTED  # they are served at the agents' port
    if rule.whom is Whom.ANYONE or role in rule.roles:
        return code not in (CODE.UNAUTHENTICATED, CODE.PERMISSION_DENIED, CODE.INTERNAL, CODE.UNKNOWN)
    return code is (CODE.PERMISSION_DENIED if role else CODE.UNAUTHENTICATED)


@pytest.mark.parametrize("insecure", [False, True])
async def test_an_undeclared_call_is_denied_to_everybody(
    insecure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serving(config(tmp_path / "hub", insecure=insecure)) as hub,
        grpc.aio.insecure_channel(hub.grpc_address) if insecure else channel_to(hub, tmp_path / "hub") as channel,
    ):
        path = "/sonic.v1.AdminService/ListNodes"
        key = tmp_path / "hub" / "operator.key"
        metadata = () if insecure else KeyHolder(channel, key.read_text().strip()).metadata
        assert await outcome(channel, path, (False, False), metadata) is CODE.OK
        monkeypatch.delitem(access._BY_PATH, path)  # type: ignore[arg-type]
        assert await outcome(channel, path, (False, False), metadata) is CODE.PERMISSION_DENIED
        assert await outcome(channel, "/sonic.v1.AdminService/Nothing", (False, False), metadata) is CODE.UNIMPLEMENTED


def test_what_changes_anything_beyond_a_tenant_is_audited() -> None:
    changes = ("Drain", "Resume", "Play", "Create", "Rotate", "Suspend", "Revoke", "Delete", "Set")
    for path, rule in DECLARED:
        if rule.whom is Whom.CALLER and path.rpartition("/")[2].startswith(changes):
            assert rule.audited is not None, path
            assert rule.roles == {Role.OPERATOR}, path


def test_what_is_audited_names_fields_of_its_request() -> None:
    audited = {path: rule.audited for path, rule in DECLARED if rule.audited is not None}
    for service in services():
        for method in service.methods:
            fields = audited.pop(f"/{service.full_name}/{method.name}", ())
            assert set(fields) <= set(method.input_type.fields_by_name), method.full_name
            assert not (fields and (method.client_streaming or method.server_streaming))
    assert not audited


def test_every_route_is_declared_and_nothing_else() -> None:
    app = http.application(lambda: "", lambda: None, Bearer(HttpAccess()))
    routes = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    assert {route for route in routes if route[0] != "HEAD"} == set(access.ROUTES)
    assert not any("{" in path for _, path in routes)  # none takes an id that could be another tenant's


async def test_an_undeclared_route_is_denied(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(access.ROUTES, ("GET", "/readyz"))  # type: ignore[arg-type]
    async with aiohttp.ClientSession(f"http://{hub.http_address}") as session:
        for path, status in (("/healthz", 200), ("/readyz", 403), ("/nothing", 404)):
            async with session.get(path) as response:
                assert response.status == status


# Only these say whose rows a query may see: the guard's parts, and what the hub knows from its own rows.
MAKE_TENANTS = {
    "hub/server/callers.py",
    "hub/server/credentials.py",
    "hub/server/admin_service.py",  # an operator's filter
    "hub/server/dispatcher.py",
}


def test_no_handler_makes_up_a_tenant() -> None:
    making = set()
    for path in (ROOT / "hub").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Tenant":
                making.add(str(path.relative_to(ROOT)))
    assert making == MAKE_TENANTS


def test_every_query_for_a_caller_takes_whose_rows_it_may_see() -> None:
    """What handlers of callers ask of the store has a parameter for the tenant, and no default for it."""
    tree = ast.parse((ROOT / "hub/store/records.py").read_text())
    takes = {
        node.name: " ".join(ast.unparse(argument.annotation or ast.Constant("")) for argument in node.args.args)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.args.defaults
    }
    asking = (
        "hub/server/job_service.py",
        "hub/server/transfers.py",
        "hub/server/submissions.py",
        "hub/store/artifacts.py",
    )
    asked = {
        node.attr
        for path in asking
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "records"
    }
    assert {"jobs_of", "page", "known_keys", "artifact", "artifacts_of", "add_artifact"} <= asked
    for name in asked:
        assert any(word in takes[name] for word in ("Tenant", "OwnedJob")), name


async def test_nobody_learns_of_the_fleet_without_a_credential(hub: Hub, channel: grpc.aio.Channel) -> None:
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    assert await outcome(channel, path, (True, True), ()) is CODE.UNAUTHENTICATED
