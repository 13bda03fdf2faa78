"""The tables of results, and the page of benchmarks/report.py: its content, and its behaviour in a real Chromium."""

import json
import math
import re
from itertools import pairwise

import pytest
import torch
from evaluation.browser import Browser, BrowserError, Page
from evaluation.running import FOLDER, run_here
from training.tiny import stripes

from toolkit.data import write_video
from toolkit.evaluation.report import write_report
from toolkit.evaluation.table import cells_of, insert_table, markdown, rows_of_folder

VIDEOS = "[...document.querySelectorAll('video')]"
READY = f"{VIDEOS}.length > 0 && {VIDEOS}.every(v => v.readyState >= 2 && !v.seeking)"
FPS = 8.0
HALF_A_FRAME = 0.5 / FPS
DASH = "\N{EN DASH}"
HOSTILE = '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'
FRONT = FOLDER.parent / "README.md"
FRONT_HEADINGS = ("bits/pixel", "PSNR (dB)", "SSIM", "LPIPS (VGG)", "rFID", "rFVD", "codes used (%)")
README = (FOLDER / "README.md").read_text()
COMMITTED = sorted(path.name for path in (FOLDER / "results").iterdir() if path.is_dir() and rows_of_folder(path))


@pytest.mark.parametrize("suite", COMMITTED)
def test_the_readmes_table_is_made_of_the_committed_rows(suite):
    rows = rows_of_folder(FOLDER / "results" / suite)
    assert insert_table(README, suite, markdown(rows)) == README
    front = FRONT.read_text()
    assert suite not in front or insert_table(front, suite, markdown(rows, FRONT_HEADINGS)) == front
    for row in rows:
        json.dumps(row, allow_nan=False)
        assert (row["kind"] in ("tokenizer", "baseline")) and row["protocol_hash"] == rows[0]["protocol_hash"]
    assert {"thumbnail", "x264", "x265"} <= {row["name"] for row in rows}  # a number without them says nothing
    assert any(row["kind"] == "baseline" and row["scores"].get("bits_per_pixel") is None for row in rows)


def test_the_readme_has_a_place_for_the_sample_suites_table():
    assert insert_table(README, "samples_video", "new").count("\nnew\n") == 1
    with pytest.raises(ValueError, match="no markers"):
        insert_table(README, "nothing", "new")


def measured(name: str, **changes) -> dict:
    """A row as run.py writes it, of round numbers."""
    protocol = {"dataset": "d", "split": "s", "num_frames": 1, "size": 8, "resize": "r", "crop": "c"}
    return {"name": name, "title": name.upper(), "kind": "tokenizer", "order": 0, "protocol_hash": "abc",
            "protocol": protocol, "scores": {"psnr": 20.0, "bits_per_pixel": 0.25, "rfid": 5.0}, "marks": {},
            "intervals": {"psnr": [18.0, 22.0]}, "num_samples": 9, "num_blocks": 3, "suite": "suite",
            "parameters": {"encoder": 10**6, "decoder": 10**6}} | changes


def test_cells_have_intervals_marks_and_dashes():
    header, cells = cells_of([measured("a", marks={"rfid": "few samples"}), measured("b", scores={"psnr": 1.0})])
    assert header == ["", "bits/pixel", "PSNR (dB)", "rFID", "parameters (M)"]
    assert cells == [["A", "0.2500", "20.00 \N{PLUS-MINUS SIGN} 2.00", "5.0\N{DAGGER}", "2.00"],
                     ["B", "-", "1.00 \N{PLUS-MINUS SIGN} 2.00", "-", "2.00"]]


def test_markdown_is_a_table_with_footnotes():
    text = markdown([measured("a", marks={"rfid": "few samples"}, unreadable={"x.mp4": "torn"})])
    lines = text.splitlines()
    assert lines[0].startswith("|  | bits/pixel |") and lines[1].count("---") == lines[0].count("|") - 1
    assert "| A* |" in text and "x.mp4" in text and "fewer than 2,000" in text and "Protocol abc" in text
    text = markdown([measured("a", extrapolated={"rfid": 3.25})], ["rFID"])
    assert "| A | 5.0 (\N{INFINITY}: 3.2) |" in text and "arXiv:1911.07023" in text


