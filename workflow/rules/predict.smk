# Embeddings to scores, scores to calls.


rule predict:
    input:
        manifest=MANIFEST,
        # Ancient: a worker that ran for a new sample must not make older samples run again.
        embedded=lambda wildcards: ancient(embedded(wildcards)),
        bundle=ancient(BUNDLE),
    output:
        TABLES.files(),
    log:
        FOLDER.log("predict", "{sample}"),
    benchmark:
        FOLDER.benchmark("predict", "{sample}")
    conda:
        "../../environment.yml"
    params:
        out=lambda wildcards, output: FOLDER.sample(wildcards.sample).path,
        options=options("predict"),
        models=from_card("prediction_fingerprint"),
        version=__version__,
    shell:
        "virnuc-rules predict --sample {wildcards.sample:q} --out {params.out:q}"
        " {params.options} --log {log:q}"
