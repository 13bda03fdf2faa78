"""Transparency of videos, which is composed on white."""

import av
import numpy as np
import pytest
import torch
from numbered import number_of, numbered_frame, remux, write_frames

from toolkit.data import read_video
from toolkit.data.reading.video_file import VideoFile


def test_transparency_is_found_by_a_tag_of_any_case(tmp_path):
    """FFmpeg's copies of a WebM file write it in upper case."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[..., 0] = 255  # a hidden red
    whole = write_frames(tmp_path / "whole.webm", [pixels] * 5, codec="libvpx-vp9", pix_fmt="yuva420p", layout="rgba",
                         options={"auto-alt-ref": "0"})
    path = remux(whole, tmp_path / "copy.webm", metadata={"alpha_mode": "1"})
    with av.open(str(path)) as container:
        assert container.streams.video[0].metadata["ALPHA_MODE"] == "1"
    assert (read_video(path)[0] == 255).all()


@pytest.mark.parametrize(("suffix", "codec"), [("webm", "libvpx-vp9"), ("mkv", "libvpx-vp9"), ("webm", "libvpx")])
def test_transparency_of_webm_is_on_white(tmp_path, suffix, codec):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:32], pixels[32:] = (0, 0, 255, 255), (255, 0, 0, 0)  # blue, and a hidden red
    path = write_frames(tmp_path / f"a.{suffix}", [pixels] * 20, codec=codec, pix_fmt="yuva420p", layout="rgba",
                        options={"auto-alt-ref": "0"})
    for start in (0, 1, 14, 19):
        frames, _ = read_video(path, start=start, num_frames=1)
        assert (frames[0, 36:] == 255).all() and (frames[0, :28].float() - torch.tensor([0, 0, 255])).abs().max() < 8


def test_keyframes_of_the_colour_alone_are_no_place_to_begin(tmp_path):
    """The encoder adds keyframes where the colour changes; those of the opacity, which shows the number, stay."""
    frames = np.full((40, 64, 64, 4), 80, np.uint8)
    for number, frame in enumerate(frames):
        frame[..., 3] = numbered_frame(number)[..., 0]
        frame[::1 + number // 7 % 2, :, :3] = 40 * (number // 7 % 2)
    path = write_frames(tmp_path / "a.webm", frames, codec="libvpx", pix_fmt="yuva420p", layout="rgba",
                        options={"auto-alt-ref": "0", "b": "2M"})
    with av.open(str(path)) as container:
        colour = [number for number, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    assert set(colour) - {0, 12, 24, 36}
    for number in range(40):
        with VideoFile(path) as file:
            assert number_of(255 - file.read([number])[0]) == number
