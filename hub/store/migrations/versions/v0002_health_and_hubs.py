"""What placement learns and decides, and several hubs on one database. Additions only: hubs one version older go on."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("video_s", sa.Double))
    op.add_column("attempts", sa.Column("decision", sa.LargeBinary))
    op.add_column("nodes", sa.Column("left_at_s", sa.Double))
    op.add_column("nodes", sa.Column("about", sa.LargeBinary))
    op.add_column("nodes", sa.Column("hub_id", sa.String(128)))
    op.add_column("nodes", sa.Column("session_id", sa.String(32)))
    op.add_column("artifacts", sa.Column("duration_s", sa.Double))
    op.create_table(
        "hubs",
        sa.Column("hub_id", sa.String(128), primary_key=True),
        sa.Column("life", sa.String(32), nullable=False),
        sa.Column("beat_at_s", sa.Double, nullable=False),
    )
    op.create_table(
        "decisions",
        sa.Column("sequence", _SEQUENCE, primary_key=True, autoincrement=True),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("node_id", sa.String(128), nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
    )
    op.create_index("decisions_by_node", "decisions", ["node_id", "sequence"])


def downgrade() -> None:
    op.drop_table("decisions")
    op.drop_table("hubs")
    for table, column in (
        ("artifacts", "duration_s"),
        ("nodes", "session_id"),
        ("nodes", "hub_id"),
        ("nodes", "about"),
        ("nodes", "left_at_s"),
        ("attempts", "decision"),
        ("jobs", "video_s"),
    ):
        op.drop_column(table, column)
