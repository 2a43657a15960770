# Train your own classifier, and evaluate a bundle. Targets: `snakemake train`, `snakemake evaluate`.
# The samples are labelled; the same rules as for any sample make their chunks and embeddings.


TRAINED = CONFIG.fitting.trained_bundle

# A bundle cannot be trained with itself: with `bundle: TRAINED` the rule would be a cycle.
if TRAINED.resolve() != CONFIG.run.bundle.resolve():

    rule train:
        input:
            samples=sheet_and_tables,
            manifests=expand(MANIFEST, sample=SAMPLES),
            embedded=all_embedded,
            bundle=ancient(BUNDLE),
        output:
            # `update`: Snakemake must not delete an older bundle before the job, which may fail.
            card=update(TRAINED / CARD),
            page=update(TRAINED / EVALUATION),
            json=update(evaluation_json(TRAINED / EVALUATION)),
        log:
            FOLDER.log("train"),
        benchmark:
            FOLDER.benchmark("train")
        conda:
            "../../environment.yml"
        threads: CONFIG.compute.threads
        params:
            options=options("train"),
            fingerprint=from_card("fingerprint"),
            version=__version__,
        shell:
            "virnuc-rules train {params.options} --log {log:q}"


rule evaluate:
    input:
        samples=sheet_and_tables,
        manifests=expand(MANIFEST, sample=SAMPLES),
        embedded=all_embedded,
        bundle=ancient(BUNDLE),
    output:
        page=FOLDER.evaluation,
        json=evaluation_json(FOLDER.evaluation),
    log:
        FOLDER.log("evaluate"),
    conda:
        "../../environment.yml"
    threads: CONFIG.compute.threads
    params:
        options=options("evaluate"),
        models=from_card("prediction_fingerprint"),
        version=__version__,
    shell:
        "virnuc-rules evaluate --out {output.page:q} {params.options} --log {log:q}"
