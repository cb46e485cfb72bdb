"""What users submit: JSON Schemas, parsing, defaults, factory expansion. Pure: no database, no network, no Airflow."""

from airflow_prominence.documents.commands import substitute, task_argv, task_workdir
from airflow_prominence.documents.dropin import DropIn, DropInError, dag_id_of, is_drop_in, parse_drop_in
from airflow_prominence.documents.errors import DocumentError
from airflow_prominence.documents.expansion import ExpandedJob, edges, expand, expanded_document, parameters_env
from airflow_prominence.documents.family import Asked, Family, Gathered
from airflow_prominence.documents.files import artifact_file_name
from airflow_prominence.documents.gathering import strangers
from airflow_prominence.documents.jobs import parse_job
from airflow_prominence.documents.limits import Limits
from airflow_prominence.documents.loading import loads
from airflow_prominence.documents.model import (
    Artifact,
    Credential,
    Factory,
    Input,
    Job,
    Notification,
    Parameter,
    Placement,
    Policies,
    Resources,
    Storage,
    Task,
    Workflow,
    WorkflowPolicies,
)
from airflow_prominence.documents.parameters import put_in, values_of_run
from airflow_prominence.documents.schemas import job_form_schema, schema, schema_bytes
from airflow_prominence.documents.secrets import extract, redact, restore
from airflow_prominence.documents.storage import output_folder, stored_path
from airflow_prominence.documents.support import unsupported, unsupported_workflow
from airflow_prominence.documents.uploads import is_uploaded_artifact, is_uploaded_image, uploads_of
from airflow_prominence.documents.view import as_submitted, normalise, normalise_workflow
from airflow_prominence.documents.workflows import jobs_of_members, parse_workflow

__all__ = [
    "Artifact",
    "Asked",
    "Credential",
    "DocumentError",
    "DropIn",
    "DropInError",
    "ExpandedJob",
    "Factory",
    "Family",
    "Gathered",
    "Input",
    "Job",
    "Limits",
    "Notification",
    "Parameter",
    "Placement",
    "Policies",
    "Resources",
    "Storage",
    "Task",
    "Workflow",
    "WorkflowPolicies",
    "artifact_file_name",
    "as_submitted",
    "dag_id_of",
    "edges",
    "expand",
    "expanded_document",
    "extract",
    "is_drop_in",
    "is_uploaded_artifact",
    "is_uploaded_image",
    "job_form_schema",
    "jobs_of_members",
    "loads",
    "normalise",
    "normalise_workflow",
    "output_folder",
    "parameters_env",
    "parse_drop_in",
    "parse_job",
    "parse_workflow",
    "put_in",
    "redact",
    "restore",
    "schema",
    "schema_bytes",
    "stored_path",
    "strangers",
    "substitute",
    "task_argv",
    "task_workdir",
    "unsupported",
    "unsupported_workflow",
    "uploads_of",
    "values_of_run",
]
