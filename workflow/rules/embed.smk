# Without persistent models: a job for each chunk, which loads the models itself. The reference.


# One checkpoint for all samples, not one each: where Snakemake 9.27 updates its DAG after a
# checkpoint while other jobs run, it drops jobs and ends with success. Here none can run meanwhile:
# all samples are chunked, the bundle is there, and nothing is embedded yet.
checkpoint chunk_all:
    input:
        manifests=expand(f"{RESULTS}/chunks/{{sample}}/manifest.json", sample=SAMPLES),
        bundle=ancient(CONFIG.bundle / "bundle.json"),
    output:
        touch(f"{STAMPS}/chunked.txt"),


rule embed_chunk:
    input:
        manifest=f"{RESULTS}/chunks/{{sample}}/manifest.json",
        bundle=ancient(CONFIG.bundle / "bundle.json"),
    output:
        stamp=f"{STAMPS}/{{sample}}/{{chunk}}.txt",
    log:
        f"{RESULTS}/logs/embed/{{sample}}/{{chunk}}.log",
    conda:
        "../../environment.yml"
    threads: CONFIG.threads
    params:
        options=CONFIG.options(
            "results",
            "bundle",
            "device",
            "threads",
            "precision",
            "batch_tokens",
            "lease_seconds",
            "load_timeout",
            "on_failed_chunks",
        ),
        fingerprint=from_card("fingerprint"),
        version=__version__,
    shell:
        "virnuc-rules embed --sample {wildcards.sample:q} --chunk {wildcards.chunk}.parquet"
        " {params.options} --stamp {output.stamp:q} --log {log:q}"
