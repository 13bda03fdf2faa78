"""benchmarks/report.py: the content of the page, and its behaviour in a real Chromium."""

import re
from itertools import pairwise

import pytest
import torch
from evaluation.browser import Browser, BrowserError
from evaluation.example_results import DEGRADATIONS, FPS, write_example

from toolkit.data import write_video
from toolkit.evaluation.report import write_report

VIDEOS = "[...document.querySelectorAll('video')]"
READY = f"{VIDEOS}.length > 0 && {VIDEOS}.every(v => v.readyState >= 2 && !v.seeking)"
HALF_A_FRAME = 0.5 / FPS
HALF, *_ = TITLES = [title for title, _, _ in DEGRADATIONS.values()]  # best first
DASH = "\N{EN DASH}"
HOSTILE = '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The rows of the city clip, and their page; frame n of the second clip is of grey level n / 16 throughout."""
    folder = tmp_path_factory.mktemp("report")
    rows = write_example(folder, size=64)
    numbered = torch.linspace(-1, 1, 17).reshape(1, 17, 1, 1).expand(3, 17, 64, 64)
    write_video(folder / "videos" / "original_1.mp4", numbered, fps=FPS)
    for row in rows:
        for video in row.get("videos", [])[1:]:
            (folder / video).write_bytes((folder / "videos" / "original_1.mp4").read_bytes())
    write_report(rows, folder / "report.html")
    return rows, folder / "report.html"


@pytest.fixture
def open_page(browser):
    """Opens a page; whatever it writes to the console or asks of the network fails the test."""
    pages = []

    def open_page(path, **options):
        pages.append((browser.open(path, **options), path))
        return pages[-1][0]
    yield open_page
    for page, path in pages:
        problems, requests = page.problems(), page.requests()
        page.close()
        assert problems == []
        assert {url for url in requests if url != "data:video/mp4;base64"} == {path.resolve().as_uri()}


@pytest.fixture
def page(open_page, example):
    page = open_page(example[1])
    page.wait(READY)
    return page


def cells(html: str, column: str) -> dict[str, str]:
    """Row title -> the cell's inner HTML, of one column of the tables."""
    contents = {}
    for table in re.findall(r"<table>.*?</table>", html, re.S):
        keys = re.findall(r'<th scope="col"(?: data-key="(\w+)")?', table)
        if column in keys:
            for line in re.findall(r"<tr class.*?</tr>", table):
                title = re.search(r"</span>(.*?)</th>", line)[1]
                contents[title] = re.findall(r"<td(.*?)</td>", line)[keys.index(column) - 1]
    return contents


def written(rows, folder) -> str:
    write_report(rows, folder / "report.html")
    return (folder / "report.html").read_text()


def row(name: str, kind: str = "tokenizer", **rest) -> dict:
    return {"name": name, "kind": kind, "title": name} | rest


# --- the page's content


def test_no_results_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one result"):
        write_report([], tmp_path / "report.html")


def test_the_page_names_no_address_on_the_network(example):
    assert set(re.findall(r"\w+://[\w./]+", example[1].read_text())) == {"http://www.w3.org/2000/svg"}


def test_a_missing_score_is_a_dash_and_an_infinite_one_is_shown(tmp_path):
    html = written([row("a", scores={"psnr": float("inf"), "ssim": float("nan")}),
                    row("b", scores={"ssim": 0.5})], tmp_path)
    assert cells(html, "psnr")["a"].endswith("∞") and cells(html, "psnr")["b"].endswith(DASH)
    assert cells(html, "ssim")["a"].endswith(DASH) and cells(html, "ssim")["b"].endswith("0.500")


def test_the_best_tokenizer_of_a_column_is_emphasised_and_no_baseline_nor_a_tie(tmp_path):
    html = written([row("a", scores={"psnr": 20, "lpips_alex": 0.3, "bits_per_pixel": 0.08}),
                    row("b", scores={"psnr": 21, "lpips_alex": 0.4, "bits_per_pixel": 0.08}),
                    row("x264", "baseline", scores={"psnr": 30, "lpips_alex": 0.1, "bits_per_pixel": 0.01})], tmp_path)
    best = {column: {title for title, cell in cells(html, column).items() if "best" in cell}
            for column in ("psnr", "lpips_alex", "bits_per_pixel")}
    assert best == {"psnr": {"b"}, "lpips_alex": {"a"}, "bits_per_pixel": set()}
    assert "PSNR ↑" in html and "LPIPS (Alex) ↓" in html


