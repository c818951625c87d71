"""The fields of KubeRay's types and of those of core/v1 that docker/kuberay uses.

KubeRay's are those of release 1.7.0, ray-operator/apis/ray/v1, as its reference of the API lists
them; core/v1's are only those that may appear here. Each is `name` (a string) or `name:type`;
`[]type` is a list, `map` has strings for values, and `quantities` strings or numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

API = {
    "ConfigMap": "v1",
    "RayCluster": "ray.io/v1",
    "RayJob": "ray.io/v1",
    "RayService": "ray.io/v1",
}

_FIELDS = {
    "ConfigMap": "apiVersion kind metadata:ObjectMeta data:map",
    "RayCluster": "apiVersion kind metadata:ObjectMeta spec:RayClusterSpec",
    "RayJob": "apiVersion kind metadata:ObjectMeta spec:RayJobSpec",
    "RayService": "apiVersion kind metadata:ObjectMeta spec:RayServiceSpec",
    "RayJobSpec": """activeDeadlineSeconds:int backoffLimit:int rayClusterSpec:RayClusterSpec
        submitterPodTemplate:PodTemplateSpec metadata:map clusterSelector:map
        submitterConfig:SubmitterConfig managedBy deletionStrategy:DeletionStrategy entrypoint
        runtimeEnvYAML jobId submissionMode:JobSubmissionMode entrypointResources
        entrypointNumCpus:float entrypointNumGpus:float ttlSecondsAfterFinished:int
        preRunningDeadlineSeconds:int shutdownAfterJobFinishes:bool suspend:bool""",
    "RayServiceSpec": """rayClusterDeletionDelaySeconds:int serviceUnhealthySecondThreshold:int
        deploymentUnhealthySecondThreshold:int serveService:Service
        upgradeStrategy:RayServiceUpgradeStrategy managedBy serveConfigV2
        rayClusterConfig:RayClusterSpec excludeHeadPodFromServeSvc:bool suspend:bool""",
    "RayServiceUpgradeStrategy": """type:RayServiceUpgradeType
        clusterUpgradeOptions:ClusterUpgradeOptions""",
    "RayClusterSpec": """upgradeStrategy:RayClusterUpgradeStrategy authOptions:AuthOptions
        suspend:bool managedBy autoscalerOptions:AutoscalerOptions headServiceAnnotations:map
        enableInTreeAutoscaling:bool gcsFaultToleranceOptions:GcsFaultToleranceOptions
        historyServerOptions:HistoryServerOptions networkPolicy:NetworkPolicyConfig
        tlsOptions:TLSOptions headGroupSpec:HeadGroupSpec rayVersion
        workerGroupSpecs:[]WorkerGroupSpec""",
    "AuthOptions": "enableK8sTokenAuth:bool secretName mode:AuthMode",
    "AutoscalerOptions": """resources:ResourceRequirements image imagePullPolicy
        securityContext:SecurityContext idleTimeoutSeconds:int upscalingMode:UpscalingMode
        version:AutoscalerVersion env:[]EnvVar envFrom:[]EnvFromSource
        volumeMounts:[]VolumeMount command:[]string args:[]string""",
    "HeadGroupSpec": """template:PodTemplateSpec headService:Service enableIngress:bool
        ingressOptions:IngressOptions resources:map labels:map rayStartParams:map serviceType""",
    "WorkerGroupSpec": """suspend:bool groupName replicas:int minReplicas:int maxReplicas:int
        idleTimeoutSeconds:int priority:int resources:map labels:map rayStartParams:map
        template:PodTemplateSpec scaleStrategy:ScaleStrategy numOfHosts:int""",
    # core/v1
    "ObjectMeta": "name namespace labels:map annotations:map",
    "PodTemplateSpec": "metadata:ObjectMeta spec:PodSpec",
    "PodSpec": """containers:[]Container volumes:[]Volume nodeSelector:map
        tolerations:[]Toleration terminationGracePeriodSeconds:int
        securityContext:PodSecurityContext serviceAccountName""",
    "Container": """name image imagePullPolicy command:[]string args:[]string env:[]EnvVar
        envFrom:[]EnvFromSource ports:[]ContainerPort resources:ResourceRequirements
        securityContext:SecurityContext volumeMounts:[]VolumeMount""",
    "ContainerPort": "name containerPort:int protocol",
    "EnvVar": "name value",
    "EnvFromSource": "prefix secretRef:Reference configMapRef:Reference",
    "Reference": "name optional:bool",
    "ResourceRequirements": "requests:quantities limits:quantities",
    "PodSecurityContext": """runAsNonRoot:bool runAsUser:int runAsGroup:int fsGroup:int
        seccompProfile:SeccompProfile""",
    "SecurityContext": """allowPrivilegeEscalation:bool capabilities:Capabilities
        privileged:bool readOnlyRootFilesystem:bool runAsNonRoot:bool runAsUser:int""",
    "Capabilities": "add:[]string drop:[]string",
    "SeccompProfile": "type localhostProfile",
    "Toleration": "key operator value effect tolerationSeconds:int",
    "Volume": "name configMap:ConfigMapVolumeSource",
    "ConfigMapVolumeSource": "name optional:bool",
    "VolumeMount": "name mountPath subPath readOnly:bool",
}
_REQUIRED = {
    "HeadGroupSpec": ("template",),
    "WorkerGroupSpec": ("groupName", "minReplicas", "maxReplicas", "template"),
    "RayClusterSpec": ("headGroupSpec",),
    "PodTemplateSpec": ("spec",),
    "PodSpec": ("containers",),
    "Container": ("name", "image"),
    "VolumeMount": ("name", "mountPath"),
}
_VALUES = {
    "AuthMode": ("disabled", "token"),
    "AutoscalerVersion": ("v1", "v2"),
    "JobSubmissionMode": ("HTTPMode", "InteractiveMode", "K8sJobMode", "SidecarMode"),
    "RayServiceUpgradeType": ("NewCluster", "NewClusterWithIncrementalUpgrade", "None"),
    "UpscalingMode": ("Aggressive", "Conservative", "Default"),
}
_SCALARS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
}


def problems(document: dict[str, Any]) -> list[str]:
    """Return what Kubernetes would refuse, or drop without a word, in one document."""
    kind = document.get("kind", "")
    if kind not in API:
        return [f"kind: expected one of {', '.join(API)}, found {kind!r}"]
    version = document.get("apiVersion")
    wrong = [f"apiVersion: expected {API[kind]}, found {version!r}"] if version != API[kind] else []
    return [*wrong, *_check(document, kind, kind)]


def _check(value: Any, kind: str, path: str) -> Iterator[str]:
    if kind.startswith("[]"):
        if not isinstance(value, list):
            yield f"{path}: expected a list, found {value!r}"
            return
        for index, item in enumerate(value):
            yield from _check(item, kind[2:], f"{path}[{index}]")
    elif kind in _VALUES:
        if value not in _VALUES[kind]:
            yield f"{path}: expected one of {', '.join(_VALUES[kind])}, found {value!r}"
    elif kind in _SCALARS:
        number_or_text = isinstance(value, _SCALARS[kind])
        if not number_or_text or (isinstance(value, bool) and kind != "bool"):
            yield f"{path}: expected {kind}, found {value!r}"
    elif not isinstance(value, dict):
        yield f"{path}: expected fields, found {value!r}"
    elif kind in ("map", "quantities"):
        allowed = (str,) if kind == "map" else (str, int)
        for key, item in value.items():
            if not isinstance(item, allowed) or isinstance(item, bool):
                yield f"{path}.{key}: expected a string, found {item!r}"
    elif kind not in _FIELDS:
        yield f"{path}: the fields of {kind} are not written down here"
    else:
        yield from _check_fields(value, kind, path)


def _check_fields(value: dict[str, Any], kind: str, path: str) -> Iterator[str]:
    pairs = (field.partition(":") for field in _FIELDS[kind].split())
    fields = {name: of or "string" for name, _, of in pairs}
    for key, item in value.items():
        if key in fields:
            yield from _check(item, fields[key], f"{path}.{key}")
        else:
            yield f"{path}.{key}: {kind} has no such field"
    for key in _REQUIRED.get(kind, ()):
        if key not in value:
            yield f"{path}.{key}: expected it to be there"
