from __future__ import annotations

import pytest

from lightning_subnets.errors import UserError
from lightning_subnets.run_files.names import plain_name

PATHS = ["/etc", "../../..", "..", ".", "a/b", "a\\b", "", ".hidden", "a\nb", "a\x00b", "a\x1b[2J", "\udcff", None, 7]


@pytest.mark.parametrize("name", ["figure3-smoke", "a b", "ä", "x..y", "-", "$a$", "<img>|`"])
def test_a_name_is_taken_as_it_is(name: str) -> None:
    assert plain_name(name, "the name") == name


@pytest.mark.parametrize("name", PATHS)
def test_what_is_no_name_is_an_error_with_the_value_and_the_file(name: object) -> None:
    with pytest.raises(
        UserError, match=r"^the name in sweep.yaml is .*: it names a directory, so use a name "
    ) as error:
        plain_name(name, "the name in sweep.yaml")
    assert repr(name) in str(error.value)
    assert str(error.value).isprintable()