def test_a_score_carries_its_interval_its_mark_and_its_extrapolation(example):
    cell = cells(example[1].read_text(), "rfid")[HALF]
    rfid = example[0][0]["scores"]["rfid"]
    low, high = example[0][0]["intervals"]["rfid"]
    assert f">{rfid:.1f}<sup>" in cell and f"<small>{low:.1f}{DASH}{high:.1f}</small>" in cell
    assert f"N→∞ {example[0][0]['extrapolated']['rfid']:.1f}" in cell
    assert "fewer than 2,000 samples: depends on their number" in example[1].read_text()


def test_the_header_has_every_field_of_the_protocol_and_its_hash(tmp_path):
    protocol = {"size": [128, 128], "metrics": [{"type": "PSNR"}], "data": {"crop": "centre", "seed": 0}}
    html = written([row("a", suite="samples", protocol=protocol, protocol_hash="c0ffee")], tmp_path)
    for text in ("samples", "c0ffee", ">size<", ">128, 128<", ">type PSNR<", ">data.crop<", ">centre<", ">data.seed<"):
        assert text in html


def test_rows_of_several_protocols_have_a_warning(tmp_path):
    html = written([row("a", protocol_hash="h1", scores={"psnr": 20}),
                    row("b", protocol_hash="h1", scores={"psnr": 21}),
                    row("c", protocol_hash="h2", scores={"psnr": 99})], tmp_path)
    assert "measured under different protocols" in html and "best" not in cells(html, "psnr")["c<br><code>h2</code>"]
    assert "best" in cells(html, "psnr")["b<br><code>h1</code>"]


def test_a_video_that_is_missing_broken_or_elsewhere_is_named(tmp_path):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "broken.mp4").write_text("no video")
    (tmp_path / "secret.mp4").write_text("secret")
    html = written([row("a", videos=["gone.mp4", "broken.mp4", "../secret.mp4"])], tmp_path / "page")
    for text in ("gone.mp4 is missing", "broken.mp4 is not a video", "../secret.mp4 is outside the report's folder"):
        assert text in html


def test_error_without_chromium_names_the_install_command(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BrowserError, match="apt-get install -y --no-install-recommends chromium"):
        Browser()


# --- in a browser


def test_hostile_names_are_shown_as_text(open_page, tmp_path):
    write_report([row("a", title=HOSTILE, suite=HOSTILE, protocol={HOSTILE: HOSTILE}, marks={"psnr": HOSTILE},
                      scores={"psnr": 20, "bits_per_pixel": 0.1}, videos=[f"{HOSTILE}.mp4"],
                      codebook={"size": 4, "num_codebooks": 1, "histogram": [3, 1], "digit_entropies": [[0.1, 0.2]]})],
                 tmp_path / "report.html", title=HOSTILE)
    page = open_page(tmp_path / "report.html")
    assert page.evaluate("window.hacked === undefined && document.images.length === 0")
    places = ("h1", "dt", "dd", "tbody th", ".notes li", "#legend > span", "#codebooks h3", "figcaption", ".missing")
    for place in places:
        assert HOSTILE in page.evaluate(f"document.querySelector('{place}').textContent"), place


def test_a_row_of_a_name_alone_makes_a_page(open_page, tmp_path):
    write_report([{"name": "bare"}], tmp_path / "report.html")
    page = open_page(tmp_path / "report.html")
    assert page.evaluate("document.body.textContent.includes('bare')")
    for section in ("viewer", "plots-section", "codebooks-section"):
        assert page.evaluate(f"document.getElementById('{section}').hidden")


def test_plots_show_points_curves_and_levels_at_their_numbers(page, example):
    names = page.evaluate("[...document.querySelectorAll('.plot')].map(p => p.dataset.score)")
    assert names == ["psnr", "ssim", "lpips_alex"]
    counts = page.evaluate("""[...document.querySelectorAll('.plot')].map(p =>
        ['.of-point .shape', '.of-line .curve', '.of-line circle:not(.hit)', '.of-level .level', '.bar']
        .map(s => p.querySelectorAll(s).length))""")
    assert counts == [[5, 2, 12, 1, 4]] * 3  # 4 tokenizers and the thumbnail, 2 codecs of 6 rates, no quantizer
    circles = page.evaluate("""[...document.querySelectorAll('.plot[data-score=psnr] .of-line')].map(g =>
        [...g.querySelectorAll('circle:not(.hit)')].map(c => ['cx', 'cy'].map(a => Number(c.getAttribute(a)))))""")
    level = page.evaluate("Number(document.querySelector('.plot[data-score=psnr] .level').getAttribute('y1'))")
    curves = {r["name"]: [p["psnr"] for p in r["curve"]] for r in example[0] if r.get("curve")}
    for found, psnrs in zip(circles, curves.values(), strict=True):
        steps = [b[0] - a[0] for a, b in pairwise(found)]
        assert steps == pytest.approx([steps[0]] * 5) and steps[0] > 10  # rates in geometric steps, on a log axis
        slope = (found[-1][1] - found[0][1]) / (psnrs[-1] - psnrs[0])
        assert slope < 0  # more is higher up
        assert [y for _, y in found] == pytest.approx([found[0][1] + slope * (p - psnrs[0]) for p in psnrs])
        assert level == pytest.approx(found[0][1] + slope * (29.0 - psnrs[0]))


