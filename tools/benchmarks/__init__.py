# SPDX-License-Identifier: Apache-2.0
"""Measurements of vswitch beside other switches, interleaved in one run. Standard library only.

    command_line   what `tools/bench` takes; every file in commands/ is one subcommand
    switch_run     one run of `tools/bench switch`
    sandbox        namespaces, processes and scratch files that end with the run, however it ends
    yardstick      the C programs of tools/yardsticks, compiled when needed
    machine        what stands in the header, and what a run cannot do without
    subjects/      a switch each: how it starts, which processes it is made of
    traffic, packets, round_trip, probing      what is sent through a switch, and what is read off
    process_cost   CPU time and memory of the processes that make up a switch
    rounds, samples      round-robin over subjects; medians, stalls, failures
    columns, targets, report      the table, the ratios below it, the JSON document
    sections/      what options add: one GIL hog, floods, a capture, many ports
    nat/           `tools/bench nat`: its subjects, columns, targets, sections
    control/       `tools/bench control`: a crowd of containers, their names, dnsmasq beside

A column is measured for all subjects in turn before the next column, and the round begins with another
subject each time, so that a machine that slows down or speeds up does so for all alike.
"""
