"""Server and pool files (TOML): what a simulated server is made of, under vLLM's own option names."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from inframind.traces import ConfigError, NotEmpty, Section, load_toml
from inframind.traces.mistakes import did_you_mean

from .server import ServerOptions
from .step_time import StepTime
from .vllm_0_32 import SchedulerOptions

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]


class SchedulerSection(Section):
    """vLLM's scheduler and cache options; the defaults are vLLM 0.32's for an OpenAI server."""

    policy: Literal["fcfs", "priority"] = "fcfs"
    """``--scheduling-policy``."""
    max_num_seqs: Count = 1024
    """Requests that may run at a time."""
    max_num_batched_tokens: Count = 8192
    """Tokens that one step may hold; vLLM: 8192 on a GPU of 70 GiB or more, 2048 on smaller ones."""
    block_size: Count = 16
    """Tokens in one KV block."""
    num_blocks: Annotated[int, Field(ge=2)]
    """``num_gpu_blocks`` of ``vllm:cache_config_info``; one of them is the null block. Of several engines
    (``data_parallel_size``) vLLM tells there the sum, here stand those of one."""
    max_model_len: Annotated[int, Field(ge=2)]
    """Prompt and output tokens that one request may have."""
    enable_prefix_caching: bool = True
    """Keep the blocks of ended requests for later ones with the same start."""
    async_scheduling: bool = True
    """Schedule a step while the one before it runs."""
    enable_chunked_prefill: bool = True
    """Let a prompt take several steps."""
    long_prefill_token_threshold: Annotated[int, Field(ge=0)] = 0
    """Tokens that one prompt may take in a step when it is not alone; 0: no limit."""
    scheduler_reserve_full_isl: bool = True
    """Admit a request only if its whole prompt fits now."""
    watermark: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the blocks kept free when a request is admitted beside others."""

    @model_validator(mode="after")
    def _could_start(self) -> Self:
        """The conditions under which vLLM itself refuses to start."""
        wrong = []
        if self.max_num_batched_tokens < self.max_num_seqs:
            wrong.append(f"max_num_batched_tokens ({self.max_num_batched_tokens}) < max_num_seqs ({self.max_num_seqs})")
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            wrong.append(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) < max_model_len ({self.max_model_len}) "
                "needs enable_chunked_prefill"
            )
        usable = (self.num_blocks - 1) * self.block_size
        if usable < self.max_model_len:
            wrong.append(
                f"num_blocks ({self.num_blocks}) hold {usable} tokens, one request may have "
                f"max_model_len ({self.max_model_len})"
            )
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


class RequestsFittedOn(Section):
    """The request logs of a fit through the simulator: beyond these ranges the fit extrapolates."""

    logs: tuple[str, ...]
    """The files."""
    fingerprints: tuple[str, ...] = ()
    """Of their contents (`inframind.calibration.fingerprint`), so that a check knows them by whatever name."""
    max_rate_per_s: Seconds
    """Most arrivals in a second, averaged over `inframind.calibration.fit_range.WINDOW_S` seconds."""
    max_prompt_tokens: Count
    """Longest prompt."""
    max_output_tokens: Count
    """Longest output."""
    max_num_running: Count
    """Most requests at a time that had begun and not ended."""
    errors: dict[str, float]
    """Simulated over measured mean, less 1, of TTFT, E2E and TPOT, over all the logs."""
    not_identified: tuple[str, ...] = ()
    """Parameters of which the logs tell too little; they have a usual value instead."""


class FittedOn(Section):
    """Where the numbers of a ``[step_time]`` come from, and how far they reach."""

    source: str
    """The measurements."""
    licence: str
    """Their licence."""
    num_points: Count
    """How many there were."""
    error_p50: Seconds
    """Median of |fitted - measured| / measured."""
    error_p95: Seconds
    """The same error at the 95th percentile."""
    max_prefill_tokens: Count
    """Most prompt tokens in a measured step: beyond this, beware."""
    max_num_decodes: Count
    """Most decoding requests in a measured step."""
    max_context_tokens: Count
    """Most context tokens in a measured step."""
    requests: RequestsFittedOn | None = None
    """What the request logs held, if that is what was fitted."""


