# Train your own classifier, and evaluate a bundle. Targets: `snakemake train`, `snakemake evaluate`.
# The samples are labelled; the same rules as for any sample make their chunks and embeddings.


TRAINED = CONFIG.fitting.trained_bundle
NEW_BUNDLE, EVALUATED = EvaluationFiles(TRAINED / EVALUATION), FOLDER.evaluation
IS_TRAINED = is_settled(
    NEW_BUNDLE.done, trained_product, CONFIG.calibrating, CONFIG.fitting
)
IS_EVALUATED = is_settled(EVALUATED.done, evaluation_product, "all", EVALUATED)

# A bundle cannot be trained with itself: with `bundle: TRAINED` the rule would be a cycle.
if TRAINED.resolve() != CONFIG.run.bundle.resolve():

    rule train:
        input:
            samples=[] if IS_TRAINED else sheet_of_training,
            chunks=expand(CHUNKED, sample=SAMPLES),
            embedded=[] if IS_TRAINED else all_embedded,
            bundle=BUNDLE_IF_MADE,
            now=if_stale(IS_TRAINED),
        output:
            # `update`: Snakemake must not delete an older bundle before the job, which may fail.
            card=update(TRAINED / CARD),
            page=update(NEW_BUNDLE.page),
            json=update(NEW_BUNDLE.json),
            done=NEW_BUNDLE.done,
        log:
            FOLDER.log("train"),
        benchmark:
            FOLDER.benchmark("train")
        conda:
            "../../environment.yml"
        threads: CONFIG.compute.threads
        params:
            options=options("train"),
        shell:
            "virnuc-rules train {params.options} --stamp {output.done:q} --log {log:q}"


rule evaluate:
    input:
        samples=[] if IS_EVALUATED else sheet_and_tables,
        chunks=expand(CHUNKED, sample=SAMPLES),
        embedded=[] if IS_EVALUATED else all_scored,
        bundle=BUNDLE_IF_MADE,
        now=if_stale(IS_EVALUATED),
    output:
        page=update(EVALUATED.page),
        json=update(EVALUATED.json),
        done=EVALUATED.done,
    log:
        FOLDER.log("evaluate"),
    conda:
        "../../environment.yml"
    threads: CONFIG.compute.threads
    params:
        options=options("evaluate"),
    shell:
        "virnuc-rules evaluate --out {output.page:q} {params.options} --stamp {output.done:q}"
        " --log {log:q}"
