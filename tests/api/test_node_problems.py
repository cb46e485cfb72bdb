"""What an admin is told of nodes by ``airflow prominence check-config``."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_prominence.commands.check_config import node_problems
from tests.api.node import PretendNode


@pytest.mark.parametrize(
    ("info", "told"),
    [
        ({}, False),
        ({"metadata": {"blocked": True, "detail": "x", "answers": None}}, False),
        ({"metadata": {"blocked": False, "detail": "x", "answers": None}}, False),
        ({"metadata": {"blocked": False, "detail": "x", "answers": "169.254.169.254"}}, True),
    ],
    ids=["older agent", "blocked", "nothing answers", "open"],
)
def test_a_node_whose_jobs_can_reach_the_metadata_service(
    http: Any, node: PretendNode, info: dict[str, Any], told: bool
) -> None:
    from airflow_prominence.api.database import transact

    node.info = info
    node.register()
    found = [line for line in transact(lambda session: list(node_problems(session))) if node.name in line]
    assert bool(found) is told
    if told:
        [line] = found
        assert f"node {node.name} of site {node.site} can reach" in line
        assert "169.254.169.254" in line
        node.gone()
        assert node.name not in "".join(transact(lambda session: list(node_problems(session))))
