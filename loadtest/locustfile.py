"""Load test of a served model, over HTTP only.

Closed loop, for people:   locust -f loadtest/locustfile.py
Open loop, for figures:    locust -f loadtest/locustfile.py --headless --rate 50 --requests 500 --samples samples.csv
Several processes:         locust -f loadtest/locustfile.py --headless --processes 2 --users 32 --run-time 1m
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import gevent
import psutil
from answers import wrong_explanation, wrong_prediction, wrong_refusal
from gevent.pool import Group
from locust import FastHttpUser, events, task
from locust.contrib.fasthttp import FastHttpSession
from locust.env import Environment
from locust.event import EventHook
from locust.exception import StopUser
from locust.rpc.protocol import Message
from locust.runners import MasterRunner, WorkerRunner
from openloop import percentile, schedule, void
from posts import DEFAULT, InputError, read_key, read_posts

BAD_BODIES: tuple[bytes, ...] = (b"", b"{", b"[]", b"{}", b'{"text": 5}', b'{"text": null}', b'{"text": ""}')
# Seconds for an answer. With the default model the server itself gives up first (responseTimeout of its archive).
PATIENCE = 600
HEADER = "scheduled_s,latency_ms,lag_ms,ok\n"
# What a worker sends to its master where it cannot use the options of the run.
REFUSED = "refused"


class Run:
    """What all users of this process share: the posts, the key, the choice of the next request, the samples."""

    def __init__(self, options: Any) -> None:
        """options: the parsed command line. Raises InputError for a file or a value that cannot be used."""
        for name in ("bad_share", "explain_share"):
            if not 0 <= getattr(options, name) <= 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(options, name):g}: give 0 to 1")
        if options.bad_share + options.explain_share > 1:
            raise InputError("--bad-share and --explain-share are more than 1 together: predictions are the rest")
        self.posts, self.labels = read_posts(Path(options.posts))
        self.headers = {"Authorization": f"Bearer {read_key(Path(options.key_file))}"}
        self.options = options
        self.random = random.Random(options.seed)
        self.sent = 0
        # (scheduled s, latency ms, lag ms, ok) of every answer.
        self.samples: list[tuple[float, float, float, bool]] = []
        self.problems: Counter[str] = Counter()
        self.reset_clocks()

    def reset_clocks(self) -> None:
        self.started, self.cpu = time.perf_counter(), time.process_time()

    def next_request(self) -> tuple[str, bytes]:
        """What to send next, seeded: ("predict", "explain" or "bad", body)."""
        draw = self.random.random()
        if draw < self.options.bad_share:
            return "bad", self.random.choice(BAD_BODIES)
        kind = "explain" if draw < self.options.bad_share + self.options.explain_share else "predict"
        body = {"text": self.random.choice(self.posts)}
        if self.options.full_path:
            body["fast_path"] = "off"
        return kind, json.dumps(body).encode()

    def send(self, client: Any, kind: str, body: bytes, scheduled: float | None = None) -> None:
        """Send one request and check its answer; latency counts from `scheduled` (default: from now)."""
        sent = time.perf_counter() - self.started
        scheduled = sent if scheduled is None else scheduled
        endpoint = "explanations" if kind == "explain" else "predictions"
        headers = self.headers | {"Content-Type": "application/json"}
        path = f"/{endpoint}/{self.options.model}"
        with client.post(path, data=body, headers=headers, name=kind, catch_response=True) as response:
            latency = (time.perf_counter() - self.started - scheduled) * 1000
            # Locust's own figures must count the wait for a late send too.
            response.request_meta["response_time"] = latency
            problem = self.check(kind, response.status_code, response.content or b"")
            if problem:
                response.failure(problem)
                self.problems[problem] += 1
            else:
                response.success()
        self.samples.append((scheduled, latency, (sent - scheduled) * 1000, problem is None))

    def check(self, kind: str, status: int, body: bytes) -> str | None:
        """What is wrong with an answer, None for nothing."""
        if kind == "bad":
            return wrong_refusal(status, body)
        check = wrong_explanation if kind == "explain" else wrong_prediction
        return check(status, body, self.labels)

    def core_share(self) -> float:
        """How much of one core this process has used since the clocks were set."""
        return (time.process_time() - self.cpu) / (time.perf_counter() - self.started)

    def write(self, path: Path) -> None:
        """Write the raw samples, and beside them (.json) what the run as a whole was like."""
        share = self.core_share()
        details = {
            "rate": self.options.rate,
            "seed": self.options.seed,
            "requests": len(self.samples),
            "seconds": time.perf_counter() - self.started,
            # Of one core: near 1 the generator, not the server, was the limit. Of all cores: what it took from them.
            "generator_core_share": share,
            "generator_machine_share": share / cores(),
            "problems": dict(self.problems.most_common()),
        }
        lines = [f"{scheduled:.6f},{latency:.3f},{lag:.3f},{ok:d}\n" for scheduled, latency, lag, ok in self.samples]
        for target, text in (
            (path.with_suffix(".json"), json.dumps(details, indent=1)),
            (path, HEADER + "".join(lines)),
        ):
            partial = target.with_name(f".{target.name}.partial")
            partial.write_text(text, encoding="utf-8")
            partial.replace(target)


def cores() -> int:
    """Cores that this process may use."""
    # Not every system can say which.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Visitor(FastHttpUser):
    """Closed loop: sends, waits for the answer, sends again. Has as many users as locust is told."""

    host = "http://127.0.0.1:8080"
    network_timeout = PATIENCE
    run_: ClassVar[Run]
    refused: ClassVar[bool] = False

    @task
    def ask(self) -> None:
        if self.refused:
            if not isinstance(self.environment.runner, WorkerRunner):
                finish(self.environment)
            raise StopUser
        # Of a process that runs alone: a worker that stopped by itself would be lost to its master.
        limit = 0 if isinstance(self.environment.runner, WorkerRunner) else self.run_.options.requests
        if limit and self.run_.sent >= limit:
            if len(self.run_.samples) >= limit:
                finish(self.environment)
            raise StopUser
        self.run_.sent += 1
        self.run_.send(self.client, *self.run_.next_request())


class Arrivals(FastHttpUser):
    """Open loop: one user that sends on schedule, whether or not earlier requests have been answered."""

    host = Visitor.host
    network_timeout = PATIENCE
    fixed_count = 1
    concurrency = 4096
    run_: ClassVar[Run]

    @task
    def arrive(self) -> None:
        run, options = self.run_, self.run_.options
        times = schedule(options.rate, options.requests, options.seed)
        requests = [run.next_request() for _ in times]
        pending = Group()
        run.reset_clocks()
        for scheduled, (kind, body) in zip(times, requests, strict=True):
            gevent.sleep(max(0.0, run.started + scheduled - time.perf_counter()))
            pending.spawn(run.send, self.client, kind, body, scheduled)
        pending.join()
        finish(self.environment)
        raise StopUser


def finish(environment: Environment) -> None:
    """End the run from inside a user: the process too, unless a web page is open."""
    gevent.spawn(environment.runner.quit if environment.web_ui is None else environment.runner.stop)


@events.init_command_line_parser.add_listener
def add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="newsgroups", help="name of the served model")
    add("--key-file", default="key_file.json", help="written by TorchServe where it was started; likewise")
    add(
        "--posts",
        default=str(DEFAULT),
        help="data set (.parquet), JSON lines or text, one post a line; on the machine of each worker",
    )
    add("--bad-share", type=float, default=0.0, help="of requests that must be refused, 0 to 1")
    add("--explain-share", type=float, default=0.0, help="of explain requests, 0 to 1")
    add("--full-path", action="store_true", help="ask for the transformer on every post: cascade off")
    add("--requests", type=int, default=0, help="stop after so many (0: run on)")
    add("--seed", type=int, default=20, help="of the posts and the arrivals")
    # Locust shows what the parser has itself on its web page, and no group: an open loop has no page.
    group = parser.add_argument_group("Without a web page")
    group.add_argument(
        "--rate", type=float, help="open loop: Poisson arrivals a second; needs --headless and --requests"
    )
    group.add_argument(
        "--slo-ms", type=float, default=250, help="open loop: objective for p99, by which a late generator is judged"
    )
    group.add_argument("--samples", help="CSV file for the raw samples; a JSON file about the run is put beside it")


@events.init.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """Check everything that can be checked before the first request; leaves with one line where something is wrong."""
    options = environment.parsed_options
    open_loop = options.rate is not None
    environment.user_classes = [Arrivals if open_loop else Visitor]
    try:
        if open_loop:
            schedule(options.rate, options.requests, options.seed)
            if environment.web_ui:
                raise InputError("--rate runs without a web page: add --headless")
            if options.run_time:
                # Cut off, the slowest answers would be missing from the samples.
                raise InputError("--rate ends with its --requests, all answered: drop --run-time")
        # The workers of this run get the master's options.
        if isinstance(environment.runner, MasterRunner):
            environment.runner.register_message(REFUSED, end_refused)
            for name in ("rate", "requests", "samples"):
                if getattr(options, name):
                    raise InputError(f"--{name} counts in one process: give --run-time instead, or drop --processes")
        if options.samples:
            check_samples(Path(options.samples))
        run = Visitor.run_ = Arrivals.run_ = Run(options)
        # Workers, of which there may be many, leave the question to their master.
        if environment.web_ui is None and not isinstance(environment.runner, WorkerRunner):
            check_server(environment, run)
            run.reset_clocks()
    except (InputError, ValueError) as error:
        # The workers of --processes would wait for their master for minutes.
        for worker in psutil.Process().children():
            worker.kill()
        sys.exit(f"loadtest: {error}")


def check_samples(path: Path) -> None:
    """Raises InputError for a file that could not be written when the run is over."""
    if path.suffix != ".csv":
        raise InputError(f"--samples {path} is no CSV file: name one, beside which a .json of that name is put")
    if not path.parent.is_dir():
        raise InputError(f"--samples {path}: there is no folder {path.parent}; make it first")


def check_server(environment: Environment, run: Run) -> None:
    """One prediction, outside the statistics. Raises InputError with what is wrong with it."""
    host = environment.host or Visitor.host
    client = FastHttpSession(host, EventHook(), user=None, network_timeout=PATIENCE)
    response = client.post(f"/predictions/{run.options.model}", json={"text": run.posts[0]}, headers=run.headers)
    if problem := wrong_prediction(response.status_code, response.content or b"", run.labels):
        raise InputError(f"{host}: {problem}")


@events.test_start.add_listener
def note_start(environment: Environment, **_: Any) -> None:
    """A run from the web page has the options that the page shows, and its clocks and counters anew; where a field
    cannot be used it asks nothing, and the log says why. Workers draw unlike posts from one seed."""
    runner = environment.runner
    if isinstance(runner, MasterRunner) and environment.parsed_options.requests:
        logging.warning("loadtest: --requests counts in one process: this run goes on until it is stopped")
    # What the page says reaches workers as well.
    if environment.web_ui or isinstance(runner, WorkerRunner):
        Visitor.refused = False
        try:
            Visitor.run_ = Run(environment.parsed_options)
        except InputError as error:
            logging.error("loadtest: %s", error)
            Visitor.refused = True
            if isinstance(runner, WorkerRunner):
                runner.send_message(REFUSED, str(error))
    if isinstance(runner, WorkerRunner):
        Visitor.run_.random.seed(environment.parsed_options.seed + runner.worker_index)


def end_refused(environment: Environment, msg: Message, **_: Any) -> None:
    """A worker, perhaps on another machine, has not what the master's options name: without it the load would be less
    than was asked for."""
    logging.error("loadtest: worker %s: %s", msg.node_id, msg.data)
    Visitor.refused = True
    finish(environment)


@events.quitting.add_listener
def report(environment: Environment, **_: Any) -> None:
    """Write the samples; exit status 1 where an answer was wrong, nothing was asked, a worker could not ask, or an open
    loop was void or cut off."""
    if isinstance(environment.runner, WorkerRunner):
        return
    options, total, run = environment.parsed_options, environment.stats.total, Visitor.run_
    if options.samples:
        run.write(Path(options.samples))
    if total.num_failures or not total.num_requests or Visitor.refused:
        environment.process_exit_code = 1
    if options.rate is not None and len(run.samples) < options.requests:
        # Interrupted: the slowest answers are missing.
        print(f"loadtest: {len(run.samples)} of {options.requests} requests were answered", file=sys.stderr)
        environment.process_exit_code = 1
    if options.rate is not None and run.samples:
        lag_ms, share = percentile([lag for _, _, lag, _ in run.samples], 0.99), run.core_share()
        print(f"generator: p99 of its lag {lag_ms:.1f} ms, {share:.0%} of a core")
        if why := void(lag_ms, share, options.slo_ms):
            print(f"loadtest: the run is void: {why}; lower --rate, or give it a quieter machine", file=sys.stderr)
            environment.process_exit_code = 1
