"""Files in the folder of documents: a workflow or a job, with a block ``airflow`` that says whose runs and when."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from croniter import croniter

from airflow_prominence.documents.errors import DocumentError, quoted
from airflow_prominence.documents.factories import value_text
from airflow_prominence.documents.jobs import parse_job
from airflow_prominence.documents.limits import DEFAULT_LIMITS, Limits
from airflow_prominence.documents.lines import LineError, Lines, line_of, read_json
from airflow_prominence.documents.model import Workflow
from airflow_prominence.documents.parameters import RESERVED, parameter_names, put_in
from airflow_prominence.documents.schemas import check_schema
from airflow_prominence.documents.secrets import extract
from airflow_prominence.documents.support import unsupported_workflow
from airflow_prominence.documents.workflows import parse_workflow
from airflow_prominence.documents.yamlfiles import read_yaml

_SUFFIXES = (".json", ".yaml", ".yml")

_BLOCK = "airflow"
# Of the shipped DAGs, and of those that the REST interface makes of workflows
_RESERVED_ID = re.compile(r"prominence_|workflow-[0-9]+(?:\.|\Z)", re.IGNORECASE)
_PRESETS = ("@once", "@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
_DURATION = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", re.ASCII)
_UNITS = ("weeks", "days", "hours", "minutes", "seconds")
_LONGEST = dt.timedelta(days=36525)
_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9_.-]+")
_JOBS_PATH = "jobs[0]"


class DropInError(ValueError):
    """A file is refused; ``str()`` is one sentence that names the file, the line and the path."""

    def __init__(self, file: str, line: int | None, path: str, sentence: str) -> None:
        self.file, self.line, self.path, self.sentence = file, line, path, sentence
        where = file if line is None else f"{file}, line {line}"
        super().__init__(f"{where}: {path}: {sentence}" if path else f"{where}: {sentence}")

    def __reduce__(self) -> tuple[type[DropInError], tuple[str, int | None, str, str]]:
        return type(self), (self.file, self.line, self.path, self.sentence)


@dataclass(frozen=True, slots=True)
class DropIn:
    """A file's workflow and what its block ``airflow`` says; ``document`` is the workflow's alone.

    ``schedule`` is a cron expression, one of Airflow's presets, the time between two runs, or None.
    """

    workflow: Workflow
    document: Mapping[str, Any]
    dag_id: str
    owner: str
    description: str = ""
    schedule: str | dt.timedelta | None = None
    start_date: dt.datetime | None = None
    end_date: dt.datetime | None = None
    catchup: bool = False
    deadline: dt.timedelta | None = None
    params: Mapping[str, str | int | float] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


def parse_drop_in(text: str, file: str, limits: Limits = DEFAULT_LIMITS) -> DropIn:
    """Read a file's text, or raise DropInError; ``file`` is its path in the folder and says whether it is YAML."""
    lines: Lines = {}
    try:
        value, lines = _read(text, file)
        if not isinstance(value, dict):
            raise DocumentError("", "must hold an object: a workflow or a job")
        return _drop_in(value, file, limits)
    except LineError as refused:
        raise DropInError(file, refused.line, refused.path, refused.sentence) from None
    except DocumentError as refused:
        raise DropInError(file, line_of(refused.path, lines), refused.path, refused.sentence) from None


