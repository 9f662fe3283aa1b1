from __future__ import annotations

import pytest

from lightning_subnets.errors import UserError
from lightning_subnets.run_files.names import name_below, plain_name


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


def test_a_name_of_several_directories_stays_below_the_root() -> None:
    for name in ("figure3-smoke", "sweep/first", "lr[/x]"):
        assert name_below(name, "--name") == name
    for name in ("../outside", "a/../../b", "/etc", "a//b", "a/", ".", "", "a/.hidden", "a\nb"):
        with pytest.raises(UserError, match=r"^--name is .* would not be below --trainer.default_root_dir") as error:
            name_below(name, "--name")
        assert repr(name) in str(error.value)
