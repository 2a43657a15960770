# One page about the run, and files for other tools.


rule report:
    input:
        tables=expand(
            [TABLES.parquet("windows"), TABLES.parquet("contigs")], sample=SAMPLES
        ),
        samples=ancient(CONFIG.inputs.samples),
        bundle=ancient(BUNDLE),
    output:
        page=report(
            FOLDER.report.page,
            caption="../report/report.rst",
            category="Report",
            labels={"what": "the whole report"},
        ),
        provenance=report(
            FOLDER.report.provenance,
            caption="../report/provenance.rst",
            category="Provenance",
            labels={"what": "inputs, settings, versions"},
        ),
        scores=report(
            FOLDER.report.figure("scores", "svg"),
            caption="../report/scores.rst",
            category="Figures",
            labels={"what": "scores of windows"},
        ),
        viral_by_length=report(
            FOLDER.report.figure("viral_by_length", "svg"),
            caption="../report/viral_by_length.rst",
            category="Figures",
            labels={"what": "viral contigs by length"},
        ),
        calls=report(
            FOLDER.report.figure("calls", "svg"),
            caption="../report/calls.rst",
            category="Figures",
            labels={"what": "calls of contigs"},
        ),
        more=[
            *(FOLDER.report.figure(name, "png") for name in FIGURES),
            FOLDER.report.multiqc_calls,
            FOLDER.report.multiqc_summary,
        ],
    log:
        FOLDER.log("report"),
    localrule: True  # takes seconds, and must see the command that the user typed
    conda:
        "../../environment.yml"
    params:
        options=options("report"),  # written into the report
        version=__version__,
    shell:
        "virnuc-rules report --out {output.page:q} {params.options} --log {log:q}"
