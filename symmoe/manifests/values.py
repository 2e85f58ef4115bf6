"""The settings of an installation: one file that the operator keeps, from which all manifests are rendered.

The chart's `values.yaml` and `values.schema.json` are generated from the models here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from symmoe.errors import ConfigError
from symmoe.yaml_text import load_yaml

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]


class Part(BaseModel):
    """A section of the values; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_DIGEST = r"^(sha256:[0-9a-f]{64})?$"


class Image(Part):
    """The image of every pod of Ray."""

    name: str = Field(default="symmoe", description="with its registry, such as registry.example/symmoe")
    tag: str = Field(default="", description="empty: the tag of this version for CPUs or GPUs")
    digest: str = Field(default="", pattern=_DIGEST, description="sha256:…, which takes precedence over the tag")
    pull_secrets: tuple[Name, ...] = Field(default=(), description="Secrets with credentials for the registry")


class Experts(Part):
    """Pods with engines."""

    least: int = Field(default=1, ge=0, description="replicas that stay without load")
    start: int = Field(default=0, ge=0, description="replicas that a new cluster starts with; 0: `least`")
    node_selector: dict[str, str] = Field(default={}, description="labels of their nodes")
    gpu_product: str = Field(default="", description="nvidia.com/gpu.product of their nodes; empty: any")
    gpu_resource: str = Field(
        default="nvidia.com/gpu", description="what a pod requests; a MIG slice: nvidia.com/mig-3g.40gb"
    )
    claim: bool = Field(
        default=False, description="request devices by memory (DRA, Kubernetes 1.34) instead of by that name"
    )
    tolerations: tuple[dict[str, Any], ...] = Field(
        default=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
        description="taints that they tolerate",
    )


class Front(Part):
    """Pods of the ingress, if experts run on accelerators."""

    replicas: int = Field(default=2, ge=1)
    node_selector: dict[str, str] = {}


class Weights(Part):
    """The sources of checkpoints. Secrets: symmoe-hub (token), symmoe-s3 (access_key_id, secret_access_key)."""

    hub: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="a mirror of the hub, such as https://hub.example; empty: the hub",
    )
    s3_endpoint: str = Field(
        default="",
        pattern=r"^(https?://[^\s/]+)?$",
        description="of s3:// sources, such as https://minio.example:9000; empty: AWS",
    )
    s3_region: str = Field(default="", description="empty: us-east-1")
    networks: tuple[str, ...] = Field(
        default=(), description="private addresses of these sources, such as 10.1.2.0/24; public ones are allowed"
    )
    ports: tuple[int, ...] = Field(default=(443, 9000), description="ports of these sources")


class Storage(Part):
    """The volume for checkpoints and the files of batches."""

    storage_class: str = Field(default="", description="empty: the cluster's default")
    access_mode: Literal["", "ReadWriteOnce", "ReadWriteMany"] = Field(
        default="", description="empty: ReadWriteOnce for one expert pod on CPUs, else ReadWriteMany"
    )
    gib: int = Field(default=0, ge=0, description="0: what the pool's checkpoints take")
    claim: str = Field(default="", description="an existing PersistentVolumeClaim to use instead of a new one")


class Redis(Part):
    """The store of batches, keys, records and Ray's state. The Secret `symmoe-redis` has the password."""

    host: str = Field(default="", description="empty: a Valkey is installed; else an existing store, reached with TLS")
    port: int = Field(default=6379, ge=1, le=65535)
    user: str = Field(default="", description="empty: the default user")
    ca_secret: str = Field(default="", description="a Secret with a private certificate authority as ca.crt")
    storage_class: str = Field(default="", description="of the volume of the installed Valkey")
    image: str = Field(default="valkey/valkey:8.1.4", description="of the installed Valkey; may end with @sha256:…")


class Gateway(Part):
    """The Gateway that an HTTPRoute belongs to."""

    name: str = ""
    namespace: str = Field(default="", description="empty: that of the installation")


class Door(Part):
    """How clients outside the cluster reach the service; without a host they cannot."""

    host: str = ""
    kind: Literal["HTTPRoute", "Ingress"] = "HTTPRoute"
    gateway: Gateway = Gateway()
    ingress_class: str = Field(default="", description="empty: the cluster's default")
    tls_secret: str = Field(default="symmoe-tls", description="the certificate for an Ingress; a Gateway has its own")
    body_mib: int = Field(
        default=201, ge=1, description="the largest request body, for ingress-nginx; files of batches may have 200 MiB"
    )
    annotations: dict[str, str] = Field(default={}, description="of the HTTPRoute or Ingress")


