"""Volumes of users' storage systems: mounted for a job's time, outside of its containers."""
