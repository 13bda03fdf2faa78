"""tools/reconstruct.py as its users run it."""

import errno
import os
import pty
import re
import shutil
import subprocess
import weakref
from contextlib import suppress

import pytest
import torch
from PIL import Image
from pooled import scores_by_scikit_image
from tools.commands import ENVIRONMENT, command, files_of, run_here, save_tokenizer, succeed
from training.tiny import stripes, write_clips

from toolkit import load_tokenizer
from toolkit.contracts import DataError
from toolkit.data import open_media, read_image, read_video, write_image, write_video
from toolkit.data.reading.files import find_files, unreadable
from toolkit.data.reading.media import Media
from toolkit.data.reading.transforms import to_pixels
from toolkit.data.reading.video_file import VideoFile
from toolkit.reconstruction import _round_trip, _streamed, reconstruct, reconstruct_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clip and two images of one name, an odd and a small one further down, and two torn files."""
    folder = write_clips(tmp_path_factory.mktemp("input"), count=1)
    write_image(folder / "a.png", stripes(1, num_frames=1, height=20, width=24))
    write_image(folder / "a.jpg", stripes(2, num_frames=1, height=20, width=24))
    (folder / "deep" / "down").mkdir(parents=True)
    write_video(folder / "deep" / "long.mp4", stripes(1, num_frames=70, height=16, width=16), fps=24)
    write_image(folder / "deep" / "down" / "a.png", stripes(1, num_frames=1, height=7, width=9))
    (folder / "torn.mp4").write_bytes(b"no video")
    (folder / "deep" / "torn.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not to be read")
    return folder


def rows(printed: str) -> dict[str, list[str]]:
    """First column of the table -> the others."""
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if line[:1] == "│"]
    return {name: rest for name, *rest in cells}


def expected_scores(tokenizer, pixels) -> tuple[float, float, float]:
    """(bits per pixel, PSNR, SSIM) of the tokenizer's own forward pass on (C, T, H, W)."""
    with torch.no_grad():
        output = load_tokenizer(tokenizer)(pixels[None])
    scores = scores_by_scikit_image(pixels[None], output.reconstruction)
    return 6 * output.indices.numel() / pixels[0].numel(), scores["psnr"], scores["ssim"]


@pytest.mark.slow
def test_a_folder_is_mirrored_and_its_unreadable_files_are_listed(tokenizer, folder, tmp_path):
    done = succeed("reconstruct", folder, "--tokenizer", tokenizer, "--output", tmp_path / "out")
    names = ["0", "a.png", "a.jpg", "deep/long", "deep/down/a"]
    assert set(files_of(tmp_path / "out")) == {
        f"{name}_{kind}.{'mp4' if name in ('0', 'deep/long') else 'png'}"
        for name in names for kind in ("reconstruction", "side_by_side")}
    table = rows(done.stdout)
    assert set(table) == set(names)
    # (T, H, W), then positions 1 + (T - 1) / 2, H / 2, W / 2, rounded up
    assert table["0"][:2] == ["6 x 32 x 32", "4 x 16 x 16 = 1024"]
    assert table["a.png"][:2] == ["1 x 20 x 24", "1 x 10 x 12 = 120"]
    assert table["deep/long"][:2] == ["70 x 16 x 16", "36 x 8 x 8 = 2304"]
    assert table["deep/down/a"][:2] == ["1 x 7 x 9", "1 x 4 x 5 = 20"] and table["deep/down/a"][4] == "-"
    assert "frames" not in done.stderr  # no bar where there is no terminal
    assert "skipped 2 of 7 files" in done.stdout
    assert "torn.mp4: needed a video" in done.stdout and "torn.png: needed an image" in done.stdout


def test_table_has_the_original_odd_size(tokenizer, tmp_path, capsys):
    write_video(tmp_path / "odd.mp4", stripes(1, num_frames=7, height=64, width=48), fps=24)
    options = ["--output", tmp_path, "--short-edge", 47, "--frames", 7]
    assert run_here("reconstruct", tmp_path / "odd.mp4", "--tokenizer", tokenizer, *options) is None
    size, tokens, bits, *_ = rows(capsys.readouterr().out)["odd"]
    assert (size, tokens) == ("7 x 63 x 47", "4 x 32 x 24 = 3072")
    assert float(bits) == pytest.approx(6 * 3072 / (7 * 63 * 47), rel=1e-3)
    # yuv420p needs even sides
    assert read_video(tmp_path / "odd_reconstruction.mp4")[0].shape == (7, 64, 48, 3)
    assert read_video(tmp_path / "odd_side_by_side.mp4")[0].shape == (7, 64, 94, 3)


