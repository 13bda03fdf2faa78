"""What all commands on files do alike: errors in one line, help at once, and bounded memory."""

import resource

import pytest
from peak_memory import KEEP_NOTHING, peak_of
from tools.commands import ENVIRONMENT, command, error_of, run
from training.tiny import stripes, write_clips

from toolkit.data import VideoWriter

BOTH = ["reconstruct", "extract_tokens"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clip and a torn one."""
    folder = write_clips(tmp_path_factory.mktemp("input"), count=1)
    (folder / "torn.mp4").write_bytes(b"no video")
    return folder


@pytest.mark.parametrize(("words", "message", "tools"), [
    ("{folder}/torn.mp4", "torn.mp4: needed a video", ["reconstruct"]),
    ("{tokenizer}", "needed files that end in", BOTH),
    ("{folder}/missing", "missing: needed a folder", BOTH), ("{folder}/{{0,no}}.mp4", "no.mp4: needed a folder", BOTH),
    ("{folder} --tokenizer no/such/tokenizer/here", "no tokenizer at no/such/tokenizer", BOTH),
    ("{folder}/0.mp4 --frames 0", "at least 1", BOTH), ("{folder}/0.mp4 --device abacus", "--device abacus", BOTH),
    ("{folder}/0.mp4 --decode", "0.mp4: needed a tar of tokens", ["extract_tokens"])])
def test_a_mistake_is_one_line_and_nothing_is_written(
        words, message, tools, tokenizer, folder, tmp_path, capsys, caplog):
    arguments = words.format(folder=folder, tokenizer=tokenizer).split()
    for tool in tools:
        assert message in error_of(tool, "--tokenizer", tokenizer, "--output", tmp_path / "out", *arguments)
        assert not (tmp_path / "out").exists()
        assert capsys.readouterr().out == "" and caplog.text == ""


@pytest.mark.parametrize("tool", ["train", "reconstruct"])
def test_help_is_quick(tool):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = run(tool, "--help")
    assert done.returncode == 0 and f"python tools/{tool}.py" in done.stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_video(tokenizer, tmp_path):
    peaks = []
    for frames in (100, 2000):
        clip, tokens = tmp_path / f"{frames}.mp4", tmp_path / f"tokens-{frames}"
        with VideoWriter(clip, fps=25) as video:
            for start in range(0, frames, 100):
                video.write(stripes(start, num_frames=100, height=64, width=64))
        lines = [command(*words, "--tokenizer", tokenizer)[1:] for words in (
            ["reconstruct", clip, "--output", tmp_path], ["extract_tokens", clip, "--output", tokens],
            ["extract_tokens", tokens, "--decode", "--output", tmp_path / "files"])]
        outcomes = [peak_of(*line, env=ENVIRONMENT | KEEP_NOTHING) for line in lines]
        assert f"{frames} x 64 x 64" in outcomes[0][1]
        peaks.append([peak for peak, _ in outcomes])
    assert all(long < 1.1 * short for short, long in zip(*peaks, strict=True)), peaks