def test_rows_are_ordered_by_their_run_with_baselines_last(tmp_path):
    for number, (name, kind) in enumerate([("z", "tokenizer"), ("b", "tokenizer"), ("a", "baseline")]):
        (tmp_path / f"{name}.json").write_text(json.dumps(measured(name, kind=kind, order=number)))
    (tmp_path / "other.json").write_text("{}")
    assert [row["name"] for row in rows_of_folder(tmp_path)] == ["z", "b", "a"]


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The committed rows and their page; frame n of a tokenizer's second clip is of grey level n / 16 throughout."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "videos").mkdir()
    numbered = torch.linspace(-1, 1, 17).reshape(1, 17, 1, 1).expand(3, 17, 64, 64)
    rows = rows_of_folder(FOLDER / "results" / "samples_video")
    for number, row in enumerate(rows):
        row["extrapolated"] = {"rfid": 0.75 * row["scores"]["rfid"]}
        if row["kind"] == "baseline":
            row |= {"videos": [], "original_videos": [], "intervals": {}}
        for video in (*row["videos"], *row["original_videos"]):
            first = video.endswith("0.mp4")
            pixels = stripes(number, num_frames=17, height=64, width=64) if first else numbered
            write_video(folder / video, pixels, fps=FPS)
    by_name = {row["name"]: row for row in rows}
    by_name["thumbnail"]["curve"] = []
    by_name["no_quantizer"] |= {"parameters": {}, "throughput": {}, "peak_memory_gib": None}
    del by_name["no_quantizer"]["scores"]["rfid"]
    write_report(rows, folder / "report.html")
    return rows, folder / "report.html"


@pytest.fixture
def open_page(browser):
    """Opens a page; whatever it writes to the console or asks of the network fails the test."""
    pages = {}

    def open_page(path, **options):
        page = Page(browser, path, **options)
        pages[page] = path.resolve().as_uri()
        return page
    yield open_page
    for page, address in pages.items():
        problems, requests = page.problems(), page.requests()
        page.close()
        assert problems == [] and set(requests) - {"data:video/mp4;base64"} == {address}


@pytest.fixture
def write(tmp_path):
    """Writes the page of some rows."""
    def write(*rows, **options):
        write_report(rows, tmp_path / "page" / "report.html", **options)
        return tmp_path / "page" / "report.html"
    return write


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


def row(name: str, kind: str = "tokenizer", **rest) -> dict:
    return {"name": name, "kind": kind, "title": name} | rest


def test_no_results_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one result"):
        write_report([], tmp_path / "report.html")


@pytest.mark.parametrize(("content", "words"), [
    ({"scores": {"psnr": "20.0"}}, r", row bad: scores\.psnr needs a number, got '20\.0'"),
    ({"intervals": {"psnr": None}}, r", row bad: intervals\.psnr needs \[low, high\], got None"),
    ({"intervals": {"psnr": [1, "2"]}}, r", row bad: intervals\.psnr needs \[low, high\], got \[1, '2'\]"),
    ({"parameters": {"encoder": "many"}}, r", row bad: parameters\.encoder needs a number, got 'many'"),
    ({"throughput": {"fps": "fast"}}, r", row bad: throughput\.fps needs a number, got 'fast'"),
    ("{", " is not JSON"), ("[1]", " needs rows .* got 1"), ('{"scores": [1]}', " needs rows with objects as scores")])
def test_an_edited_row_is_one_error_that_names_the_file_and_the_row(tmp_path, content, words):
    file = tmp_path / "edited.json"
    file.write_text(content if isinstance(content, str) else json.dumps([measured("fine"), measured("bad") | content]))
    assert re.match(rf"error: .*edited\.json{words}.*\.$", run_here(file, script="report.py"))
    assert not (tmp_path / "report.html").exists()


def test_the_page_names_no_address_on_the_network(example):
    assert set(re.findall(r"\w+://[\w./]+", example[1].read_text())) == {"http://www.w3.org/2000/svg"}


def test_a_missing_score_is_a_dash_and_an_infinite_one_is_shown(write):
    html = write(row("a", scores={"psnr": math.inf, "ssim": math.nan}), row("b", scores={"ssim": 0.5})).read_text()
    assert cells(html, "psnr")["a"].endswith("∞") and cells(html, "psnr")["b"].endswith(DASH)
    assert cells(html, "ssim")["a"].endswith(DASH) and cells(html, "ssim")["b"].endswith("0.500")


def test_the_best_tokenizer_of_a_column_is_emphasised_and_no_baseline_nor_a_tie(write):
    columns = ("psnr", "lpips_alex", "bits_per_pixel")
    a, b, x264 = (dict(zip(columns, scores, strict=True)) for scores in ((20, 0.3, 0.08), (21, 0.4, 0.08),
                                                                         (30, 0.1, 0.01)))
    html = write(row("a", scores=a), row("b", scores=b), row("x264", "baseline", scores=x264)).read_text()
    best = [{title for title, cell in cells(html, column).items() if "best" in cell} for column in columns]
    assert best == [{"b"}, {"a"}, set()]
    assert "PSNR ↑" in html and "LPIPS (Alex) ↓" in html


