"""The one-machine stack: an embedded PostgreSQL, Airflow's components and this machine's node service."""

from __future__ import annotations
