"""``python -m toolkit`` lists the components of every kind, those of plugins included."""

import argparse
import sys

parser = argparse.ArgumentParser(prog="python -m toolkit", description="List the components of every kind: the "
                                 "built-in ones, and those of installed plugins, which are not imported. Then list the "
                                 "tokenizers that are shipped with the package.")
parser.add_argument("--check", action="store_true", help="import the plugins and report of each: ok, failed, "
                    "incompatible or clash, with the reason; the exit code is 1 if any is not ok")
arguments = parser.parse_args()

from toolkit import registry  # noqa: E402, it loads torch: after the options are checked

sys.exit(registry.main(arguments.check))