class StepTimeSection(Section):
    """Duration of one engine step; see `inframind.sim.StepTime`."""

    if_missing = "`inframind calibrate fit` finds it"

    fixed_s: Annotated[float, Field(ge=1e-9)]
    """Each step."""
    prefill_token_s: Seconds
    """Each token of a request with more than one token in the step, beyond the free ones."""
    decode_s: Seconds
    """Each request with one token in the step."""
    context_token_s: Seconds = 0.0
    """Each token computed so far by the requests of the step."""
    prefill_pair_s: Seconds = 0.0
    """Each (query, key) pair of a prefill chunk's causal attention."""
    free_prefill_tokens: Annotated[int, Field(ge=0)] = 0
    """Prefill tokens of a step that cost nothing extra: while the GEMMs are still bound by reading the weights."""
    expert_s: Seconds = 0.0
    """Reading all experts of a mixture of experts; a step reads those that its tokens ask for."""
    expert_tokens: Annotated[float, Field(ge=1, le=1024)] = 16.0
    """``num_experts / num_experts_per_tok`` of the LLM: so many tokens ask for 63 % of the experts."""
    std_error: dict[str, float] = Field(default_factory=dict)
    """Standard error of each fitted parameter, in its own unit."""
    fitted_on: FittedOn | None = None
    """Where the numbers come from."""

    @property
    def terms(self) -> dict[str, Any]:
        """The numbers themselves; those of experts where there are any."""
        of_experts = set() if self.expert_s else {"expert_s", "expert_tokens"}
        return self.model_dump(exclude={"std_error", "fitted_on", *of_experts})


class ClientSection(Section):
    """What lies between the client and the engine: HTTP, tokenisation, the network."""

    overhead_s: Seconds = 0.0
    """Added to each request's TTFT and E2E; a constant delay does not change the order of arrival."""
    std_error: Seconds | None = None
    """Standard error of the overhead, if it was fitted."""


class LiveSection(Section):
    """The real server beside the simulated one: where it runs already, or how to start it."""

    url: str | None = None
    """Of a server that runs already, as http://HOST:PORT."""
    api_key_env: str = "INFRAMIND_API_KEY"
    """Environment variable that holds its API key, if it wants one."""
    served_model: str | None = None
    """The name under which it serves its model; the server's ``model`` by default. A small model may stand in for a
    large one: ``model`` says whose outcomes are simulated, this what really runs."""
    model_path: str | None = None
    """Of a server to start: a model folder, relative to the pool file, or a name on Hugging Face."""
    vllm_python: str | None = None
    """The interpreter that has vLLM, relative to the pool file; that of this program by default."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Where it is to listen; a free port by default."""
    device_ids: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """``CUDA_VISIBLE_DEVICES``; all by default."""
    cpus: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """CPUs that the server may run on, and no others (Linux); any by default."""
    extra_args: tuple[str, ...] = ()
    """Further arguments of vLLM, after those that the sections say; not ``--api-key``, which would be recorded with the
    results: set ``VLLM_API_KEY``, and ``api_key_env`` to that name."""
    env: dict[str, str] = Field(default_factory=dict)
    """Further environment variables of the server."""

    @model_validator(mode="after")
    def _runs_or_is_started(self) -> Self:
        if (self.url is None) == (self.model_path is None):
            raise ValueError("needs url, of a server that runs, or model_path, of one to start, and not both")
        if self.url is not None and "@" in self.url:
            raise ValueError("url: must not hold a password; api_key_env names the variable of an API key")
        if any(arg.split("=")[0].replace("_", "-") == "--api-key" for arg in self.extra_args):
            # Results record the pool, but for ``env``.
            raise ValueError("extra_args: must not hold an API key: set VLLM_API_KEY, and api_key_env to that name")
        to_start = ("vllm_python", "port", "device_ids", "cpus", "extra_args", "env")
        if self.url is not None and (given := [name for name in to_start if getattr(self, name)]):
            raise ValueError(f"{', '.join(given)}: no effect beside url")
        return self


class ServerSection(Section):
    """One vLLM server."""

    name: str
    """Unique in its pool."""
    model: str
    """The LLM it serves."""
    semantics: Literal["vllm-0.32"] = "vllm-0.32"
    """Whose scheduling decisions are simulated."""
    max_num_queued_reqs: Annotated[int, Field(ge=0)] | None = None
    """Unfinished requests beyond which it answers 503; no limit by default."""
    data_parallel_size: Count = 1
    """``--data-parallel-size``: engines behind the one endpoint, each with the options below."""
    is_moe: bool | None = None
    """Whether the LLM is a mixture of experts: several engines then step together, those of a dense LLM each at its own
    pace. By default it is one if the step time has a part for experts."""
    scheduler: SchedulerSection
    """vLLM's options."""
    step_time: StepTimeSection
    """How fast it is."""
    client: ClientSection = ClientSection()
    """What its clients see beyond the engine's own times: workflows, `inframind sim replay`, and `calibrate`."""
    live: LiveSection | None = None
    """The real one; `inframind live` reads it."""

    def options(self, *, policy: Literal["fcfs", "priority"] | None = None) -> ServerOptions:
        """As the simulator takes it, with another scheduling policy if asked for."""
        scheduler = self.scheduler.model_dump()
        if policy is not None:
            scheduler["policy"] = policy
        return ServerOptions(
            name=self.name,
            model=self.model,
            scheduler=SchedulerOptions(**scheduler),
            step_time=StepTime(**self.step_time.terms),
            max_num_queued_reqs=self.max_num_queued_reqs,
            data_parallel_size=self.data_parallel_size,
            is_moe=self.step_time.expert_s > 0 if self.is_moe is None else self.is_moe,
            client_overhead_s=self.client.overhead_s,
        )


