"""Who may join: the hub's own authority, and the certificates that it gives."""
