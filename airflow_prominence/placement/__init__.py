"""Requirements and what the sites offer, in; who gets which nodes, out. Pure: no clock, no database, no cloud."""

from airflow_prominence.placement.queue import in_order
from airflow_prominence.placement.schedule import Busy, Capacity, Grant, Need, could_ever_fit, schedule

__all__ = ["Busy", "Capacity", "Grant", "Need", "could_ever_fit", "in_order", "schedule"]
