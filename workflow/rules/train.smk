# A classifier of your own, and what a bundle is worth. Targets: `snakemake train`, `evaluate`.
# The samples are labelled ones; chunks and embeddings come from the same rules as for any sample.


# A bundle cannot be trained with itself; without this, using one that was trained would be a cycle.
if CONFIG.trained_bundle.resolve() != CONFIG.bundle.resolve():

    rule train:
        input:
            samples=sheet_and_tables,
            manifests=expand(
                f"{RESULTS}/chunks/{{sample}}/manifest.json", sample=SAMPLES
            ),
            embedded=all_embedded,
            bundle=ancient(CONFIG.bundle / "bundle.json"),
        output:
            # Updated, that is not deleted before: a bundle that is there must outlive what fails.
            card=update(CONFIG.trained_bundle / "bundle.json"),
            page=update(CONFIG.trained_bundle / "evaluation.html"),
            json=update(CONFIG.trained_bundle / "evaluation.json"),
        log:
            f"{RESULTS}/logs/train.log",
        benchmark:
            f"{RESULTS}/benchmarks/train.tsv"
        conda:
            "../../environment.yml"
        threads: CONFIG.threads
        params:
            options=CONFIG.options(
                "samples",
                "results",
                "bundle",
                "precision",
                "batch_tokens",
                "min_score",
                "min_viral_fraction",
                "min_called_windows",
                "threads",
                "on_failed_chunks",
                "seed",
                "trained_bundle",
                "device",
                "hidden",
                "dropout",
                "learning_rate",
                "batch",
                "max_epochs",
                "patience",
                "max_per_label",
                "calibration",
            ),
            fingerprint=from_card("fingerprint"),
            version=__version__,
        shell:
            "virnuc-rules train {params.options} --log {log:q}"


rule evaluate:
    input:
        samples=sheet_and_tables,
        manifests=expand(f"{RESULTS}/chunks/{{sample}}/manifest.json", sample=SAMPLES),
        embedded=all_embedded,
        bundle=ancient(CONFIG.bundle / "bundle.json"),
    output:
        page=RESULTS / "evaluation.html",
        json=RESULTS / "evaluation.json",
    log:
        f"{RESULTS}/logs/evaluate.log",
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    params:
        options=CONFIG.options(
            "samples",
            "results",
            "bundle",
            "precision",
            "batch_tokens",
            "min_score",
            "min_viral_fraction",
            "min_called_windows",
            "threads",
            "on_failed_chunks",
            "seed",
        ),
        models=from_card("prediction_fingerprint"),
        version=__version__,
    shell:
        "virnuc-rules evaluate --out {output.page:q} {params.options} --log {log:q}"