def test_numbers_are_those_of_real_tokens(tokenizer, tmp_path, capsys):
    write_clips(tmp_path, count=1, height=33, width=31)
    assert run_here("reconstruct", tmp_path / "0.mp4", "--tokenizer", tokenizer, "--output", tmp_path) is None
    *_, bits, psnr, ssim, seconds = rows(capsys.readouterr().out)["0"]
    expected = expected_scores(tokenizer, to_pixels(read_video(tmp_path / "0.mp4")[0]))
    assert float(bits) == pytest.approx(expected[0], rel=1e-3)
    assert float(psnr) == pytest.approx(expected[1], abs=0.006)
    assert float(ssim) == pytest.approx(expected[2], abs=6e-5)
    assert float(seconds) >= 0


def test_input_and_output_are_side_by_side(tokenizer, tmp_path):
    pixels = stripes(3, num_frames=1, height=17, width=23)
    write_image(tmp_path / "one.png", pixels)
    assert run_here("reconstruct", tmp_path / "one.png", "--tokenizer", tokenizer, "--output", tmp_path / "out") is None
    both = read_image(tmp_path / "out" / "one_side_by_side.png")
    assert torch.equal(both[..., :23], read_image(tmp_path / "one.png"))
    assert torch.equal(both[..., 23:], read_image(tmp_path / "out" / "one_reconstruction.png"))
    with torch.no_grad():
        wanted = load_tokenizer(tokenizer)(read_image(tmp_path / "one.png")[None]).reconstruction[0].clamp(-1, 1)
    assert (both[..., 23:] - wanted).abs().max() <= 1 / 255 + 1e-4  # rounding to 8 bits


def test_frames_and_stride_choose_the_frames_and_the_rate(tokenizer, tmp_path, capsys):
    write_video(tmp_path / "clip.mp4", stripes(1, num_frames=20, height=32, width=32), fps=24)
    for options, size in ((["--frames", 99], "20 x 32 x 32"),  # a shorter video gives all its frames
                          (["--frames", 3, "--frame-stride", 4, "--short-edge", 16], "3 x 16 x 16")):
        assert run_here("reconstruct", tmp_path / "clip.mp4", "--tokenizer", tokenizer, "--output", tmp_path / "out",
                        *options) is None
        assert rows(capsys.readouterr().out)["clip"][0] == size
    with VideoFile(tmp_path / "out" / "clip_side_by_side.mp4") as video:
        assert (video.fps, len(video.times)) == (6.0, 3)


