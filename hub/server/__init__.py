"""The shells around the decisions: gRPC, HTTP, and the one task that commits what is decided."""
