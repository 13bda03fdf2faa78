"""The report of unreadable files, for any file name."""

import os

from toolkit.data.loading.unreadable import UnreadableFiles

NAMES = {b"plain.png": b"plain.png", "bär.png".encode(): "bär.png".encode(), b"caf\xe9.png": b"caf\xe9.png",
         b"new\nline.png": rb"new\nline.png", b"tab\tstop.png": rb"tab\tstop.png", b"re\rturn.png": rb"re\rturn.png",
         rb"back\nslash.png": rb"back\\nslash.png"}


def test_a_report_has_one_line_per_file_whatever_its_name(tmp_path):
    paths = [os.fsdecode(name) for name in NAMES]
    for _ in range(2):  # the second process finds them listed
        unreadable_files = UnreadableFiles(max_share=1.0, report=tmp_path / "unreadable.txt")
        unreadable_files.add([(path, f"{path}: torn\nfor good") for path in paths], num_readable=0)
        assert list(unreadable_files.reasons) == paths
    lines = (tmp_path / "unreadable.txt").read_bytes().splitlines()
    assert lines == [b"%s\t%s: torn\\nfor good" % (name, name) for name in NAMES.values()]
