"""Write the report page of benchmark results: tables, rate-distortion plots, synchronized videos, codebooks.

    python benchmarks/report.py benchmarks/results/samples_video/*.json --output work_dirs/report.html

``tests/evaluation/browser.py`` takes a picture of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from toolkit.evaluation.report import write_report
from toolkit.evaluation.results import read_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="JSON files, each of one row or a list of rows")
    parser.add_argument("--output", type=Path,
                        help="default: report.html beside the first; paths of videos are relative to it")
    arguments = parser.parse_args()
    output = arguments.output or arguments.results[0].with_name("report.html")
    try:
        write_report([row for file in arguments.results for row in read_rows(file)], output)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(output)


if __name__ == "__main__":
    main()