def test_a_score_carries_its_interval_its_mark_and_its_extrapolation(example):
    row, html = example[0][0], example[1].read_text()
    cell, (low, high) = cells(html, "rfid")[row["title"]], row["intervals"]["rfid"]
    assert f">{row['scores']['rfid']:.1f}<sup>" in cell and f"<small>{low:.1f}{DASH}{high:.1f}</small>" in cell
    assert f"N→∞ {row['extrapolated']['rfid']:.1f}" in cell
    assert "fewer than 2,000 clips or images: depends on their number" in html
    assert len(cells(html, "encoder")) == len(example[0]) - 1  # the row without costs is in the first table only


def test_the_header_has_every_field_of_the_protocol_and_its_hash(write):
    protocol = {"size": [128, 128], "metrics": [{"type": "PSNR"}], "data": {"crop": "centre", "seed": 0}}
    html = write(row("a", suite="samples", protocol=protocol, protocol_hash="c0ffee")).read_text()
    for text in ("samples", "c0ffee", ">size<", ">128, 128<", ">type PSNR<", ">data.crop<", ">centre<", ">data.seed<"):
        assert text in html


def test_rows_of_several_protocols_have_a_warning(write):
    html = write(*(row(name, protocol_hash=code, scores={"psnr": psnr}) for name, code, psnr in (
        ("a", "h1", 20), ("b", "h1", 21), ("c", "h2", 99)))).read_text()
    assert "measured under different protocols" in html and "best" not in cells(html, "psnr")["c<br><code>h2</code>"]
    assert "best" in cells(html, "psnr")["b<br><code>h1</code>"]


def test_a_video_that_is_missing_broken_or_elsewhere_is_named(write, tmp_path):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "broken.mp4").write_text("no video")
    (tmp_path / "secret.mp4").write_text("secret")
    html = write(row("a", videos=["gone.mp4", "broken.mp4", "../secret.mp4"])).read_text()
    for text in ("gone.mp4 is missing", "broken.mp4 is not a video", "../secret.mp4 is outside the report's folder"):
        assert text in html


def test_error_without_chromium_names_the_install_command(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BrowserError, match="apt-get install -y --no-install-recommends chromium"):
        Browser()


def test_hostile_names_are_shown_as_text(open_page, write):
    codebook = {"size": 4, "num_codebooks": 1, "histogram": [3, 1], "digit_entropies": [[0.1, 0.2]]}
    page = open_page(write(row(
        "a", title=HOSTILE, suite=HOSTILE, protocol={HOSTILE: HOSTILE}, marks={"psnr": HOSTILE}, codebook=codebook,
        scores={"psnr": 20, "bits_per_pixel": 0.1}, videos=[f"{HOSTILE}.mp4"]), title=HOSTILE))
    assert page.evaluate("window.hacked === undefined && document.images.length === 0")
    places = ("h1", "dt", "dd", "tbody th", ".notes li", "#legend > span", "#codebooks h3", "figcaption", ".missing")
    for place in places:
        assert HOSTILE in page.evaluate(f"document.querySelector('{place}').textContent"), place


def test_a_row_of_a_name_alone_makes_a_page(open_page, write):
    page = open_page(write({"name": "bare"}))
    assert page.evaluate("document.body.textContent.includes('bare')")
    for section in ("viewer", "plots-section", "codebooks-section"):
        assert page.evaluate(f"document.getElementById('{section}').hidden")


