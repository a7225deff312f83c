"""Deployment manifests: valid against Kubernetes' own schemas, and true to what this project ships."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from stages.torchserve import STOP_TIMEOUT

ROOT = Path(__file__).resolve().parent.parent
SERVE = ROOT / "serve"
KUBERNETES = list(yaml.safe_load_all((SERVE / "kubernetes" / "newsgroups.yaml").read_text()))
KSERVE, KSERVE_POLICY = yaml.safe_load_all((SERVE / "kserve" / "newsgroups.yaml").read_text())
BY_KIND = {document["kind"]: document for document in KUBERNETES}
PODS = {"kubernetes": BY_KIND["Deployment"]["spec"]["template"]["spec"], "kserve": KSERVE["spec"]["predictor"]}
# What KServe's ComponentExtensionSpec (v1beta1) adds to a pod's fields.
COMPONENT = {"minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "timeout"}
OLDEST, NEWEST = "1.29", kubernetes_validate.latest_version()


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("document", [*KUBERNETES, KSERVE_POLICY], ids=[*BY_KIND, "KServe's policy"])
def test_kubernetes_accepts_it(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_pod_of_the_inference_service_is_one(version: str) -> None:
    assert (KSERVE["apiVersion"], KSERVE["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert KSERVE["spec"].keys() == {"predictor"}
    pod = {key: value for key, value in KSERVE["spec"]["predictor"].items() if key not in COMPONENT}
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "newsgroups"}, "spec": pod}
    kubernetes_validate.validate(document, version, strict=True)


def test_the_validator_validates() -> None:
    wrong = json.loads(json.dumps(BY_KIND["Deployment"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["ressources"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_locked_down_bounded_and_probed_by_a_prediction(name: str) -> None:
    pod = PODS[name]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    assert limits["cpu"] == requests["cpu"] and limits.keys() == requests.keys() == {"cpu", "memory"}
    for probe in ("startupProbe", "readinessProbe"):
        python, script, *options = container[probe]["exec"]["command"]
        assert python == "python" and (ROOT / script) == SERVE / "ready.py"
        help_of = [sys.executable, ROOT / script, "--help"]
        told = subprocess.run(help_of, capture_output=True, text=True, check=True).stdout
        assert all(option in told for option in options if option.startswith("--"))
        # The script gives up before it is ended, so that what was wrong is on record.
        assert float(options[options.index("--timeout") + 1]) < container[probe]["timeoutSeconds"]
    startup = container["startupProbe"]
    config = yaml.safe_load((SERVE / "newsgroups.yaml").read_text())
    assert startup["periodSeconds"] * startup["failureThreshold"] >= config["startupTimeout"]
    pause, folder = re.search(
        r"sleep (\d+) && cd (\S+)", container["lifecycle"]["preStop"]["exec"]["command"][-1]
    ).groups()
    pause = int(pause)
    # Whatever batch is legal ends within the pause; then TorchServe does.
    assert pause >= config["responseTimeout"]
    assert pod["terminationGracePeriodSeconds"] >= pause + STOP_TIMEOUT
    # TorchServe's command deletes a key file where it runs, and without leave to does not wait.
    assert folder in {mount["mountPath"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize(
    "annotations",
    [BY_KIND["Deployment"]["spec"]["template"]["metadata"]["annotations"], KSERVE["metadata"]["annotations"]],
    ids=PODS,
)
def test_prometheus_finds_the_metrics_of_either_pod(annotations: dict[str, str]) -> None:
    port = annotations["prometheus.io/port"]
    assert (annotations["prometheus.io/scrape"], annotations["prometheus.io/path"]) == ("true", "/metrics")
    assert f"\nmetrics_address=http://127.0.0.1:{port}\n" in (SERVE / "config.properties").read_text()
    # KServe would put another port in its place, of a container that a plain deployment does not have.
    assert annotations.get("serving.kserve.io/enable-prometheus-scraping", "false") == "false"


def test_no_batch_of_explanations_takes_a_pod_out_of_service() -> None:
    slowest = yaml.safe_load((SERVE / "newsgroups.yaml").read_text())["responseTimeout"] / 2
    for pod in PODS.values():
        probe = pod["containers"][0]["readinessProbe"]
        assert probe["periodSeconds"] * (probe["failureThreshold"] - 1) > slowest


def test_a_worker_is_started_again_for_weeks() -> None:
    seconds = yaml.safe_load((SERVE / "newsgroups.yaml").read_text())["maxRetryTimeoutInSec"]
    # TorchServe 0.12 multiplies it by 1,000 in 32 bits (org.pytorch.serve.wlm.Model).
    assert seconds > 7 * 24 * 3600 and seconds * 1000 < 2**31


def test_nobody_but_the_gateway_and_prometheus_reaches_either_pod() -> None:
    [container] = PODS["kserve"]["containers"]
    assert {port["containerPort"] for port in container["ports"]} < {8080, 8082}
    rules = [(rule["from"], [port["port"] for port in rule["ports"]]) for rule in KSERVE_POLICY["spec"]["ingress"]]
    assert [ports for _, ports in rules] == [[8080], [8082]]
    assert [peers for peers, _ in rules] == [rule["from"] for rule in BY_KIND["NetworkPolicy"]["spec"]["ingress"]]
    assert KSERVE_POLICY["spec"]["policyTypes"] == ["Ingress", "Egress"] and not KSERVE_POLICY["spec"]["egress"]
    name = KSERVE_POLICY["spec"]["podSelector"]["matchLabels"]["serving.kserve.io/inferenceservice"]
    assert name == KSERVE["metadata"]["name"]


def test_the_parts_find_each_other() -> None:
    labels = BY_KIND["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert BY_KIND["Service"]["spec"]["selector"] == labels
    for kind, key in (
        ("Deployment", "selector"),
        ("NetworkPolicy", "podSelector"),
        ("PodDisruptionBudget", "selector"),
    ):
        assert BY_KIND[kind]["spec"][key]["matchLabels"] == labels
    target = BY_KIND["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", BY_KIND["Deployment"]["metadata"]["name"])
    ports = {port["name"] for port in PODS["kubernetes"]["containers"][0]["ports"]}
    policy = [port["port"] for rule in BY_KIND["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]]
    assert {BY_KIND["Service"]["spec"]["ports"][0]["targetPort"], *policy} == ports
    adapter = yaml.safe_load((SERVE / "kubernetes" / "adapter.yaml").read_text())
    served = {rule["name"]["as"] for rule in adapter["rules"]["custom"]}
    metrics = BY_KIND["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert {metric["pods"]["metric"]["name"] for metric in metrics if metric["type"] == "Pods"} == served


def instructions() -> list[tuple[str, str]]:
    """The Containerfile as (instruction, rest), continued lines joined."""
    text = (SERVE / "Containerfile").read_text().replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


def test_the_containerfile_copies_what_exists_and_what_the_configuration_names() -> None:
    defaults = dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG")
    copied = set()
    for name, rest in instructions():
        if name == "COPY":
            *sources, _target = shlex.split(re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], rest))
            copied |= set(sources)
    # The archive is built by `dvc repro`, so only its place can be checked.
    archive = f"outputs/model_store/{defaults['ARCHIVE']}"
    assert archive in copied and "outputs/model_store" in (ROOT / "dvc.yaml").read_text()
    assert all((ROOT / source).is_file() for source in copied - {archive})
    settings = [line for line in (SERVE / "config.properties").read_text().splitlines() if not line.startswith("#")]
    named = set(re.findall(r"=(serve/[\w.]+)", "\n".join(settings)))
    assert named and {*named, "serve/config.properties", "serve/requirements.txt", "serve/ready.py"} <= copied


def test_the_container_runs_as_the_user_of_the_manifests_on_their_ports() -> None:
    order = [name for name, _ in instructions()]
    assert order[:2] == ["ARG", "FROM"] and order[-1] == "CMD"
    rest = dict(instructions())
    assert {int(rest["USER"])} == {pod["securityContext"]["runAsUser"] for pod in PODS.values()}
    ports = {str(port["containerPort"]) for port in PODS["kubernetes"]["containers"][0]["ports"]}
    assert set(rest["EXPOSE"].split()) == ports
    command = json.loads(rest["CMD"])
    assert command[:2] == ["bash", "-c"] and "--models newsgroups=newsgroups.mar" in command[2]
    words = [rest for name, rest in instructions() if name == "ENV"]
    variables = dict(pair.split("=", 1) for line in words for pair in line.split())
    # Each variable of TorchServe is a key of its configuration, which allows that it is set from outside.
    config = (SERVE / "config.properties").read_text()
    assert "\nenable_envvars_config=true" in config
    for key in (name.removeprefix("TS_").lower() for name in variables if name.startswith("TS_")):
        assert f"\n{key}=" in config
    assert {variables["LOG_LOCATION"], variables["TMPDIR"]} <= {"/tmp", "/tmp/logs"}


def test_the_image_floats_no_package() -> None:
    [install] = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    words = shlex.split(install)
    assert (words[words.index("-c") + 1], words[words.index("-r") + 1]) == (
        "requirements.txt",
        "serve/requirements.txt",
    )
    assert ("COPY", "requirements.txt requirements.txt") in instructions()


def test_the_panels_of_each_row_lie_side_by_side() -> None:
    panels = json.loads((SERVE / "monitoring" / "dashboard.json").read_text())["panels"]
    lines: dict[int, list[tuple[int, int]]] = {}
    for place in (panel["gridPos"] for panel in panels):
        lines.setdefault(place["y"], []).append((place["x"], place["w"]))
    for places in lines.values():
        assert [x for x, _ in places] == [sum(w for _, w in places[:i]) for i in range(len(places))]
        assert sum(w for _, w in places) == 24


def test_waits_are_divided_by_the_requests_that_waited() -> None:
    adapter = yaml.safe_load((SERVE / "kubernetes" / "adapter.yaml").read_text())["rules"]["custom"]
    panels = json.loads((SERVE / "monitoring" / "dashboard.json").read_text())["panels"]
    expressions = [
        *(rule["metricsQuery"] for rule in adapter),
        *(rule["expr"] for rule in ALERTS),
        *(target["expr"] for panel in panels for target in panel.get("targets", [])),
    ]
    waits = [expression for expression in expressions if "_latency_microseconds" in expression]
    assert len(waits) == 4
    # TorchServe's ts_inference_requests_total holds those that were refused, too, whose wait it adds nowhere.
    assert all("newsgroups_requests_total" in wait and "ts_inference_requests" not in wait for wait in waits)


RULES = yaml.safe_load((SERVE / "monitoring" / "alerts.yaml").read_text())["groups"]
ALERTS = [rule for group in RULES for rule in group["rules"]]
SERIES = 'instance="a", model_name="newsgroups"'
UP = 'up{job="newsgroups", instance="a"}'
# Minutes, series with their values a minute (the server is up where they say nothing else), and the alerts that fire
# then.
CASES = [
    (5, {UP: "0x10"}, {"NewsgroupsDown"}),
    (5, {UP: "1 0 1x10"}, set()),
    (5, {UP: "_x10", 'up{job="kubernetes-pods", instance="a"}': "1x10"}, {"NewsgroupsDown"}),
    (20, {'WorkerLoadTime{instance="a", WorkerName="w"}': "1x10 2 1 2x20"}, {"NewsgroupsWorkerRestarts"}),
    (20, {'WorkerLoadTime{instance="a", WorkerName="w"}': "1x10 2x20"}, set()),
    # The first fault ever, and one after others.
    (12, {f'newsgroups_errors_total{{{SERIES}, code="500", reason="r"}}': "_x9 1x10"}, {"NewsgroupsFaults"}),
    (12, {f'newsgroups_errors_total{{{SERIES}, code="500", reason="r"}}': "3x9 4x10"}, {"NewsgroupsFaults"}),
    (40, {f'newsgroups_errors_total{{{SERIES}, code="500", reason="r"}}': "3x50"}, set()),
    (
        20,
        {'Requests5XX{instance="a"}': "0+6x30", f"ts_inference_requests_total{{{SERIES}}}": "0+100x30"},
        {"NewsgroupsRefuses"},
    ),
    (20, {'Requests5XX{instance="a"}': "0+1x30", f"ts_inference_requests_total{{{SERIES}}}": "0+100x30"}, set()),
    # A few broken forms, where there is little else.
    (20, {'Requests5XX{instance="a"}': "0+2x30", f"ts_inference_requests_total{{{SERIES}}}": "0+5x30"}, set()),
    (
        30,
        {
            f"ts_queue_latency_microseconds{{{SERIES}}}": "0+3000000x40",
            f"newsgroups_requests_total{{{SERIES}}}": "0+100x40",
            f"ts_inference_requests_total{{{SERIES}}}": "0+100x40",
        },
        set(),
    ),
    # Four times what the int8 variant answers: those that are taken wait 110 ms each, and the others are refused.
    (
        30,
        {
            f"ts_queue_latency_microseconds{{{SERIES}}}": "0+1881000000x40",
            f"newsgroups_requests_total{{{SERIES}}}": "0+17100x40",
            f"ts_inference_requests_total{{{SERIES}}}": "0+68400x40",
            'Requests5XX{instance="a"}': "0+51300x40",
        },
        {"NewsgroupsQueues", "NewsgroupsRefuses"},
    ),
    (
        40,
        {
            f'newsgroups_step_seconds_bucket{{{SERIES}, step="infer", le="0.25"}}': "0+90x60",
            f'newsgroups_step_seconds_bucket{{{SERIES}, step="infer", le="0.5"}}': "0+100x60",
            f'newsgroups_step_seconds_bucket{{{SERIES}, step="infer", le="+Inf"}}': "0+100x60",
        },
        {"NewsgroupsSlowBatches"},
    ),
    (
        40,
        {
            f'newsgroups_errors_total{{{SERIES}, code="422", reason="r"}}': "0+30x60",
            f"newsgroups_requests_total{{{SERIES}}}": "0+100x60",
            f"ts_inference_requests_total{{{SERIES}}}": "0+400x60",
        },
        {"NewsgroupsClientErrors"},
    ),
    (
        180,
        {
            f"newsgroups_doubt_sum{{{SERIES}}}": "0+30x200",
            f"newsgroups_doubt_count{{{SERIES}}}": "0+100x200",
            f"newsgroups_abstentions_total{{{SERIES}}}": "0+40x200",
            f'newsgroups_posts_total{{{SERIES}, path="full"}}': "0+100x200",
        },
        {"NewsgroupsUnsure", "NewsgroupsAbstains"},
    ),
    (180, {f'newsgroups_drift_psi{{{SERIES}, feature="length"}}': "0.3x200"}, set()),
    (
        180,
        {
            f'newsgroups_drift_psi{{{SERIES}, feature="length"}}': "0.3x200",
            f'newsgroups_posts_total{{{SERIES}, path="full"}}': "0+60x200",
        },
        {"NewsgroupsDrift"},
    ),
]


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not on the path (Debian: apt install prometheus)")
def test_the_alerts_fire_when_they_should(tmp_path: Path) -> None:
    alerts = SERVE / "monitoring" / "alerts.yaml"
    subprocess.run(["promtool", "check", "rules", alerts], check=True, capture_output=True)
    names = [alert["alert"] for alert in ALERTS]
    tests = []
    for minutes, series, firing in CASES:
        tests.append(
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values} for name, values in ({UP: "1x300"} | series).items()
                ],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}})',
                        "eval_time": f"{minutes}m",
                        "exp_samples": [{"labels": "{}", "value": 1}] if name in firing else [],
                    }
                    for name in names
                ],
            }
        )
    file = tmp_path / "alerts-test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(alerts)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    assert set().union(*(firing for _, _, firing in CASES)) == {alert["alert"] for alert in ALERTS}


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in {"page", "ticket"}
        summary = alert["annotations"]["summary"]
        assert "$labels.instance" in summary and summary.rstrip().endswith(".")
