"""What survives: jobs, attempts, nodes and artifacts, in SQL. SQLite by default."""
