# The model bundle, where it is missing and the config says from what to make it.


rule prepare_models:
    output:
        card=BUNDLE,
    log:
        FOLDER.log("prepare_models"),
    localrule: True  # it needs the network, which compute nodes often have not
    conda:
        "../../environment.yml"
    params:
        definition=CONFIG.workflow.bundle_definition,
        out=CONFIG.run.bundle,
    shell:
        "virnuc-rules models prepare {params.definition:q} --out {params.out:q} --log {log:q}"
