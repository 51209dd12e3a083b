"""Tenants and their keys. Additions only: hubs one version older go on."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("tenant", sa.String(150), primary_key=True),
        sa.Column("created_at_s", sa.Double, nullable=False),
        sa.Column("suspended_at_s", sa.Double),
    )
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(12), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("tenant", sa.String(150), sa.ForeignKey("tenants.tenant")),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("created_at_s", sa.Double, nullable=False),
        sa.Column("expires_at_s", sa.Double),
        sa.Column("revoked_at_s", sa.Double),
        sa.Column("last_used_at_s", sa.Double),
    )
    op.create_index("api_keys_by_tenant", "api_keys", ["tenant"])
    # Whoever has jobs is a tenant; its first key is made by rotating.
    op.execute(
        "INSERT INTO tenants (tenant, created_at_s) SELECT tenant, MIN(submitted_at_s) FROM jobs GROUP BY tenant"
    )


def downgrade() -> None:
    op.drop_table("api_keys")
    op.drop_table("tenants")
