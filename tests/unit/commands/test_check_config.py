"""Each unfit setting is one sentence that names it and its mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_prominence.commands.check_config import documents_problems, processor_bundles, settings_problems

FIT = {
    ("database", "sql_alchemy_conn"): "postgresql+psycopg2://a:b@c/d",
    ("core", "executor"): "LocalExecutor",
    ("core", "fernet_key"): "x",
    ("prominence", "internal_secret"): "x",
    ("api_auth", "jwt_secret"): "",
    ("prominence", "b2drop_url"): "https://x/remote.php/webdav",
    ("api", "base_url"): "https://x",
    ("workers", "min_heartbeat_interval"): "1",
    ("workers", "execution_api_timeout"): "30",
    ("scheduler", "scheduler_idle_sleep_time"): "0.2",
    ("scheduler", "max_dagruns_per_loop_to_schedule"): "100",
    ("scheduler", "max_tis_per_query"): "0",
    ("triggerer", "triggerer_health_check_threshold"): "15",
    ("triggerer", "job_heartbeat_sec"): "3",
    ("triggerer", "capacity"): "2000",
}

UNFIT = {
    ("database", "sql_alchemy_conn"): "sqlite:///x",
    ("core", "executor"): "SequentialExecutor",
    ("core", "fernet_key"): "",
    ("prominence", "internal_secret"): "",
    ("prominence", "b2drop_url"): "http://x/remote.php/webdav",
    ("api", "base_url"): "",
    ("workers", "min_heartbeat_interval"): "5",
    ("workers", "execution_api_timeout"): "5.0",
    ("scheduler", "scheduler_idle_sleep_time"): "1",
    ("scheduler", "max_dagruns_per_loop_to_schedule"): "20",
    ("scheduler", "max_tis_per_query"): "16",
    ("triggerer", "triggerer_health_check_threshold"): "30",
    ("triggerer", "job_heartbeat_sec"): "5",
    ("triggerer", "capacity"): "1000",
}


def test_a_fit_configuration_has_no_problem() -> None:
    assert list(settings_problems(FIT)) == []


@pytest.mark.parametrize(("option", "value"), UNFIT.items(), ids=str)
def test_each_unfit_option_is_named_with_its_mend(option: tuple[str, str], value: str) -> None:
    (problem,) = settings_problems({**FIT, option: value})
    assert f"[{option[0]}] {option[1]}" in problem
    assert ": set" in problem
    assert problem.endswith(".")


@pytest.mark.parametrize(
    ("words", "bundles"),
    [
        (["airflow", "dag-processor"], []),
        (["python", "-m", "airflow", "dag-processor", "-B", "dags-folder"], ["dags-folder"]),
        (["airflow", "dag-processor", "--bundle-name=a", "-B", "b"], ["a", "b"]),
        (["airflow", "scheduler"], None),
        (["grep", "dag-processor"], None),
        ([], None),
    ],
)
def test_which_bundles_a_dag_processor_serves(words: list[str], bundles: list[str] | None) -> None:
    assert processor_bundles(words) == bundles


def processor(*bundles: str) -> list[str]:
    return ["airflow", "dag-processor", *(word for name in bundles for word in ("-B", name))]


@pytest.mark.parametrize(
    ("bundles", "folder", "command_lines", "problem"),
    [
        (set(), "/nowhere", [processor("dags-folder")], None),
        ({"documents"}, "/", [processor("dags-folder"), processor("documents")], None),
        (
            {"documents"},
            "/",
            [processor("dags-folder")],
            "No dag-processor on this machine serves the bundle documents",
        ),
        ({"documents"}, "/nowhere", [processor("documents")], "[prominence] documents_folder is /nowhere, which is no"),
        # It may run elsewhere, where the folder is
        ({"documents"}, "/nowhere", [["airflow", "scheduler"]], None),
    ],
)
def test_who_serves_the_documents(
    bundles: set[str], folder: str, command_lines: list[list[str]], problem: str | None
) -> None:
    found = list(documents_problems(bundles, Path(folder), command_lines))
    assert len(found) == (problem is not None)
    assert all(sentence.startswith(problem or "") and ": " in sentence for sentence in found)
