"""What users import and type: the client library, the `sonic` command and the wire contract's stubs (sonic.v1)."""
