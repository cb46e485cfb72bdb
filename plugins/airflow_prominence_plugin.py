"""For sites that install plugins by folder: does nothing where the package's entry point has registered the plugin."""

from importlib.metadata import entry_points

if not any(point.value.startswith("airflow_prominence.") for point in entry_points(group="airflow.plugins")):
    from airflow_prominence.plugin import ProminencePlugin  # noqa: F401
