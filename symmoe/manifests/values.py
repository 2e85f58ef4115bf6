"""What an operator says of an installation: one file, kept over renderings, from which every manifest follows.

The chart's `values.yaml` and `values.schema.json` are written from the models here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from symmoe.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]


class Part(BaseModel):
    """Some of the values; what is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_DIGEST = r"^(sha256:[0-9a-f]{64})?$"


class Image(Part):
    """The image of every pod of Ray."""

    name: str = Field(default="symmoe", description="with its registry, as registry.example/symmoe")
    tag: str = Field(default="", description="empty: this version's for CPUs or GPUs")
    digest: str = Field(default="", pattern=_DIGEST, description="sha256:…, which counts whatever the tag names now")
    pull_secrets: tuple[Name, ...] = Field(default=(), description="Secrets with credentials for the registry")


class Experts(Part):
    """Pods with engines."""

    least: int = Field(default=1, ge=0, description="replicas that stay where nobody asks")
    start: int = Field(default=0, ge=0, description="replicas that a new cluster begins with; 0: `least`")
    node_selector: dict[str, str] = Field(default={}, description="labels of their nodes")
    gpu_product: str = Field(default="", description="nvidia.com/gpu.product of their nodes; empty: any")
    gpu_resource: str = Field(
        default="nvidia.com/gpu", description="what a pod asks for; a MIG slice: nvidia.com/mig-3g.40gb"
    )
    claim: bool = Field(
        default=False, description="ask for devices by memory (DRA, Kubernetes 1.34) instead of by that name"
    )
    tolerations: tuple[dict[str, Any], ...] = Field(
        default=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
        description="taints they bear",
    )


class Front(Part):
    """Pods of the ingress, where experts have accelerators."""

    replicas: int = Field(default=2, ge=1)
    node_selector: dict[str, str] = {}


class Weights(Part):
    """Where checkpoints come from. Secrets: symmoe-hub (token), symmoe-s3 (access_key_id, secret_access_key)."""

    hub: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="a mirror of the hub, as https://hub.example; empty: the hub",
    )
    s3_endpoint: str = Field(
        default="",
        pattern=r"^(https?://[^\s/]+)?$",
        description="of s3:// sources, as https://minio.example:9000; empty: AWS",
    )
    s3_region: str = Field(default="", description="empty: us-east-1")
    networks: tuple[str, ...] = Field(
        default=(), description="private addresses that they come from, as 10.1.2.0/24; public ones need no word"
    )
    ports: tuple[int, ...] = Field(default=(443, 9000), description="of those")


class Storage(Part):
    """The volume with checkpoints and files of batches."""

    storage_class: str = Field(default="", description="empty: the cluster's own")
    access_mode: Literal["", "ReadWriteOnce", "ReadWriteMany"] = Field(
        default="", description="empty: ReadWriteOnce for one expert pod on CPUs, else ReadWriteMany"
    )
    gib: int = Field(default=0, ge=0, description="0: what the pool's checkpoints take")
    claim: str = Field(default="", description="a PersistentVolumeClaim that is there already; none is made then")


class Redis(Part):
    """Where batches, keys, records and Ray's own state live. The Secret `symmoe-redis` has the password."""

    host: str = Field(default="", description="empty: a Valkey of its own; else it is reached with TLS")
    port: int = Field(default=6379, ge=1, le=65535)
    user: str = Field(default="", description="empty: the default user")
    ca_secret: str = Field(
        default="", description="a Secret with the certificate authority as ca.crt, where it is a private one"
    )
    storage_class: str = Field(default="", description="of its own Valkey's volume")
    image: str = Field(default="valkey/valkey:8.1.4", description="of its own Valkey; may end with @sha256:…")


class Gateway(Part):
    """The Gateway that an HTTPRoute belongs to."""

    name: str = ""
    namespace: str = Field(default="", description="empty: this one")


