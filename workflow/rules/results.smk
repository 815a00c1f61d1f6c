# The verdicts, and the page.
RESULTS = [f"readouts/{name}.json" for name in names_of("readout")] + [f"grids/{name}.json" for name in config["grid"]]


# Exit code 1: a score is higher or lower than published, which is a result.
rule check:
    input:
        RESULTS,
    output:
        "check.json",
    log:
        "logs/check.log",
    params:
        command=command_of("check", "--json"),
    resources:
        mem_mb=memory_of("check"),
        runtime=minutes_of("check", unknown=60),
    shell:
        "{params.command} > {output} 2> {log} || test $? -eq 1"


rule report:
    input:
        RESULTS,
        "check.json" if ("check", "all") in STEPS else [],
    output:
        "report.html",
    log:
        "logs/report.log",
    params:
        command=command_of("report"),
    resources:
        mem_mb=memory_of("report"),
        runtime=minutes_of("report", unknown=60),
    shell:
        "{params.command} --output {output} > {log} 2>&1"
