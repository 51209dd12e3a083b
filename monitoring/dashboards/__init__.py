"""Grafana dashboards as code. `make docs` writes monitoring/dashboards/json."""