def test_overlapping_marks_are_moved_side_by_side(open_page, tmp_path):
    scores = {"psnr": 20.0, "bits_per_pixel": 0.1}
    write_report([row(name, scores=scores) for name in "abc"] + [row("far", scores=scores | {"psnr": 30.0})],
                 tmp_path / "report.html")
    page = open_page(tmp_path / "report.html")
    *together, far = page.evaluate(
        "[...document.querySelectorAll('.plot .shape')].map(s => s.transform.baseVal.getItem(0).matrix.e)")
    assert sorted(together) == pytest.approx([far - 10, far, far + 10])


def test_pointing_at_a_mark_shows_its_numbers(page, example):
    page.point_at(".plot[data-score=psnr] [data-row='0'] .shape")
    page.wait("!document.getElementById('tip').hidden")
    scores, (low, high) = example[0][0]["scores"], example[0][0]["intervals"]["psnr"]
    assert page.evaluate("document.getElementById('tip').textContent") == (
        f"{HALF}\nPSNR {scores['psnr']:.4g} dB ({low:.4g} to {high:.4g})\n0.0828 bits/pixel")


def test_codebooks_show_counts_the_even_use_entropies_and_digits(open_page, tmp_path):
    codebook = {"size": 16, "num_codebooks": 1, "histogram": [4, 2, 1, 1], "digits": [2, 8],
                "digit_entropies": [[0.5 * 0.6931471805599453, 3 * 0.6931471805599453]]}
    write_report([row("a", codebook=codebook)], tmp_path / "report.html")
    page = open_page(tmp_path / "report.html")
    text = page.evaluate("document.querySelector('.codebook').textContent")
    assert "entropy 1.75 of at most 3 bits" in text  # 1/2 1 + 1/4 2 + 2 1/8 3; eight tokens tell eight entries apart
    assert "4 of 16 entries used" in text
    line, even = page.evaluate("""[document.querySelector('.counts').getAttribute('d'),
        ['x1', 'x2', 'y1'].map(a => Number(document.querySelector('.even').getAttribute(a)))]""")
    points = [tuple(map(float, p.split())) for p in re.split("[ML]", line)[1:]]
    assert len(points) == 4 and points[2][1] == points[3][1] == pytest.approx(even[2], abs=0.1)  # one of each
    assert points[3][0] - points[1][0] == pytest.approx(points[1][0] - points[0][0], abs=0.2)  # ranks 1, 2, 4
    assert even[1] - even[0] == pytest.approx(3 * (points[1][0] - points[0][0]), abs=0.3)  # ranks 1 to 8
    heights = page.evaluate("[...document.querySelectorAll('.digit rect')].map(r => Number(r.getAttribute('height')))")
    assert heights[0] == pytest.approx(heights[1] / 2)  # half a bit of one, three of three


def test_a_click_on_a_head_sorts_best_first_and_a_second_click_turns_it(page):
    order = ("""(key => { document.querySelector(`th[data-key=${key}] button`).click();
        return [...document.querySelectorAll('table')[0].tBodies[0].rows].map(r => r.cells[0].textContent); })""")
    psnr = page.evaluate(f"{order}('psnr')")
    assert psnr[:3] == ["No quantizer", "x265", "x264"]
    assert page.evaluate(f"{order}('psnr')") == psnr[::-1]
    assert page.evaluate(f"{order}('rfid')")[:4] == TITLES
    assert page.evaluate(f"{order}('rfid')")[:4] == TITLES[::-1]  # the baselines, without one, stay last
    assert page.evaluate("document.querySelector('th[data-key=rfid]').ariaSort") == "descending"