class Door(Part):
    """How clients from outside reach the service; without a host none do."""

    host: str = ""
    kind: Literal["HTTPRoute", "Ingress"] = "HTTPRoute"
    gateway: Gateway = Gateway()
    ingress_class: str = Field(default="", description="empty: the cluster's own")
    tls_secret: str = Field(default="symmoe-tls", description="the Ingress' certificate; a Gateway has its own")
    body_mib: int = Field(default=201, ge=1, description="files of batches may have 200 MiB; ingress-nginx is told so")
    annotations: dict[str, str] = Field(default={}, description="of the HTTPRoute or Ingress")


class Monitoring(Part):
    """Scraping, alerts and a dashboard, for the Prometheus operator."""

    enabled: bool = False
    labels: dict[str, str] = Field(
        default={}, description="that Prometheus selects by, as release: kube-prometheus-stack"
    )
    namespace: Name = Field(default="monitoring", description="where Prometheus is")


class Policies(Part):
    """Who may speak with whom."""

    kind: Literal["standard", "cilium"] = Field(
        default="standard", description="cilium: its own way to the API server, too"
    )
    operator_namespace: Name = Field(default="kuberay", description="where KubeRay's operator is")
    clients: dict[str, str] = Field(default={"symmoe/clients": "true"}, description="label of namespaces that may ask")
    dns_namespaces: tuple[str, ...] = ("kube-system", "openshift-dns")
    dns_address: str = Field(default="169.254.20.10/32", description="of NodeLocal DNSCache")
    api_ports: tuple[int, ...] = Field(default=(443, 6443), description="the API server's, for Ray's autoscaler")
    outside: bool = Field(
        default=True, description="pods fetch checkpoints and ask remote experts, at public addresses"
    )


class Upgrade(Part):
    """How a change of pods comes about."""

    strategy: Literal["NewCluster", "NewClusterWithIncrementalUpgrade"] = Field(
        default="NewCluster", description="the incremental one needs KubeRay 1.7 and a Gateway API controller"
    )
    gateway_class: str = Field(default="", description="for the incremental one")


class Sized(Part):
    """What `symmoe k8s render` found that the pool takes. Not to be edited."""

    replicas: int = 1
    accelerators: int = Field(default=0, description="of each replica")
    cpus: int = 4
    memory_gib: int = 8
    shared_mib: int = 1280
    disk_gib: int = 8
    device_gib: int = Field(default=0, description="memory that an accelerator must have")
    open_requests: int = Field(default=64, description="at one replica, on average: more are another replica's")
    reward: bool = False


class Values(Part):
    """Everything that can be said of an installation."""

    pool: str = Field(default="tiny", description="a shipped pool or a pool file; relative to this file")
    accelerator: str = Field(default="cpu", description="L4, A10, A100-40, L40S, A100-80, H100, H200, B200; or cpu")
    nodes: int = Field(default=1, ge=1, le=1024, description="that run experts")
    gpus_per_node: int = Field(default=1, ge=1, le=16)
    node_cpus: int = Field(default=0, ge=0, description="that a node can allocate; 0: not known")
    node_memory_gib: int = Field(default=0, ge=0, description="that a node can allocate; 0: not known")
    keys: bool = Field(default=True, description="false: for a try-out; who reaches the service may ask")
    namespace: Name = Field(default="symmoe", description="Helm's own --namespace counts there")
    create_namespace: bool = Field(
        default=False, description="with the restricted Pod Security Standard; not with Helm"
    )
    openshift: bool = Field(default=False, description="users are given by the cluster instead of 10001")
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
    pool_base: dict[str, str] = Field(default={}, description="what it was when they began, where they can follow")

    @model_validator(mode="after")
    def _consistent(self) -> Values:
        gpu = self.accelerator.lower() != "cpu"
        wrong = {
            "door.host needs keys: true": bool(self.door.host) and not self.keys,
            "door.gateway.name: an HTTPRoute belongs to a Gateway": (
                bool(self.door.host) and self.door.kind == "HTTPRoute" and not self.door.gateway.name
            ),
            "storage.access_mode: pods of several nodes need ReadWriteMany": (
                self.storage.access_mode == "ReadWriteOnce" and (gpu or self.nodes > 1)
            ),
            "redis.user and redis.ca_secret go with redis.host": (
                not self.redis.host and bool(self.redis.user or self.redis.ca_secret)
            ),
            "upgrade.gateway_class: the incremental upgrade needs one": (
                self.upgrade.strategy != "NewCluster" and not self.upgrade.gateway_class
            ),
            "experts.claim: there is no device to claim on CPUs": self.experts.claim and not gpu,
        }
        found = [what for what, is_so in wrong.items() if is_so]
        if found:
            raise ValueError("; ".join(found))
        return self


