"""The seven tools: names, parameters and descriptions for a language model (protocol.md, section 4).

A Struct defines a tool's arguments. Their JSON Schema and their validation are derived from it.
"""

from typing import Annotated, Any, Generic, TypeVar

import msgspec

from fsm_runner.mcp_server.results import ToolFailure
from fsm_runner.protocol.wire import ExecutionMode, JsonObject


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of a tool without parameters."""


Parameters = Annotated[
    dict[str, Any],
    msgspec.Meta(
        description="The agent's input: a JSON object that matches the agent's parameters_schema from"
        ' list_agent_blueprints. An agent without a parameters_schema takes {"prompt": "..."}. At most 100,000'
        " characters as JSON."
    ),
]
Mode = Annotated[
    ExecutionMode,
    msgspec.Meta(
        description='"sync": wait until the session has ended its turn, at most 600 seconds, and return its result.'
        ' "async_poll": return at once; query later with get_agent_session_status and get_agent_session_result.'
        ' "async_callback": return at once; the calling session is resumed with the result once it exists.'
    ),
]
SessionId = Annotated[
    str, msgspec.Meta(min_length=1, description="The session's id, as start_agent_session returned it (ses_...).")
]


class StartSession(Arguments, frozen=True):
    parameters: Parameters
    agent_name: Annotated[
        str | None,
        msgspec.Meta(description="The agent, by its name in list_agent_blueprints. The default is a general agent."),
    ] = None
    project_dir: Annotated[
        str | None, msgspec.Meta(description="Absolute path of the working directory. The default is the runner's.")
    ] = None
    mode: Mode = "sync"


class ResumeSession(Arguments, frozen=True):
    session_id: SessionId
    parameters: Parameters
    mode: Mode = "sync"


class OneSession(Arguments, frozen=True):
    session_id: SessionId


Form = TypeVar("Form", bound=Arguments)


class Tool(msgspec.Struct, Generic[Form], frozen=True):
    name: str
    description: str
    arguments: type[Form]
    read_only: bool = True
    destructive: bool = False

    @property
    def input_schema(self) -> JsonObject:
        schema = msgspec.json.schema(self.arguments)["$defs"][self.arguments.__name__]
        # Title and description are the Struct's name and docstring, which are for developers.
        return {key: value for key, value in schema.items() if key not in {"title", "description"}}

    def decode(self, arguments: JsonObject) -> Form:
        """Return the arguments as the Struct. Raises `ToolFailure` that names the wrong argument."""
        try:
            # Python's JSON decoder accepts text and nesting that the coordinator could not read.
            msgspec.json.encode(arguments)
            return msgspec.convert(arguments, self.arguments)
        except (msgspec.ValidationError, ValueError, OverflowError, RecursionError) as defect:
            raise ToolFailure(f"Invalid arguments for {self.name}: {defect}") from None


LIST_BLUEPRINTS = Tool(
    "list_agent_blueprints",
    "Lists the agents that start_agent_session can start: name, description, type, tags, parameters_schema (of the"
    " agent's input) and output_schema (of its result_data). An agent of type procedural runs one command and cannot be"
    " resumed.",
    Arguments,
)
LIST_SESSIONS = Tool(
    "list_agent_sessions",
    "Lists all agent sessions with id, status, agent and times. Status: pending (not started), running, idle (its turn"
    " is done, it can be resumed), finished, failed or stopped.",
    Arguments,
)
START = Tool(
    "start_agent_session",
    "Starts a new session of an agent. In mode sync (the default) it waits for the end and returns"
    " {session_id, result_text, result_data}; result_text is truncated to 50,000 characters. In the modes async_poll"
    ' and async_callback it returns {session_id, status: "pending"} at once. A task of more than 600 seconds needs one'
    " of these two modes. A session that fails is returned as {error, session_id}.",
    StartSession,
    read_only=False,
)
RESUME = Tool(
    "resume_agent_session",
    "Starts another turn of a session, which keeps its context. Modes, results and limits are those of"
    " start_agent_session. Sessions of procedural agents cannot be resumed.",
    ResumeSession,
    read_only=False,
)
GET_STATUS = Tool(
    "get_agent_session_status",
    "Returns the status of a session as {status}: pending, running, idle (its turn is done), finished, failed, stopped,"
    " or not_existent if there is no such session.",
    OneSession,
)
GET_RESULT = Tool(
    "get_agent_session_result",
    "Returns the last result of a session whose status is finished or idle, as {session_id, result_text, result_data}."
    " result_text is truncated to 50,000 characters.",
    OneSession,
)
DELETE_ALL = Tool(
    "delete_all_agent_sessions",
    "Permanently deletes all sessions of all agents with their results. Running and idle sessions are skipped."
    " Returns {deleted, skipped, skipped_session_ids}.",
    Arguments,
    read_only=False,
    destructive=True,
)

TOOLS: tuple[Tool[Any], ...] = (LIST_BLUEPRINTS, LIST_SESSIONS, START, RESUME, GET_STATUS, GET_RESULT, DELETE_ALL)
