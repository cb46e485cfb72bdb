"""Whose objects are where: no name, whatever it holds, leads into another's folder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_prominence.objects.keys import (
    LONGEST_PART,
    NotYourGroup,
    check_key,
    folder_of,
    group_folder,
    is_key,
    place_of,
    user_folder,
)
from airflow_prominence.objects.model import BadKey

NAMES = st.one_of(st.text(min_size=1, max_size=300), st.text("ab@%.=/~", min_size=1, max_size=12))


@given(NAMES, NAMES)
def test_no_two_owners_share_a_folder(one: str, other: str) -> None:
    assert (user_folder(one) == user_folder(other)) == (one == other)
    assert (group_folder(one) == group_folder(other)) == (one == other)
    assert user_folder(one) != group_folder(other)


@given(NAMES)
def test_a_folder_is_two_parts_of_a_key(name: str) -> None:
    for folder in (user_folder(name), group_folder(name)):
        uploads, part = check_key(folder)
        assert uploads == "uploads"
        assert len(part) <= LONGEST_PART
        assert part.isascii()


def test_ordinary_names_stay_readable() -> None:
    assert user_folder("alice@example.org") == "uploads/alice@example.org"
    assert group_folder("fusion") == "uploads/@fusion"
    assert (user_folder("@fusion"), user_folder("..")) == ("uploads/%40fusion", "uploads/%2E.")


@given(NAMES, NAMES, st.lists(NAMES, max_size=4))
def test_a_place_lies_in_ones_own_folder_or_in_that_of_ones_group(name: str, user: str, groups: list[str]) -> None:
    try:
        place = place_of(name, user, groups)
        key = place.key
    except (NotYourGroup, BadKey):
        return
    assert is_key(key)
    allowed = [user_folder(user), *(group_folder(group.strip("/")) for group in groups)]
    assert any(key.startswith(folder + "/") for folder in allowed)
    assert place.name_of(key).strip("/") == name.strip("/")
    assert ("/" in name) == (place.folder != user_folder(user))


def test_a_group_is_told_by_whole_parts() -> None:
    assert place_of("ab/x", "u", ["ab"]).key == "uploads/@ab/x"
    for name in ("abc/x", "a/x", "ab./x", "AB/x"):
        with pytest.raises(NotYourGroup, match=name.partition("/")[0]):
            place_of(name, "u", ["ab"])
    for path in ("abc", "a", "", "u"):
        if path:
            with pytest.raises(NotYourGroup):
                folder_of(path, "u", ["ab"])
    assert folder_of("ab", "u", ["ab"]).folder == "uploads/@ab"
    assert folder_of("ab/c/", "u", ["ab"]).rest == "c"


def test_groups_written_as_paths_are_reached_by_the_longest() -> None:
    groups = ["/fusion", "/fusion/jet"]
    assert place_of("fusion/jet/x", "u", groups).key == "uploads/@fusion%2Fjet/x"
    assert place_of("fusion/iter/x", "u", groups).key == "uploads/@fusion/iter/x"
    assert place_of("fusion/jet/x", "u", ["/fusion"]).key == "uploads/@fusion/jet/x"
    assert folder_of("fusion/jet", "u", groups).folder == "uploads/@fusion%2Fjet"
    with pytest.raises(NotYourGroup):
        place_of("fusion/x", "u", ["/fusion/jet", "/", ""])


@pytest.mark.parametrize("name", ["ab/", "ab//x", "ab/../x", "ab/./x", "ab/x/", "", ".", "..", "a\tb"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(BadKey):
        _ = place_of(name, "u", ["ab"]).key
