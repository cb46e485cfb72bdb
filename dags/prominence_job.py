from airflow_prominence.dags.shared import prominence_job_dag

dag = prominence_job_dag()
