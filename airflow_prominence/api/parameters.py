"""Query and path parameters as the client sends them (``prominence.md`` 3.3), read leniently and refused politely."""

from __future__ import annotations

from airflow_prominence.api.errors import ApiError

_STATUSES = {"running": "running", "idle": "pending", "pending": "pending"}


def number_of(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def numbers(text: str) -> list[int]:
    found = [number_of(part) for part in text.split(",") if part.strip()]
    return [number for number in found if number is not None]


def flag(text: str | None) -> bool:
    return text is not None and text.lower() not in ("false", "0", "no")


def count(text: str | None) -> int:
    if text is None:
        return 1
    try:
        return max(-1, min(int(text), 2**31 - 1))
    except ValueError:
        raise ApiError(400, "num: must be a number, -1 for all") from None


def natural(text: str | None, what: str) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ApiError(400, f"{what}: must be a number, 0 or more")
    return int(text)


def status_of(text: str | None) -> str | None:
    if text is None:
        return None
    if text not in _STATUSES:
        raise ApiError(400, "invalid status specified")
    return _STATUSES[text]


def without_nul(text: str, what: str) -> str:
    """No name nor label holds one, and PostgreSQL cannot even be asked."""
    if "\0" in text:
        raise ApiError(400, f"{what}: cannot hold a NUL character")
    return text


def constraints_of(texts: list[str]) -> dict[str, str] | None:
    """Return the label values wanted, ``None`` if one label would have to have two."""
    wanted: dict[str, str] = {}
    possible = True
    for text in texts:
        key, equals, value = without_nul(text, "constraint").partition("=")
        if not equals or not key or "=" in value:
            raise ApiError(400, "Invalid constraint")
        possible &= wanted.setdefault(key.lower(), value) == value
    return wanted if possible else None
