# One page about the run, and what other tools read.


rule report:
    input:
        tables=expand(
            f"{RESULTS}/{{sample}}/{{table}}.parquet",
            sample=SAMPLES,
            table=["windows", "contigs"],
        ),
        samples=ancient(CONFIG.samples),
        bundle=ancient(CONFIG.bundle / "bundle.json"),
    output:
        page=report(
            RESULTS / "report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"what": "the whole report"},
        ),
        provenance=report(
            RESULTS / "provenance.json",
            caption="../report/provenance.rst",
            category="Provenance",
            labels={"what": "inputs, settings, versions"},
        ),
        scores=report(
            RESULTS / "report/scores.svg",
            caption="../report/scores.rst",
            category="Figures",
            labels={"what": "scores of windows"},
        ),
        viral_by_length=report(
            RESULTS / "report/viral_by_length.svg",
            caption="../report/viral_by_length.rst",
            category="Figures",
            labels={"what": "viral contigs by length"},
        ),
        calls=report(
            RESULTS / "report/calls.svg",
            caption="../report/calls.rst",
            category="Figures",
            labels={"what": "calls of contigs"},
        ),
        others=[
            RESULTS / "report/scores.png",
            RESULTS / "report/viral_by_length.png",
            RESULTS / "report/calls.png",
            RESULTS / "multiqc/virnuc_calls_mqc.json",
            RESULTS / "multiqc/virnuc_summary_mqc.json",
        ],
    log:
        f"{RESULTS}/logs/report.log",
    localrule: True  # seconds, and it names the command that was typed
    conda:
        "../../environment.yml"
    params:
        options=CONFIG.options(*CONFIG.__class__.model_fields),  # it writes them down
        version=__version__,
    shell:
        "virnuc-rules report --out {output.page:q} {params.options} --log {log:q}"
