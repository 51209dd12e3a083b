"""A simulated plant of nodes, what is asked of it, and those who decide which node gets what."""
