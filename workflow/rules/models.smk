# The model bundle, where it is missing and the config says from what to make it.


rule prepare_models:
    output:
        card=CONFIG.bundle / "bundle.json",
    log:
        f"{RESULTS}/logs/prepare_models.log",
    localrule: True  # it needs the network, which compute nodes often have not
    conda:
        "../../environment.yml"
    params:
        definition=CONFIG.bundle_definition,
        out=lambda wildcards, output: Path(output.card).parent,
    shell:
        "virnuc-rules models prepare {params.definition:q} --out {params.out:q} --log {log:q}"