def is_drop_in(name: str) -> bool:
    """Whether a file of this name is looked at."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith((".", "~"))


def dag_id_of(text: str, file: str) -> str | None:
    """The id of the DAG that a file makes, if it can be told though the file may be refused for something else."""
    try:
        value, _ = _read(text, file)
    except DocumentError:
        return None
    block = value.get(_BLOCK) if isinstance(value, dict) else None
    given = block.get("dag_id") if isinstance(block, dict) else None
    return given if isinstance(given, str) else _id_from(file)


def _read(text: str, file: str) -> tuple[object, Lines]:
    return read_json(text) if file.lower().endswith(".json") else read_yaml(text)


def _drop_in(value: dict[str, Any], file: str, limits: Limits) -> DropIn:
    document = {key: part for key, part in value.items() if key != _BLOCK}
    _refuse_secrets(document)
    block = _block_of(value)
    dag_id: str = block.get("dag_id") or _id_from(file) or ""
    if not dag_id:
        raise DocumentError("airflow.dag_id", "is missing, and none can be made of the file's name")
    if _RESERVED_ID.match(dag_id):
        raise DocumentError(
            "airflow.dag_id", f"cannot be {quoted(dag_id)}, which is a name of PROMINENCE's own: give another"
        )
    # A job is told what is wrong with it by its own paths
    is_job = "jobs" not in document
    if is_job:
        parse_job(document, limits)
        document = _workflow_of(document)
    document = {**document, "name": document.get("name") or dag_id}
    try:
        workflow = parse_workflow(document, limits)
        if gap := unsupported_workflow(workflow):
            path, _, sentence = gap.partition(": ")
            raise DocumentError(path, sentence)
        _refuse_letters(workflow)
        params = _params_of(block, document)
    except DocumentError as refused:
        if is_job and refused.path.startswith(_JOBS_PATH):
            raise DocumentError(refused.path[len(_JOBS_PATH) :].lstrip("."), refused.sentence) from None
        raise
    found = DropIn(
        workflow=workflow,
        document=document,
        dag_id=dag_id,
        owner=block["owner"],
        description=block.get("description", ""),
        schedule=_schedule_of(block.get("schedule")),
        start_date=_time_of(block, "start_date"),
        end_date=_time_of(block, "end_date"),
        catchup=block.get("catchup", False),
        deadline=_deadline_of(block),
        params=params,
        tags=tuple(dict.fromkeys(block.get("tags", ()))),
    )
    _check_times(found)
    _check_defaults(found, limits)
    return found


def _block_of(value: dict[str, Any]) -> dict[str, Any]:
    if _BLOCK not in value:
        raise DocumentError(f"{_BLOCK}.owner", "is missing: it names the user whose workflows the runs are")
    block = value[_BLOCK]
    if not isinstance(block, dict):
        raise DocumentError(_BLOCK, "must be an object")
    try:
        check_schema("airflow", block)
    except DocumentError as refused:
        raise DocumentError(f"{_BLOCK}.{refused.path}", refused.sentence) from None
    return block


def _refuse_secrets(document: dict[str, Any]) -> None:
    for path in extract(document)[1]:
        if ".imagePullCredential." in path:
            sentence = "is a secret, which has no place in a file: name an Airflow connection as imagePullCredential"
            raise DocumentError(path, sentence)
        sentence = "is a secret, which has no place in a file: storage accounts are not supported here yet"
        raise DocumentError(path, sentence)


def _refuse_letters(workflow: Workflow) -> None:
    for path, asked in (
        ("notifications", workflow.notifications),
        *((f"jobs[{index}].notifications", job.notifications) for index, job in enumerate(workflow.jobs)),
    ):
        if asked:
            raise DocumentError(path, "are not supported in a file yet: it does not say where its owner gets letters")


def _id_from(file: str) -> str | None:
    path = PurePosixPath(file)
    name = path.name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    found = ".".join([*(part for part in path.parts[:-1] if part not in ("/", ".")), name])
    return _NOT_IN_AN_ID.sub("-", found).strip("-.")[:200] or None


def _workflow_of(job: dict[str, Any]) -> dict[str, Any]:
    """The workflow of one job, which has its name and its labels too."""
    name = job.get("name", "")
    shared = {key: job[key] for key in ("name", "labels") if job.get(key)}
    return {**shared, "jobs": [{**job, "name": name or "job"}]}


def _params_of(block: dict[str, Any], document: dict[str, Any]) -> dict[str, str | int | float]:
    params: dict[str, str | int | float] = block.get("params", {})
    of_factories = parameter_names(document)
    for name in params:
        where = f"airflow.params.{name}"
        if name in RESERVED:
            raise DocumentError(where, f"has a reserved name: ${name} is the date of the run")
        if name.startswith("PROMINENCE_"):
            raise DocumentError(where, "cannot start with PROMINENCE_, which is reserved")
        if name in of_factories:
            raise DocumentError(where, "has the name of a factory's parameter")
    return params


def _schedule_of(given: str | None) -> str | dt.timedelta | None:
    where = "airflow.schedule"
    if given is None:
        return None
    if given.startswith("@"):
        if given not in _PRESETS:
            raise DocumentError(where, f"must be one of {', '.join(_PRESETS)}, not {quoted(given)}")
        return given
    if given.startswith("P"):
        return _duration_of(given, where)
    if len(given.split()) != 5 or not croniter.is_valid(given):
        sentence = f"{quoted(given)} is neither a cron expression of five fields nor a duration such as PT6H"
        raise DocumentError(where, sentence)
    return given


def _deadline_of(block: dict[str, Any]) -> dt.timedelta | None:
    where = "airflow.deadline"
    given = block.get("deadline")
    if not isinstance(given, str):
        return None if given is None else _span({"seconds": int(given)}, where)
    return _duration_of(given, where)


def _duration_of(text: str, where: str) -> dt.timedelta:
    match = _DURATION.fullmatch(text)
    parts = [int(part) for part in match.groups(default="0")] if match else []
    if not any(parts) or text.endswith("T"):
        raise DocumentError(where, f"{quoted(text)} is not an ISO 8601 duration longer than nothing, such as PT6H")
    return _span(dict(zip(_UNITS, parts, strict=True)), where)


def _span(parts: Mapping[str, int], where: str) -> dt.timedelta:
    try:
        span = dt.timedelta(**parts)
    except OverflowError:
        span = dt.timedelta.max
    if span > _LONGEST:
        raise DocumentError(where, f"is too long a time: the limit is {_LONGEST.days} days")
    return span


def _time_of(block: dict[str, Any], key: str) -> dt.datetime | None:
    text: str | None = block.get(key)
    if text is None:
        return None
    try:
        # Python 3.10 does not read the Z
        time = dt.datetime.fromisoformat(re.sub("[Zz]$", "+00:00", text))
    except ValueError:
        sentence = f"{quoted(text)} is neither a date nor a date and time by ISO 8601, such as 2026-11-26T18:00:00Z"
        raise DocumentError(f"airflow.{key}", sentence) from None
    return time.replace(tzinfo=dt.timezone.utc) if time.tzinfo is None else time


def _check_times(found: DropIn) -> None:
    if found.start_date and found.end_date and found.end_date < found.start_date:
        raise DocumentError("airflow.end_date", "must not be before start_date")
    if found.catchup and found.schedule is None:
        raise DocumentError("airflow.catchup", "needs a schedule")
    if found.schedule is not None and found.start_date is None:
        raise DocumentError("airflow.start_date", "is missing: a schedule needs it")


def _check_defaults(found: DropIn, limits: Limits) -> None:
    if found.params:
        defaults = {name: value_text(value) for name, value in found.params.items()}
        try:
            parse_workflow(put_in(found.document, defaults, dollars=True), limits)
        except DocumentError as refused:
            raise DocumentError(refused.path, f"{refused.sentence} (with the defaults of airflow.params)") from None