@torch.no_grad()
def test_streaming_equals_reconstruction_of_the_whole_clip(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit.data.reading.media.CHUNK_FRAMES", 4)
    write_clips(tmp_path, count=1, num_frames=18, height=19, width=22)
    loaded = load_tokenizer(tokenizer)
    with open_media(tmp_path / "0.mp4") as media:
        pieces = list(_round_trip(loaded, media))
    target, output, indices = (torch.cat(piece, dim=dim) for piece, dim in zip(zip(*pieces, strict=True), (2, 2, 1),
                                                                               strict=True))
    whole = to_pixels(read_video(tmp_path / "0.mp4")[0])[None]
    expected, size = loaded.tokenize(whole, return_size=True)
    assert len(pieces) > 3 and torch.equal(target, whole) and torch.equal(indices, expected)
    torch.testing.assert_close(output, loaded.detokenize(expected, size), rtol=0, atol=1e-5)
    with open_media(tmp_path / "0.mp4") as media:
        result = reconstruct(loaded, media, path=tmp_path / "out" / "0")
    assert (result.size, result.tokens) == (tuple(size), tuple(expected.shape[1:]))
    bits, psnr, ssim = expected_scores(tokenizer, whole[0])
    assert result.bits_per_pixel == pytest.approx(bits) and result.psnr == pytest.approx(psnr, abs=1e-3)
    assert result.ssim == pytest.approx(ssim, abs=1e-5)
    write_video(tmp_path / "expected.mp4", output[0], fps=8)
    written = tmp_path / "out" / "0_reconstruction.mp4"
    assert written.read_bytes() == (tmp_path / "expected.mp4").read_bytes()


def test_chunks_of_a_video_are_released_once_they_are_scored(tokenizer):
    alive: list[int] = []

    def chunks():
        references = []
        for number in range(12):
            alive.append(sum(reference() is not None for reference in references))
            chunk = stripes(number, num_frames=4, height=16, width=16)[None]
            references.append(weakref.ref(chunk))
            yield chunk

    assert sum(output.shape[2] for _, output, _ in _streamed(load_tokenizer(tokenizer), chunks())) == 48
    assert len(alive) == 12 and max(alive) <= 2


def test_a_tokenizer_that_cannot_stream_uses_the_beginning_with_a_warning(folder, tmp_path, capsys, caplog):
    tokenizer = save_tokenizer(tmp_path / "tokenizer", norm_scope="clip")
    arguments = ["reconstruct", folder / "deep" / "long.mp4", "--tokenizer", tokenizer, "--output", tmp_path]
    assert run_here(*arguments) is None
    assert rows(capsys.readouterr().out)["long"][0] == "65 x 16 x 16"
    assert re.search(r"long.mp4: only the first 65 frames .* MAGVIT2Encoder is not causal", caplog.text)
    caplog.clear()
    assert run_here(*arguments, "--frames", 68) is None
    assert rows(capsys.readouterr().out)["long"][0] == "68 x 16 x 16" and caplog.text == ""


def test_a_video_torn_in_the_middle_is_unreadable_and_has_no_output(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit.data.reading.media.CHUNK_FRAMES", 2)
    write_clips(tmp_path / "in", count=2)
    chunks = Media.chunks

    def torn(media, frames):
        for number, chunk in enumerate(chunks(media, frames)):
            if number == 2 and media.name.endswith("0.mp4"):
                raise unreadable(media.name, "needed the rest, got none.")
            yield chunk

    monkeypatch.setattr(Media, "chunks", torn)
    results = dict(reconstruct_files(load_tokenizer(tokenizer), find_files(tmp_path / "in", output=tmp_path / "out")))
    error, result = results.values()
    assert "needed the rest" in str(error) and result.size == (6, 32, 32)
    assert set(files_of(tmp_path / "out")) == {"1_reconstruction.mp4", "1_side_by_side.mp4"}


@pytest.mark.slow
def test_a_terminal_shows_progress(tokenizer, folder, tmp_path):
    shown, terminal = pty.openpty()
    run = subprocess.Popen(command("reconstruct", folder / "deep" / "long.mp4", "--tokenizer", tokenizer, "--output",
                                   tmp_path), stderr=terminal, stdout=subprocess.DEVNULL,
                           env=ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "120"})
    os.close(terminal)
    text = b""
    with suppress(OSError):  # how the end of a terminal reads
        while piece := os.read(shown, 1 << 16):
            text += piece
    os.close(shown)
    assert run.wait() == 0
    assert b"long.mp4" in text and b"70/70" in text and b"per second" in text


def test_an_output_folder_within_the_input_is_not_read(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "in")
    first = find_files(tmp_path / "in", output=tmp_path / "in" / "out")
    (tmp_path / "in" / "out").mkdir()
    shutil.copy(folder / "a.png", tmp_path / "in" / "out" / "a_reconstruction.png")
    assert find_files(tmp_path / "in", output=tmp_path / "in" / "out") == first
    with pytest.raises(DataError, match="outside the output folder"):
        find_files(tmp_path / "in", output=tmp_path / "in")


def test_names_do_not_collide(tmp_path):
    for name in ("a.png", "A.jpg", "a.jpg.png", "b.png", "sub/a.png", "sub/c.mp4", "sub/c.mov"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    targets = {str(file.relative_to(tmp_path)): str(target) for file, target in
               find_files(tmp_path, output="out").items()}
    assert len({target.casefold() for target in targets.values()}) == len(targets)
    assert targets["b.png"] == "out/b" and targets["sub/a.png"] == "out/sub/a"
    assert targets["a.png"] == "out/a.png" and targets["sub/c.mov"] == "out/sub/c.mov"


def test_long_names_are_done_or_reported_and_pipes_are_skipped(tokenizer, tmp_path, capsys, caplog):
    (tmp_path / "in").mkdir()
    long, too_long = "x" * 235, "\u00e9" * 123  # with _reconstruction.png 254 and 265 bytes
    write_image(tmp_path / "in" / "a.png", stripes(1, num_frames=1, height=16, width=16))
    for name in (f"{long}.png", f"{too_long}.png", "z.png"):
        shutil.copy(tmp_path / "in" / "a.png", tmp_path / "in" / name)
    write_video(tmp_path / "in" / f"{'v' * 236}.mp4", stripes(1, num_frames=3, height=16, width=16), fps=8)
    os.mkfifo(tmp_path / "in" / "pipe.mp4")
    arguments = ["--tokenizer", tokenizer, "--output", tmp_path / "out"]
    assert run_here("reconstruct", tmp_path / "in", *arguments) is None
    assert sorted(files_of(tmp_path / "out")) == sorted(
        f"{name}_{kind}.{ending}" for name, ending in (("a", "png"), (long, "png"), ("v" * 236, "mp4"), ("z", "png"))
        for kind in ("reconstruction", "side_by_side"))
    printed = capsys.readouterr().out
    assert "skipped 1 of 5 files" in printed and "File name too long" in printed
    assert f"skipped, no regular file: {tmp_path / 'in' / 'pipe.mp4'} (a named pipe)." in caplog.messages
    message = run_here("reconstruct", tmp_path / "in" / "pipe.mp4", *arguments)
    assert message.startswith("error: ") and "needed a regular file, got a named pipe" in message


def test_a_file_in_the_way_of_one_result_does_not_end_the_run(tokenizer, tmp_path):
    for name in ("a/x.png", "b/x.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        write_image(tmp_path / "in" / name, stripes(1, num_frames=1, height=16, width=16))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("a file where a folder is needed")
    results = dict(reconstruct_files(load_tokenizer(tokenizer), find_files(tmp_path / "in", output=tmp_path / "out")))
    error, result = results.values()
    assert isinstance(error, DataError) and "x.png: needed a place for its results, got" in str(error)
    assert result.size == (1, 16, 16) and (tmp_path / "out" / "b" / "x_reconstruction.png").exists()


def test_a_rate_that_no_mp4_holds_does_not_end_the_run(tokenizer, tmp_path):
    (tmp_path / "in").mkdir()
    for name, fps in (("a_slow.mp4", 1.2e-5), ("b.mp4", 25)):
        write_video(tmp_path / "in" / name, stripes(1, num_frames=4, height=16, width=16), fps=fps)
    files = find_files(tmp_path / "in", output=tmp_path / "out")
    error, result = dict(reconstruct_files(load_tokenizer(tokenizer), files, frame_stride=2)).values()
    assert isinstance(error, DataError) and "a_slow.mp4: " in str(error) and "got 6e-06; choose a rate" in str(error)
    assert result.size == (2, 16, 16)
    assert sorted(files_of(tmp_path / "out")) == ["b_reconstruction.mp4", "b_side_by_side.mp4"]


def test_results_larger_than_an_mp4_may_be_do_not_end_the_run(tokenizer, tmp_path):
    (tmp_path / "in").mkdir()
    first, second = (Image.new("L", (8400, 8), level) for level in (0, 200))  # side by side it is twice as wide
    first.save(tmp_path / "in" / "a.gif", save_all=True, append_images=[second], duration=100)
    write_image(tmp_path / "in" / "b.png", stripes(1, num_frames=1, height=16, width=16))
    files = find_files(tmp_path / "in", output=tmp_path / "out")
    error, result = dict(reconstruct_files(load_tokenizer(tokenizer), files)).values()
    assert isinstance(error, DataError) and "16,384 pixels a side, got 8 x 16800" in str(error)
    assert result.size == (1, 16, 16) and sorted(files_of(tmp_path / "out")) == [
        "b_reconstruction.png", "b_side_by_side.png"]


def test_names_in_the_table_are_as_written(tokenizer, tmp_path, capsys):
    for name in ("[red]a.png", "x [/b].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, stripes(1, num_frames=1, height=16, width=16))
    assert run_here("reconstruct", tmp_path, "--tokenizer", tokenizer, "--output", tmp_path / "out") is None
    assert set(rows(capsys.readouterr().out)) == {"[red]a", "x [/b]"}


def test_a_full_disk_ends_the_run(tokenizer, tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", stripes(1, num_frames=1, height=16, width=16))

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("toolkit.io.atomic_write.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        dict(reconstruct_files(load_tokenizer(tokenizer), find_files(tmp_path / "a.png", output=tmp_path / "out")))


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_an_animation_becomes_a_video(tokenizer, tmp_path, capsys, kind):
    first, *others = [Image.new("RGB", (16, 16), (level, 0, 0)) for level in (0, 99, 255)]
    first.save(tmp_path / f"x.{kind}", save_all=True, append_images=others, duration=200)
    assert run_here("reconstruct", tmp_path / f"x.{kind}", "--tokenizer", tokenizer, "--output", tmp_path) is None
    assert rows(capsys.readouterr().out)["x"][0] == "3 x 16 x 16"
    assert read_video(tmp_path / "x_reconstruction.mp4")[1] == 5.0


def test_a_folder_of_unreadable_files_only_is_an_error_that_lists_them(tokenizer, tmp_path):
    for name in ("a.mp4", "b.png"):
        (tmp_path / name).write_bytes(b"torn")
    message = run_here("reconstruct", tmp_path, "--tokenizer", tokenizer, "--output", tmp_path / "out")
    assert message.startswith("error: ") and "a.mp4: needed" in message and "b.png: needed" in message
    assert not (tmp_path / "out").exists()
