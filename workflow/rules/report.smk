# One page about the run, and files for other tools.


rule report:
    input:
        tables=expand(PREDICTED, sample=SAMPLES),
        viruses=FOLDER.viruses.done,
        sheets=PLAN.edges(PLAN.report(), [SHEET.table.path, *label_tables(SHEET)]),
        bundle=BUNDLE_IF_MADE,
        now=if_stale(PLAN.has_report),
    output:
        page=update(
            report(
                FOLDER.report.page,
                caption="../report/report.rst",
                category="Report",
                labels={"what": "the whole report"},
            )
        ),
        provenance=update(
            report(
                FOLDER.report.provenance,
                caption="../report/provenance.rst",
                category="Provenance",
                labels={"what": "inputs, settings, versions"},
            )
        ),
        scores=update(
            report(
                FOLDER.report.figure("scores", "svg"),
                caption="../report/scores.rst",
                category="Figures",
                labels={"what": "scores of windows"},
            )
        ),
        viral_by_length=update(
            report(
                FOLDER.report.figure("viral_by_length", "svg"),
                caption="../report/viral_by_length.rst",
                category="Figures",
                labels={"what": "viral contigs by length"},
            )
        ),
        calls=update(
            report(
                FOLDER.report.figure("calls", "svg"),
                caption="../report/calls.rst",
                category="Figures",
                labels={"what": "calls of contigs"},
            )
        ),
        more=update(
            [
                *(FOLDER.report.figure(name, "png") for name in FIGURES),
                FOLDER.report.summary,
                FOLDER.report.multiqc_calls,
                FOLDER.report.multiqc_summary,
            ]
        ),
        # `update`: an older page stays if the job fails. Without this output a failed job would
        # count as fine, because its record is gone and all files are there.
        done=FOLDER.report.done,
    log:
        FOLDER.log("report"),
    localrule: True  # takes seconds, and must see the command that the user typed
    conda:
        "../../environment.yml"
    params:
        options=options("report"),  # written into the report
    shell:
        "virnuc-rules report --out {output.page:q} {params.options} --stamp {output.done:q}"
        " --log {log:q}"


# The last rule: a sample whose files cannot be used does not stop the others, but the run fails.
rule check:
    input:
        report=FOLDER.report.done,
    output:
        stamp=FOLDER.checked,
    log:
        FOLDER.log("check"),
    retries: 0
    localrule: True
    conda:
        "../../environment.yml"
    params:
        options=options("check"),
    shell:
        "virnuc-rules check {params.options} --stamp {output.stamp:q} --log {log:q}"