OPERATORS = tuple(name for name in Values.model_fields if name not in ("sized", "pool_files", "pool_base"))
"""What an operator says; the rest is computed."""


def read_values(text: str, where: str) -> Values:
    """Values of YAML text. `ConfigError` names each field that is wrong, and `where` it stands."""
    try:
        given = yaml.safe_load(text)
        return Values.model_validate({} if given is None else given)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        said = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}".removeprefix(": ") for each in error.errors()]
        raise ConfigError(f"{where}: {'; '.join(said)}", hint="docs/kubernetes.md lists what there is") from error


def changed_values(text: str, changes: dict[str, Any], where: str) -> str:
    """The text with other values at its top; every comment and everything else stays as it is.

    `ConfigError` where a value is not on one line of its own.
    """
    lines = text.splitlines()
    for name, value in changes.items():
        word = json.dumps(value)
        at = [number for number, line in enumerate(lines) if line.startswith(f"{name}:")]
        if not at:
            lines.append(f"{name}: {word}")
        else:
            _, sign, comment = lines[at[0]].partition("  #")
            lines[at[0]] = f"{name}: {word}{sign}{comment}"
    made = "\n".join(lines) + "\n"
    wanted = {**(yaml.safe_load(text) or {}), **changes}
    if yaml.safe_load(made) != wanted:
        raise ConfigError(f"{where}: {', '.join(changes)} cannot be changed here", hint="edit the file instead")
    return made


def values_text(values: Values, names: tuple[str, ...] = OPERATORS) -> str:
    """Values as a file to edit: each with what it means."""
    head = "# What is said of this installation of symmoe. Rendering again keeps it; see docs/kubernetes.md.\n"
    return head + _described(values, 0, names)


def write_shipped(chart: Path, values: Values) -> None:
    """The chart's own values and their schema."""
    (chart / "values.yaml").write_text(values_text(values, tuple(Values.model_fields)), encoding="utf-8")
    (chart / "values.schema.json").write_text(schema_text(), encoding="utf-8")


def schema_text() -> str:
    """The JSON schema of values, as Helm checks them. Its own `global` is let in."""
    schema = Values.model_json_schema()
    schema["properties"]["global"] = {"type": "object"}
    return json.dumps(schema, indent=1) + "\n"


def to_yaml(documents: Iterable[Mapping[str, Any]]) -> str:
    """One YAML stream."""
    return "---\n".join(yaml.dump(dict(each), Dumper=_Plain, sort_keys=False, width=120) for each in documents)


class _Plain(yaml.SafeDumper):
    """No anchors, and texts of several lines as they are read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _text)


def _described(part: Part, depth: int, names: tuple[str, ...]) -> str:
    made = ""
    for name in names:
        value, pad = getattr(part, name), "  " * depth
        said = type(part).model_fields[name].description
        comment = f"  # {said}" if said else ""
        if isinstance(value, Part):
            made += f"{pad}{name}:  # {(type(value).__doc__ or '').splitlines()[0]}\n"
            made += _described(value, depth + 1, tuple(type(value).model_fields))
        elif isinstance(value, dict) and any("\n" in str(text) for text in value.values()):
            text = to_yaml([{name: value}])
            made += f"{pad}#{comment.removeprefix('  #')}\n" + "".join(f"{pad}{line}" for line in text.splitlines(True))
        else:
            plain = part.model_dump(mode="json")[name]
            made += f"{pad}{name}: {json.dumps(plain, ensure_ascii=False)}{comment}\n"
    return made
