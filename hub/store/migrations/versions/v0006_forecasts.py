"""What was learned of the fleet's speed. Additions only: hubs one version older go on."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "forecasts",
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.Column("saved_at_s", sa.Double, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("forecasts")
