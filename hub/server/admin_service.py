"""AdminService: what operators use. The contract is in proto/sonic/v1/admin_service.proto."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from hub import exceptions
from hub.core import events
from hub.core.tenants import EVERYBODY, Tenant, tenant_problem
from hub.server import job_service, views
from hub.server.callers import Context
from hub.server.dispatcher import Dispatcher
from hub.server.enrolment_service import EnrolmentService
from hub.server.job_service import reading
from hub.server.neighbours import Neighbours
from hub.server.sessions import Sessions
from hub.store import records
from hub.store.bulletin import Bulletin
from hub.store.records import Page
from sonic.parameters import Problem
from sonic.v1 import admin_service_pb2 as pb
from sonic.v1 import admin_service_pb2_grpc, decisions_pb2, nodes_pb2

MAX_DECISIONS = 100
LONGEST_FAULT_S = 86_400.0


class AdminService(admin_service_pb2_grpc.AdminServiceServicer):
    """Not bound to a tenant."""

    def __init__(
        self,
        database: sa.Engine,
        dispatcher: Dispatcher,
        sessions: Sessions,
        jobs: job_service.JobService,
        neighbours: Neighbours,
        bulletin: Bulletin,
        enrolment: EnrolmentService,
    ) -> None:
        self._database = database
        self._neighbours = neighbours
        self._bulletin = bulletin
        self._dispatcher = dispatcher
        self._sessions = sessions
        self._jobs = jobs
        self._enrolment = enrolment

    async def ListNodes(self, request: pb.ListNodesRequest, context: Context) -> pb.ListNodesResponse:
        nodes = [
            node
            for node in await self._nodes()
            if request.region in ("", node.region) and (not request.states or node.state in request.states)
        ]
        return pb.ListNodesResponse(nodes=nodes)

    async def GetNode(self, request: pb.GetNodeRequest, context: Context) -> pb.GetNodeResponse:
        return pb.GetNodeResponse(node=await self._node(request.node_id))

    async def DrainNode(self, request: pb.DrainNodeRequest, context: Context) -> pb.DrainNodeResponse:
        return pb.DrainNodeResponse(node=await self._set_drain(request.node_id, True))

    async def ResumeNode(self, request: pb.ResumeNodeRequest, context: Context) -> pb.ResumeNodeResponse:
        return pb.ResumeNodeResponse(node=await self._set_drain(request.node_id, False))

    async def ListAllJobs(self, request: pb.ListAllJobsRequest, context: Context) -> pb.ListAllJobsResponse:
        if request.tenant and (problem := tenant_problem(request.tenant)):
            raise exceptions.InvalidRequest([Problem("tenant", problem)])
        wanted = Page(
            size=job_service.page_size(request.page_size),
            before_sequence=job_service.parse_token(request.page_token),
            states=job_service.states(request.states),
        )
        whose = Tenant(request.tenant) if request.tenant else EVERYBODY
        found, token = await job_service.list_page(self._database, whose, wanted)
        return pb.ListAllJobsResponse(jobs=self._jobs.show_all(found), next_page_token=token)

    async def ExplainNode(self, request: pb.ExplainNodeRequest, context: Context) -> pb.ExplainNodeResponse:
        node = await self._node(request.node_id)
        if self._is_elsewhere(node):
            with contextlib.suppress(exceptions.NotNow):  # then as that hub has described it with its last sign of life
                await self._neighbours.favours.ask(node.hub_id, node.node_id)
                node = await self._node(request.node_id)
        stored = await reading(
            self._database, lambda connection: records.decisions_about(connection, request.node_id, MAX_DECISIONS)
        )
        found = [decisions_pb2.Decision.FromString(message) for message in stored]
        return pb.ExplainNodeResponse(node=node, decisions=found)

    async def PlayFault(self, request: pb.PlayFaultRequest, context: Context) -> pb.PlayFaultResponse:
        if problems := list(_fault_problems(request.fault)):
            raise exceptions.InvalidRequest(problems)
        node = await self._node(request.node_id)
        if self._is_elsewhere(node):
            refusal = await self._neighbours.favours.ask(node.hub_id, node.node_id, request.fault.SerializeToString())
        else:
            refusal = self._sessions.play(node.node_id, request.fault)
        if refusal:
            raise exceptions.NoGameDay(refusal)
        return pb.PlayFaultResponse()

    async def CreateJoinToken(self, request: pb.CreateJoinTokenRequest, context: Context) -> pb.CreateJoinTokenResponse:
        wanted = (request.region, request.uses, request.ttl_seconds, request.node_id)
        row, text = await self._enrolment.create_token(*wanted, context)
        return pb.CreateJoinTokenResponse(token=views.join_token(row), text=text)

    async def ListJoinTokens(self, request: pb.ListJoinTokensRequest, context: Context) -> pb.ListJoinTokensResponse:
        return pb.ListJoinTokensResponse(tokens=[views.join_token(row) for row in await self._enrolment.tokens()])

    async def RevokeJoinToken(self, request: pb.RevokeJoinTokenRequest, context: Context) -> pb.RevokeJoinTokenResponse:
        await self._enrolment.end_token(request.token_id)
        return pb.RevokeJoinTokenResponse()

    async def RevokeNode(self, request: pb.RevokeNodeRequest, context: Context) -> pb.RevokeNodeResponse:
        await self._enrolment.revoke(request.node_id, request.undo)
        return pb.RevokeNodeResponse()

    def _is_elsewhere(self, node: nodes_pb2.Node) -> bool:
        return node.hub_id not in ("", self._neighbours.hub_id)

    async def _nodes(self) -> list[nodes_pb2.Node]:
        rows = await reading(self._database, records.node_rows)
        revoked = await self._enrolment.revoked()
        nodes = [self._shown(row) for row in rows]
        for node in nodes:
            node.revoked = node.node_id in revoked
        return nodes

    def _shown(self, row: sa.Row[Any]) -> nodes_pb2.Node:
        if row.hub_id in self._neighbours.alive:
            return views.node_elsewhere(row)
        session, health = self._sessions.get(row.node_id), self._dispatcher.health(row.node_id)
        return views.node(row, self._dispatcher.nodes.get(row.node_id), session, health, self._neighbours.hub_id)

    async def _node(self, node_id: str) -> nodes_pb2.Node:
        found = [node for node in await self._nodes() if node.node_id == node_id]
        if not found:
            raise exceptions.NotFound(f"no node {node_id[:80]!r} has ever joined")
        return found[0]

    async def _set_drain(self, node_id: str, drain: bool) -> nodes_pb2.Node:
        def write() -> bool:
            with self._database.begin() as connection:
                self._bulletin.tell(connection, nodes=[node_id])
                return records.set_drain(connection, node_id, drain)

        try:
            stored = await asyncio.to_thread(write)
        except sa.exc.OperationalError as error:
            raise exceptions.NotNow("the hub's database does not answer", 5.0) from error
        if stored:
            await self._dispatcher.settle(events.DrainSet(node_id, drain))
        return await self._node(node_id)


def _fault_problems(wanted: nodes_pb2.PlayFault) -> Iterator[Problem]:
    if wanted.fault not in set(nodes_pb2.GameDayFault.values()) - {nodes_pb2.GAME_DAY_FAULT_UNSPECIFIED}:
        yield Problem("fault.fault", f"is {wanted.fault}; choose one of GameDayFault")
    if not 0 <= wanted.seconds <= LONGEST_FAULT_S:
        yield Problem("fault.seconds", f"is {wanted.seconds:g}; use 0 to {LONGEST_FAULT_S:g}, 0 ends the fault")
