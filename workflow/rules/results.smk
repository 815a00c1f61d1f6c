# The verdicts, and the page.
RESULTS = [f"readouts/{name}.json" for name in names_of("readout")] + [f"grids/{name}.json" for name in config["grid"]]


# Whatever the verdicts, the workflow goes on to the report. Exit code 1: a score is higher or lower than published; 5: no run is
# judged, as with protocol held-out.
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
        "{params.command} > {output} 2> {log} || case $? in 1|5) ;; *) exit 1 ;; esac"


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
