"""Documents as DAGs: the shipped DAGs, and the submission of runs into Airflow."""
