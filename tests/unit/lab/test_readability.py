# SPDX-License-Identifier: GPL-2.0-or-later
"""What counts as a function's name and as a sentence."""

from lab.readability import list_function_names, list_sentence_lengths


def test_underscores_at_the_ends_are_not_counted_and_dunder_methods_left_out() -> None:
    source = "class A:\n def __init__(self): ...\n async def _read_list(self): ...\n"
    assert list(list_function_names(source)) == ["read_list"]


def test_a_sentence_ends_with_its_mark_and_before_the_next_item() -> None:
    text = "# Title\n\nOne two `three four`. Five\nsix 0.5 s!\n\n- seven eight\n- nine\n"
    assert list(list_sentence_lengths(text)) == [3, 5, 2, 1]


def test_code_and_tables_are_no_prose() -> None:
    assert not list(list_sentence_lengths("```\nmake. test.\n```\n    make x. y.\n| a. b |\n"))
