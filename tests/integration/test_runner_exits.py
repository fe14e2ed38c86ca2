"""`--exit-after-runs` and `--exit-when-idle`, as commands."""

from pathlib import Path

from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.errors import EXIT_OK
from fsm_runner.protocol.wire import RunRequest
from tests.support.home import PROFILE, make_home
from tests.support.program import environment, program
from tests.support.runner import open_system

SHORT_POLLS = Timings(poll_timeout_s=0.2)


async def test_a_runner_exits_after_its_run_and_leaves_the_next_one_in_the_queue(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    env = environment(tmp_path / "home", EXIT_AFTER_RUNS="1")
    async with open_system(tmp_path, SHORT_POLLS) as system:
        arguments = ("-x", PROFILE, "-c", system.server.url, "--state-dir", str(tmp_path / "state"))
        async with program(tmp_path, env, *arguments) as runner:
            await runner.said("registering → online")
            runs = [await system.submit("say", text=text) for text in ("first", "second")]
            assert await runner.exit_code() == EXIT_OK
            await runner.said("it has had 1 run (--exit-after-runs 1)")
        assert [(await system.api.run(run.run_id)).status for run in runs] == ["completed", "pending"]
        assert await system.runners() == []


async def test_an_executor_that_waits_for_a_turn_does_not_keep_an_idle_runner(tmp_path: Path) -> None:
    async with open_system(tmp_path, SHORT_POLLS) as system:
        arguments = ("-x", "echo-session", "-c", system.server.url, "--exit-when-idle", "0.5")
        async with program(tmp_path, environment(None), *arguments) as runner:
            await runner.said("registering → online")
            request = RunRequest(type="start_session", parameters={"prompt": "hello"})
            run = await system.api.create_run(request)
            assert await runner.exit_code() == EXIT_OK
            await runner.said("(--exit-when-idle 0.5)")
        assert (await system.api.run(run.run_id)).status == "completed"
        assert await system.api.session_status(run.session_id) == "finished"
