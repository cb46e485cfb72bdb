"""Our tables in Airflow's database, their migrations and queries: the only code of this package that speaks SQL.

Only the API server and the command line open sessions; triggers and agents reach the store through the internal
routes. Every change of a job's state is one function of :mod:`airflow_prominence.store.transitions`, one
transaction, fenced by attempt and lease.
"""
