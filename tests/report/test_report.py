"""The report page and what is beside it, on results of the documented form."""

import base64
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
import pytest
from chunk_folders import manifest_of
from reporting import HOSTILE, make_results
from scipy.special import expit

from virnuc_rules.bundles.verified import Verified
from virnuc_rules.config.model import Config
from virnuc_rules.config.run_folder import FIGURES, RunFolder
from virnuc_rules.errors import ResultError
from virnuc_rules.prediction.decision import SampleCalls
from virnuc_rules.queue.store import Failure
from virnuc_rules.report import data as rundata
from virnuc_rules.report.data import LENGTHS
from virnuc_rules.report.page import _MEANING, Run, read_run, render, warnings, write_report
from virnuc_rules.report.provenance import Provenance
from virnuc_rules.vocabulary import Reason

CALLS = ("virus", "non_viral", "no_call")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_results(tmp_path, {"lake": 30, "gut": 20})


def page_of(run: Run) -> str:
    """Return the page, without its figures."""
    return render(run, run.config.run.results / "report.html", dict.fromkeys(FIGURES, b"<svg/>"))


def rendered(config: Config) -> str:
    return page_of(read_run(config))


def page_data(page: str) -> Any:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match
    return json.loads(match[1])


def rows(config: Config, sample: str, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(config.run.results / sample / table).to_pylist()
    return found


def test_what_is_written(config: Config) -> None:
    folder = RunFolder(config.run.results).report
    write_report(config, folder.page)
    for path in folder.files():
        assert path.stat().st_size > 100
    found = Provenance.model_validate_json((config.run.results / "provenance.json").read_bytes())
    assert [(i.sample, i.sha256) for i in found.inputs] == [("lake", "0" * 64), ("gut", "0" * 64)]
    assert found.bundle_fingerprint and found.versions["torch"] and found.commands
    assert found.config == {
        k: v if not isinstance(v, Path) else str(v) for k, v in config.flat().items()
    }
    assert found.chunking["gut"]["window"] == 500
    assert [(c.device, c.precision, c.verified) for c in found.computed] == [("cpu", "bf16", False)]


def test_every_number_is_that_of_the_tables(config: Config) -> None:
    run = read_run(config)
    for sample in run.samples:
        contigs = rows(config, sample.name, "contigs.parquet")
        windows = rows(config, sample.name, "windows.parquet")
        for call in CALLS:
            assert sample.contig_calls[call] == sum(c["call"] == call for c in contigs)
            assert sample.window_calls[call] == sum(w["call"] == call for w in windows)
        assert sample.reasons == {"no_open_frame": sample.window_calls["no_call"]}
        for call in CALLS[:2]:
            scores = [expit(w["margin"]) for w in windows if w["call"] == call]
            expected, _ = np.histogram(scores, rundata.BINS, (0, 1))
            assert sample.histogram[call].tolist() == expected.tolist()
        for place, (low, high) in enumerate(zip(LENGTHS, [*LENGTHS[1:], 1e12], strict=True)):
            some = [c["call"] for c in contigs if low <= c["length"] < high]
            assert [sample.by_length[call][place] for call in CALLS] == list(map(some.count, CALLS))


@pytest.mark.parametrize(
    ("name", "cutoff", "text"),
    [
        ("conservative", 0.9, "from a probability of 0.9 on (conservative)."),
        ("max_fdr", 0.73, "at most 4 % of those called virus are expected to be false (max_fdr"),
        ("min_*", None, "at least 0.5, and at least 10% of all its windows have a call."),
        ("virnucpro", None, "and their mean score is at least 0.5. With fewer than 1 called"),
    ],
)
def test_the_rule_is_that_of_the_tables(
    config: Config, name: str, cutoff: float | None, text: str
) -> None:
    """Whatever the settings of the report say."""
    for sample in ("lake", "gut"):
        path = RunFolder(config.run.results).sample(sample).calls
        found = SampleCalls.model_validate_json(path.read_bytes())
        made = found.model_copy(update={"calls": name, "cutoff": cutoff})
        path.write_text(made.model_dump_json())
    assert text in rendered(config.replace(max_fdr=0.04, calls="sensitive"))


def test_the_list_has_the_numbers_of_the_contigs(config: Config) -> None:
    contigs = read_run(config).contigs
    tables = [rows(config, name, "contigs.parquet") for name in ("lake", "gut")]
    assert contigs.listed == contigs.total == contigs.with_track == 50
    regions = [
        Counter(region["contig_index"] for region in rows(config, name, "regions.parquet"))
        for name in ("lake", "gut")
    ]
    shown = np.where(contigs.columns["shown"] == rundata.NOT_SHOWN, -1, contigs.columns["shown"])
    keys = contigs.columns["call"] != 0, -shown, -contigs.columns["length"]
    order = list(zip(*(key.tolist() for key in keys), strict=True))
    assert order == sorted(order)
    seen = set()
    for row, name in enumerate(contigs.ids):
        of = {column: values[row] for column, values in contigs.columns.items()}
        contig = tables[of["sample"]][of["contig_index"]]
        seen.add((of["sample"], of["contig_index"]))
        assert name == contig["contig"] and CALLS[of["call"]] == contig["call"]
        for column in ("length", "windows", "called_windows", "viral_windows"):
            assert of[column] == contig[column]
        assert of["regions"] == regions[of["sample"]][of["contig_index"]]
        if contig["margin"] is None:
            assert of["shown"] == rundata.NOT_SHOWN
        else:
            assert of["shown"] / 10_000 == pytest.approx(expit(contig["margin"]), abs=2e-4)
    assert len(seen) == 50


def test_tracks_have_call_and_score_of_every_window(config: Config) -> None:
    contigs = read_run(config).contigs
    tables = [
        {(w["contig_index"], w["window"]): w for w in rows(config, name, "windows.parquet")}
        for name in ("lake", "gut")
    ]
    codes = iter(contigs.track.tolist())
    for row in range(contigs.with_track):
        of = {column: values[row] for column, values in contigs.columns.items()}
        for number in range(1, of["windows"] + 1):
            window, code = tables[of["sample"]].pop((of["contig_index"], number)), next(codes)
            if window["call"] == "no_call":
                assert code == rundata.NO_CALL
                continue
            assert (code >= rundata.VIRAL) == (window["call"] == "virus")
            score = code % rundata.VIRAL / rundata.STEPS
            assert score == pytest.approx(expit(window["margin"]), abs=1 / rundata.STEPS)
    assert tables == [{}, {}] and next(codes, None) is None


def test_ids_cannot_leave_their_place(config: Config) -> None:
    page = rendered(config)
    assert page.count("</script>") == 3 and "<img src=x" not in page and "node<1>" not in page
    assert set(HOSTILE) <= set(page_data(page)["contigs"]["ids"])


def test_nothing_is_loaded_from_elsewhere(config: Config) -> None:
    page = re.sub(r'id="data">.*?</script>', "", rendered(config), flags=re.DOTALL)
    loading = r"<(?:img|link|iframe|script|image|embed|object)[^>]*(?:src|href)="
    assert not re.search(rf"{loading}|url\((?!#)|@import|import\(|fetch\(", page)
    assert "default-src 'none'" in page


def test_links_lead_to_the_files_of_samples_and_of_the_run(config: Config, tmp_path: Path) -> None:
    """From a page in the results, and from one in a folder whose name must be escaped."""
    run, results = read_run(config), config.run.results
    lake, gut = (RunFolder(results).sample(name) for name in ("lake", "gut"))
    made = [lake.tsv("contigs"), lake.viral_fasta, gut.bed, results / "viruses.tsv"]
    for path in made:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    expected = {*made[:2], gut.bed.parent, results / "viruses.tsv"}
    for out in (results / "report.html", tmp_path / 'a "b" #1?%20 <x>' / "ö" / "page.html"):
        page = render(run, out, dict.fromkeys(FIGURES, b"<svg/>"))
        hrefs = [href for href in re.findall('<a href="(.*?)"', page) if "://" not in href]
        targets = [Path(os.path.normpath(out.parent / unquote(href))) for href in hrefs]
        assert set(targets) == expected
        assert all(re.fullmatch(r"[\w./%~-]+", href) for href in hrefs)


def test_page_and_file_have_the_same_figures_and_ids_do_not_collide(config: Config) -> None:
    folder = RunFolder(config.run.results).report
    write_report(config, folder.page)
    page = folder.page.read_text()
    for name in FIGURES:
        svg = folder.figure(name, "svg").read_text()
        assert svg[svg.index("<svg") :] in page
    ids = re.findall(r'<[^>]* id="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 100
    for used in re.findall(r'url\(#(.*?)\)|href="#(.*?)"', page):
        assert "".join(used) in ids
    assert "relative score of a window</text>" in page  # text is text


def test_each_cell_of_the_heat_map_is_that_of_the_table(config: Config) -> None:
    page = rendered(config)
    table = page[page.index("<tbody") : page.index("</tbody>")].split("</tr>")
    for row, name in zip(table, ("lake", "gut"), strict=False):
        assert f">{name}<" in row
        contigs = rows(config, name, "contigs.parquet")
        cells = re.findall(r'<td class="n h(\d)" data-v="(.*?)">([\d,]+) of ([\d,]+)</td>', row)
        expected = []
        for low, high in zip(LENGTHS, [*LENGTHS[1:], 1e12], strict=True):
            calls = [c["call"] for c in contigs if low <= c["length"] < high]
            virus, called = calls.count("virus"), len(calls) - calls.count("no_call")
            if called:
                step = math.ceil(5 * virus / called)
                expected.append((str(step), str(virus / called), f"{virus:,}", f"{called:,}"))
        assert cells == expected


def test_windows_without_a_call_are_explained(config: Config) -> None:
    run = read_run(config)
    page, windows = page_of(run), sum(s.manifest.windows for s in run.samples)
    without = windows - sum(s.called_windows for s in run.samples)
    assert f"{without:,} of {windows:,} ({100 * without / windows:.0f} %) windows" in page
    assert "all six translations have a stop" in page
    assert set(_MEANING) == set(Reason) - {Reason.TOO_FEW_CALLED_WINDOWS}


def test_samples_that_look_odd_are_named(config: Config) -> None:
    run = read_run(config)
    assert warnings(run.samples[0]) == []
    run.samples[0].window_calls.update({"virus": -run.samples[0].called_windows + 29})
    assert [text.split(" ")[0] for text in warnings(run.samples[0])] == ["fewer", "more"]
    assert "1 of 2 samples before you use their numbers (lake)" in page_of(run)


def test_figures_are_the_same_bytes_each_time(config: Config) -> None:
    folder = RunFolder(config.run.results).report
    figures = [folder.figure(name, kind) for name in FIGURES for kind in ("png", "svg")]
    write_report(config, folder.page)
    before = [path.read_bytes() for path in figures]
    write_report(config, folder.page)
    assert before == [path.read_bytes() for path in figures]


def test_samples_without_tables_are_named(config: Config) -> None:
    (config.run.results / "gut" / "windows.parquet").unlink()
    with config.inputs.samples.open("a") as handle:
        handle.write("sea\t/data/sea.fa\n")
    run = read_run(config)
    assert [sample.name for sample in run.samples] == ["lake"]
    assert run.missing["gut"].endswith("gut: no windows.parquet; run `predict` first")
    assert "chunk the sample first" in run.missing["sea"]
    assert "2 of 3 samples are not in this report" in page_of(run)


def test_mistakes_are_one_line(config: Config, command: Callable[..., Any]) -> None:
    options = [f"--{key}={config.flat()[key]}" for key in ("samples", "results", "bundle")]
    table = config.run.results / "gut" / "contigs.parquet"
    table.write_bytes(table.read_bytes()[:-20])
    done = command("report", *options)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"{table}: cannot be read" in done.stderr and "run `predict` again" in done.stderr
    for name in ("gut", "lake"):
        (config.run.results / name / "contigs.parquet").unlink()
    done = command("report", *options)
    assert "no report, as no sample has tables: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and not (config.run.results / "report.html").exists()


def test_tables_of_other_chunks_are_refused(config: Config) -> None:
    path = config.run.results / "chunks" / "gut" / "manifest.json"
    manifest = manifest_of(path.parent)
    path.write_text(manifest.model_copy(update={"contigs": 19}).model_dump_json())
    with pytest.raises(ResultError, match=r"contigs\.parquet: does not belong to the sample"):
        read_run(config)


@pytest.mark.parametrize("name", ["contigs", "windows"])
def test_tables_of_an_older_version_are_refused(config: Config, name: str) -> None:
    path = config.run.results / "gut" / f"{name}.parquet"
    table = pq.read_table(path)
    calls = [call.replace("non_viral", "others") for call in table["call"].to_pylist()]
    column = table.schema.get_field_index("call")
    pq.write_table(table.set_column(column, "call", [calls]), path)
    with pytest.raises(ResultError, match=rf"{name}\.parquet: written by another version; run `pr"):
        read_run(config)


def test_what_a_worker_and_a_failed_chunk_say(config: Config) -> None:
    run = read_run(config)
    run.failures = [
        Failure(
            key="k", task="gut/chunk_000001.parquet", error="<b>boom</b>", traceback="", worker="0",
            host="n1", log="serve/0.log", attempts=2,
        )
    ]  # fmt: skip
    page = page_of(run)
    assert "1 chunk could not be embedded" in page and "&lt;b&gt;boom" in page
    assert "not verified on this type of device" in page
    assert "dnabert_s 1× in 1.0 s" in page and "50.0" in page  # 1000 open frames in 20 s
    assert "none verified against fp32" in page
    run.workers, run.verified = [], Verified()
    assert "a job of its own" in page_of(run)


@pytest.mark.parametrize("demo", [True, False])
def test_a_demo_is_called_one(config: Config, demo: bool) -> None:
    run = read_run(config)
    run.card = run.card.model_copy(update={"demo": demo, "description": "of mine"})
    assert ("DEMO MODEL" in page_of(run)) is demo


def test_a_hundred_thousand_contigs(tmp_path: Path) -> None:
    config = make_results(tmp_path, {"ocean": 100_000})
    run = read_run(config)
    assert run.contigs.listed == run.contigs.with_track == 100_000
    assert len(run.contigs.track) > 500_000
    assert len(page_of(run).encode()) < 12e6


def test_limits_of_the_page(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = read_run(config).contigs
    monkeypatch.setattr(rundata, "MAX_CONTIGS", 40)
    monkeypatch.setattr(rundata, "MAX_WINDOWS", int(everything.columns["windows"][:7].sum()))
    run = read_run(config)
    assert (run.contigs.ids, run.contigs.with_track) == (everything.ids[:40], 7)
    assert run.contigs.track.tolist() == everything.track[: len(run.contigs.track)].tolist()
    page = " ".join(page_of(run).split())
    assert "The table has 40 of 50 contigs" in page and "The first 7 of them have" in page
    monkeypatch.setattr(rundata, "MAX_REGIONS", int(everything.columns["regions"][:3].sum()))
    some = read_run(config).contigs
    assert 3 <= some.with_track < 7 and len(some.regions["end"]) == rundata.MAX_REGIONS
    monkeypatch.setattr(rundata, "MAX_ID_BYTES", 200)
    assert sum(len(name) + 3 for name in read_run(config).contigs.ids) <= 200


def test_the_most_that_a_page_holds_is_below_20_mb() -> None:
    numbers = sum(np.dtype(kind).itemsize for kind in rundata._PACKED.values())
    numbers += rundata.MAX_ANNOTATIONS * 2
    regions = len(rundata._PLACE) * 4 * rundata.MAX_REGIONS
    packed = (numbers * rundata.MAX_CONTIGS + rundata.MAX_WINDOWS + regions) * 4 / 3
    samples = 1000 * 2500  # bytes of a row, see tests/workflow/test_report_browser.py
    assert packed + rundata.MAX_ID_BYTES + rundata.MAX_VALUE_BYTES + samples < 20e6


def test_one_sample_and_one_without_contigs(tmp_path: Path) -> None:
    config = make_results(tmp_path, {"empty": 0})
    write_report(config, config.run.results / "report.html")
    page = (config.run.results / "report.html").read_text()
    assert "1 sample " in page and "0 of 0 windows have no call" in page
    config = make_results(tmp_path / "more", {"empty": 0, "a" * 64: 3})
    write_report(config, config.run.results / "report.html")
    assert read_run(config).contigs.listed == 3


def test_without_a_single_call(tmp_path: Path) -> None:
    config = make_results(tmp_path, {"lake": 5}, called=0.0)
    run = read_run(config)
    assert set(run.contigs.columns["shown"]) == {rundata.NOT_SHOWN}
    assert "0 of 0" in page_of(run)
    codes = base64.b64decode(page_data(page_of(run))["contigs"]["track"])
    assert set(codes) == {rundata.NO_CALL}
    write_report(config, config.run.results / "report.html")
