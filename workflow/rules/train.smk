# A classifier of your own, and what a bundle is worth. Targets: `snakemake train`, `evaluate`.
# The samples are labelled ones; chunks and embeddings come from the same rules as for any sample.


rule train:
    input:
        samples=CONFIG.samples,
        manifests=expand(f"{RESULTS}/chunks/{{sample}}/manifest.json", sample=SAMPLES),
        embedded=all_embedded,
        bundle=ancient(CONFIG.bundle / "bundle.json"),
    output:
        card=CONFIG.trained_bundle / "bundle.json",
        page=CONFIG.trained_bundle / "evaluation.html",
        json=CONFIG.trained_bundle / "evaluation.json",
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
        samples=CONFIG.samples,
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