def test_plots_show_points_curves_and_levels_at_their_numbers(page, example):
    counts = page.evaluate("""[...document.querySelectorAll('.plot')].map(p => [p.dataset.score,
        ['.of-point .shape', '.of-line .curve', '.of-line circle:not(.hit)', '.of-level .level', '.bar']
        .map(s => p.querySelectorAll(s).length)])""")
    expected = [5, 2, 8, 1, 4]  # 4 tokenizers and the thumbnail, 2 codecs of 4 rates, no quantizer
    assert counts == [[name, expected] for name in ("psnr", "ssim", "lpips_alex")]
    circles = page.evaluate("""[...document.querySelectorAll('.plot[data-score=psnr] .of-line')].map(g =>
        [...g.querySelectorAll('circle:not(.hit)')].map(c => ['cx', 'cy'].map(a => Number(c.getAttribute(a)))))""")
    level = page.evaluate("Number(document.querySelector('.plot[data-score=psnr] .level').getAttribute('y1'))")
    unquantized = next(row["scores"]["psnr"] for row in example[0] if row["name"] == "no_quantizer")
    curves = [row["curve"] for row in example[0] if len(row["curve"]) > 1]
    for found, curve in zip(circles, curves, strict=True):
        rates, psnrs = [math.log(point["bits_per_pixel"]) for point in curve], [point["psnr"] for point in curve]
        (left, bottom), (right, top) = found[0], found[-1]
        width, height = (right - left) / (rates[-1] - rates[0]), (top - bottom) / (psnrs[-1] - psnrs[0])
        assert width > 10 and height < 0  # on a log axis; more is higher up
        assert [x for x, _ in found] == pytest.approx([left + width * (rate - rates[0]) for rate in rates])
        assert [y for _, y in found] == pytest.approx([bottom + height * (psnr - psnrs[0]) for psnr in psnrs])
        assert level == pytest.approx(bottom + height * (unquantized - psnrs[0]))


def test_overlapping_marks_are_moved_side_by_side(open_page, write):
    rows = [row(name, scores={"psnr": psnr, "bits_per_pixel": 0.1}) for name, psnr in zip("abcd", (20, 20, 20, 30),
                                                                                          strict=True)]
    page = open_page(write(*rows))
    *together, far = page.evaluate(
        "[...document.querySelectorAll('.plot .shape')].map(s => s.transform.baseVal.getItem(0).matrix.e)")
    assert sorted(together) == pytest.approx([far - 10, far, far + 10])


def test_pointing_at_a_mark_shows_its_numbers(page, example):
    page.point_at(".plot[data-score=psnr] [data-row='0'] .shape")
    page.wait("!document.getElementById('tip').hidden")
    scores, (low, high) = example[0][0]["scores"], example[0][0]["intervals"]["psnr"]
    assert page.evaluate("document.getElementById('tip').textContent") == (
        f"{example[0][0]['title']}\nPSNR {scores['psnr']:.4g} dB ({low:.4g} to {high:.4g})\n"
        f"{scores['bits_per_pixel']:.4g} bits/pixel")


def test_codebooks_show_counts_the_even_use_entropies_and_digits(open_page, write):
    codebook = {"size": 16, "num_codebooks": 1, "histogram": [4, 2, 1, 1], "digits": [2, 8],
                "digit_entropies": [[0.5 * math.log(2), 3 * math.log(2)]]}
    page = open_page(write(row("a", codebook=codebook)))
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


def test_a_click_on_a_head_sorts_best_first_and_a_second_click_turns_it(page, example):
    def sorted_by(score: str) -> list[str]:
        page.click(f"th[data-key={score}] button")
        return page.evaluate("[...document.querySelector('table').tBodies[0].rows].map(r => r.cells[0].textContent)")

    scores = {score: {row["title"]: row["scores"][score] for row in example[0] if score in row["scores"]}
              for score in ("psnr", "rfid")}
    by_psnr, by_rfid = (sorted(values, key=values.get) for values in scores.values())
    assert sorted_by("psnr") == by_psnr[::-1] and sorted_by("psnr") == by_psnr
    unscored = [row["title"] for row in example[0] if row["name"] == "no_quantizer"]  # it stays last
    assert sorted_by("rfid") == by_rfid + unscored and sorted_by("rfid") == by_rfid[::-1] + unscored
    assert page.evaluate("document.querySelector('th[data-key=rfid]').ariaSort") == "descending"


def test_videos_play_in_step_and_begin_again_together(page):
    page.click(".play")  # no gesture of a user: they are muted
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
    page.click("[title='Speed 0.25']")  # a round takes 8.5 s
    page.click(".play")
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
        s.dispatchEvent(new Event('input')); })()""")
    page.click("[title='Speed 0.25']")
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
            page.click("[title^=Zoom]")
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2


def test_a_missing_video_leaves_the_others_playing(open_page, example):
    rows, path = example
    gone = [{**rows[0], "videos": ["videos/gone.mp4"]}, *rows[1:4]]
    write_report(gone, path.with_name("gone.html"))
    page = open_page(path.with_name("gone.html"))
    assert page.evaluate("document.querySelector('.missing').textContent") == "videos/gone.mp4 is missing"
    page.click(".play")
    page.wait(f"{VIDEOS}.length === 4 && {VIDEOS}.every(v => v.currentTime > 0.3)")
