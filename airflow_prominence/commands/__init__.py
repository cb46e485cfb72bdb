"""Bodies of ``airflow prominence …``, one module a command, each imported only when it is called."""

from __future__ import annotations
