"""Executors: the programs that execute runs, started by the runner.

`interface` is what the run actor calls. Three kinds implement it: `procedural` starts a command or script for each run;
`one_shot` starts a program that speaks the executor protocol (`messages`) for each run, and `persistent` one for each
session. `program` starts such a program. `environment` has the variables of all of them; `exit_text` explains how a
process ended.
"""
