"""Join tokens, and which key each node was enrolled with. Additions only: hubs one version older go on."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "join_tokens",
        sa.Column("token_id", sa.String(32), primary_key=True),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("node_id", sa.String(128), nullable=False),
        sa.Column("uses_left", sa.Integer, nullable=False),
        sa.Column("created_at_s", sa.Double, nullable=False),
        sa.Column("expires_at_s", sa.Double, nullable=False),
        sa.Column("revoked_at_s", sa.Double),
    )
    op.create_table(
        "enrolments",
        sa.Column("node_id", sa.String(128), primary_key=True),
        sa.Column("region", sa.String(64), nullable=False),
        sa.Column("token_id", sa.String(32), nullable=False),
        sa.Column("key_sha256", sa.String(64), nullable=False),
        sa.Column("enrolled_at_s", sa.Double, nullable=False),
        sa.Column("revoked_at_s", sa.Double),
    )


def downgrade() -> None:
    op.drop_table("enrolments")
    op.drop_table("join_tokens")
