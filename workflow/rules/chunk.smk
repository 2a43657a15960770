# Contigs to windows, windows to open frames, open frames to chunks.


rule chunk:
    input:
        files=lambda wildcards: SAMPLES[wildcards.sample],
    output:
        manifest=MANIFEST,
    log:
        FOLDER.log("chunk", "{sample}"),
    benchmark:
        FOLDER.benchmark("chunk", "{sample}")
    conda:
        "../../environment.yml"
    params:
        out=lambda wildcards: FOLDER.chunks(wildcards.sample).path,
        options=options("chunk"),
        version=__version__,  # chunk again with a new library: Snakemake does not see its code
    shell:
        "virnuc-rules chunk --sample {wildcards.sample:q} --out {params.out:q} {params.options}"
        " --log {log:q} -- {input.files:q}"
