# The model bundle, where it is missing and the config has a `bundle_definition`.


rule prepare_models:
    output:
        card=BUNDLE,
    log:
        FOLDER.log("prepare_models"),
    localrule: True  # needs the network, which compute nodes often lack
    conda:
        "../../environment.yml"
    params:
        definition=CONFIG.workflow.bundle_definition,
        out=CONFIG.run.bundle,
    shell:
        "virnuc-rules models prepare {params.definition:q} --out {params.out:q} --log {log:q}"
