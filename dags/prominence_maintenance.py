from airflow_prominence.dags.shared import prominence_maintenance_dag

dag = prominence_maintenance_dag()