def test_videos_play_in_step_and_begin_again_together(page):
    page.evaluate("document.querySelector('.play').click()")  # no gesture of a user: they are muted
    page.wait(f"{VIDEOS}.every(v => !v.paused)")
    times = page.evaluate(f"""new Promise(resolve => {{ const videos = {VIDEOS}, seen = [];
        const look = () => {{ if (videos.every(v => !v.paused && !v.seeking)) seen.push(videos.map(v => v.currentTime));
            seen.length < 90 ? setTimeout(look, 30) : resolve(seen); }}; look(); }})""")
    assert len(times[0]) == 5
    spread = [max(moment) - min(moment) for moment in times]
    assert max(spread) < HALF_A_FRAME, f"largest {max(spread):.4f} s"
    clock = [moment[0] for moment in times]
    back = [n for n, (a, b) in enumerate(pairwise(clock)) if b < a]
    assert back and clock[back[0]] > 15 / FPS and clock[back[0] + 1] < 3 / FPS  # of 17 frames


def test_a_video_out_of_step_is_corrected_while_playing(page):
    page.evaluate("document.querySelector('[title=\"Speed 0.25\"]').click()")  # a round takes 8.5 s
    page.evaluate("document.querySelector('.play').click()")
    page.wait(f"{VIDEOS}.every(v => !v.paused && v.currentTime > 0.1)")
    page.evaluate(f"{VIDEOS}[2].currentTime += 0.6")
    together = f"{VIDEOS}.every(v => Math.abs(v.currentTime - {VIDEOS}[0].currentTime) < {HALF_A_FRAME})"
    page.wait(f"{VIDEOS}.every(v => !v.seeking) && {together}", seconds=5)
    assert page.evaluate(f"{VIDEOS}[0].currentTime") < 1.7  # and not by beginning again


def test_keys_step_every_video_to_the_same_frame(page):
    page.evaluate("""(() => { const s = document.querySelector('.controls select'); s.value = 1;
        s.dispatchEvent(new Event('change')); document.getElementById('viewer').scrollIntoView(); })()""")
    frames = f"""{VIDEOS}.map(v => {{
        const c = document.createElement('canvas').getContext('2d', {{willReadFrequently: true}});
        c.drawImage(v, 0, 0, 4, 4); return Math.round(c.getImageData(1, 1, 1, 1).data[0] / 255 * 16); }})"""
    page.wait(READY)
    assert page.evaluate(frames) == [0] * 5
    for key, frame in [*[("ArrowRight", n) for n in range(1, 17)], ("ArrowRight", 16), ("ArrowLeft", 15)]:
        page.press(key)
        page.wait(READY)
        assert page.evaluate(frames) == [frame] * 5
        times = page.evaluate(f"{VIDEOS}.map(v => v.currentTime)")
        if frame < 16:  # from the last one Chromium goes on to the video's end, sooner or later
            assert times == pytest.approx([(frame + 0.5) / FPS] * 5, abs=1e-4)
    assert page.evaluate("document.querySelector('output').textContent").startswith("frame 16 of 17")
    page.press("Space")
    page.wait(f"{VIDEOS}.every(v => !v.paused)")
    page.press("Space")
    page.wait(f"{VIDEOS}.every(v => v.paused) && {READY}")
    assert len(set(page.evaluate(frames))) == 1


def test_the_slider_seeks_and_the_speed_is_everyones(page):
    page.evaluate("""(() => { const s = document.querySelector('input[type=range]'); s.value = 9;
        s.dispatchEvent(new Event('input')); document.querySelector('[title="Speed 0.25"]').click(); })()""")
    page.wait(READY)
    assert page.evaluate(f"{VIDEOS}.map(v => v.currentTime)") == pytest.approx([9.5 / FPS] * 5, abs=1e-4)
    assert page.evaluate(f"{VIDEOS}.map(v => v.playbackRate)") == [0.25] * 5


def test_nothing_overflows_in_either_scheme_and_zoom_is_pixelated(open_page, example):
    backgrounds = set()
    for dark in (False, True):
        page = open_page(example[1], dark=dark)
        for pixelated in ("auto", "pixelated"):
            assert page.evaluate("document.documentElement.scrollWidth") == 1280
            assert page.evaluate("[...document.querySelectorAll('.scroll')].every(s => s.scrollWidth <= s.clientWidth)")
            assert page.evaluate(f"getComputedStyle({VIDEOS}[0]).imageRendering") == pixelated
            page.evaluate("document.querySelector('[title^=Zoom]').click()")
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2


def test_a_missing_video_leaves_the_others_playing(open_page, example):
    rows, path = example
    gone = [{**rows[0], "videos": ["videos/gone.mp4"]}, *rows[1:4]]
    write_report(gone, path.with_name("gone.html"))
    page = open_page(path.with_name("gone.html"))
    assert page.evaluate("document.querySelector('.missing').textContent") == "videos/gone.mp4 is missing"
    page.evaluate("document.querySelector('.play').click()")
    page.wait(f"{VIDEOS}.length === 4 && {VIDEOS}.every(v => v.currentTime > 0.3)")
