"""The commands and their flags."""

from typing import Annotated

from typer import Argument, Context, Exit, Option, Typer

from fsm_runner.cli import coordinator, executor, machine
from fsm_runner.cli.options import Flags, option, takes_settings, text_of
from fsm_runner.config.settings import LOCAL_COORDINATOR_URL, load_config, load_state_dir
from fsm_runner.errors import UsageError

app = Typer(
    name="fsm-runner",
    help="Takes runs from an Agent Coordinator, executes them, and reports their results.",
    epilog="Exit codes: 0 success, 1 failure, 2 bad input, 130 exited at once on a third signal.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(machine.app, name="machine")
app.add_typer(executor.app, name="executor")
app.command("coordinator")(coordinator.serve)

CoordinatorUrl = Annotated[
    str | None, option("coordinator_url", help="the coordinator", default_text=LOCAL_COORDINATOR_URL)
]
OtherCoordinatorUrl = Annotated[
    str | None, option("coordinator_url", help="also ask this coordinator", default_text="none")
]
StateDir = Annotated[str | None, option("state_dir")]
Parameters = Annotated[
    list[str] | None, Argument(metavar="KEY=VALUE", help="key=value, key:=json or key=@file.", show_default=False)
]
AgentName = Annotated[
    str | None, Argument(metavar="AGENT", help="The agent; --prompt alone needs none.", show_default=False)
]
Prompt = Annotated[str | None, Option("--prompt", metavar="TEXT", help="The task, the same as prompt=TEXT.")]


@app.callback(invoke_without_command=True)
@takes_settings
def runner(
    context: Context,
    flags: Flags,
    profile_list: Annotated[
        bool, Option("--profile-list", "-l", help="List the profiles and exit.", show_default=False)
    ] = False,
    version: Annotated[bool, Option("--version", help="Print the version and exit.", show_default=False)] = False,
) -> None:
    """Without a command: run the runner until it is stopped (SIGTERM, Ctrl-C).

    A flag wins over its environment variable, that over the same variable in `.env`, that over the default.
    """
    if context.invoked_subcommand is not None:
        if any(flags.values()):
            raise UsageError(
                f"flags before {context.invoked_subcommand!r} belong to the runner: put them after the command"
            )
        return
    if version:
        from fsm_runner import __version__
        from fsm_runner.cli.output import show

        show(__version__)
        return
    if profile_list:
        from fsm_runner.cli.profiles import list_profiles

        list_profiles()
        return
    from fsm_runner.cli.runner import run_runner

    raise Exit(run_runner(load_config(flags)))


@app.command()
def run(
    agent: AgentName = None,
    parameters: Parameters = None,
    prompt: Prompt = None,
    profile: Annotated[
        str | None, Option("--profile", "-x", metavar="NAME", help="[the first profile that has the agent]")
    ] = None,
    workflow: Annotated[
        str | None, Option("--workflow", "-w", metavar="NAME|FILE", help="The workflow that the run follows.")
    ] = None,
    project_dir: Annotated[str | None, option("project_dir")] = None,
    verbose: Annotated[bool, option("verbose")] = False,
) -> None:
    """Run one agent, or a prompt, on this machine, and print the result.

    Data is printed as JSON, text unchanged. The executor's status details go to stderr. The command starts a
    coordinator for this run. Without an AGENT, --profile must name a profile of type autonomous.
    """
    from fsm_runner.cli.run import run_here
    from fsm_runner.cli.submission import work_of

    work = work_of(agent, parameters or [], prompt)
    flags = {"profile": profile, "project_dir": project_dir, "verbose": text_of(verbose)}
    raise Exit(run_here(load_config(flags), profile, work, workflow))


@app.command()
def submit(
    agent: AgentName = None,
    parameters: Parameters = None,
    prompt: Prompt = None,
    session: Annotated[
        str | None, Option("--session", metavar="SESSION", help="Resume this session (ses_…), without AGENT.")
    ] = None,
    profile: Annotated[
        str | None, Option("--profile", "-x", metavar="NAME", help="Only runners with this profile take the run.")
    ] = None,
    wait: Annotated[
        bool, Option("--wait", "-w", help="Wait for the end and print the result.", show_default=False)
    ] = False,
    priority: Annotated[
        str | None, Option("--priority", metavar="N", help="-10 to 10: a step counts as one minute of waiting. [0]")
    ] = None,
    not_before: Annotated[
        str | None,
        Option("--not-before", metavar="TIME", help="No runner claims the run earlier: a time, or 90s, 15m, 2h, 1d."),
    ] = None,
    queue_ttl: Annotated[
        str | None,
        Option("--queue-ttl", metavar="DURATION", help="The run fails if no runner claims it in this time: 90s, 15m."),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        Option("--idempotency-key", metavar="TEXT", help="The same command with the same key starts nothing again."),
    ] = None,
    coordinator_url: CoordinatorUrl = None,
) -> None:
    """Submit an agent's run, a prompt or a session's next turn to a coordinator.

    Prints the ids as JSON, or with --wait the result: data as JSON, text unchanged. If the coordinator does not
    confirm an option of the queue, the run is stopped, and the exit code is 2.
    """
    from fsm_runner.cli.queue_options import QueueFlags
    from fsm_runner.cli.submission import work_of
    from fsm_runner.cli.submit import submit_run

    work = work_of(agent, parameters or [], prompt, session)
    options = QueueFlags(priority=priority, not_before=not_before, queue_ttl=queue_ttl, idempotency_key=idempotency_key)
    raise Exit(submit_run(coordinator_url, work, profile, options, wait=wait))


@app.command()
def runs(
    status: Annotated[
        str | None, Option("--status", "-s", metavar="STATUS", help="Only runs with this status.")
    ] = None,
    agent: Annotated[str | None, Option("--agent", metavar="NAME", help="Only runs of this agent.")] = None,
    runner: Annotated[
        str | None, Option("--runner", metavar="RUNNER", help="Only runs that this runner (rnr_…) has claimed.")
    ] = None,
    tag: Annotated[str | None, Option("--tag", metavar="TAG", help="Only runs that demand this tag.")] = None,
    since: Annotated[
        str | None, Option("--since", metavar="TIME", help="Only runs created later: a time, or 90s, 15m, 2h, 1d ago.")
    ] = None,
    limit: Annotated[str | None, Option("--limit", metavar="N", help="At most this many: the newest.")] = None,
    json: Annotated[bool, Option("--json", help="Print JSON, one run per line.", show_default=False)] = False,
    coordinator_url: CoordinatorUrl = None,
) -> None:
    """List the runs of a coordinator, the oldest first."""
    from fsm_runner.cli.runs import RunChoice, list_runs

    choice = RunChoice(status=status, agent_name=agent, runner_id=runner, tag=tag, since=since, limit=limit)
    list_runs(coordinator_url, choice, as_json=json)


@app.command()
def history(
    name: Annotated[
        str | None, Argument(metavar="RUN|SESSION|runner", help="[the latest runs]", show_default=False)
    ] = None,
    json: Annotated[bool, Option("--json", help="Print JSON, one step per line.", show_default=False)] = False,
    state_dir: StateDir = None,
) -> None:
    """Print the journal of a run, a session or the runner, or the latest runs."""
    from fsm_runner.cli.history import show_history

    show_history(load_state_dir(state_dir), name, as_json=json)


@app.command()
def rerun(
    run: Annotated[str, Argument(metavar="RUN", help="The ended run.", show_default=False)],
    state: Annotated[
        str, Option("--from", metavar="STATE", help="The state of the workflow to begin with.", show_default=False)
    ],
    workflow: Annotated[
        str | None, Option("--workflow", metavar="NAME|FILE", help="[the workflow that the run followed]")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Repeat a run from a state of its workflow on, as a new run, perhaps with a corrected workflow.

    The new run has the parameters of the old one and the values from before the last visit of the state. The runner
    that executed the old run must be running. Prints the ids of the new run as JSON.
    """
    from fsm_runner.cli.rerun import rerun as rerun_here

    rerun_here(load_state_dir(state_dir), run, state, workflow)


@app.command()
def approvals(
    run_id: Annotated[
        str | None, Argument(metavar="[RUN]", help="Print the whole question of this run.", show_default=False)
    ] = None,
    json: Annotated[bool, Option("--json", help="Print JSON, one approval per line.", show_default=False)] = False,
    state_dir: StateDir = None,
    coordinator_url: OtherCoordinatorUrl = None,
) -> None:
    """List the approvals for which workflows wait."""
    from fsm_runner.cli.approvals import list_approvals

    raise Exit(list_approvals(load_state_dir(state_dir), coordinator_url, run_id, as_json=json))


@app.command()
def approve(
    run_id: Annotated[str, Argument(metavar="RUN", show_default=False)],
    deny: Annotated[bool, Option("--deny", help="Deny instead.", show_default=False)] = False,
    comment: Annotated[str | None, Option("--comment", metavar="TEXT", help="A text for the workflow.")] = None,
    state_dir: StateDir = None,
    coordinator_url: OtherCoordinatorUrl = None,
) -> None:
    """Approve what a run's workflow asks, or deny it.

    Exit code 1 if an earlier decision counts, the deadline has passed, or the decision is refused; 2 if the run waits
    for no approval.
    """
    from fsm_runner.cli.approvals import decide

    decide(load_state_dir(state_dir), coordinator_url, run_id, approved=not deny, comment=comment or "")


@app.command()
def health(state_dir: StateDir = None) -> None:
    """Check the runners on this machine. Exit code 1 if one is unhealthy, or if there is none."""
    from fsm_runner.cli.health import show_health

    raise Exit(show_health(load_state_dir(state_dir)))


@app.command()
def stop(
    name: Annotated[str, Argument(metavar="RUN|SESSION", show_default=False)], coordinator_url: CoordinatorUrl = None
) -> None:
    """Stop a run, or a session and its waiting executor."""
    from fsm_runner.cli import runs

    runs.stop(coordinator_url, name)
