from __future__ import annotations

import pytest

from lightning_subnets.errors import UserError
from lightning_subnets.run_files.names import plain_name


def test_a_plain_name_is_returned_unchanged() -> None:
    for name in ("figure3-smoke", "a b", "ä", "x..y", "-", "$a$", "<img>|`"):
        assert plain_name(name, "the name") == name


@pytest.mark.parametrize(
    "name", ["/etc", "../../..", "..", "a/b", "a\\b", "", ".hidden", "a\nb", "a\x00b", "a\x1b[2J", "\udcff", None, 7]
)
def test_any_other_value_is_an_error_with_the_value_and_its_source(name: object) -> None:
    with pytest.raises(UserError, match=r"^the name in sweep.yaml is .*: it names a directory, so use") as error:
        plain_name(name, "the name in sweep.yaml")
    assert repr(name) in str(error.value)
    assert str(error.value).isprintable()
