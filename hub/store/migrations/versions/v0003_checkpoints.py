"""States of renders that another node can go on from. Additions only: hubs one version older go on."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.job_id"), primary_key=True),
        sa.Column("tenant", sa.String(150), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("given", sa.Integer, nullable=False),
        sa.Column("stored_at_s", sa.Double, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("checkpoints")