class SchedulerToFit(Section):
    """``[scheduler]`` of a server that is still to be fitted: what is absent is estimated from its logs, or assumed."""

    policy: Literal["fcfs", "priority"] = "fcfs"
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    block_size: Count = 16
    num_blocks: Annotated[int, Field(ge=2)] | None = None
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    enable_prefix_caching: bool = True
    async_scheduling: bool | None = None
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: Annotated[int, Field(ge=0)] = 0
    scheduler_reserve_full_isl: bool = True
    watermark: Annotated[float, Field(ge=0, lt=1)] = 0.0


class ServerToFit(Section):
    """A server file as `inframind calibrate fit` takes it: ``[step_time]``, ``[client]`` and ``[live]`` are not
    looked at."""

    name: str = "server"
    model: str = "model"
    semantics: Literal["vllm-0.32"] = "vllm-0.32"
    max_num_queued_reqs: Annotated[int, Field(ge=0)] | None = None
    data_parallel_size: Count | None = None
    is_moe: bool | None = None
    scheduler: SchedulerToFit = SchedulerToFit()
    step_time: dict[str, object] | None = None
    client: dict[str, object] | None = None
    live: dict[str, object] | None = None


class PoolSection(Section):
    """A pool file: ``[[servers]]``."""

    servers: Annotated[tuple[ServerSection, ...], NotEmpty]
    """The servers, in the order in which ties between them are broken."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [server.name for server in self.servers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"server names used more than once: {', '.join(twice)}")
        return self

    def recorded(self) -> dict[str, Any]:
        """As it stands in the ``config.toml`` of results: without the servers' environment, which may hold secrets."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"servers": {"__all__": {"live": {"env"}}}})


_POOLS = resources.files("inframind.sim") / "data"

SHIPPED_POOLS = tuple(sorted(file.name[:-5] for file in _POOLS.iterdir() if file.name.endswith(".toml")))
"""Pools that come with the package, by name."""


def load_server(name: str | Path) -> ServerSection:
    """A server file, or a server of a shipped pool as ``POOL/SERVER``.

    Raises
    ------
    ConfigError
        With all the file's mistakes; there is no such file, pool or server.
    """
    pool, slash, server_name = str(name).partition("/")
    if pool not in SHIPPED_POOLS or (not slash and Path(name).exists()):
        if slash and not Path(name).exists() and Path(name).suffix != ".toml":
            hint = did_you_mean(pool, SHIPPED_POOLS) or f"; shipped pools: {', '.join(SHIPPED_POOLS)}"
            raise ConfigError(name, [f"no such file, and no shipped pool {pool!r}{hint}"])
        return load_toml(name, ServerSection)
    servers = {server.name: server for server in load_pool(pool, Path()).servers}
    if not slash:
        raise ConfigError(
            name, [f"is a pool; name one of its servers: {', '.join(f'{pool}/{each}' for each in servers)}"]
        )
    if server_name not in servers:
        hint = did_you_mean(server_name, servers) or f"; it has {', '.join(servers)}"
        raise ConfigError(name, [f"pool {pool} has no server {server_name!r}{hint}"])
    return servers[server_name]


def load_server_to_fit(path: str | Path) -> ServerToFit:
    """A server file of which only the scheduler's options are used, and not all of them need be there.

    Raises
    ------
    ConfigError
        With all its mistakes.
    """
    return load_toml(path, ServerToFit)


def load_pool(name: str | Path, base: Path) -> PoolSection:
    """A shipped pool by its name, or a pool file; a relative path starts at ``base``.

    Raises
    ------
    ConfigError
        With all its mistakes.
    """
    if str(name) in SHIPPED_POOLS:
        with resources.as_file(_POOLS / f"{name}.toml") as path:
            return load_toml(path, PoolSection)
    path = base / name
    if not path.exists():
        hint = did_you_mean(str(name), SHIPPED_POOLS) or f"; shipped pools: {', '.join(SHIPPED_POOLS)}"
        raise ConfigError(f"pool {name}", [f"neither a shipped pool nor a file ({path}){hint}"])
    return load_toml(path, PoolSection)
