"""Jobs, attempts, nodes and artifacts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("sequence", _SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String(32), nullable=False, unique=True),
        sa.Column("tenant", sa.String(150), nullable=False),
        sa.Column("idempotency_key", sa.String(128), nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("engine", sa.String(64), nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("submitted_at_s", sa.Double, nullable=False),
        sa.Column("started_at_s", sa.Double),
        sa.Column("ended_at_s", sa.Double),
        sa.Column("won_by", sa.Integer),
        sa.Column("result", sa.LargeBinary),
        sa.Column("failure", sa.LargeBinary),
        sa.Column("cautions", sa.LargeBinary),
        sa.UniqueConstraint("tenant", "idempotency_key"),
    )
    op.create_index("jobs_by_tenant", "jobs", ["tenant", "sequence"])
    op.create_index("jobs_by_state", "jobs", ["state", "sequence"])
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.job_id"), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("node_id", sa.String(128), nullable=False),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("placement_reason", sa.Text, nullable=False),
        sa.Column("assigned_at_s", sa.Double, nullable=False),
        sa.Column("started_at_s", sa.Double),
        sa.Column("ended_at_s", sa.Double),
        sa.Column("failure", sa.LargeBinary),
    )
    op.create_table(
        "nodes",
        sa.Column("node_id", sa.String(128), primary_key=True),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("agent_version", sa.String(64), nullable=False),
        sa.Column("drain_wanted", sa.Boolean, nullable=False),
        sa.Column("joined_at_s", sa.Double, nullable=False),
        sa.Column("last_heard_at_s", sa.Double, nullable=False),
    )
    op.create_table(
        "artifacts",
        sa.Column("tenant", sa.String(150), primary_key=True),
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("media_type", sa.String(64), nullable=False),
        sa.Column("stored_at_s", sa.Double, nullable=False),
    )


def downgrade() -> None:
    for table in ("artifacts", "nodes", "attempts", "jobs"):
        op.drop_table(table)
