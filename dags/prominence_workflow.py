from airflow_prominence.dags.shared import prominence_workflow_dag

dag = prominence_workflow_dag()