class Monitoring(Part):
    """Scraping, alerts and a dashboard, for the Prometheus operator."""

    enabled: bool = False
    labels: dict[str, str] = Field(
        default={}, description="that Prometheus selects by, such as release: kube-prometheus-stack"
    )
    namespace: Name = Field(default="monitoring", description="of Prometheus")


class Policies(Part):
    """Network policies: which pods may connect to which."""

    kind: Literal["standard", "cilium"] = Field(
        default="standard", description="cilium: also its own rule for the API server"
    )
    operator_namespace: Name = Field(default="kuberay", description="of KubeRay's operator")
    clients: dict[str, str] = Field(
        default={"symmoe/clients": "true"}, description="label of the namespaces whose pods may use the service"
    )
    dns_namespaces: tuple[str, ...] = ("kube-system", "openshift-dns")
    dns_address: str = Field(default="169.254.20.10/32", description="of NodeLocal DNSCache")
    api_ports: tuple[int, ...] = Field(default=(443, 6443), description="ports of the API server, for Ray's autoscaler")
    outside: bool = Field(
        default=True, description="pods may fetch checkpoints and call remote experts at public addresses"
    )


class Upgrade(Part):
    """How pods are replaced when their specification changes."""

    strategy: Literal["NewCluster", "NewClusterWithIncrementalUpgrade"] = Field(
        default="NewCluster", description="the incremental strategy needs KubeRay 1.7 and a Gateway API controller"
    )
    gateway_class: str = Field(default="", description="for the incremental strategy")


class Sized(Part):
    """The sizes that `symmoe k8s render` computed for the pool. Not to be edited."""

    replicas: int = 1
    accelerators: int = Field(default=0, description="for each replica")
    cpus: int = 4
    memory_gib: int = 8
    shared_mib: int = 1280
    disk_gib: int = 8
    device_gib: int = Field(default=0, description="memory that an accelerator must have")
    open_requests: int = Field(default=64, description="per replica, on average, above which replicas are added")
    reward: bool = False


class Values(Part):
    """All settings of an installation, and what is computed from them."""

    pool: str = Field(default="tiny", description="a shipped pool or a pool file; relative to this file")
    accelerator: str = Field(default="cpu", description="L4, A10, A100-40, L40S, A100-80, H100, H200, B200; or cpu")
    nodes: int = Field(default=1, ge=1, le=1024, description="nodes that run experts")
    gpus_per_node: int = Field(default=1, ge=1, le=16)
    node_cpus: int = Field(default=0, ge=0, description="allocatable on a node; 0: not known")
    node_memory_gib: int = Field(default=0, ge=0, description="allocatable on a node; 0: not known")
    keys: bool = Field(
        default=True, description="require API keys; false, for a trial: anybody who reaches the service may use it"
    )
    namespace: Name = Field(default="symmoe", description="with Helm, its --namespace is used")
    create_namespace: bool = Field(
        default=False, description="with the restricted Pod Security Standard; not with Helm"
    )
    openshift: bool = Field(default=False, description="let the cluster assign user ids, instead of 10001")
    image: Image = Image()
    experts: Experts = Experts()
    front: Front = Front()
    weights: Weights = Weights()
    storage: Storage = Storage()
    redis: Redis = Redis()
    door: Door = Door()
    monitoring: Monitoring = Monitoring()
    policies: Policies = Policies()
    upgrade: Upgrade = Upgrade()
    sized: Sized = Sized()
    pool_files: dict[str, str] = Field(default={}, description="the pool as pods read it")
    pool_base: dict[str, str] = Field(
        default={}, description="the pool that running pods started with, if they can follow its changes"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Values:
        gpu = self.accelerator.lower() != "cpu"
        wrong = {
            "door.host needs keys: true": bool(self.door.host) and not self.keys,
            "door.gateway.name: an HTTPRoute needs a Gateway": (
                bool(self.door.host) and self.door.kind == "HTTPRoute" and not self.door.gateway.name
            ),
            "storage.access_mode: pods of several nodes need ReadWriteMany": (
                self.storage.access_mode == "ReadWriteOnce" and (gpu or self.nodes > 1)
            ),
            "redis.user and redis.ca_secret need redis.host": (
                not self.redis.host and bool(self.redis.user or self.redis.ca_secret)
            ),
            "upgrade.gateway_class: the incremental upgrade needs one": (
                self.upgrade.strategy != "NewCluster" and not self.upgrade.gateway_class
            ),
            "experts.claim: on CPUs there is no device to claim": self.experts.claim and not gpu,
        }
        found = [what for what, is_so in wrong.items() if is_so]
        if found:
            raise ValueError("; ".join(found))
        return self


OPERATORS = tuple(name for name in Values.model_fields if name not in ("sized", "pool_files", "pool_base"))
"""The fields that an operator sets; the others are computed."""


def read_values(text: str, where: str) -> Values:
    """Parse values from YAML text. Raises `ConfigError` with every wrong field and `where`, the source."""
    try:
        given = load_yaml(text)
        return Values.model_validate({} if given is None else given)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}".removeprefix(": ") for each in error.errors()]
        raise ConfigError(f"{where}: {'; '.join(faults)}", hint="docs/kubernetes.md lists all values") from error


