"""Our networks, solvers and walks against the released code of Wan 2.2 and, for VACE and Fun-Control, of VideoX-Fun.

    python experiments/2026-11-25-native-reference/compare.py --wan CLONE_OF_WAN2.2 [--videox CLONE_OF_VIDEOX_FUN]

The clones are imported where they lie. Tiny random weights, float32, CPU. Prints a table and writes result.json beside
this file; ends with 1 where a comparison fails.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import torch
from tiny import Row

HERE = Path(__file__).parent


def commit(folder: Path) -> str:
    """What git calls the state of a clone; "unknown" where it is none."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    if not (folder / ".git").exists():  # it may lie inside some other repository
        return "unknown"
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def every_row(wan: Path, videox: Path | None) -> Iterator[Row]:
    """All comparisons, in order."""
    import clips
    import levels
    import networks
    from clones import import_videox, import_wan

    modules = import_wan(wan)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "networks").mkdir()
        (place / "clips").mkdir()
        yield from networks.rows(modules, place / "networks")
        yield from levels.rows(modules)
        yield from clips.rows(modules, place / "clips")
        if videox is not None:
            import fun

            (place / "fun").mkdir()
            yield from fun.rows(import_videox(videox), place / "fun")


def line(row: Row) -> str:
    """A row of the table."""
    asked = "" if row.floor is None else f"> {row.floor:.0e}"
    if row.bound is not None:
        asked = f"< {row.bound:.0e}" if row.bound else "0"
    said = {True: "yes", False: "NO", None: ""}[row.passes]
    return f"| {row.what} | {row.difference:.2g} | {asked} | {said} |"


def main() -> int:
    """The table, and the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wan", type=Path, required=True, help="a clone of Wan2.2")
    parser.add_argument("--videox", type=Path, help="a clone of VideoX-Fun")
    parser.add_argument("--wan-commit", help="its commit, where the folder is no git clone")
    parser.add_argument("--videox-commit", help="its commit, where the folder is no git clone")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    clock, rows = perf_counter(), []
    print("| what | largest difference / largest value | asked | holds |\n| --- | --- | --- | --- |")
    for row in every_row(given.wan, given.videox):
        rows.append(row)
        print(line(row), flush=True)
    failed = [row.what for row in rows if row.passes is False]
    result = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(HERE.parents[1]),
        "wan": given.wan_commit or commit(given.wan),
        "videox": None if given.videox is None else given.videox_commit or commit(given.videox),
        "torch": torch.__version__,
        "seconds": round(perf_counter() - clock),
        "failed": failed,
        "rows": [{**vars(row), "passes": row.passes} for row in rows],
    }
    (HERE / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{len(rows)} rows, {len(failed)} failed, {result['seconds']} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
