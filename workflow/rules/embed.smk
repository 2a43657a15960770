# Without persistent models: a job for each chunk, which loads the models itself. The reference.


checkpoint list_chunks:
    input:
        manifest=f"{RESULTS}/chunks/{{sample}}/manifest.json",
    output:
        chunks=f"{RESULTS}/queue/stamps/{{sample}}/chunks.txt",
    log:
        f"{RESULTS}/logs/embed/{{sample}}/chunks.log",
    conda:
        "../../environment.yml"
    shell:
        r"sed -nE 's/.*(chunk_[0-9]+)[.]parquet.*/\1/p' {input.manifest:q}"
        " > {output.chunks:q} 2> {log:q}"


rule embed_chunk:
    input:
        manifest=f"{RESULTS}/chunks/{{sample}}/manifest.json",
        bundle=ancient(CONFIG.bundle / "bundle.json"),
    output:
        stamp=f"{RESULTS}/queue/stamps/{{sample}}/{{chunk}}.txt",
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
        fingerprint=CARD.fingerprint,
        version=__version__,
    shell:
        "virnuc-rules embed --sample {wildcards.sample:q} --chunk {wildcards.chunk}.parquet"
        " {params.options} --stamp {output.stamp:q} --log {log:q}"
