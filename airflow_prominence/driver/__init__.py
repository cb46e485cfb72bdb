"""The driver: it brings a job to the end of a phase by asking the API, and observes what the node does meanwhile."""

from airflow_prominence.driver.client import ApiRefused, InternalClient
from airflow_prominence.driver.drive import drive
from airflow_prominence.driver.jobview import JobEvent, JobView
from airflow_prominence.driver.jobwatch import JobWatch

__all__ = ["ApiRefused", "InternalClient", "JobEvent", "JobView", "JobWatch", "drive"]
