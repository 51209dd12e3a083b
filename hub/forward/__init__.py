"""Metrics on their way to Mimir, or any remote-write receiver: per tenant a spool on disk and one sender, in order."""
