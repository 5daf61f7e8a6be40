"""Totals of llvm-cov's annotated source (`llvm-cov show --show-branches=count`): lines and branches, per file.

A line counts if it has an execution count. Each branch has two sides, and a side counts as covered when it was taken.
llvm-cov lists a branch once for each instance of its function (generics, and the crate built with and without its
tests); here they are one branch, whose sides count as covered when any instance took them. Branches that the compiler
folded away do not count.
Usage: python coverage_totals.py REPORT ROOT
"""

import pathlib
import re
import sys

LINE = re.compile(r"^ *\d+\| *([0-9.]+[kMGTP]?)\|")
BRANCH = re.compile(r"^ *\|  Branch \((\d+:\d+)\): \[True: ([^,]+), False: ([^\]]+)\]")


def count(report):
    """{file: [covered lines, lines, covered sides, sides]}"""
    files, sides, now = {}, {}, None
    for text in report.read_text(encoding="utf-8", errors="replace").splitlines():
        if text.startswith("/") and text.endswith(".rs:"):
            now = text[:-1]
            files.setdefault(now, [0, 0])
        elif m := LINE.match(text):
            files[now][0] += m[1] != "0"
            files[now][1] += 1
        elif m := BRANCH.match(text):
            place, *counts = m.groups()
            taken = sides.setdefault(now, {}).setdefault(place, [False, False])
            sides[now][place] = [old or n.strip() != "0" for old, n in zip(taken, counts)]
    return {name: lines + [sum(map(sum, sides.get(name, {}).values())), 2 * len(sides.get(name, {}))]
            for name, lines in files.items()}


def percent(part, whole):
    return f"{100 * part / whole:6.2f} %" if whole else "       -"


def main():
    report, root = pathlib.Path(sys.argv[1]), sys.argv[2].rstrip("/") + "/"
    files = count(report)
    if not files:
        sys.exit(f"no source in {report}")
    total = [sum(column) for column in zip(*files.values())]
    print(f"{'file':60} {'lines':>16} {'':8} {'branches':>14}")
    for name, row in [*sorted(files.items()), ("total", total)]:
        lines, sides = f"{row[0]}/{row[1]}", f"{row[2]}/{row[3]}"
        print(f"{name.removeprefix(root):60} {lines:>14} {percent(*row[:2])} {sides:>12} {percent(*row[2:])}")


main()
