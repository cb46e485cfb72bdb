"""Templates of factories: what their texts become once parameters are put in."""

from __future__ import annotations

from airflow_prominence.documents.commands import names_in, substitute
from airflow_prominence.documents.errors import DocumentError, path_of, quoted
from airflow_prominence.documents.factories import count_of, longest_value, points_of, value_text
from airflow_prominence.documents.files import check_artifact_url, check_outputs
from airflow_prominence.documents.model import Factory, Job
from airflow_prominence.documents.tasks import MAX_EXEC_BYTES, MAX_WORD_BYTES

Path = tuple[str | int, ...]

_MAX_NAMES = 200_000
_ENV_PREFIX = "PROMINENCE_PARAMETER_="


def check_template(job: Job, factory: Factory, path: Path) -> None:
    """Refuse a template that makes what a plain job could not hold."""
    lengths = {parameter.name: longest_value(parameter) for parameter in factory.parameters}
    for name, length in lengths.items():
        if len(_ENV_PREFIX) + len(name) + length > MAX_WORD_BYTES:
            raise DocumentError("factories", f"the values of parameter {quoted(name)} are too long")
    for index, task in enumerate(job.tasks):
        where = (*path, "tasks", index)
        total = _grown(task.cmd or "", lengths, (*where, "cmd"), MAX_WORD_BYTES, MAX_EXEC_BYTES)
        for name, text in task.env.items():
            total += _grown(text, lengths, (*where, "env", name), MAX_WORD_BYTES, MAX_WORD_BYTES)
        if total > MAX_EXEC_BYTES:
            raise DocumentError(path_of(where), "becomes too large with the values of its parameters")
    if factory.type == "zip":
        _check_names(job, factory, lengths, path)


def _check_names(job: Job, factory: Factory, lengths: dict[str, int], path: Path) -> None:
    """A value may be any text, so each name it is put into is looked at as if it had been submitted so."""
    urls = [artifact.url for artifact in job.artifacts]
    texts = [*urls, *job.output_files, *job.output_dirs]
    if not any(name in lengths for text in texts for name in names_in(text)):
        return
    if len(texts) * count_of(factory) > _MAX_NAMES:
        raise DocumentError(path_of(path), f"has too many artifacts and outputs: the limit is {_MAX_NAMES} in all jobs")
    for key, names, most in (("artifacts", urls, 8192), ("outputFiles", job.output_files, 4096)):
        for index, text in enumerate(names):
            _grown(text, lengths, (*path, key, index), most, most)
    for index, text in enumerate(job.output_dirs):
        _grown(text, lengths, (*path, "outputDirs", index), 4096, 4096)
    stored = job.storage is not None and job.storage.default
    for point in points_of(factory):
        values = {name: value_text(value) for name, value in point.items()}
        for index, url in enumerate(urls):
            check_artifact_url(substitute(url, values, dollars=True), (*path, "artifacts", index, "url"), stored=stored)
        files = [substitute(name, values, dollars=True) for name in job.output_files]
        check_outputs(files, [substitute(name, values, dollars=True) for name in job.output_dirs], path)


def _grown(text: str, lengths: dict[str, int], path: Path, word: int, whole: int) -> int:
    """Bytes that the text may grow to, refused where parameters make it more than a word or the whole can hold."""
    put_in = sum(lengths.get(name, 0) for name in names_in(text))
    size = len(text.encode()) + put_in
    if put_in and (size > whole or put_in > word):
        raise DocumentError(path_of(path), "becomes too long with the values of its parameters")
    return size
