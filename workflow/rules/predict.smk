# Embeddings to scores, scores to calls.


rule predict:
    input:
        manifest=f"{RESULTS}/chunks/{{sample}}/manifest.json",
        # Ancient: a worker that ran for a new sample is no reason to predict the others again.
        embedded=lambda wildcards: ancient(embedded(wildcards)),
        bundle=ancient(CONFIG.bundle / "bundle.json"),
    output:
        [f"{RESULTS}/{{sample}}/{table}" for table in TABLES],
    log:
        f"{RESULTS}/logs/predict/{{sample}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict/{{sample}}.tsv"
    conda:
        "../../environment.yml"
    params:
        out=lambda wildcards, output: Path(output[0]).parent,
        options=CONFIG.options(
            "results",
            "bundle",
            "precision",
            "batch_tokens",
            "on_failed_chunks",
            "min_score",
            "min_viral_fraction",
            "min_called_windows",
            "prevalence",
        ),
        models=from_card("prediction_fingerprint"),
        version=__version__,
    shell:
        "virnuc-rules predict --sample {wildcards.sample:q} --out {params.out:q}"
        " {params.options} --log {log:q}"
