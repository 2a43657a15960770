# The viral sequences of all samples in one table and one FASTA file.


rule collect:
    input:
        tables=expand(PREDICTED, sample=SAMPLES),
        annotations=PLAN.edges(PLAN.viruses(), ANNOTATIONS),
        now=if_stale(PLAN.has_viruses),
    output:
        # See `report` for `update` and `done`.
        files=update(FOLDER.viruses.files()),
        done=FOLDER.viruses.done,
    log:
        FOLDER.log("collect"),
    localrule: True  # reads less than `report`
    conda:
        "../../environment.yml"
    params:
        options=options("collect"),
    shell:
        "virnuc-rules collect {params.options} --stamp {output.done:q} --log {log:q}"
