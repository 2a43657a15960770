# Persistent models: one long-lived worker for each device pulls chunks from the queue.


rule serve:
    input:
        manifests=expand(f"{RESULTS}/chunks/{{sample}}/manifest.json", sample=SAMPLES),
        samples=ancient(CONFIG.samples),
        bundle=ancient(CONFIG.bundle / "bundle.json"),
    output:
        stamp=f"{STAMPS}/worker_{{worker}}.txt",
    log:
        f"{RESULTS}/logs/serve/{{worker}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/serve/{{worker}}.tsv"
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    params:
        options=CONFIG.options(
            "samples",
            "results",
            "bundle",
            "device",
            "threads",
            "precision",
            "batch_tokens",
            "cache_clear_interval",
            "lease_seconds",
            "load_timeout",
            "on_failed_chunks",
        ),
        # A function of resources: another runtime is no reason to run again.
        deadline=lambda wildcards, resources: (
            f"--deadline {resources.runtime}" if resources.get("runtime") else ""
        ),
        fingerprint=from_card("fingerprint"),
        version=__version__,
    shell:
        "virnuc-rules serve --worker {wildcards.worker} {params.options} {params.deadline}"
        " --stamp {output.stamp:q} --log {log:q}"
