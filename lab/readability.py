# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure how readable names and documents are: `python3 -m lab.readability`.

Nothing here is enforced.  The figures show the way: a function's name of one word can hardly be
searched for, and a sentence of more than 18 words is read twice.
"""

import argparse
import ast
import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

CODE = ("vesper_monitor", "xen_transport", "kvm_transport", "lab", "bench")
PROJECT = Path(__file__).parents[1]

_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_NOT_PROSE = re.compile(r"^(\||#|    |<!--|\s*$)")
_LINK = re.compile(r"!?\[([^]]*)\]\([^)]*\)")
_CODE_SPAN = re.compile(r"`[^`]*`")
_ITEM = re.compile(r"^\s*([-*]|\d+\.)\s+")
_SENTENCE_END = re.compile(r"[.!?](?=[)*_\"']*(?:\s|$))")


def list_function_names(source: str) -> Iterator[str]:
    """Yield the name of each function and method in Python source, without dunder methods."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if not name.startswith("__"):
                    yield name.strip("_")


def list_sentence_lengths(markdown: str) -> Iterator[int]:
    """Yield the number of words of each sentence of prose; headings, tables and code are left out.

    A code span counts as one word.  A list item ends the sentence before it.
    """
    paragraphs: list[str] = [""]
    for line in _FENCED.sub("", markdown).splitlines():
        if _NOT_PROSE.match(line):
            paragraphs.append("")
        elif _ITEM.match(line):
            paragraphs.append(_ITEM.sub("", line))
        else:
            paragraphs[-1] += " " + line
    for paragraph in paragraphs:
        plain = _CODE_SPAN.sub("code", _LINK.sub(r"\1", paragraph))
        for sentence in _SENTENCE_END.split(plain):
            words = re.findall(r"\w[\w'’-]*", sentence)
            if words:
                yield len(words)


def measure_names(folders: tuple[str, ...] = CODE) -> dict[str, float]:
    """Return the number of functions, the share with one word, and the mean length in letters."""
    names = [name for folder in folders for path in sorted((PROJECT / folder).rglob("*.py"))
             for name in list_function_names(path.read_text())]
    return {"functions": len(names),
            "one_word_percent": round(100 * sum("_" not in name for name in names) / len(names), 1),
            "mean_length": round(statistics.mean(map(len, names)), 1)}


def measure_prose(path: Path) -> dict[str, float]:
    """Return the number of sentences of a Markdown file, and their words: mean, 90th percentile."""
    lengths = sorted(list_sentence_lengths(path.read_text()))
    return {"sentences": len(lengths), "mean_words": round(statistics.mean(lengths or [0]), 1),
            "p90_words": lengths[len(lengths) * 9 // 10] if lengths else 0}


def main() -> None:
    """Print the measures as a table, or as JSON."""
    parser = argparse.ArgumentParser(
        prog="python3 -m lab.readability",
        description="Measure function names in the code and sentences in the documents.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    json_wanted = parser.parse_args().json
    names = {folder: measure_names((folder,)) for folder in CODE} | {"all": measure_names()}
    documents = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")),
                 *sorted(PROJECT.glob("C*.md"))]
    prose = {str(path.relative_to(PROJECT)): measure_prose(path) for path in documents}
    if json_wanted:
        print(json.dumps({"names": names, "prose": prose}, indent=2))
        return
    print(f"{'functions in':24}{'number':>8}{'one word':>10}{'letters':>9}")
    for folder, row in names.items():
        print(f"{folder:24}{row['functions']:8}{row['one_word_percent']:9} %{row['mean_length']:8}")
    print(f"\n{'document':24}{'sentences':>10}{'mean words':>12}{'p90':>6}")
    for name, row in prose.items():
        print(f"{name:24}{row['sentences']:10}{row['mean_words']:12}{row['p90_words']:6}")


if __name__ == "__main__":
    main()