def changed_values(text: str, changes: dict[str, Any], where: str) -> str:
    """The text with other values of top-level fields; comments and everything else stay as they are.

    Raises `ConfigError` if a value to change is not on one line of its own. `where` names the source in messages.
    """
    lines = text.splitlines()
    for name, value in changes.items():
        value_text = json.dumps(value)
        at = [number for number, line in enumerate(lines) if line.startswith(f"{name}:")]
        if not at:
            lines.append(f"{name}: {value_text}")
        else:
            _, sign, comment = lines[at[0]].partition("  #")
            lines[at[0]] = f"{name}: {value_text}{sign}{comment}"
    changed = "\n".join(lines) + "\n"
    wanted = {**(load_yaml(text) or {}), **changes}
    if load_yaml(changed) != wanted:
        raise ConfigError(f"{where}: {', '.join(changes)} cannot be changed here", hint="edit the file instead")
    return changed


def values_text(values: Values, names: tuple[str, ...] = OPERATORS) -> str:
    """Values as a YAML file to edit, each with a comment that explains it."""
    head = "# Settings of this installation of symmoe. Rendering again keeps them; see docs/kubernetes.md.\n"
    return head + _commented(values, 0, names)


def write_shipped(chart: Path, values: Values) -> None:
    """Write the chart's values.yaml and values.schema.json."""
    (chart / "values.yaml").write_text(values_text(values, tuple(Values.model_fields)), encoding="utf-8")
    (chart / "values.schema.json").write_text(schema_text(), encoding="utf-8")


def schema_text() -> str:
    """The JSON schema of values, with which Helm checks them; Helm's own `global` is allowed."""
    schema = Values.model_json_schema()
    schema["properties"]["global"] = {"type": "object"}
    return json.dumps(schema, indent=1) + "\n"


def to_yaml(documents: Iterable[Mapping[str, Any]]) -> str:
    """The documents as one YAML stream."""
    return "---\n".join(yaml.dump(dict(each), Dumper=_Plain, sort_keys=False, width=120) for each in documents)


class _Plain(yaml.SafeDumper):
    """Writes no anchors, and texts of several lines as literal blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _text)


def _commented(part: Part, depth: int, names: tuple[str, ...]) -> str:
    yaml_text = ""
    for name in names:
        value, pad = getattr(part, name), "  " * depth
        meaning = type(part).model_fields[name].description
        comment = f"  # {meaning}" if meaning else ""
        if isinstance(value, Part):
            yaml_text += f"{pad}{name}:  # {(type(value).__doc__ or '').splitlines()[0]}\n"
            yaml_text += _commented(value, depth + 1, tuple(type(value).model_fields))
        elif isinstance(value, dict) and any("\n" in str(text) for text in value.values()):
            text = to_yaml([{name: value}])
            yaml_text += f"{pad}#{comment.removeprefix('  #')}\n" + "".join(
                f"{pad}{line}" for line in text.splitlines(True)
            )
        else:
            plain = part.model_dump(mode="json")[name]
            yaml_text += f"{pad}{name}: {json.dumps(plain, ensure_ascii=False)}{comment}\n"
    return yaml_text
