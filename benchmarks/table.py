"""Print the table of a results folder, and write it into the READMEs.

    python benchmarks/table.py benchmarks/results/samples_video
    python benchmarks/table.py benchmarks/results/leaderboard_small

The table is put between the markers of benchmarks/README.md that name the folder. README.md gets some columns of it
if it has these markers. A leaderboard's folder has a folder for each of its suites; its tables and sentences go into
benchmarks/README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from toolkit.evaluation.leaderboard_table import HEADINGS, PLAN, leaderboard_markdown
from toolkit.evaluation.table import insert_table, markdown, rows_of_folder, terminal_tables

README = Path(__file__).with_name("README.md")
FRONT = README.parents[1] / "README.md"
FRONT_HEADINGS = ("bits/pixel", "PSNR (dB)", "SSIM", "LPIPS (VGG)", "rFID", "rFVD", "codes used (%)")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    if (folder / PLAN).is_file():
        table = leaderboard_markdown(folder, HEADINGS)
        print(table)
        README.write_text(insert_table(README.read_text(), folder.name, table))
        return
    try:
        rows = rows_of_folder(folder)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if not rows:
        sys.exit(f"error: {folder} has no rows; run benchmarks/run.py first.")
    Console(width=max(150, Console().width)).print(terminal_tables(rows))
    README.write_text(insert_table(README.read_text(), folder.name, markdown(rows)))
    if f"<!-- results/{folder.name} -->" in FRONT.read_text():
        FRONT.write_text(insert_table(FRONT.read_text(), folder.name, markdown(rows, FRONT_HEADINGS)))


if __name__ == "__main__":
    main()
