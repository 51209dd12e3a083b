"""The tables. Messages are kept as bytes; columns are what queries need. Times are seconds since the epoch."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # only INTEGER counts by itself there

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("sequence", _SEQUENCE, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.String(32), nullable=False, unique=True),
    sa.Column("tenant", sa.String(150), nullable=False),
    sa.Column("idempotency_key", sa.String(128), nullable=False),
    sa.Column("spec", sa.LargeBinary, nullable=False),  # JobSpec, every default filled in
    sa.Column("engine", sa.String(64), nullable=False),
    sa.Column("model_version", sa.String(64), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),  # the newest try's number; 0 before the first
    sa.Column("tries", sa.Integer, nullable=False),  # tries that counted
    sa.Column("submitted_at_s", sa.Double, nullable=False),
    sa.Column("started_at_s", sa.Double),
    sa.Column("ended_at_s", sa.Double),
    sa.Column("won_by", sa.Integer),  # the attempt whose video it is
    sa.Column("result", sa.LargeBinary),  # RenderedVideo
    sa.Column("failure", sa.LargeBinary),  # JobFailure
    sa.Column("cautions", sa.LargeBinary),  # RenderReport, for its warnings: those of the submission
    sa.Column("video_s", sa.Double),  # seconds of video to be expected, as guessed at submission
    sa.UniqueConstraint("tenant", "idempotency_key"),
    sa.Index("jobs_by_tenant", "tenant", "sequence"),
    sa.Index("jobs_by_state", "state", "sequence"),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.job_id"), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("node_id", sa.String(128), nullable=False),
    sa.Column("region", sa.String(64), nullable=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("placement_reason", sa.Text, nullable=False),
    sa.Column("assigned_at_s", sa.Double, nullable=False),
    sa.Column("started_at_s", sa.Double),
    sa.Column("ended_at_s", sa.Double),
    sa.Column("failure", sa.LargeBinary),  # JobFailure
    sa.Column("decision", sa.LargeBinary),  # Decision: why there, and why nowhere else
)

# The furthest state of a job that has not ended, for another attempt to go on from. It is no part of the job as its
# tenant sees it, so it raises no revision; the bytes are in the depot.
checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.job_id"), primary_key=True),
    sa.Column("tenant", sa.String(150), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),  # that made it
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("done", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("given", sa.Integer, nullable=False),  # to how many attempts
    sa.Column("stored_at_s", sa.Double, nullable=False),
)

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("node_id", sa.String(128), primary_key=True),
    sa.Column("region", sa.String(64), nullable=False),
    sa.Column("agent_version", sa.String(64), nullable=False),
    sa.Column("drain_wanted", sa.Boolean, nullable=False),
    sa.Column("joined_at_s", sa.Double, nullable=False),
    sa.Column("last_heard_at_s", sa.Double, nullable=False),
    sa.Column("left_at_s", sa.Double),  # when it went of its own will; absent while it is expected back
    sa.Column("about", sa.LargeBinary),  # Node, as it was last seen: what it can do, for when it is away
    sa.Column("hub_id", sa.String(128)),  # which hub holds its session
    sa.Column("session_id", sa.String(32)),
)

hubs = sa.Table(
    "hubs",
    metadata,
    sa.Column("hub_id", sa.String(128), primary_key=True),
    sa.Column("life", sa.String(32), nullable=False),  # one start of it
    sa.Column("beat_at_s", sa.Double, nullable=False),  # by the database's clock
)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("sequence", _SEQUENCE, primary_key=True, autoincrement=True),
    sa.Column("at_s", sa.Double, nullable=False),
    sa.Column("node_id", sa.String(128), nullable=False),
    sa.Column(
        "message", sa.LargeBinary, nullable=False
    ),  # Decision, about a node; those about jobs are with their attempts
    sa.Index("decisions_by_node", "node_id", "sequence"),
)

forecasts = sa.Table(
    "forecasts",
    metadata,
    sa.Column("subject", sa.Text, primary_key=True),  # of what was learned, as JSON
    sa.Column("state", sa.LargeBinary, nullable=False),  # what is known of it, as JSON
    sa.Column("saved_at_s", sa.Double, nullable=False),
)

artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("tenant", sa.String(150), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("media_type", sa.String(64), nullable=False),
    sa.Column("stored_at_s", sa.Double, nullable=False),
    sa.Column("duration_s", sa.Double),  # of a recording, once a render has told it
)

join_tokens = sa.Table(
    "join_tokens",
    metadata,
    sa.Column("token_id", sa.String(32), primary_key=True),
    sa.Column("secret_sha256", sa.String(64), nullable=False),
    sa.Column("region", sa.String(64), nullable=False),
    sa.Column("node_id", sa.String(128), nullable=False),  # the one node that it is for; empty for any new one
    sa.Column("uses_left", sa.Integer, nullable=False),
    sa.Column("created_at_s", sa.Double, nullable=False),
    sa.Column("expires_at_s", sa.Double, nullable=False),
    sa.Column("revoked_at_s", sa.Double),
)

enrolments = sa.Table(
    "enrolments",
    metadata,
    sa.Column("node_id", sa.String(128), primary_key=True),
    sa.Column("region", sa.String(64), nullable=False),
    sa.Column("token_id", sa.String(32), nullable=False),  # with which it has joined
    sa.Column("key_sha256", sa.String(64), nullable=False),  # of the public key that it has joined with
    sa.Column("enrolled_at_s", sa.Double, nullable=False),
    sa.Column("revoked_at_s", sa.Double),
)

tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("tenant", sa.String(150), primary_key=True),
    sa.Column("created_at_s", sa.Double, nullable=False),
    sa.Column("suspended_at_s", sa.Double),  # absent while it may call
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.String(12), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),  # SHA-256 of the secret
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("tenant", sa.String(150), sa.ForeignKey("tenants.tenant")),  # of a tenant's key
    sa.Column("holder", sa.String(64), nullable=False),
    sa.Column("created_at_s", sa.Double, nullable=False),
    sa.Column("expires_at_s", sa.Double),
    sa.Column("revoked_at_s", sa.Double),
    sa.Column("last_used_at_s", sa.Double),
    sa.Index("api_keys_by_tenant", "tenant"),
)
