# Contigs to windows, windows to open frames, open frames to chunks.


rule chunk:
    input:
        files=lambda wildcards: SAMPLES[wildcards.sample],
    output:
        manifest=f"{RESULTS}/chunks/{{sample}}/manifest.json",
    log:
        f"{RESULTS}/logs/chunk/{{sample}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/chunk/{{sample}}.tsv"
    conda:
        "../../environment.yml"
    params:
        out=lambda wildcards, output: Path(output.manifest).parent,
        options=CONFIG.options(
            "window", "chunk_size", "min_length", "max_ambiguous", "duplicate_ids"
        ),
        version=__version__,  # a new library chunks anew: Snakemake does not see its code
    shell:
        "virnuc-rules chunk {input.files:q} --sample {wildcards.sample:q}"
        " --out {params.out:q} {params.options} --log {log:q}"
