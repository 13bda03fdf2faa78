"""``python -m toolkit`` lists the parts of every kind, those of plugins included."""

import argparse
import sys

parser = argparse.ArgumentParser(prog="python -m toolkit", description="List the parts of every kind: built-in ones, "
                                 "and those that installed plugins offer, which are not imported.")
parser.add_argument("--check", action="store_true", help="import what plugins offer and say of each: ok, failed, "
                    "incompatible or clash, with the reason; the exit code is 1 if any is not ok")
arguments = parser.parse_args()

from toolkit import registry  # noqa: E402, it loads torch, which a mistaken option need not wait for

sys.exit(registry.main(arguments.check))
