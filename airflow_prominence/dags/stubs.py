"""The text of a stub: the Python file by which Airflow knows one document of the folder of documents.

Airflow shows it under *Code*, so the document stands in it as it is in its file.
"""

from __future__ import annotations

_HEAD = '''\
"""The DAG of {file}, in the folder of documents.

airflow_prominence wrote this page and writes it again when that file changes: change the file.
"""
'''
_DAG = """\

from airflow_prominence.dags.dropin import dag_of

DOCUMENT = {literal}

dag = dag_of(DOCUMENT, {file})
"""
_REFUSAL = """\

from airflow_prominence.dags.dropin import refuse

dag = refuse({sentence})
"""


def stub_of(text: str, file: str) -> str:
    """The stub of a document; ``file`` is its path in the folder."""
    return _HEAD.format(file=_shown(file)) + _DAG.format(literal=literal_of(text), file=ascii(file))


def stub_of_refusal(sentence: str, file: str) -> str:
    """The stub of a file that is no document at all, or not allowed to be one: its import fails with the sentence."""
    return _HEAD.format(file=_shown(file)) + _REFUSAL.format(sentence=ascii(sentence))


def literal_of(text: str) -> str:
    """A Python literal of a text, with the text's own lines in it where Python's syntax lets them stand."""
    # A file's line ends are all the same to Python's reader
    if "\r" not in text and "\0" not in text and not text.endswith("\\"):
        for quote in ('"', "'"):
            if 3 * quote not in text and not text.endswith(quote):
                # A backslash keeps the first line of the text from standing beside the name, but not in a raw literal
                opening = f"r{3 * quote}" if "\\" in text else f"{3 * quote}\\\n"
                return f"{opening}{text}{3 * quote}"
    lines = "".join(f"    {line!a}\n" for line in text.splitlines(keepends=True))
    return f"(\n{lines})" if lines else "''"


def _shown(file: str) -> str:
    """A file's name as it can stand between three quotes."""
    return ascii(file)[1:-1].replace('"', "'")
